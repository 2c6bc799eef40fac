# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Chunk-level beam search of one prompt, free of models: hypotheses and rewards go in, survivors come out."""

from dataclasses import dataclass


@dataclass
class Hypothesis:
    """
    A completion, whole or partial, that a search sampled and scored.

    Args:
        text (`str`): Its text.
        ids (`list[int]`, *optional*): Its token ids without the end-of-sequence token, `None` where only text is known.
        implicit_reward (`float`): Σ β·(log π − log π_ref), nats times β; with the end of sequence where one was written.
        finish_reason (`str`, *optional*): `"stop"`, `"length"`, or `None` if it was discarded before either.
        stop_reason (`int` or `str`, *optional*): The token or the stop string that ended it, where that is known.
        chunk (`int`): The chunk in which it was sampled last, from 1.
        survived (`bool`): Whether it is in the beam at the end.
    """

    text: str
    ids: list[int] | None
    implicit_reward: float
    finish_reason: str | None
    stop_reason: int | str | None
    chunk: int
    survived: bool = False


@dataclass
class TraceStep:
    """The beam after one chunk: tokens sampled per row so far, and the best and the mean reward of its survivors."""

    tokens: int
    best_reward: float
    mean_reward: float


@dataclass
class SearchResult:
    """
    What a search found for one prompt.

    Args:
        prompt_id (`str`): The prompt's name, see [`prompt_id`].
        prompt (`str` or `list[dict]`): The prompt.
        completion (`str`): Text of the best hypothesis.
        completion_ids (`list[int]`, *optional*):
            Its token ids without the end-of-sequence token, `None` where only text is known. Where a stop string
            begins within a token, the ids end with that token and the text before the string.
        finish_reason (`str`): `"stop"`, or `"length"` for a completion cut at `max_new_tokens`.
        implicit_reward (`float`): Its reward, nats times β.
        trace (`list[TraceStep]`): The beam after each chunk.
        hypotheses (`list[Hypothesis]`): The survivors, best first, then all that were discarded, in their order.
        seed (`int`): Seed of the prompt's first row.
        kl (`float`): Upper bound of KL(search ‖ base sampler), nats, see [`kl_bound`].
        kl_method (`str`): The bound's name.
    """

    prompt_id: str
    prompt: str | list[dict]
    completion: str
    completion_ids: list[int] | None
    finish_reason: str
    implicit_reward: float
    trace: list[TraceStep]
    hypotheses: list[Hypothesis]
    seed: int
    kl: float
    kl_method: str
