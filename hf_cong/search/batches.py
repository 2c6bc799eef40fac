# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Batches of prompts searched together: their rows sampled in one batch, scored in one batch, each beam by itself."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accelerate.utils.memory import clear_device_cache

from ..engines.transformers_engine import is_out_of_memory
from ..rewards import ImplicitReward
from ..rewards.incremental_reward import IncrementalReward
from ..rewards.likelihood import RowError, RowTooLongError, check_rows, encode_prompts
from ..sampling import Decoding, row_seed
from .beam import Beam, SearchResult, kl_bound
from .samplers import Continuation, ModelSampler, Row, Sampler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """
    Everything that decides what a search finds, but for the models and the prompts: see [`weak_to_strong_search`].

    Raises:
        TypeError: if a whole number is not an `int`, or a stop string not a `str`.
        ValueError: if a setting is out of range.
    """

    beam_width: int = 4
    successors_per_beam: int = 4
    chunk_length: int | None = 5
    max_new_tokens: int = 128
    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 1.0
    do_sample: bool = True
    stop_strings: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        for name in ("beam_width", "successors_per_beam", "chunk_length", "max_new_tokens", "top_k", "seed"):
            value = getattr(self, name)
            if value is None and name == "chunk_length":
                continue
            if not isinstance(value, int):
                endless = "; None selects once, at the end" if name == "chunk_length" else ""
                raise TypeError(f"`{name}` must be an int, got {repr(value)[:80]}{endless}.")
            if name in ("beam_width", "successors_per_beam", "chunk_length") and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.decoding()
        if not self.do_sample and self.first_rows > 1:
            raise ValueError(
                f"`do_sample=False` writes one completion, so all {self.first_rows} rows of `beam_width="
                f"{self.beam_width}` and `successors_per_beam={self.successors_per_beam}` would be equal. Sample, or "
                "set both to 1."
            )
        if isinstance(self.stop_strings, str) or not all(isinstance(text, str) for text in self.stop_strings):
            raise TypeError(f"`stop_strings` must be a list of strings, got {repr(self.stop_strings)[:80]}.")
        if "" in self.stop_strings:
            raise ValueError("`stop_strings` holds an empty string, which would end every completion at once.")

    @property
    def first_rows(self) -> int:
        """Rows of a prompt in its first chunk, and at most in every other."""
        return self.beam_width * self.successors_per_beam

    def decoding(self) -> Decoding:
        """How the model samples."""
        return Decoding(
            max_new_tokens=self.max_new_tokens,
            do_sample=self.do_sample,
            repetition_penalty=1.0,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
        )


def check_reward(reward: object):
    """Raises `TypeError` for anything but an [`ImplicitReward`]."""
    if not isinstance(reward, ImplicitReward):
        raise TypeError(f"`reward` must be an ImplicitReward, got {type(reward).__name__}.")


def search_batches(
    sampler: Sampler,
    reward: ImplicitReward,
    names: list[str],
    prompts: list,
    settings: SearchSettings,
    *,
    batch_size: int,
    scored_prompts: list | None = None,
) -> Iterator[list[SearchResult]]:
    """
    The results of one batch after the other: prompts of like length together, the longest first.

    Args:
        sampler ([`Sampler`]): The model that is steered.
        reward ([`ImplicitReward`]): The weak pair.
        names (`list[str]`): A name for every prompt, which decides its random numbers.
        prompts (`list`): What the sampler continues.
        settings ([`SearchSettings`]): Settings.
        batch_size (`int`): Most prompts at a time.
        scored_prompts (`list`, *optional*, defaults to `prompts`): The prompts as the reward reads them.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a whole number of at least 1, got {repr(batch_size)[:80]}.")
    scored_prompts = prompts if scored_prompts is None else scored_prompts
    lengths = sampler.lengths(prompts, settings.max_new_tokens)
    by_ids = _share_ids(sampler, reward)
    with _naming(names, prompts, range(len(prompts))):
        _check_context(reward, scored_prompts, settings.max_new_tokens if by_ids else 1)
    left = sorted(range(len(prompts)), key=lambda index: (-lengths[index], index))
    while left:
        batch, left = left[:batch_size], left[batch_size:]
        parts = ([each[index] for index in batch] for each in (names, prompts, scored_prompts))
        found = _attempt(sampler, reward, *parts, settings, by_ids)
        if found is None:
            clear_device_cache(garbage_collection=True)
            left, batch_size = batch + left, len(batch) // 2
            logger.warning("%d prompts do not fit in memory; going on with %d.", len(batch), batch_size)
        else:
            yield found


def _attempt(sampler, reward, names, prompts, scored_prompts, settings, by_ids) -> list[SearchResult] | None:
    """The results of a batch; `None` if several prompts were too many for the memory."""
    try:
        return _search(sampler, reward, names, prompts, scored_prompts, settings, by_ids)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(prompts) == 1:
            raise RuntimeError(
                f"One prompt with {settings.first_rows} rows of {settings.max_new_tokens} new tokens does not fit in "
                "memory. Lower `beam_width`, `successors_per_beam` or `max_new_tokens`, or load the models in a "
                "smaller dtype or on a larger device."
            ) from error
    return None  # out of the handler, so that nothing holds on to the frames and their tensors


def _search(
    sampler: Sampler,
    reward: ImplicitReward,
    names: list[str],
    prompts: list,
    scored_prompts: list,
    settings: SearchSettings,
    by_ids: bool,
) -> list[SearchResult]:
    """One batch, from its prompts to the end of its last beam, scored by ids or by text."""
    chunk_length = settings.chunk_length or settings.max_new_tokens
    beams = [Beam(settings.beam_width) for _ in prompts]
    sampler.start(prompts, settings.max_new_tokens)
    scorer = reward.incremental(scored_prompts)
    # For every prompt that is not done, the parent of each of its rows.
    open_prompts = {index: [index] * settings.first_rows for index in range(len(prompts))}
    written, tokens = [Continuation([], "", False)] * len(prompts), 0
    while open_prompts:
        length = min(chunk_length, settings.max_new_tokens - tokens)
        tokens += length
        rows = [
            Row(parent, _slot_seed(settings.seed, names[index], slot))
            for index, parents in open_prompts.items()
            for slot, parent in enumerate(parents)
        ]
        before, written = written, sampler.extend(rows, length)
        owners = [index for index, parents in open_prompts.items() for _ in parents]
        with _naming(names, prompts, owners):
            rewards, cut = _score(scorer, rows, written, before, by_ids)
        following, first = {}, 0
        for index, parents in open_prompts.items():
            own = slice(first, first + len(parents))
            chosen = beams[index].advance(
                written[own],
                rewards[own],
                tokens=tokens,
                last=tokens == settings.max_new_tokens,
                cut={row - first for row in cut},
            )
            if chosen:
                following[index] = [first + row for row in chosen for _ in range(settings.successors_per_beam)]
            first += len(parents)
        open_prompts = following
    return [_result(*prompt, settings) for prompt in zip(names, prompts, beams, strict=True)]


def _score(
    scorer: IncrementalReward, rows: list[Row], written: list[Continuation], before: list[Continuation], by_ids: bool
) -> tuple[list[float], set[int]]:
    """
    The rewards of what was written, and the rows that are cut.

    A text may need more of the pair's tokens than the sampler's. A row that the pair has no room for becomes what its
    parent was, in `before`, which it could read; and there it is cut.
    """
    parents, cut = [row.parent for row in rows], set()
    while True:
        contents = [new.ids if by_ids else new.text for new in written]
        finished = [new.finished and not isinstance(new.stop_reason, str) for new in written]
        try:
            return scorer.score(parents, contents, finished), cut
        except RowTooLongError as error:
            written[error.row] = before[parents[error.row]]
            cut.add(error.row)


def _slot_seed(seed: int, name: str, slot: int) -> int:
    return row_seed(seed, name if slot == 0 else f"{name}/{slot}")  # the first row's is that of `generate_completions`


def _share_ids(sampler: Sampler, reward: ImplicitReward) -> bool:
    """Whether what is sampled can be scored as it is, by the rule of [`check_same_vocabulary`]."""
    if not isinstance(sampler, ModelSampler):
        return False
    return sampler.tokenizer is reward.tokenizer or sampler.tokenizer.get_vocab() == reward.tokenizer.get_vocab()


def _check_context(reward: ImplicitReward, prompts: list, tokens: int) -> None:
    """Refuses a prompt that leaves the pair no room for so many tokens."""
    prompt_ids = encode_prompts(reward.tokenizer, prompts, reward.chat_template_kwargs)
    for scorer in reward.scorers:
        check_rows(scorer, [(ids, [0] * tokens) for ids in prompt_ids])


@contextlib.contextmanager
def _naming(names: list[str], prompts: list, owners: Sequence[int]) -> Iterator[None]:
    """Names the prompt where the reward names a row; `owners` are the prompts of the rows."""
    try:
        yield
    except RowError as error:
        owner = owners[error.row]
        raise ValueError(
            f"Scored by `reward`, prompt {names[owner]} ({repr(prompts[owner])[:80]}) {error.defect}"
        ) from error


def _result(name: str, prompt: object, beam: Beam, settings: SearchSettings) -> SearchResult:
    for survivor in beam.survivors:
        survivor.survived = True
    best = beam.survivors[0]
    kl, kl_method = kl_bound(settings.beam_width, settings.successors_per_beam, best.chunk)
    return SearchResult(
        prompt_id=name,
        prompt=prompt,
        completion=best.text,
        completion_ids=best.ids,
        finish_reason=best.finish_reason,
        implicit_reward=best.implicit_reward,
        trace=beam.trace,
        hypotheses=beam.survivors + beam.discarded,
        seed=_slot_seed(settings.seed, name, 0),
        kl=kl,
        kl_method=kl_method,
    )
