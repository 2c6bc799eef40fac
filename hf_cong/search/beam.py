# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Chunk-level beam search of one prompt, free of models: continuations and rewards go in, survivors come out."""

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from .samplers import Continuation


@dataclass
class Hypothesis:
    """
    A completion, whole or partial, that a search sampled and scored.

    Args:
        text (`str`): Its text.
        ids (`list[int]`, *optional*): Its token ids without the end-of-sequence token, `None` where only text came.
        implicit_reward (`float`): Σ β·(log π − log π_ref), nats times β; with the end of sequence where one came.
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
        finish_reason (`str`):
            `"stop"`, or `"length"` for a completion cut at `max_new_tokens`, or to what the pair has room for.
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


@dataclass
class Beam:
    """
    The hypotheses of one prompt.

    Args:
        beam_width (`int`): Most survivors of a chunk.
        survivors (`list[Hypothesis]`): Best first; at the same reward, in the order in which they were sampled.
        discarded (`list[Hypothesis]`): In the order in which they were discarded.
        trace (`list[TraceStep]`): One step per chunk.
    """

    beam_width: int
    survivors: list[Hypothesis] = field(default_factory=list)
    discarded: list[Hypothesis] = field(default_factory=list)
    trace: list[TraceStep] = field(default_factory=list)

    def advance(
        self,
        continuations: list[Continuation],
        rewards: list[float],
        *,
        tokens: int,
        last: bool,
        cut: Collection[int] = (),
    ) -> list[int]:
        """
        Takes in one chunk and keeps the best.

        The candidates are the new rows and the finished survivors, which thus hold their place without being sampled.
        Two of the same ids (of the same text where ids are unknown) and the same end are one. A survivor that is not
        finished gives way to its successors.

        Args:
            continuations (`list[Continuation]`): The rows of this chunk.
            rewards (`list[float]`): Their rewards.
            tokens (`int`): Tokens sampled per row so far.
            last (`bool`): Whether no chunk follows, so that what is not finished is cut.
            cut (`Collection[int]`, *optional*): The rows that are cut in any case. They come after all others.

        Returns:
            `list[int]`: the rows to go on with, best first.
        """
        chunk = len(self.trace) + 1
        candidates: dict[Hashable, tuple[Hypothesis, int | None]] = {}
        for survivor in self.survivors:
            if survivor.finish_reason is not None:
                candidates[_identity(survivor)] = survivor, None
        for row, (new, reward) in enumerate(zip(continuations, rewards, strict=True)):
            finish_reason = "stop" if new.finished else "length" if last or row in cut else None
            hypothesis = Hypothesis(new.text, new.ids, reward, finish_reason, new.stop_reason, chunk)
            candidates.setdefault(_identity(hypothesis), (hypothesis, row))
        ranked = sorted(candidates.values(), key=lambda found: (found[1] in cut, -found[0].implicit_reward))
        kept = ranked[: self.beam_width]
        self.survivors = [hypothesis for hypothesis, _ in kept]
        self.discarded += [hypothesis for hypothesis, _ in ranked[self.beam_width :]]
        rewards = [survivor.implicit_reward for survivor in self.survivors]
        self.trace.append(TraceStep(tokens, max(rewards), sum(rewards) / len(rewards)))
        return [row for hypothesis, row in kept if hypothesis.finish_reason is None]


def _identity(hypothesis: Hypothesis) -> Hashable:
    content = hypothesis.text if hypothesis.ids is None else tuple(hypothesis.ids)
    # What a stop string ended is without the credit for an end, and may be cut within its last token.
    return content, hypothesis.finish_reason, isinstance(hypothesis.stop_reason, str)


def kl_bound(beam_width: int, successors_per_beam: int, chunks: int) -> tuple[float, str]:
    """
    Upper bound of KL(search ‖ base), where base is the sampler as it is set: after temperature, top-k and top-p.

    With one beam, every chunk is the best of K, whose divergence from one sample is at most log K − (K − 1)/K. With
    more, a completion y is found with at most the probability that it is among the rows at all, which is at most their
    expected number: W·K·K^(C − 1)·base(y) for C chunks. Either holds for any reward.

    Args:
        beam_width (`int`): W.
        successors_per_beam (`int`): K.
        chunks (`int`): C, the chunks of the completion found. The mean over prompts estimates the bound.

    Returns:
        `tuple[float, str]`: nats, and the method, `"best-of-n bound"` or `"counting bound"`.

    Source: [Theoretical guarantees on best-of-n](https://huggingface.co/papers/2401.01879), for the first.
    """
    if beam_width == 1:
        return chunks * (math.log(successors_per_beam) - 1 + 1 / successors_per_beam), "best-of-n bound"
    rows = math.log(beam_width * successors_per_beam)
    return rows + (chunks - 1) * math.log(successors_per_beam), "counting bound"
