# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Numbers of an evaluation: means and paired comparisons with intervals, rank correlation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

_RESAMPLES = 9999
_MOST_DRAWN = 2**22  # values drawn at a time, 100 MB, however many documents there are


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; `f"{interval:.2f}"` gives `0.50 ± 0.03`."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {(self.high - self.low) / 2:{spec}}"


class WinRate(NamedTuple):
    """
    How often one system beats another on the same prompts.

    Args:
        rate (`float`): Share of the prompts that are won. A tie counts half.
        stderr (`float`): Its standard error over prompts; infinite for a single prompt.
        low (`float`): Lower end of its confidence interval.
        high (`float`): Upper end.
        n (`int`): Prompts.
        wins (`int`): Prompts on which the system scores higher.
        ties (`int`): Prompts on which neither does.
        losses (`int`): Prompts on which the baseline scores higher.
    """

    rate: float
    stderr: float
    low: float
    high: float
    n: int
    wins: int
    ties: int
    losses: int


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
        ValueError: if there is no value, one is not finite, or `confidence` is no probability.
    """
    array = _finite("values", values)
    _check_confidence(confidence)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(stats.sem(array) * stats.t.ppf((1 + confidence) / 2, array.size - 1))
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    values: Sequence[float], baseline_values: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """
    How far one system is from another on the same items: the mean difference, by paired bootstrap.

    Resampled are the items, each with both of its values, so what makes an item hard for both cancels.

    Args:
        values (`Sequence[float]`):
            One finite number per item, such as a document of a task.
        baseline_values (`Sequence[float]`):
            Those of the baseline for the same items in the same order. Join by `prompt_id`, then pass both.
        confidence (`float`, *optional*, defaults to `0.95`):
            Probability that the interval covers the true difference.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resamples. The same seed gives the same interval.

    Returns:
        [`Interval`]: of `values` minus `baseline_values`. Its ends are infinite for a single item, and 0 if no item
        differs. At 95% it holds 0 for fewer than six items, which chance alone takes to one side too often.

    Raises:
        ValueError: if there is no item, the lists differ in length, a value is not finite, or `confidence` is no
            probability.

    Source: see [`win_rate`] for the interval; what was not seen is as large as the mean of what differs.
    """
    differences = _differences(values=values, baseline_values=baseline_values)
    _check_confidence(confidence)
    if differences.size == 1:
        return Interval(float(differences[0]), -np.inf, np.inf)
    differing = np.abs(differences[differences != 0])
    return _paired_interval(differences, differing.mean() if differing.size else 0.0, confidence, seed)


def win_rate(
    scores: Sequence[float],
    baseline_scores: Sequence[float],
    *,
    tie_margin: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
) -> WinRate:
    """
    How often one system beats another on the same prompts, by paired bootstrap over prompts.

    The interval is the expanded percentile interval: its tails are widened by what Student's t and the factor
    √(n / (n − 1)) ask for, without which it is too narrow for few prompts. What no prompt shows, no resample shows
    either, though with confidence 1 − δ it may have a probability of 1 − (δ/2)^(1/n) (Clopper and Pearson). So where
    no prompt is lost, the lower end leaves room for losses of that probability, and where none is won, the upper end
    for wins. Both ends do where that probability is at least one half, which at 95% is below six prompts: even if all
    agree, that is no evidence.

    Args:
        scores (`Sequence[float]`):
            One finite number per prompt, more is better.
        baseline_scores (`Sequence[float]`):
            Those of the baseline for the same prompts in the same order. Join by `prompt_id`, then pass both.
        tie_margin (`float`, *optional*, defaults to `0.0`):
            Largest difference, in the unit of the scores, that is a tie.
        confidence (`float`, *optional*, defaults to `0.95`):
            Probability that the interval covers the true rate.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the resamples. The same seed gives the same interval.

    Returns:
        [`WinRate`]

    Raises:
        ValueError: if there is no prompt, the lists differ in length, a score is not finite, `tie_margin` is negative,
            or `confidence` is no probability.

    Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap (expanded percentile interval);
    https://arxiv.org/abs/1411.5279
    """
    differences = _differences(scores=scores, baseline_scores=baseline_scores)
    _check_confidence(confidence)
    if not 0 <= tie_margin < np.inf:
        raise ValueError(f"`tie_margin` must be at least 0 and finite, got {tie_margin}.")
    won, lost = differences > tie_margin, differences < -tie_margin
    outcomes = 1.0 * won - lost
    rate, low, high = ((1 + end) / 2 for end in _paired_interval(outcomes, 1.0, confidence, seed))
    n, wins, losses = outcomes.size, int(won.sum()), int(lost.sum())
    stderr = float(stats.sem(outcomes)) / 2 if n > 1 else np.inf
    return WinRate(rate, stderr, low, high, n, wins, n - wins - losses, losses)


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1]; `None` if one side is constant, which has no ranks."""
    if min(len(set(x)), len(set(y))) < 2:
        return None
    return float(stats.spearmanr(x, y).statistic)


def _paired_interval(differences: np.ndarray, unit: float, confidence: float, seed: int) -> Interval:
    """The mean and its interval, with room for what was not seen: differences of `unit` to a side."""
    mean = low = high = float(differences.mean())
    if differences.min() < differences.max():
        low, high = _bootstrap(differences, confidence, seed)
    unseen = 1 - ((1 - confidence) / 2) ** (1 / differences.size)
    few = unseen >= 0.5  # even if all of them agree
    if few or not (differences < 0).any():
        low = min(low, mean - unseen * (mean + unit))
    if few or not (differences > 0).any():
        high = max(high, mean + unseen * (unit - mean))
    return Interval(mean, float(low), float(high))


def _bootstrap(values: np.ndarray, confidence: float, seed: int) -> tuple[float, float]:
    """The ends of the expanded percentile interval of the mean of at least two different values."""
    n = values.size
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    resampled = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, _MOST_DRAWN // n),
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    low, high = np.quantile(resampled.bootstrap_distribution, (tail, 1 - tail))
    return float(low), float(high)


def _differences(**lists: Sequence[float]) -> np.ndarray:
    """The first list minus the second, both given by name."""
    values, baseline = (_finite(*item) for item in lists.items())
    if values.size != baseline.size:
        found = " and ".join(f"{len(numbers)} `{name}`" for name, numbers in lists.items())
        raise ValueError(f"Got {found}; a paired comparison needs one of each. Join them by `prompt_id`.")
    return values - baseline


def _finite(name: str, values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)  # None becomes NaN
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise ValueError(
            f"`{name}` must be finite numbers in a list of at least one, got the shape {array.shape} with {bad} not "
            "finite. Drop and count those."
        )
    return array


def _check_confidence(confidence: float):
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be a probability between 0 and 1, got {confidence}.")
