# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The formulas, as free functions of tensors. Log-probabilities are in nats, float32."""

import torch
from torch import Tensor


def wspo_targets(reference_logps: Tensor, weak_logps: Tensor, weak_reference_logps: Tensor, *, beta: float) -> Tensor:
    r"""
    The log-probability at which WSPO's loss of a token is 0: log π_ref + (log π_weak − log π_weak_ref) / β.

    Args:
        reference_logps (`torch.Tensor` of any shape):
            Log-probabilities of tokens under the strong model before training.
        weak_logps (`torch.Tensor` of the same shape):
            Those under the weak model after alignment.
        weak_reference_logps (`torch.Tensor` of the same shape):
            Those under the weak model before alignment.
        beta (`float`):
            β above 0, the scale of the strong model's log-ratio.

    Returns:
        `torch.Tensor` of the same shape: not a log-probability itself, it may be above 0.
    """
    return reference_logps + (weak_logps - weak_reference_logps) / beta


def wspo_loss(logps: Tensor, target_logps: Tensor, mask: Tensor, *, beta: float) -> Tensor:
    r"""
    WSPO's loss of each sequence, with what is fixed in training put together in one target per token.

        1/|y| Σ_t [β (log π − log π_ref) − (log π_weak − log π_weak_ref)]²  =  β²/|y| Σ_t (log π − target)²

    Args:
        logps (`torch.Tensor` of shape `(B, T)`):
            Log-probabilities of the labels under the model that is trained.
        target_logps (`torch.Tensor` of shape `(B, T)`):
            Those of [`wspo_targets`].
        mask (`torch.BoolTensor` of shape `(B, T)`):
            Which tokens count: those of the completion.
        beta (`float`):
            The β of the targets.

    Returns:
        `torch.FloatTensor` of shape `(B,)`: 0 for a sequence without a token that counts.

    Source: the released code of [WSPO](https://huggingface.co/papers/2410.18640), on chosen completions.
    """
    errors = (beta * (logps - target_logps)).masked_fill(~mask, 0.0).square()
    return errors.sum(-1) / mask.sum(-1).clamp(min=1)


def auxconf_loss(logits: Tensor, labels: Tensor, *, weight: float) -> Tensor:
    r"""
    The auxiliary confidence loss of each token: (1 − a)·CE(weak label) + a·CE(the model's own most probable token).

    Args:
        logits (`torch.Tensor` of shape `(..., V)`):
            Raw logits that predict `labels`.
        labels (`torch.LongTensor` of shape `(...)`):
            The weak labels: tokens that the weak model wrote.
        weight (`float`):
            a in [0, 1]. No gradient flows into the choice of the most probable token.

    Returns:
        `torch.FloatTensor` of shape `(...)`: nats.

    Source: ours for language models, after [Burns et al. 2023](https://huggingface.co/papers/2312.09390); see
    [`AuxConfTrainer`].
    """
    logps = logits.log_softmax(-1, dtype=torch.float32)
    weak_logps = logps.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return -(1 - weight) * weak_logps - weight * logps.max(-1).values
