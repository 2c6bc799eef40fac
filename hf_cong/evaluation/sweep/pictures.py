# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A sweep's pictures."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ...report.comparisons import plot_win_matrix
from ...report.plots import plot_curves, plot_front, plot_scatter
from ...report.statistics import Interval, mean_interval
from .recommendation import IMPLICIT, Records
from .settings import Series, Setting, labels

_MOST_SHOWN = 9
_ALPHA = "α (1 = the policy alone)"
_UNITS = {
    "implicit_reward": "implicit reward, nats per completion",
    IMPLICIT: "implicit reward, nats per token",
    "nll": "negative log-likelihood, nats per token",
}


def draw_sweep(
    output_dir: Path,
    records: Records,
    series: Series,
    judges: Sequence[str],
    compared: Mapping[str, Sequence[Mapping]],
) -> list[str]:
    """
    Draws rewards against α, win rates, implicit against explicit reward, and reward against fluency.

    Args:
        output_dir (`Path`): Where to.
        records (`Mapping[Setting, Sequence[Mapping]]`): For each setting a record of each prompt.
        series (`Mapping[str, Mapping[float, Setting]]`): See [`sweep_settings`].
        judges (`Sequence[str]`): Names of the explicit rewards.
        compared (`Mapping[str, Sequence[Mapping]]`): The [`win_rates`] of each reward to be drawn.

    Returns:
        `list[str]`: names of the files.
    """
    called, prompts = labels(series), len(next(iter(records.values())))
    rewards, shown = judges or [IMPLICIT], _shown(records, series, (judges or [IMPLICIT])[0])
    means = {
        name: {setting: _finite(mean_interval(_values(records[setting], name))) for setting in called}
        for name in (*judges, IMPLICIT)
    }
    plot_curves(
        output_dir / "rewards_by_alpha.png",
        {
            _UNITS.get(name, name): {
                label: {alpha: tuple(points[setting]) for alpha, setting in curve.items()}
                for label, curve in series.items()
            }
            for name, points in means.items()
        },
        title=f"Rewards against α, {prompts} prompts: mean, 95% interval",
        xlabel=_ALPHA,
        logarithmic=False,
    )
    pictures = ["rewards_by_alpha.png"]
    for name in rewards if len(shown) > 1 else ():
        found = {(row["setting"], row["baseline"]): row for row in compared[name]}
        rates, ties = (
            [[value(found[a, b]) if a != b else None for b in shown.values()] for a in shown.values()]
            for value in (lambda row: row["rate"], lambda row: row["ties"] / row["n"])
        )
        pictures.append(f"win_rates_{file_name(name)}.png")
        lines = [text.replace(", ", "\n") for text in shown.values()]
        title = f"Win rate of the row over the column in {_UNITS.get(name, name)}"
        plot_win_matrix(lines, rates, ties, output_dir / pictures[-1], title=title)
    for name in judges:
        pictures.append(f"implicit_against_{file_name(name)}.png")
        plot_scatter(
            output_dir / pictures[-1],
            {
                text: (_values(records[setting], "implicit_reward"), _values(records[setting], name))
                for setting, text in shown.items()
            },
            title=f"Implicit reward against {name}, per completion",
            xlabel=_UNITS["implicit_reward"],
            ylabel=name,
        )
    fluency = {s: [row["nll"] for row in records[s] if row["nll"] is not None] for s in shown}
    points = {
        shown[setting]: (_finite(mean_interval(values)), means[rewards[0]][setting])
        for setting, values in fluency.items()
        if values
    }
    if points:
        pictures.append("reward_against_fluency.png")
        plot_front(
            output_dir / pictures[-1],
            points,
            title="Reward against fluency (better is up and to the left)",
            xlabel=_UNITS["nll"],
            ylabel=_UNITS.get(rewards[0], rewards[0]),
        )
    return pictures


def _shown(records: Records, series: Series, reward: str) -> dict[Setting, str]:
    """The settings, and their labels, for which a picture has room: all, or the curve that holds the best one."""
    called = labels(series)
    if len(called) <= _MOST_SHOWN:
        return called
    best = max(called, key=lambda setting: fmean(_values(records[setting], reward)))
    curve = next(curve for curve in series.values() if best in curve.values())
    return {setting: called[setting] for setting in curve.values()}


def _finite(interval: Interval) -> Interval:
    """For a picture: the interval of one prompt has no ends."""
    return interval if math.isfinite(interval.low) else Interval(*[interval.mean] * 3)


def file_name(name: str) -> str:
    """What of a judge's name can stand in the name of a file."""
    return re.sub(r"\W+", "-", name)


def _values(rows: Sequence[Mapping], name: str) -> list[float]:
    return [row[name] for row in rows]
