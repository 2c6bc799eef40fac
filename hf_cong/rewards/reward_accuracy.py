# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Does a pair's implicit reward agree with given preferences? To be asked before a search or a run trusts the pair."""

import logging
from dataclasses import dataclass
from pathlib import Path

import datasets
from scipy import stats

from ..prompts import read_rows
from .implicit_reward import ImplicitReward
from .likelihood import check_complete

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
    chosen: list[str] | list[list[dict]] | list[list[int]],
    rejected: list[str] | list[list[dict]] | list[list[int]],
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
        chosen (`list[str]`, `list[list[dict]]` or `list[list[int]]`):
            The preferred completions: texts, one message of the assistant each, or token ids. See
            [`completion_logps`].
        rejected (`list[str]`, `list[list[dict]]` or `list[list[int]]`): The others.
        normalize (`str` or `float`, *optional*): See [`ImplicitReward.score`].
        confidence (`float`, *optional*, defaults to `0.95`): Probability that the interval covers the true accuracy.
        batch_size (`int`, *optional*, defaults to `16`): Most rows per forward.

    Returns:
        [`RewardAccuracy`]: with ties alone an accuracy of 0.5 between 0 and 1.

    Raises:
        ValueError: if there is no preference, the lists differ in length, a row is missing, a completion is a
            conversation, or a row cannot be scored.
    """
    if not prompts:
        raise ValueError("`prompts` is empty; an accuracy needs at least one preference.")
    check_complete(prompts=prompts, chosen=chosen, rejected=rejected)
    ends = ["stop"] * len(prompts)
    sides = _answers("chosen", chosen), _answers("rejected", rejected)
    better, worse = (
        reward.score(prompts, completions, finish_reasons=ends, normalize=normalize, batch_size=batch_size)
        for completions in sides
    )
    # One completion, scored in two batches, differs in its last digits.
    same = [first == second for first, second in zip(*sides, strict=True)]
    margins = [0.0 if tie else first - second for first, second, tie in zip(better, worse, same, strict=True)]
    wins, ties = sum(margin > 0 for margin in margins), sum(margin == 0 for margin in margins)
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


def _answers(name: str, completions: list) -> list[str] | list[list[int]]:
    """Completions without the message around them."""
    answers = []
    for index, completion in enumerate(completions):
        if not isinstance(completion, str) and completion and isinstance(completion[0], dict):
            if [message.get("role") for message in completion] != ["assistant"]:
                raise ValueError(
                    f"Row {index} of `{name}` is {repr(completion)[:80]}; it must be one message of the assistant. "
                    "Take the prompt out: `dataset.map(trl.extract_prompt)`."
                )
            completion = completion[0]["content"]
        answers.append(completion)
    return answers


def read_preferences(source: datasets.Dataset | list | str | Path) -> dict[str, list]:
    """
    Reads preferences in TRL's formats.

    Args:
        source (`datasets.Dataset`, `list`, `str` or `Path`):
            Rows of `prompt`, `chosen` and `rejected`: a dataset, a list, a `.jsonl` or `.parquet` file, or the id of a
            dataset on the Hub. Prompts are texts or messages, completions texts or one message each. Where completions
            are whole conversations, or there is no `prompt`, the prompt is what both begin with.

    Returns:
        `dict[str, list]`: the columns `prompt` (texts or messages), `chosen` and `rejected` (texts).

    Raises:
        ValueError: naming the first row that is of another kind.
    """
    columns = {"prompt": [], "chosen": [], "rejected": []}
    for index, row in enumerate(read_rows(source, "chosen", name="preferences")):
        sides = [row.get("chosen"), row.get("rejected")]
        whole = all(isinstance(side, list) and len(side) > 1 for side in sides)
        if whole or (row.get("prompt") is None and all(isinstance(side, str) for side in sides)):
            from trl.data_utils import extract_prompt  # trl is heavy, and only such rows need it

            row = extract_prompt({"chosen": sides[0], "rejected": sides[1]})
        for name, values in columns.items():
            value = row.get(name)
            if name != "prompt" and isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
                value = value[0].get("content")
            if not isinstance(value, str) and (name != "prompt" or not value or not isinstance(value, list)):
                raise ValueError(
                    f"Row {index} of `preferences` has the `{name}` {repr(row.get(name))[:80]}; each needs `prompt`, "
                    "and `chosen` and `rejected` as texts or as one message. Correct the row."
                )
            values.append(value)
    return columns
