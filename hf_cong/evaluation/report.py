# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Numbers of an evaluation: means with 95% intervals, rank correlation, tables.

This module knows nothing about models or methods.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; `f"{interval:.2f}"` gives `0.50 ± 0.03`."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {(self.high - self.low) / 2:{spec}}"


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """The mean of independent values and its Student-t confidence interval.

    Args:
        values (`Sequence[float]`):
            One finite number per independent unit, such as a held-out prompt. Average repeated measures of one unit
            (seeds) before.
        confidence (`float`, *optional*, defaults to `0.95`):
            Probability that the interval covers the true mean.

    Returns:
        [`Interval`]: its ends are infinite for a single value, which says nothing about the spread.

    Raises:
        ValueError: if there is no value, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ValueError(
            f"`values` must be finite numbers, got {array.size} with {bad} not finite. Drop and count those."
        )
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(stats.sem(array) * stats.t.ppf((1 + confidence) / 2, array.size - 1))
    return Interval(mean, mean - half, mean + half)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1]; `None` if one side is constant, which has no ranks."""
    if min(len(set(x)), len(set(y))) < 2:
        return None
    return float(stats.spearmanr(x, y).statistic)


def render_table(rows: Sequence[Mapping[str, object]], *, markdown: bool = False) -> str:
    """Rows of equal keys as an aligned table; the first column to the left, numbers to the right.

    Args:
        rows (`Sequence[Mapping[str, object]]`):
            Column titles are the keys of the first row. Floats get three digits, `None` a dash, others their `str`.
        markdown (`bool`, *optional*, defaults to `False`):
            Whether to draw a GitHub table instead of plain text.

    Returns:
        `str`: lines without a newline at the end.

    Raises:
        ValueError: if there is no row, or the rows differ in their keys.
    """
    if not rows:
        raise ValueError("`rows` is empty; a table needs at least one row.")
    titles = list(rows[0])
    for number, row in enumerate(rows):
        if list(row) != titles:
            raise ValueError(f"Row {number} has the columns {list(row)}; all rows must have those of row 0: {titles}.")
    cells = [titles, *([_cell(row[title]) for title in titles] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(titles))]
    lines = [
        [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]
    if markdown:
        rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value).replace("|", "\\|")
