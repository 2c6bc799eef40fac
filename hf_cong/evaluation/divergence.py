# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How far a contrast is from its policy, token by token, on completions that it wrote."""

import torch
from torch import Tensor

from ..functional import contrastive_scores, implicit_reward, log_softmax, token_logps
from ..rewards import ImplicitReward
from ..rewards.likelihood import check_rows, encode_prompts

_MOST_SCORES = 2**24  # logits that are compared at a time, of each member


def kl_divergence(logps: Tensor, other_logps: Tensor) -> Tensor:
    """
    KL(p ‖ q) in nats, exact over the vocabulary.

    Args:
        logps (`torch.Tensor` of shape `(..., V)`): log p, normalised. `-inf` has no part in the sum.
        other_logps (`torch.Tensor` of shape `(..., V)`): log q, normalised; infinite where q forbids what p does not.

    Returns:
        `torch.Tensor` of shape `(...)`.
    """
    probabilities = logps.exp()
    return (probabilities * (logps - other_logps)).masked_fill(probabilities == 0, 0.0).sum(-1)


def token_divergences(
    policy_logits: Tensor,
    reference_logits: Tensor,
    *,
    alpha: float,
    plausibility_threshold: float = 0.1,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """
    Compares p_α, restricted to the plausible set as in generation, with the policy π.

    Args:
        policy_logits (`torch.Tensor` of shape `(..., V)`): Raw logits of the policy.
        reference_logits (`torch.Tensor` of shape `(..., V_ref)`): The same of the reference.
        alpha (`float`): Weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`): τ of the plausible set.
        temperature (`float`, *optional*, defaults to `1.0`): Divides the scores before sampling.

    Returns:
        `dict[str, torch.Tensor]`, each of shape `(...)`:

        - `kl` (nats): KL(p_α ‖ π), both at temperature 1: what the contrast alone changes.
        - `kl_sampled` (nats): the same of p_α at the temperature, still from π at temperature 1: how far what is
          sampled, before top-k and top-p, is from the policy.
        - `same_argmax` (`bool`): whether both have the same most likely token.
        - `acceptance` (probability): Σ min(p_α, π), both at the temperature: with what probability speculative
          sampling keeps a token that the policy drafted.

    Source: [Speculative sampling](https://huggingface.co/papers/2211.17192), corollary 3.6, for the acceptance.
    """
    contrast = contrastive_scores(
        policy_logits, reference_logits, alpha=alpha, plausibility_threshold=plausibility_threshold
    )
    policy = log_softmax(policy_logits[..., : contrast.shape[-1]])
    sampled, drafted = ((logps / temperature).log_softmax(-1) for logps in (contrast, policy))
    return {
        "kl": kl_divergence(contrast, policy),
        "kl_sampled": kl_divergence(sampled, policy),
        "same_argmax": contrast.argmax(-1) == policy.argmax(-1),
        "acceptance": torch.minimum(sampled.exp(), drafted.exp()).sum(-1),
    }


@torch.no_grad()
def measure_completions(
    reward: ImplicitReward,
    prompts: list[str] | list[list[dict]],
    completion_ids: list[list[int]],
    finish_reasons: list[str],
    *,
    alpha: float,
    plausibility_threshold: float,
    temperature: float,
    batch_size: int = 16,
) -> list[dict[str, float | int | None]]:
    """
    All that one pass of the pair over a completion tells.

    Args:
        reward ([`ImplicitReward`]): The pair.
        prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
        completion_ids (`list[list[int]]`): Token ids, without the end-of-sequence token.
        finish_reasons (`list[str]`):
            `"stop"` for a completion that ended: its end-of-sequence token is a token of it too. `"length"` for one
            that was cut.
        alpha, plausibility_threshold, temperature: See [`token_divergences`].
        batch_size (`int`, *optional*, defaults to `16`): Most rows per forward; rows of like length share one.

    Returns:
        `list[dict]`: for each completion

        - `positions`: its tokens, with the end-of-sequence token;
        - `implicit_reward` (nats times β) and `implicit_reward_per_token`: [`ImplicitReward.score`] of it;
        - `kl`, `kl_sampled`, `same_argmax` and `acceptance`: means over its positions, see [`token_divergences`];
        - `nll` (nats per token): −log-likelihood under the reference, without the end-of-sequence token, and
          `nll_tokens`, over how many. `None` for an empty completion.

    Raises:
        ValueError: if a row does not fit in the context of the pair.
    """
    prompt_ids = encode_prompts(reward.tokenizer, prompts, reward.chat_template_kwargs)
    for scorer in reward.scorers:
        check_rows(scorer, list(zip(prompt_ids, completion_ids, strict=True)))
    whole = [
        ids + ([reward.end_token_id(prompt)] if reason == "stop" else [])
        for prompt, ids, reason in zip(prompts, completion_ids, finish_reasons, strict=True)
    ]
    most_tokens = min(scorer.most_tokens for scorer in reward.scorers)
    formula = {"alpha": alpha, "plausibility_threshold": plausibility_threshold, "temperature": temperature}
    measured: list[dict] = [{} for _ in whole]
    left = sorted(range(len(whole)), key=lambda i: -len(prompt_ids[i]) - len(whole[i]))
    while left:
        size = max(1, min(batch_size, most_tokens // (len(prompt_ids[left[0]]) + len(whole[left[0]]))))
        batch, left = left[:size], left[size:]
        shortest = min(len(prompt_ids[i]) for i in batch)
        members = _logits(reward, [prompt_ids[i] + whole[i] for i in batch], shortest)
        for row, i in enumerate(batch):
            place = slice(len(prompt_ids[i]) - shortest, len(prompt_ids[i]) - shortest + len(whole[i]))
            policy, reference = (logits[row, place] for logits in members)
            values = _measure(policy, reference.to(policy.device), torch.tensor(whole[i]), reward.beta, formula)
            measured[i] = _summary(values, len(completion_ids[i]))
    return measured


def _logits(reward: ImplicitReward, rows: list[list[int]], shortest: int) -> list[Tensor]:
    """Logits of the policy and of the reference, which predict all tokens from place `shortest` on."""
    # Right padding: a causal model never looks at it, so every row keeps its own positions.
    whole = [torch.tensor(row) for row in rows]
    device = reward.scorers[0].model.device
    ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True).to(device)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in whole], batch_first=True).to(device)
    inputs = {"input_ids": ids[:, :-1], "attention_mask": mask[:, :-1], "logits_to_keep": ids.shape[1] - shortest}
    return [logits for scorer in reward.scorers for logits in scorer.logits(**inputs)]


def _measure(policy: Tensor, reference: Tensor, targets: Tensor, beta: float, formula: dict) -> dict[str, Tensor]:
    """Values of each position, shape `(T,)`, on the CPU; of logits `(T, V)` a part at a time."""
    size = max(1, _MOST_SCORES // policy.shape[-1])
    parts = []
    for mine, other, ids in zip(policy.split(size), reference.split(size), targets.split(size), strict=True):
        logps, other_logps = (token_logps(logits, ids.to(logits.device)) for logits in (mine, other))
        rewards = implicit_reward(logps, other_logps, beta=beta)
        parts.append({"implicit_reward": rewards, "nll": -other_logps, **token_divergences(mine, other, **formula)})
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}


def _summary(values: dict[str, Tensor], tokens: int) -> dict[str, float | int | None]:
    rewards, nll = values.pop("implicit_reward"), values.pop("nll")[:tokens]
    return {
        "positions": len(rewards),
        "implicit_reward": rewards.sum().item(),
        "implicit_reward_per_token": rewards.mean().item(),
        **{name: value.mean().item() for name, value in values.items()},
        "nll": nll.mean().item() if tokens else None,
        "nll_tokens": tokens,
    }
