# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How far a pair with an approximate policy is from the exact pair, on given texts.

The approximations are changes of the reference's own layers, so any number of them needs no more than the two models.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from ..functional import contrastive_scores, implicit_reward, plausibility_mask, token_logps
from ..report.statistics import spearman
from .divergence import kl_divergence

Hook = Callable[[torch.nn.Module, tuple, Tensor], Tensor]


@torch.no_grad()
def measure_fidelity(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    approximations: Mapping[str, Mapping[str, Hook]],
    rows: list[tuple[list[int], list[int]]],
    *,
    alpha: float = 0.4,
    plausibility_threshold: float = 0.1,
    batch_size: int = 8,
) -> dict[str, dict]:
    """
    Compares pairs (approximate policy, reference) with the exact pair (policy, reference), token by token.

    With `rows` sampled from the exact pair itself at temperature 1, the mean of `kl` times the length estimates the
    divergence between the completions of the two pairs without bias (chain rule).

    Args:
        policy (`PreTrainedModel`): The exact policy, in eval mode.
        reference (`PreTrainedModel`): The reference, of the same architecture, on the same device.
        approximations (`dict[str, dict[str, Callable]]`):
            For each approximation, forward hooks by the name of the module of `reference` that they act on: with them
            the reference computes as the approximate policy. No hooks: the reference itself.
        rows (`list[tuple[list[int], list[int]]]`): Ids of each prompt and of its completion.
        alpha (`float`, *optional*, defaults to `0.4`): α of all pairs.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`): τ of all pairs.
        batch_size (`int`, *optional*, defaults to `8`): Rows per forward.

    Returns:
        `dict[str, dict]`: for each approximation, over all completion tokens,

        - `kl` (`mean`, `median`, `p95`, nats per token): KL(p_α exact ‖ p_α approximate), both restricted to the
          plausible set of the **exact** pair and normalised there. Finite even where the plausible sets differ.
        - `kl_unmasked` (the same three): the divergence on the whole vocabulary, without any plausible set.
        - `forbidden` (probability): mean mass of the exact p_α on tokens outside the approximate pair's plausible set,
          which it can never write.
        - `greedy_agreement` (share of tokens): how often both pairs, each with its own plausible set, have the same
          most likely next token.
        - `reward_pearson`, `reward_spearman`: correlation over completions of the implicit rewards, in sum;
          `None` if one side is constant.
        - `reward_per_token_pearson`, `reward_per_token_spearman`: the same of the mean per token, in which the length
          of completions plays no part.
        - `tokens`, `completions`: how many.

    Raises:
        ValueError: if no row has a completion token.
    """
    rows = sorted((row for row in rows if row[1]), key=lambda row: -len(row[0]) - len(row[1]))
    if not rows:
        raise ValueError("`rows` has no completion with a token; there is nothing to compare. Pass other prompts.")
    contrast = {"alpha": alpha, "plausibility_threshold": plausibility_threshold}
    exact_rewards: list[Tensor] = []
    rewards: dict[str, list[Tensor]] = {label: [] for label in approximations}
    tokens: dict[str, dict[str, list[Tensor]]] = {label: defaultdict(list) for label in approximations}
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        lengths = [len(completion) for _, completion in batch]
        targets = torch.tensor([token for _, completion in batch for token in completion], device=reference.device)
        policy_logits, reference_logits = (completion_logits(model, batch) for model in (policy, reference))
        reference_logps = token_logps(reference_logits, targets)
        exact_rewards += implicit_reward(token_logps(policy_logits, targets), reference_logps).split(lengths)
        for label, hooks in approximations.items():
            with _hooked(reference, hooks):
                logits = completion_logits(reference, batch)
            for name, values in _differences(policy_logits, logits, reference_logits, **contrast).items():
                tokens[label][name].append(values.double().cpu())
            rewards[label] += implicit_reward(token_logps(logits, targets), reference_logps).split(lengths)
    return {
        label: {
            **{name: _spread(torch.cat(tokens[label][name])) for name in ("kl", "kl_unmasked")},
            **{name: torch.cat(tokens[label][name]).mean().item() for name in ("forbidden", "greedy_agreement")},
            **_correlations("reward", *([r.sum().item() for r in side] for side in (exact_rewards, rewards[label]))),
            **_correlations(
                "reward_per_token", *([r.mean().item() for r in side] for side in (exact_rewards, rewards[label]))
            ),
            "tokens": sum(len(completion) for _, completion in rows),
            "completions": len(rows),
        }
        for label in approximations
    }


def _differences(
    policy_logits: Tensor,
    approximate_logits: Tensor,
    reference_logits: Tensor,
    *,
    alpha: float,
    plausibility_threshold: float,
) -> dict[str, Tensor]:
    """Per token, shape `(N,)`, of logits `(N, V)`: see [`measure_fidelity`]."""
    exact, approximate = (
        contrastive_scores(logits, reference_logits, alpha=alpha, mask=False)
        for logits in (policy_logits, approximate_logits)
    )
    own, other = (plausibility_mask(logits, plausibility_threshold) for logits in (policy_logits, approximate_logits))
    on_plausible = exact.masked_fill(~own, -torch.inf).log_softmax(-1)
    choices = [
        scores.masked_fill(~mask, -torch.inf).argmax(-1) for scores, mask in ((exact, own), (approximate, other))
    ]
    return {
        "kl": kl_divergence(on_plausible, approximate.masked_fill(~own, -torch.inf).log_softmax(-1)),
        "kl_unmasked": kl_divergence(exact, approximate),
        "forbidden": on_plausible.exp().masked_fill(other, 0.0).sum(-1),
        "greedy_agreement": choices[0] == choices[1],
    }


def completion_logits(model: PreTrainedModel, batch: list[tuple[list[int], list[int]]]) -> Tensor:
    """Logits, float32 of shape `(N, V)`, that predict the batch's completion tokens, one row after the other."""
    whole = [torch.tensor(prompt + completion) for prompt, completion in batch]
    # Right padding: a causal model never looks at it, so every row keeps its own positions.
    ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True).to(model.device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in whole], batch_first=True).to(model.device)
    first = min(len(prompt) for prompt, _ in batch) - 1
    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=ids.shape[1] - first, use_cache=False).logits
    spans = [(len(prompt) - 1 - first, len(completion)) for prompt, completion in batch]
    return torch.cat([row[start : start + length] for row, (start, length) in zip(logits, spans, strict=True)]).float()


@contextlib.contextmanager
def _hooked(model: PreTrainedModel, hooks: Mapping[str, Hook]) -> Iterator[None]:
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _spread(values: Tensor) -> dict[str, float]:
    array = values.numpy()
    return {
        "mean": float(array.mean()),
        "median": float(np.median(array)),
        "p95": float(np.percentile(array, 95)),
    }


def _correlations(name: str, exact: list[float], approximate: list[float]) -> dict[str, float | None]:
    rho = spearman(exact, approximate)
    pearson = None if rho is None else float(stats.pearsonr(exact, approximate).statistic)
    return {f"{name}_pearson": pearson, f"{name}_spearman": rho}
