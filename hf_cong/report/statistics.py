# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Numbers of an evaluation: means with 95% intervals, rank correlation."""

from collections.abc import Sequence
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
