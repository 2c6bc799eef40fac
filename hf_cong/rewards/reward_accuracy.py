# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Does a pair's implicit reward agree with given preferences? To be asked before a search or a run trusts the pair."""

import logging
from dataclasses import dataclass

from scipy import stats

from .implicit_reward import ImplicitReward
from .likelihood import check_lengths

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RewardAccuracy:
    """
    How often a reward prefers the chosen completion.

    Args:
        accuracy (`float`): Share of the preferences without a tie in which the chosen completion scores higher.
        low (`float`): Lower end of its confidence interval (Wilson).
        high (`float`): Upper end.
        n (`int`): Preferences, ties included.
        ties (`int`): Preferences whose two completions have the same reward. They say nothing either way.
    """

    accuracy: float
    low: float
    high: float
    n: int
    ties: int

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above one half."""
        return self.low > 0.5


def reward_accuracy(
    reward: ImplicitReward,
    prompts: list[str] | list[list[dict]],
    chosen: list[str] | list[list[int]],
    rejected: list[str] | list[list[int]],
    *,
    normalize: str | float | None = None,
    confidence: float = 0.95,
    batch_size: int = 16,
) -> RewardAccuracy:
    """
    Measures how often the implicit reward of a pair prefers the chosen completion, and warns if that may be chance.

    Completions of preferences are whole, so the end-of-sequence token is scored with them.

    Args:
        reward ([`ImplicitReward`]): The reward of the pair.
        prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
        chosen (`list[str]` or `list[list[int]]`): The preferred completions. See [`completion_logps`].
        rejected (`list[str]` or `list[list[int]]`): The others.
        normalize (`str` or `float`, *optional*): See [`ImplicitReward.score`].
        confidence (`float`, *optional*, defaults to `0.95`): Probability that the interval covers the true accuracy.
        batch_size (`int`, *optional*, defaults to `16`): Most rows per forward.

    Returns:
        [`RewardAccuracy`]: with ties alone an accuracy of 0.5 between 0 and 1.

    Raises:
        ValueError: if there is no preference, the lists differ in length, or a row cannot be scored.
    """
    if not prompts:
        raise ValueError("`prompts` is empty; an accuracy needs at least one preference.")
    check_lengths(prompts=prompts, chosen=chosen, rejected=rejected)
    ends = ["stop"] * len(prompts)
    better, worse = (
        reward.score(prompts, completions, finish_reasons=ends, normalize=normalize, batch_size=batch_size)
        for completions in (chosen, rejected)
    )
    wins = sum(first > second for first, second in zip(better, worse, strict=True))
    ties = sum(first == second for first, second in zip(better, worse, strict=True))
    measured = RewardAccuracy(0.5, 0.0, 1.0, len(prompts), ties)
    if decided := len(prompts) - ties:
        interval = stats.binomtest(wins, decided).proportion_ci(confidence, method="wilson")
        measured = RewardAccuracy(wins / decided, float(interval.low), float(interval.high), len(prompts), ties)
    if not measured.above_chance:
        logger.warning(
            "The implicit reward of this pair agrees with %.1f%% of %d preferences (%d ties; %.0f%% interval %.1f%% "
            "to %.1f%%): not above chance, so guidance by it may do harm. Check that policy and reference are not "
            "swapped, that the prompts are of the pair's kind and that its chat template is right.",
            100 * measured.accuracy,
            measured.n,
            measured.ties,
            100 * confidence,
            100 * measured.low,
            100 * measured.high,
        )
    return measured
