# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What our modules add to `evaluate`: columns stay in memory, and what it would let through is refused early."""

from collections.abc import Sequence

import datasets
import evaluate

NUMBER, TEXT = datasets.Value("float64"), datasets.Value("string")
MESSAGES = datasets.List(datasets.Json())  # JSON keeps every key of a message


class Module(evaluate.EvaluationModule):
    """
    An evaluation module that refuses missing, empty and mixed columns. Overrides `add`, `add_batch` and `_finalize`.

    By itself `evaluate` hands `None` on, turns whatever stands in a text column into its `str`, and takes a string for
    a column of its characters.

    Args:
        config_name (`str`, *optional*): See `evaluate`.
        keep_in_memory (`bool`, *optional*, defaults to `True`): Whether no file is written.
        options: Other options of `evaluate`.
    """

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **options):
        super().__init__(config_name, keep_in_memory, **options)

    def add(self, *, prediction=None, reference=None, **row):
        """Adds one row."""
        columns = {name: [value] for name, value in row.items()}
        self.add_batch(predictions=[prediction], references=[reference], **columns)

    def add_batch(self, *, predictions=None, references=None, **columns):
        """Adds columns of equally many rows."""
        given = {"predictions": predictions, "references": references, **columns}
        options = self.features if isinstance(self.features, list) else [self.features]
        for name in self._feature_names():
            _check_column(name, given.get(name), [_type(features[name]) for features in options])
        super().add_batch(predictions=predictions, references=references, **columns)

    def _finalize(self):
        if self.writer is None:
            raise ValueError(f"There is nothing to compute. Pass {' and '.join(self._feature_names())}.")
        super()._finalize()


def _type(feature: datasets.Value | datasets.List) -> type:
    if isinstance(feature, datasets.List):
        return list
    return str if feature.dtype == "string" else object


def _check_column(name: str, column: Sequence | None, types: list[type]):
    if column is None or isinstance(column, str) or len(column) == 0:
        raise ValueError(f"`{name}` must be a list of at least one row, got {repr(column)[:80]}.")
    kind = next((kind for kind in types if isinstance(column[0], kind)), types[0])
    for index, row in enumerate(column):
        if row is None or not isinstance(row, kind):
            wanted = {str: "text", list: "a list of messages", object: "a number"}[kind]
            raise ValueError(
                f"Row {index} of `{name}` is {repr(row)[:80]}; every row must be {wanted}. Drop and count the others."
            )
