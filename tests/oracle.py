# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The slow way: contrastive decoding that recomputes both models from token ids at every step, in float32.

No cache, no padding, no code of the package: its formula is written out again, in float64.
"""

import math

import torch


@torch.no_grad()
def oracle_logps(policy, reference, ids, *, alpha=0.4, plausibility_threshold=0.1, mask=True) -> torch.Tensor:
    """log p_α of the token after `ids`, shape `(V,)`, float64."""
    rows = torch.tensor([ids])
    policy_logps = policy(rows, use_cache=False).logits[0, -1].double().log_softmax(-1)
    reference_logps = reference(rows, use_cache=False).logits[0, -1].double().log_softmax(-1)
    width = min(len(policy_logps), len(reference_logps))
    policy_logps, reference_logps = policy_logps[:width], reference_logps[:width]
    scores = policy_logps - (1 - alpha) * reference_logps
    if mask and plausibility_threshold > 0:
        scores[policy_logps < policy_logps.max() + math.log(plausibility_threshold)] = -math.inf
    return scores.log_softmax(-1)


def oracle_greedy(policy, reference, ids, *, max_new_tokens=24, **contrast) -> list[int]:
    """The completion that greedy contrastive decoding writes after `ids`."""
    row = list(ids)
    for _ in range(max_new_tokens):
        row.append(int(oracle_logps(policy, reference, row, **contrast).argmax()))
    return row[len(ids) :]


def oracle_beams(policy, reference, ids, *, num_beams, max_new_tokens, **contrast) -> list[int]:
    """The best of `num_beams` hypotheses by summed log p_α, without end of sequence."""
    beams = [(0.0, list(ids))]
    for _ in range(max_new_tokens):
        candidates = []
        for total, row in beams:
            logps = oracle_logps(policy, reference, row, **contrast)
            top = logps.topk(num_beams)
            candidates += [
                (total + value.item(), [*row, token.item()])
                for value, token in zip(top.values, top.indices, strict=True)
                if value > -math.inf
            ]
        beams = sorted(candidates, key=lambda beam: -beam[0])[:num_beams]
    return beams[0][1][len(ids) :]
