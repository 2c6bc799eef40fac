# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The slow way: decoding that recomputes every model from token ids at every step, in float32.

No cache, no padding, no code of the package: its formulas are written out again, in float64.
"""

import math

import torch


@torch.no_grad()
def oracle_logps(policy, reference, ids, *, alpha=0.4, plausibility_threshold=0.1, mask=True) -> torch.Tensor:
    """log p_α of the token after `ids`, shape `(V,)`, float64."""
    policy_logps, reference_logps = _next_logps(ids, policy, reference)
    scores = policy_logps - (1 - alpha) * reference_logps
    return _normalised(scores, policy_logps, plausibility_threshold if mask else 0)


@torch.no_grad()
def eft_logps(base, policy, reference, ids, *, beta=1.0, plausibility_threshold=0.1, mask=True) -> torch.Tensor:
    """log p_β of the token after `ids`, shape `(V,)`, float64."""
    base_logps, policy_logps, reference_logps = _next_logps(ids, base, policy, reference)
    scores = base_logps + beta * (policy_logps - reference_logps)
    return _normalised(scores, base_logps, plausibility_threshold if mask else 0)


def _next_logps(ids, *models) -> list[torch.Tensor]:
    rows = torch.tensor([ids])
    logps = [model(rows, use_cache=False).logits[0, -1].double().log_softmax(-1) for model in models]
    return [each[: min(map(len, logps))] for each in logps]


def _normalised(scores, own_logps, plausibility_threshold) -> torch.Tensor:
    if plausibility_threshold > 0:
        scores[own_logps < own_logps.max() + math.log(plausibility_threshold)] = -math.inf
    return scores.log_softmax(-1)


def oracle_greedy(policy, reference, ids, **settings) -> list[int]:
    """The completion that greedy contrastive decoding writes after `ids`."""
    return _greedy(oracle_logps, (policy, reference), ids, **settings)


def eft_greedy(base, policy, reference, ids, **settings) -> list[int]:
    """The completion that greedy emulated fine-tuning writes after `ids`."""
    return _greedy(eft_logps, (base, policy, reference), ids, **settings)


def _greedy(next_logps, models, ids, *, max_new_tokens=24, **formula) -> list[int]:
    row = list(ids)
    for _ in range(max_new_tokens):
        row.append(int(next_logps(*models, row, **formula).argmax()))
    return row[len(ids) :]


def oracle_beams(policy, reference, ids, **settings) -> list[int]:
    """The best of `num_beams` hypotheses by summed log p_α, without end of sequence."""
    return _beams(oracle_logps, (policy, reference), ids, **settings)


def eft_beams(base, policy, reference, ids, **settings) -> list[int]:
    """The best of `num_beams` hypotheses by summed log p_β, without end of sequence."""
    return _beams(eft_logps, (base, policy, reference), ids, **settings)


def _beams(next_logps, models, ids, *, num_beams, max_new_tokens, **formula) -> list[int]:
    beams = [(0.0, list(ids))]
    for _ in range(max_new_tokens):
        candidates = []
        for total, row in beams:
            logps = next_logps(*models, row, **formula)
            top = logps.topk(num_beams)
            candidates += [
                (total + value.item(), [*row, token.item()])
                for value, token in zip(top.values, top.indices, strict=True)
                if value > -math.inf
            ]
        beams = sorted(candidates, key=lambda beam: -beam[0])[:num_beams]
    return beams[0][1][len(ids) :]
