# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a pair check measures by running models: damage, speed, and how the members differ. Judges nothing."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...engines import Request, TransformersEngine
from ...functional import SOFT_FLOOR, contrastive_scores, plausibility_mask
from ...report.statistics import mean_interval
from ...rewards.likelihood import MAX_LOGITS
from ...sampling import Decoding
from ...timing import timed
from ..divergence import kl_divergence
from ..fidelity import completion_logits
from .report import Agreement

Rows = list[tuple[list[int], list[int]]]


def not_finite(model: PreTrainedModel) -> list[str]:
    """Names of the weights that hold NaN or infinity, those that are offloaded to disk left out."""
    return [
        name
        for name, weight in model.named_parameters()
        # One-byte formats have no infinity, and torch cannot look for it in them.
        if weight.is_floating_point() and weight.itemsize > 1 and not weight.is_meta and not weight.isfinite().all()
    ]


def short_run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: list[Request],
    *,
    max_new_tokens: int,
    batch_size: int,
    progress: tqdm,
) -> tuple[Rows, float, float]:
    """
    Lets a model write at temperature 1, from its whole distribution.

    Args:
        model (`PreTrainedModel`): A model, or a pair.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        requests (`list[Request]`): What to continue, at least one prompt.
        max_new_tokens (`int`): Longest completion, in tokens.
        batch_size (`int`): Prompts per batch.
        progress (`tqdm`): A bar of prompts to advance.

    Returns:
        `tuple[Rows, float, float]`: ids of each prompt and of what was written, with an end-of-sequence token where
        the completion ended; the share that ended; and tokens per second, prompts included.

    Raises:
        ValueError: if the model cannot write with this tokenizer, or its scores are not numbers.
    """
    engine = TransformersEngine(model)
    requests = sorted(requests, key=lambda request: -len(request.prompt_ids))
    batches = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    prompt_ids = [request.prompt_ids for request in requests]
    engine.prepare(tokenizer, prompt_ids, _sampling(2))
    next(engine.complete(batches[-1:]))  # the first call of a process is slower
    special = engine.prepare(tokenizer, prompt_ids, _sampling(max_new_tokens))
    answers, seconds = [], 0.0
    written = engine.complete(batches)
    for batch in batches:
        answered, took = timed(next, written, device=model.device)
        answers += answered
        seconds += took
        progress.update(len(batch))
    ends = [special["eos_token_id"][:1] if answer.finish_reason == "stop" else [] for answer in answers]
    rows = [
        (request.prompt_ids, answer.completion_ids + end)
        for request, answer, end in zip(requests, answers, ends, strict=True)
    ]
    return rows, sum(map(len, ends)) / len(rows), sum(len(ids) for _, ids in rows) / seconds


def _sampling(max_new_tokens: int) -> Decoding:
    return Decoding(
        max_new_tokens=max_new_tokens, do_sample=True, repetition_penalty=1.0, temperature=1.0, top_k=0, top_p=1.0
    )


@torch.no_grad()
def compare_members(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    rows: Rows,
    *,
    alpha: float,
    plausibility_threshold: float,
    finished: float,
    batch_size: int,
    progress: tqdm,
) -> Agreement:
    """
    How policy and reference differ at every token of the policy's own samples.

    Args:
        policy (`PreTrainedModel`): The model after alignment.
        reference (`PreTrainedModel`): The model before alignment, of the same vocabulary.
        rows (`Rows`): What [`short_run`] of the policy returned.
        alpha (`float`): α.
        plausibility_threshold (`float`): τ.
        finished (`float`): Share of the samples that ended.
        batch_size (`int`): Most rows per forward.
        progress (`tqdm`): A bar of prompts to advance.

    Returns:
        [`Agreement`]: KL(policy ‖ reference) and what the contrast has to choose from.

    Raises:
        ValueError: if logits of either are not numbers.
    """
    formula = {"alpha": alpha, "plausibility_threshold": plausibility_threshold}
    width = max(model.config.get_text_config().vocab_size for model in (policy, reference))
    of_row: list[Tensor] = []
    for batch in _batches(rows, batch_size, MAX_LOGITS // width):
        logits = [completion_logits(model, batch) for model in (policy, reference)]
        logits[1] = logits[1].to(logits[0].device)
        contrast = contrastive_scores(*logits, **formula)
        policy_logps, reference_logps = (each[:, : contrast.shape[1]].log_softmax(-1) for each in logits)
        plausible = plausibility_mask(policy_logps, plausibility_threshold).sum(-1)
        choice = policy_logps.argmax(-1)
        values = torch.stack(
            [
                kl_divergence(policy_logps, reference_logps.clamp(min=-SOFT_FLOOR)),
                -(policy_logps.exp() * policy_logps.clamp(min=-SOFT_FLOOR)).sum(-1),
                choice != reference_logps.argmax(-1),
                choice != contrast.argmax(-1),
                plausible,
                plausible == 1,
            ]
        )
        of_row += values.double().cpu().split([len(ids) for _, ids in batch], dim=1)
        progress.update(len(batch))
    _, *means = torch.cat(of_row, dim=1).mean(1).tolist()
    return Agreement(
        len(rows),
        sum(len(ids) for _, ids in rows),
        finished,
        mean_interval([values[0].mean().item() for values in of_row]),
        *means,
    )


def _batches(rows: Rows, batch_size: int, most_tokens: int) -> Iterator[Rows]:
    """Rows of like length together, as many as logits of bounded size allow."""
    left = sorted(rows, key=lambda row: -len(row[0]) - len(row[1]))
    while left:
        size = max(1, min(batch_size, most_tokens // sum(map(len, left[0]))))
        yield left[:size]
        left = left[size:]
