# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What `generate_completions` asks of whatever writes completions."""

import abc
from collections.abc import Iterator
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..sampling import Decoding


class Request(NamedTuple):
    """One prompt to be continued; `prompt` is for engines that read text."""

    prompt_ids: list[int]
    seed: int
    prompt: str | list[dict] | None = None


class Answer(NamedTuple):
    """Its completion, without the end-of-sequence token; `finish_reason` is `"stop"` or `"length"`."""

    completion_ids: list[int]
    finish_reason: str


class Engine(abc.ABC):
    """
    One way of writing completions. The methods are called in the order in which they stand here.

    Attributes:
        batch_size (`int`): Prompts per batch where the user names no number.
        independent_rows (`bool`):
            Whether each prompt is asked for alone, so that neither the batches nor their size are part of a run.
        writer (`str`): What no engine of another kind goes on with, since it would write other tokens.
    """

    batch_size: int
    writer: str
    independent_rows = False

    @abc.abstractmethod
    def describe(self) -> dict:
        """`model`, `alpha`, `beta`, `plausibility_threshold`, `identity` (what the same run must share), and more."""

    @abc.abstractmethod
    def prepare(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[list[int]], decoding: Decoding) -> dict:
        """Refuses what it cannot write with; returns facts of this run, such as the ids that end a completion."""

    @property
    @abc.abstractmethod
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its completion together; `None` if that is unknown."""

    def unreadable(self, prompts: list[str] | list[list[dict]]) -> dict[int, str]:
        """What is wrong, by index, with prompts that a model which only reads them has no room for."""
        return {}

    @abc.abstractmethod
    def complete(self, batches: list[list[Request]]) -> Iterator[list[Answer | None]]:
        """The answers of each batch, in order. `None` is still owed; then the iterator ends by raising the reason."""

    def close(self) -> None:  # noqa: B027, most hold nothing
        """Gives back what it holds outside of this process. Called by whoever made what it writes with."""
