# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a search asks of the model it steers: to go on with these rows by a few tokens."""

import abc
from typing import NamedTuple


class Row(NamedTuple):
    """
    A row to be sampled.

    Args:
        parent (`int`):
            What it goes on with: an index into the rows of the `extend` before, at the first into the prompts.
        seed (`int`):
            Seed of its slot. Token number t of a completion is drawn with number t of that stream.
    """

    parent: int
    seed: int


class Continuation(NamedTuple):
    """
    A row's whole completion so far.

    Args:
        ids (`list[int]`, *optional*):
            Token ids without the end-of-sequence token, `None` where only text comes out.
        text (`str`):
            Its text, without special tokens and cut before a stop string.
        finished (`bool`):
            Whether it ended by itself, and not at the number of tokens that was asked for.
        stop_reason (`int` or `str`, *optional*):
            What ended it where that is known, as vLLM's servers say it: the id of a token, or a stop string. A row that
            a stop string ended gets no credit for an end, since the pair never saw one.
    """

    ids: list[int] | None
    text: str
    finished: bool
    stop_reason: int | str | None = None


class Sampler(abc.ABC):
    """What samples for a search. A batch of prompts is one `start` and then one `extend` per chunk."""

    def lengths(self, prompts: list, max_new_tokens: int) -> list[int]:
        """
        Refuses prompts that do not fit, before any is sampled from, and says how long each is, so that prompts of like
        length go together. Without an override, nothing is refused, and lengths are characters.
        """
        return [len(prompt) if isinstance(prompt, str) else len(str(prompt)) for prompt in prompts]

    @abc.abstractmethod
    def start(self, prompts: list, max_new_tokens: int) -> None:
        """
        Begins a batch and forgets the one before.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
            max_new_tokens (`int`): Most tokens of a completion, all chunks together.
        """

    @abc.abstractmethod
    def extend(self, rows: list[Row], length: int) -> list[Continuation]:
        """
        Samples every row, each on by `length` tokens or to its end.

        No row has a parent that is finished. Rows of the `extend` before that are nobody's parent are gone.
        """
