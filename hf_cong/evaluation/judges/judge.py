# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What every judge is asked, and what it does with its answers: which of two completions is better?"""

import contextlib
from collections.abc import Iterator

from ...journal import Journal
from ...rewards.likelihood import check_complete


class Judge:
    """
    What compares completions. A subclass has `name` and `identity` and implements `verdicts`.

    Attributes:
        name (`str`): For tables.
        identity (`dict`): What tells this judge from another (JSON values).
        cost (`dict[str, int]`, *optional*): What the answers cost so far, of a judge that is paid.
    """

    name: str
    identity: dict
    cost: dict[str, int] | None = None

    def __init__(self):
        self._journal, self._answers = None, {}

    @contextlib.contextmanager
    def keep_answers(self, journal: Journal) -> Iterator[None]:
        """Keeps answers as they come, in a `with` block. What the journal holds is not asked for again."""
        self._journal = journal
        for record in journal.records:
            self._count(record)
        try:
            yield
        finally:
            self._journal = None

    def verdicts(self, prompts: list, first: list[str], second: list[str]) -> list[dict]:
        """
        Compares two completions of each prompt.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): Plain text, or chat messages.
            first (`list[str]`): A completion of each.
            second (`list[str]`): Another.

        Returns:
            `list[dict]`: for each prompt the `share` that the first wins, `1.0`, `0.5` (a tie) or `0.0`, or `None` if
            the judge gave no verdict; and what else it said.
        """
        raise NotImplementedError

    def compare(self, prompts: list, first: list[str], second: list[str]) -> list[float | None]:
        """The shares of [`verdicts`] alone."""
        return [verdict["share"] for verdict in self.verdicts(prompts, first, second)]

    def _keep(self, records: list[dict]) -> None:
        if self._journal is not None:
            self._journal.append(records)
        for record in records:
            self._count(record)

    def _count(self, record: dict) -> None:
        self._answers[record["request"]] = record


def check_texts(prompts: list, **texts: list[str]) -> None:
    """
    Refuses what no judge can read.

    Raises:
        TypeError: if `prompts` is one text, or a completion is none.
        ValueError: if something is missing, or the lists differ in length.
    """
    if isinstance(prompts, str):  # its characters would be prompts
        raise TypeError(f"`prompts` must be a list, got the string {prompts[:80]!r}. Pass `[prompt]`.")
    check_complete(prompts=prompts, **texts)
    for name, rows in texts.items():
        for index, row in enumerate(rows):
            if not isinstance(row, str):
                raise TypeError(
                    f"Row {index} of `{name}` is {repr(row)[:80]}; a completion must be text. Pass its text."
                )
