# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The formulas, as free functions of tensors. This module imports torch and knows nothing about models.

Shapes use the letters `B` batch, `T` tokens, `V` vocabulary. Log-probabilities are in nats, float32.
"""

import math

import torch
from torch import Tensor

# Log-probability that a token outside the plausible set loses. exp(-1e4) is exactly 0 in float32, yet the order of
# such tokens survives: a constraint that forbids every plausible token falls back to the policy's own ranking.
SOFT_FLOOR = 1e4


def check_alpha(alpha: float, plausibility_threshold: float) -> None:
    """Raises `ValueError` unless `alpha` lies in [0, 1] and `plausibility_threshold` in [0, 1)."""
    _check_number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"`alpha` must lie in [0, 1], got {alpha!r}. It is the weight kept on the policy: 1 is the policy itself, "
            "0.3 to 0.5 is the usual range."
        )
    _check_threshold(plausibility_threshold)


def check_beta(beta: float, plausibility_threshold: float) -> None:
    """Raises `ValueError` unless `beta` is finite and at least 0, and `plausibility_threshold` lies in [0, 1)."""
    _check_number("beta", beta)
    if not 0 <= beta < math.inf:
        raise ValueError(
            f"`beta` must be a finite number of at least 0, got {beta!r}. It is the weight of the pair: 0 is the base "
            "itself, 1 adds the log-ratio of policy and reference as it is."
        )
    _check_threshold(plausibility_threshold)


def _check_threshold(plausibility_threshold: float) -> None:
    _check_number("plausibility_threshold", plausibility_threshold)
    if not 0 <= plausibility_threshold < 1:
        raise ValueError(
            f"`plausibility_threshold` must lie in [0, 1), got {plausibility_threshold!r}. 0 keeps every token, 0.1 "
            "is the usual value."
        )


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int or a float, got {value!r:.80}. Pass the number itself, unquoted.")


def plausibility_mask(policy_logits: Tensor, plausibility_threshold: float = 0.1) -> Tensor:
    """
    Marks the tokens that the policy itself finds plausible: `p(v) >= plausibility_threshold * max p`.

    A softmax only shifts logits by a constant, so the test is made on raw logits: a row maximum, no sort.

    Args:
        policy_logits (`torch.Tensor` of shape `(..., V)`):
            Raw logits or log-probabilities of the policy, any floating dtype. `-inf` means forbidden.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1). `0.0` keeps every token that is not forbidden.

    Returns:
        `torch.BoolTensor` of shape `(..., V)`: `True` on the plausible set V_head. The most likely token is always in
        it.

    Source: the adaptive plausibility constraint of [Contrastive Decoding](https://huggingface.co/papers/2210.15097),
    used by [ConG](https://huggingface.co/papers/2510.07884) as V_head.
    """
    _check_threshold(plausibility_threshold)
    policy_logits = policy_logits.float()
    if plausibility_threshold == 0:
        return policy_logits > -math.inf
    return policy_logits >= policy_logits.amax(-1, keepdim=True) + math.log(plausibility_threshold)


def contrastive_scores(
    policy_logits: Tensor,
    reference_logits: Tensor,
    *,
    alpha: float = 0.4,
    plausibility_threshold: float = 0.1,
    mask: bool = True,
) -> Tensor:
    r"""
    Contrasts a policy with its reference and returns the log-probabilities of the contrast, log p_α.

        F(v) = log π(v) − (1 − α) · log π_ref(v)   on the plausible set,      p_α = softmax(F)

    With `mask=True` the implausible tokens keep the finite score `F(v) = log π(v) − 1e4`: probability exactly 0 in
    float32, but the order among them is the policy's.

    Args:
        policy_logits (`torch.Tensor` of shape `(..., V)`):
            Raw logits (or log-probabilities) of the policy, the model after alignment. `-inf` means forbidden and
            stays so.
        reference_logits (`torch.Tensor` of shape `(..., V_ref)`):
            The same of the reference, the model before alignment. Any dtype, on the same device. When one head is
            padded to a larger width, both are cut to the smaller one. No token counts as less likely than −1e4 nats:
            so `-inf`, a token that only the reference forbids, is −1e4.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy. `1.0` is the policy on its plausible set, `0.0` maximises the
            implicit reward alone. α also acts as a temperature: F = α·[(1 + b)·log π − b·log π_ref], b = (1 − α)/α.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1) of [`plausibility_mask`].
        mask (`bool`, *optional*, defaults to `True`):
            Whether to apply the plausible set. `False` gives the likelihood of every token, for scoring given text.

    Returns:
        `torch.FloatTensor` of shape `(..., min(V, V_ref))`: log p_α in nats, normalised, never NaN.

    Raises:
        ValueError: if `alpha` or `plausibility_threshold` is out of range, the leading shapes differ, or a row of
            `policy_logits` has no finite maximum (wholly forbidden, or NaN).

    Example:

    ```python
    >>> import torch
    >>> from hf_cong import contrastive_scores

    >>> policy, reference = torch.tensor([[2.0, 1.0, -4.0]]), torch.tensor([[2.0, 0.0, 1.0]])
    >>> contrastive_scores(policy, reference, alpha=0.5).exp()
    tensor([[0.5000, 0.5000, 0.0000]])
    ```

    Source: [ConG](https://huggingface.co/papers/2510.07884), the contrastive decoding step,
    (1 − α)·log(π/π_ref) + α·log π.
    """
    check_alpha(alpha, plausibility_threshold)
    policy_logps, reference_logps = _common_logps(policy_logits=policy_logits, reference_logits=reference_logits)
    reference_logps = reference_logps.clamp(min=-SOFT_FLOOR)
    scores = torch.sub(policy_logps, reference_logps, alpha=1 - alpha)
    if mask:
        plausible = plausibility_mask(policy_logps, plausibility_threshold)
        scores = torch.where(plausible, scores, policy_logps - SOFT_FLOOR)
    return scores.log_softmax(-1)


def emulated_fine_tuning_scores(
    base_logits: Tensor,
    policy_logits: Tensor,
    reference_logits: Tensor,
    *,
    beta: float = 1.0,
    plausibility_threshold: float = 0.1,
    mask: bool = True,
) -> Tensor:
    r"""
    Steers a large base by what alignment changed in a small pair; returns the log-probabilities of the result.

        F(v) = log π_base(v) + β · (log π(v) − log π_ref(v))   on the base's plausible set,      p_β = softmax(F)

    One formula under several names. Emulated fine-tuning (up-scaling) is β = 1; proxy-tuning is the same without a
    plausible set; DeRa realigns with λ = β and the reference as the base, also without one. With the policy as the
    base it is the contrast at temperature α: F = F_α / α, α = 1 / (1 + β), F_α of [`contrastive_scores`].

    With `mask=True` the implausible tokens keep the finite score `F(v) = log π_base(v) − 1e4`: probability exactly 0
    in float32, but the order among them is the base's.

    Args:
        base_logits (`torch.Tensor` of shape `(..., V_base)`):
            Raw logits (or log-probabilities) of the base, the model that is steered. `-inf` means forbidden and stays
            so.
        policy_logits (`torch.Tensor` of shape `(..., V)`):
            The same of the policy, the small model after alignment. Any dtype, on the same device. Heads that are
            padded to different widths are cut to the narrowest. No token counts as less likely than −1e4 nats.
        reference_logits (`torch.Tensor` of shape `(..., V_ref)`):
            The same of the reference, the small model before alignment.
        beta (`float`, *optional*, defaults to `1.0`):
            β, at least 0, the weight of the pair. `0.0` is the base on its plausible set; above 1e6, it counts as 1e6.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1) of [`plausibility_mask`], taken on the base. `0.0` is without a plausible set.
        mask (`bool`, *optional*, defaults to `True`):
            Whether to apply the plausible set. `False` gives the likelihood of every token, for scoring given text.

    Returns:
        `torch.FloatTensor` of shape `(..., min(V_base, V, V_ref))`: log p_β in nats, normalised, never NaN.

    Raises:
        ValueError: if `beta` or `plausibility_threshold` is out of range, the leading shapes differ, or a row of
            logits has no finite maximum (wholly forbidden, or NaN).

    Example:

    ```python
    >>> import torch
    >>> from hf_cong import emulated_fine_tuning_scores

    >>> base = torch.tensor([[0.4, 0.4, 0.2]]).log()
    >>> policy, reference = torch.tensor([[0.6, 0.2, 0.2]]).log(), torch.tensor([[0.2, 0.6, 0.2]]).log()
    >>> emulated_fine_tuning_scores(base, policy, reference).exp()
    tensor([[0.7826, 0.0870, 0.1304]])
    ```

    Source: [EFT](https://huggingface.co/papers/2310.12962); relatives:
    [proxy-tuning](https://huggingface.co/papers/2401.08565), [DeRa](https://huggingface.co/papers/2402.02992).
    """
    check_beta(beta, plausibility_threshold)
    base_logps, policy_logps, reference_logps = _common_logps(
        base_logits=base_logits, policy_logits=policy_logits, reference_logits=reference_logits
    )
    log_ratios = policy_logps.clamp(min=-SOFT_FLOOR) - reference_logps.clamp(min=-SOFT_FLOOR)
    # With a larger beta the base would be lost in the rounding of float32, and the floor too; at 1e6 the log-ratios
    # alone decide already.
    scores = torch.add(base_logps, log_ratios, alpha=min(beta, 1e6))
    if mask:
        plausible = plausibility_mask(base_logps, plausibility_threshold)
        # A large beta sends plausible tokens down there too. The floor gives way: none of them may end up below it.
        lowest = scores.masked_fill(~plausible, math.inf).amin(-1, keepdim=True)
        floor = (lowest + SOFT_FLOOR / 2).clamp(max=0) - SOFT_FLOOR
        scores = torch.where(plausible, scores, base_logps + floor)
    return scores.log_softmax(-1)


def official_scores(
    policy_logits: Tensor, reference_logits: Tensor, *, alpha: float = 0.4, plausibility_threshold: float = 0.1
) -> Tensor:
    """
    The contrast in the gauge of ConG's released code: the same distribution as [`contrastive_scores`], other zero
    point.

    The released code fills the reference's implausible entries with −0.001 and takes a log-softmax once more, which
    adds about (1 − α)·log V to every kept score. That shift changes nothing by itself, but a repetition penalty
    divides positive scores, so there it acts several times stronger. Use this only to reproduce the paper's samples.

    Args:
        policy_logits (`torch.Tensor` of shape `(..., V)`): Raw logits of the policy.
        reference_logits (`torch.Tensor` of shape `(..., V)`): Raw logits of the reference.
        alpha (`float`, *optional*, defaults to `0.4`): Weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`): τ, `relative_top` in the released code.

    Returns:
        `torch.FloatTensor` of shape `(..., V)`: unnormalised scores, `-inf` outside the plausible set.

    Source: the released code of [ConG](https://huggingface.co/papers/2510.07884).
    """
    check_alpha(alpha, plausibility_threshold)
    policy_logps, reference_logps = _common_logps(policy_logits=policy_logits, reference_logits=reference_logits)
    reference_logps = reference_logps.clamp(min=-SOFT_FLOOR)
    implausible = ~plausibility_mask(policy_logps, plausibility_threshold)
    refilled = reference_logps.masked_fill(implausible, -1e-3).log_softmax(-1)
    return (policy_logps - (1 - alpha) * refilled).masked_fill(implausible, -math.inf)


def _common_logps(**logits: Tensor) -> list[Tensor]:
    """Log-probabilities, by argument name, on the width that all heads have."""
    (first_name, first), *others = logits.items()
    for name, other in others:
        if other.shape[:-1] != first.shape[:-1]:
            raise ValueError(
                f"`{first_name}` and `{name}` must agree in all but the last dimension, got {tuple(first.shape)} and "
                f"{tuple(other.shape)}."
            )
    width = min(tensor.shape[-1] for tensor in logits.values())
    return [log_softmax(tensor[..., :width]) for tensor in logits.values()]


def log_softmax(logits: Tensor) -> Tensor:
    """Float32 log-softmax over the last dimension; a row without a finite maximum is refused."""
    logps = logits.log_softmax(-1, dtype=torch.float32)
    # Nothing can be raised from a compiled or captured graph. Eager decoding reads its tokens at every step anyway, so
    # this costs no extra sync; one column suffices, since such a row is NaN throughout.
    if not (torch.compiler.is_compiling() or (logps.is_cuda and torch.cuda.is_current_stream_capturing())):
        hopeless = logps[..., 0].isnan()
        if hopeless.any():
            row = tuple(int(i) for i in hopeless.nonzero()[0])
            raise ValueError(
                f"Every token of row {row} is forbidden (-inf), or the row holds NaN or +inf: no next token can be "
                "chosen. Loosen the constraints on that row, or load the model in bfloat16 or float32."
            )
    return logps


def token_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """
    Log-probability of each given token.

    Args:
        logits (`torch.Tensor` of shape `(..., T, V)`):
            Logits that predict `ids`: already shifted, so `logits[..., t, :]` predicts `ids[..., t]`.
        ids (`torch.LongTensor` of shape `(..., T)`):
            Token ids.

    Returns:
        `torch.FloatTensor` of shape `(..., T)`: log-probabilities in nats.
    """
    logits = logits.float()
    return logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def sequence_logps(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """
    Log-probability of each completion: the sum of [`token_logps`] where `mask` is 1.

    Args:
        logits (`torch.Tensor` of shape `(B, T, V)`): Logits, shifted so that `logits[:, t]` predicts `ids[:, t]`.
        ids (`torch.LongTensor` of shape `(B, T)`): Token ids; the value under a 0 of `mask` does not matter.
        mask (`torch.Tensor` of shape `(B, T)`): 1 on completion tokens, 0 on the prompt and on padding.

    Returns:
        `torch.FloatTensor` of shape `(B,)`: log-probabilities in nats.
    """
    mask = mask.bool()
    return token_logps(logits, ids.masked_fill(~mask, 0)).masked_fill(~mask, 0.0).sum(-1)


def implicit_reward(policy_logps: Tensor, reference_logps: Tensor, *, beta: float = 1.0) -> Tensor:
    """
    The reward that a policy implies over its reference: β·(log π − log π_ref), per token or per sequence.

    Args:
        policy_logps (`torch.Tensor`): Log-probabilities under the policy, any shape.
        reference_logps (`torch.Tensor`): Log-probabilities of the same tokens under the reference, the same shape.
        beta (`float`, *optional*, defaults to `1.0`): Scale, the KL weight β of DPO. It does not change an order.

    Returns:
        `torch.FloatTensor`: the reward in nats times `beta`, of the inputs' shape.

    Raises:
        ValueError: if the shapes differ.

    Source: [DPO](https://huggingface.co/papers/2305.18290), Eq. 5 without the partition term;
    [ConG](https://huggingface.co/papers/2510.07884) uses it per token.
    """
    if policy_logps.shape != reference_logps.shape:
        raise ValueError(
            f"`policy_logps` and `reference_logps` must score the same tokens, got shapes {tuple(policy_logps.shape)} "
            f"and {tuple(reference_logps.shape)}."
        )
    return beta * (policy_logps.float() - reference_logps.float())
