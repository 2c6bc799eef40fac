# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What our modules add to `evaluate`: columns stay in memory, and what it would let through is refused early."""

from collections.abc import Iterable

import datasets
import evaluate

NUMBER, TEXT = datasets.Value("float64"), datasets.Value("string")
MESSAGES = datasets.List(datasets.Json())  # JSON keeps every key of a message


class Module(evaluate.EvaluationModule):
    """
    An evaluation module that refuses missing, empty, mixed and unknown columns. Overrides `add`, `add_batch`,
    `compute` and `_finalize`.

    By itself `evaluate` hands `None` on, turns whatever stands in a text column into its `str`, takes a string for a
    column of its characters, and drops `predictions` and `references` where a module has no such columns.

    Args:
        config_name (`str`, *optional*): See `evaluate`.
        keep_in_memory (`bool`, *optional*, defaults to `True`): Whether no file is written.
        options: Other options of `evaluate`.
    """

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **options):
        super().__init__(config_name, keep_in_memory, **options)

    def add(self, *, prediction=None, reference=None, **row):
        """Adds one row."""
        row |= {"predictions": prediction, "references": reference}
        names = self._feature_names()
        self.add_batch(**{name: [value] for name, value in row.items() if name in names or value is not None})

    def add_batch(self, *, predictions=None, references=None, **columns):
        """Adds columns of equally many rows."""
        columns |= {"predictions": predictions, "references": references}
        self._refuse_unknown(columns)
        options = self.features if isinstance(self.features, list) else [self.features]
        for name in self._feature_names():
            columns[name] = _rows(name, columns.get(name), [features[name] for features in options])
        super().add_batch(**columns)

    def compute(self, *, predictions=None, references=None, **arguments):
        """Computes the result of the columns given here, or added before."""
        self._refuse_unknown({"predictions": predictions, "references": references})
        return super().compute(predictions=predictions, references=references, **arguments)

    def _refuse_unknown(self, columns: dict):
        names = self._feature_names()
        for name, column in columns.items():
            if name not in names and column is not None:
                raise ValueError(f"There is no column `{name:.80}`; this module has {', '.join(names)}. Rename it.")

    def _finalize(self):
        if self.writer is None:
            raise ValueError(f"There is nothing to compute. Pass {' and '.join(self._feature_names())}.")
        super()._finalize()


def _rows(name: str, column: Iterable | None, features: list[datasets.Value | datasets.List]) -> list:
    """The rows of a column, all of them fit for the first of its features that the first row fits."""
    rows = [] if column is None or isinstance(column, str) else list(column)
    if not rows:
        raise ValueError(f"`{name}` must be a list of at least one row, got {repr(column)[:80]}.")
    feature = next((feature for feature in features if _fits(rows[0], feature)), features[0])
    for index, row in enumerate(rows):
        if not _fits(row, feature):
            wanted = "a list of messages" if feature == MESSAGES else "text" if feature == TEXT else "a number"
            raise ValueError(
                f"Row {index} of `{name}` is {repr(row)[:80]}; every row must be {wanted}. Drop and count the others."
            )
    return rows


def _fits(row: object, feature: datasets.Value | datasets.List) -> bool:
    if feature == MESSAGES:
        return isinstance(row, list) and all(isinstance(message, dict) for message in row)
    return isinstance(row, str) if feature == TEXT else row is not None
