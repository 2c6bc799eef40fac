# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The rule by which a sweep recommends an α, and by which it says that the evidence is too thin to."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from ...report.statistics import Interval, paired_difference
from .settings import Series, Setting, all_settings, labels, policy_alone

RECOMMENDED, TOO_THIN = "recommended", "too thin to tell"
IMPLICIT = "implicit_reward_per_token"
MIN_PROMPTS = 20  # below, an interval promises more than it holds
MARGIN = math.log(1.05)  # nats per token: 5% of perplexity
_MOST_LISTED = 4
RULES = {
    "explicit": (
        "The setting with the highest mean of the first explicit reward leads. Another one is told apart from it if "
        "the interval of their paired difference excludes 0; the intervals hold together with 95% (each at 1 − 0.05 / "
        "number of the others). The leader's α is recommended if every setting that cannot be told apart from it has "
        f"that α too. Otherwise, and below {MIN_PROMPTS} prompts, the evidence is too thin."
    ),
    "implicit": (
        "The implicit reward is what the contrast maximises: it rises as α falls by construction, so it says nothing "
        "of quality, and without an explicit reward only a contrast that costs no fluency is recommended. A setting "
        "qualifies if its implicit reward per token is above that of the policy alone (α = 1 on its curve) and its "
        "perplexity is shown to be at most 5% above it, by paired intervals that hold together with 95%. Of those, "
        "the one with the most implicit reward per token is recommended. If there is none, and below "
        f"{MIN_PROMPTS} prompts with a text, the evidence is too thin. Text that repeats has a low perplexity too, "
        "and an empty one has none: look at distinct_2 and empty before you follow this."
    ),
}

Records = Mapping[Setting, Sequence[Mapping]]


def recommend(records: Records, series: Series, judges: Sequence[str]) -> dict:
    """
    The α to use, or why the evidence is too thin to name one.

    With an explicit reward: the setting with the highest mean leads, and its α is recommended if every setting that
    cannot be told apart from it has that α too. Settings are told apart by intervals of their paired difference over
    prompts that hold together with 95%.

    With the implicit reward alone, which rises as α falls by construction: of the settings that gain implicit reward
    per token over the policy alone and are shown to cost at most 5% of perplexity, the one that gains most.

    Below 20 prompts, and of a single α, nothing is recommended.

    Args:
        records (`Mapping[Setting, Sequence[Mapping]]`): For each setting a record of each prompt.
        series (`Mapping[str, Mapping[float, Setting]]`): See [`sweep_settings`].
        judges (`Sequence[str]`): Names of the explicit rewards; the first one counts.

    Returns:
        `dict`: `verdict` (`"recommended"` or `"too thin to tell"`), `alpha` and `setting` (`None` if too thin),
        `basis` (the reward that decides), `candidates` (the settings that may be the best, that with most reward
        first) and `reason`, a text.
    """
    basis = judges[0] if judges else IMPLICIT
    candidates, clear, reason = (_by_reward if judges else _by_fluency)(records, series, basis)
    settings = all_settings(series)
    prompts = len(records[settings[0]])
    if len({setting.alpha for setting in settings}) == 1:
        clear, reason = False, f"Only α = {settings[0].alpha:g} was measured: there is nothing to compare it with."
    elif prompts < MIN_PROMPTS:
        clear, reason = False, f"An interval takes at least {MIN_PROMPTS} prompts, not {prompts}. {reason}"
    chosen = candidates[0] if clear else None
    lowest = min(setting.alpha for setting in settings)
    if clear and chosen.alpha == lowest > 0:
        reason += f" No smaller α than {lowest:g} was measured; one may be better still."
    return {
        "verdict": RECOMMENDED if clear else TOO_THIN,
        "alpha": chosen.alpha if clear else None,
        "setting": chosen._asdict() if clear else None,
        "basis": basis,
        "candidates": [setting._asdict() for setting in candidates],
        "reason": reason,
    }


def difference(
    records: Records, name: str, setting: Setting, baseline: Setting, *, comparisons: int = 1
) -> Interval | None:
    """
    How far a setting is from another one in a quantity, paired by prompt.

    Args:
        records (`Mapping[Setting, Sequence[Mapping]]`): For each setting a record of each prompt.
        name (`str`): The quantity. A prompt that has none of it (`None`), at either setting, is left out.
        setting, baseline ([`Setting`]): What is compared.
        comparisons (`int`, *optional*, defaults to `1`): How many intervals are to hold together with 95%.

    Returns:
        [`Interval`], `None` if no prompt is left.
    """
    pairs = _pairs(records, name, setting, baseline)
    if not pairs:
        return None
    return paired_difference(*zip(*pairs, strict=True), confidence=1 - 0.05 / comparisons)


def _pairs(records: Records, name: str, setting: Setting, baseline: Setting) -> list[tuple[float, float]]:
    others = {record["prompt_id"]: record[name] for record in records[baseline]}
    pairs = [(record[name], others[record["prompt_id"]]) for record in records[setting]]
    return [pair for pair in pairs if None not in pair]


def _by_reward(records: Records, series: Series, basis: str) -> tuple[list[Setting], bool, str]:
    """Candidates, whether they agree about α, and a text."""
    called, means = labels(series), _means(records, basis)
    leader = max(means, key=means.get)
    rivals = [setting for setting in means if setting != leader]
    leads = {rival: difference(records, basis, leader, rival, comparisons=len(rivals)) for rival in rivals}
    tied = sorted((rival for rival in rivals if leads[rival].low <= 0), key=means.get, reverse=True)
    if len({record[basis] for rows in records.values() for record in rows}) == 1:
        return [leader, *tied], False, f"`{basis}` is {means[leader]:g} for every completion: it tells nothing apart."
    alone = policy_alone(series)[leader]
    if alone is None:
        compared = "α = 1 was not measured, so nothing says whether the contrast helps at all."
    elif alone == leader:
        compared = "That is the policy alone: no contrast is shown to help."
    else:
        compared = f"Its lead over the policy alone is {_written(leads[alone])}."
    unclear = [rival for rival in tied if rival.alpha != leader.alpha]
    best = f"{called[leader]} has the highest mean `{basis}`, {means[leader]:.3g}"
    if not unclear:
        return [leader, *tied], True, f"{best}, and is told apart from every other α. {compared}"
    nearest, prompts = leads[unclear[0]], len(records[leader])
    names = "; ".join(called[rival] for rival in unclear)
    if len(unclear) > _MOST_LISTED:
        alphas = ", ".join(f"{alpha:g}" for alpha in sorted({rival.alpha for rival in unclear}))
        names = f"{len(unclear)} others, with α = {alphas}"
    reason = f"{best}, but cannot be told apart from {names}. {compared}"
    if nearest.mean > 0 and prompts > 1:
        needed = max(math.ceil(prompts * ((nearest.mean - nearest.low) / nearest.mean) ** 2), MIN_PROMPTS)
        reason += f" A lead as small as that over {called[unclear[0]]} takes about {needed:,} prompts."
    far = _means(records, "kl_sampled")
    careful = min([leader, *unclear], key=lambda setting: (-setting.alpha, far[setting]))
    reason += f" Until then the careful choice is {called[careful]}, the nearest of these to the policy."
    return [leader, *tied], False, reason


def _by_fluency(records: Records, series: Series, basis: str) -> tuple[list[Setting], bool, str]:
    """The settings that gain implicit reward without a cost, whether there are any, and a text."""
    called, means = labels(series), _means(records, basis)
    alone = {setting: other for setting, other in policy_alone(series).items() if other not in (None, setting)}
    if not alone:
        return [], False, "α = 1, the policy alone, was not measured, so there is nothing to compare fluency with."
    alone = {s: other for s, other in alone.items() if len(_pairs(records, "nll", s, other)) >= MIN_PROMPTS}
    gains, costs = (
        {
            setting: difference(records, name, setting, other, comparisons=2 * len(alone))
            for setting, other in alone.items()
        }
        for name in (basis, "nll")
    )
    free = [setting for setting in alone if gains[setting].low > 0 and costs[setting].high <= MARGIN]
    free.sort(key=means.get, reverse=True)
    if not free:
        read = [setting for setting in alone if gains[setting].low > 0]
        reason = "No setting is shown to gain implicit reward at no more than 5% of perplexity."
        if read:
            least = min(read, key=lambda setting: costs[setting].mean)
            share, low, high = (f"{math.expm1(value):+.1%}" for value in costs[least])
            reason += f" The one of least cost, {called[least]}, has {share} of perplexity ({low} to {high})."
        reason += " Whether a gain is worth its cost, only an explicit reward can tell."
        return [], False, reason
    best = free[0]
    reason = (
        f"By fluency, as no explicit reward was given: {called[best]} gains {_written(gains[best])} nats of implicit "
        f"reward per token over the policy alone, and its perplexity is at most "
        f"{math.expm1(max(costs[best].high, 0)):.1%} above it. Whether its text is better, only an explicit reward "
        "can tell."
    )
    return free, True, reason


def _means(records: Records, name: str) -> dict[Setting, float]:
    return {setting: fmean(record[name] for record in rows) for setting, rows in records.items()}


def _written(interval: Interval) -> str:
    return f"{interval.mean:.3g} ({interval.low:.3g} to {interval.high:.3g})"
