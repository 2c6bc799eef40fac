# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Pictures of one method or several, from numbers and labels alone."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import COLOURS, MARKERS, WIDTH, error_lengths, legend_below, new_figure, save, style_axes, wrap
from .statistics import Interval, spearman


def plot_stages(
    path: str | Path,
    stages: Mapping[str, Interval],
    *,
    seeds: Mapping[str, Sequence[float]],
    title: str,
    xlabel: str,
) -> None:
    """One bar per stage from top to bottom, with its interval and a dot for each seed.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        stages (`Mapping[str, Interval]`):
            Label and mean of each stage, in order.
        seeds (`Mapping[str, Sequence[float]]`):
            For every stage, the mean of each seed.
        title (`str`):
            What is shown.
        xlabel (`str`):
            Quantity and unit.
    """
    figure, axes = new_figure(0.42 * len(stages) + 1.5, title, xlabel, "")
    places = np.arange(len(stages))
    means = np.array([interval.mean for interval in stages.values()])
    axes.barh(places, means, height=0.62, color=COLOURS[5], label="mean over prompts")
    errors = error_lengths(stages.values())
    axes.errorbar(means, places, xerr=errors, fmt="none", color=COLOURS[6], capsize=3, label="95% interval")
    for place, label, right in zip(places, stages, means + errors[1], strict=True):
        dots = axes.plot(seeds[label], [place] * len(seeds[label]), "o", color=COLOURS[1], markersize=4, alpha=0.9)
        axes.annotate(
            f"{stages[label].mean:.2f}",
            (max(right, *seeds[label]), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    dots[0].set_label("one seed")
    axes.set_yticks(places, [wrap(label, 24) for label in stages])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    legend_below(figure, axes)
    save(figure, path)


def plot_scatter(
    path: str | Path,
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """One panel per group, one dot per sample, with Spearman's rank correlation of each group and of all.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        groups (`Mapping[str, tuple[Sequence[float], Sequence[float]]]`):
            Label, and the two coordinates of its samples.
        title (`str`):
            What is shown.
        xlabel, ylabel (`str`):
            Quantities and units.
    """
    every = [np.concatenate([group[axis] for group in groups.values()]) for axis in (0, 1)]
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(WIDTH, 2.3 * rows + 1.2), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (label, (x, y)) in zip(panels, groups.items(), strict=False):
        axes.scatter(*every, s=5, color="#D5D5D5", linewidths=0)
        axes.scatter(x, y, s=9, color=COLOURS[0], alpha=0.35, linewidths=0)
        style_axes(axes, wrap(f"{label}\n{_rho(x, y)}", 32), "", "", fontsize=10)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    figure.suptitle(wrap(f"{title}\nAll {len(every[0])} samples (grey): {_rho(*every)}", 76), fontsize=12)
    figure.supxlabel(wrap(xlabel, 72), fontsize=11)
    figure.supylabel(wrap(ylabel, 36 if rows == 1 else 50), fontsize=11)
    save(figure, path)


def _rho(x: Sequence[float], y: Sequence[float]) -> str:
    rho = spearman(x, y)
    return "Spearman ρ undefined" if rho is None else f"Spearman ρ = {rho:.2f}"


def plot_sweep(
    path: str | Path,
    points: Mapping[float, Interval],
    *,
    seeds: Mapping[float, Sequence[float]],
    references: Mapping[str, float],
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """A curve over a setting, with intervals and a dot for each seed, and level lines to compare with.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        points (`Mapping[float, Interval]`):
            Value of the setting and mean.
        seeds (`Mapping[float, Sequence[float]]`):
            For every value of the setting, the mean of each seed.
        references (`Mapping[str, float]`):
            Label and height of each level line.
        title (`str`):
            What is shown.
        xlabel, ylabel (`str`):
            Quantities and units.
    """
    figure, axes = new_figure(4.6, title, xlabel, ylabel)
    points = dict(sorted(points.items()))
    means = [interval.mean for interval in points.values()]
    axes.errorbar(
        list(points),
        means,
        yerr=error_lengths(points.values()),
        fmt="o-",
        color=COLOURS[0],
        markersize=9,
        markerfacecolor="white",
        capsize=4,
        label="mean, 95% interval",
    )
    dots = [(x, y) for x in points for y in seeds[x]]
    axes.plot(*zip(*dots, strict=True), "o", color=COLOURS[1], markersize=4, label="one seed", zorder=4)
    styles = ("--", ":", "-.")
    for number, (label, height) in enumerate(references.items()):
        axes.axhline(height, color=COLOURS[2 + number], linestyle=styles[number % 3], linewidth=1.8, label=label)
    axes.set_xticks(list(points))
    legend_below(figure, axes)
    save(figure, path)


def plot_front(
    path: str | Path,
    points: Mapping[str, tuple[Interval, Interval]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """Two means of each method against each other, with both intervals: what is gained, and what it costs.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        points (`Mapping[str, tuple[Interval, Interval]]`):
            Label, and the intervals of the horizontal and the vertical quantity.
        title (`str`):
            What is shown.
        xlabel, ylabel (`str`):
            Quantities and units, and which way is better.
    """
    figure, axes = new_figure(5.6, title, xlabel, ylabel)
    for number, (label, (x, y)) in enumerate(points.items()):
        colour, marker = COLOURS[number % 8], MARKERS[(number + number // 8) % 8]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=error_lengths([x]),
            yerr=error_lengths([y]),
            fmt=marker,
            color=colour,
            ecolor=colour,
            elinewidth=1,
            markersize=8,
            label=label,
        )
    legend_below(figure, axes)
    save(figure, path)


def plot_curves(
    path: str | Path,
    panels: Mapping[str, Mapping[str, Mapping[float, tuple[float, float, float]]]],
    *,
    title: str,
    xlabel: str,
    logarithmic: bool = True,
) -> None:
    """Panels side by side, in each a curve for every label over the same setting.

    The curves are shifted sideways a little, so that none hides another.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        panels (`Mapping[str, Mapping[str, Mapping[float, tuple]]]`):
            For every quantity (with its unit) and label, the values of the setting with a middle and the ends of a
            range. A label has one colour in all panels.
        title (`str`):
            What is shown.
        xlabel (`str`):
            The setting.
        logarithmic (`bool`, *optional*, defaults to `True`):
            Whether the axis of the setting is logarithmic, and that of a quantity that spans more than a factor of
            ten.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    settings = sorted({x for curves in panels.values() for points in curves.values() for x in points})
    step = min((after - before for before, after in pairwise(settings)), default=1.0)
    figure = Figure(figsize=(WIDTH, 3.6 + 0.25 * len(labels)), dpi=150, layout="constrained")
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        style_axes(axes, "", wrap(xlabel, 36), ylabel, fontsize=11)
        if logarithmic:
            axes.set_xscale("log", base=2)
        ends = [end for points in curves.values() for point in points.values() for end in point]
        if logarithmic and min(ends) > 0 and max(ends) > 10 * min(ends):
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        for label, points in curves.items():
            number = labels.index(label)
            beside = 0.5 * (number + 0.5) / len(labels) - 0.25
            places = [x * 2**beside if logarithmic else x + step * beside for x in points]
            middles, lows, highs = (np.array(values) for values in zip(*points.values(), strict=True))
            axes.errorbar(
                places,
                middles,
                yerr=[middles - lows, highs - middles],
                marker=MARKERS[(number + number // 8) % 8],
                color=COLOURS[number % 8],
                linestyle="-" if number < 8 else "--",
                markersize=6,
                capsize=3,
                label=label,
            )
        axes.set_xticks(settings, [f"{x:g}" for x in settings])
        axes.minorticks_off()
    figure.suptitle(wrap(title, 76), fontsize=12)
    legend_below(figure, axes)
    save(figure, path)


def plot_ranks(
    path: str | Path,
    curves: Mapping[str, Sequence[float]],
    points: Sequence[Mapping[str, object]],
    *,
    title: str,
) -> None:
    """What an adapter of each rank captures, and, where it was measured, how far its pair is from the exact one.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        curves (`Mapping[str, Sequence[float]]`):
            Share of the energy that ranks 1, 2, 3, ... capture, by label; the first label is drawn thick.
        points (`Sequence[Mapping[str, object]]`):
            A row per rank: `rank`, a number, or `"full"`; and `kl`, with `mean`, `median` and `p95`, in all or none.
            Rank 0 and `"full"` are drawn as level lines.
        title (`str`):
            What is shown.
    """
    measured = "kl" in points[0]
    figure = Figure(figsize=(WIDTH, 4.8), dpi=150, layout="constrained")
    panels = figure.subplots(1, 1 + measured, squeeze=False)[0]
    style_axes(panels[0], "Weights", "rank", "share of the squared weight difference", fontsize=11)
    for number, (label, shares) in enumerate(curves.items()):
        colour, style = (COLOURS[6], 2.8) if number == 0 else (COLOURS[(0, 1, 2, 3, 4, 5, 7)[(number - 1) % 7]], 1.4)
        panels[0].plot(range(1, len(shares) + 1), shares, color=colour, linewidth=style, label=label)
    panels[0].set_ylim(0, 1.03)
    if measured:
        style_axes(panels[1], "Text", "rank", "KL(exact ‖ approximate), nats per token", fontsize=11)
        ranks = [row for row in points if row["rank"] not in (0, "full")]
        places = [row["rank"] for row in ranks]
        for number, name in enumerate(("p95", "mean", "median")):
            values, label = [row["kl"][name] for row in ranks], f"KL, {name}"
            panels[1].plot(places, values, f"{MARKERS[number]}-", color=COLOURS[number], label=label)
        levels = {0: ("mean without adapter", ":"), "full": ("mean at full rank", "--")}
        for row in points:
            if row["rank"] in levels:
                label, style = levels[row["rank"]]
                panels[1].axhline(row["kl"]["mean"], color=COLOURS[6], linestyle=style, linewidth=1.6, label=label)
        # Zero, the value of a pair that is the same, must have a place; what rounding leaves is not worth decades.
        panels[1].set_yscale("symlog", linthresh=1e-4)
        panels[1].set_ylim(0, 3 * max(1e-4, *(row["kl"][name] for row in points for name in ("mean", "p95"))))
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.suptitle(wrap(title, 76), fontsize=12)
    for axes in panels:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=9)
    save(figure, path)


def plot_bands(
    path: str | Path,
    curves: Mapping[str, Mapping[float, Interval]],
    levels: Mapping[str, Interval],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
) -> None:
    """Curves of means over a setting, and level lines to compare with, each with its interval as a band.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        curves (`Mapping[str, Mapping[float, Interval]]`):
            For every label, the values of the setting and the means.
        levels (`Mapping[str, Interval]`):
            Label and mean of what the setting does not change.
        title (`str`):
            What is shown.
        xlabel, ylabel (`str`):
            Quantities and units.
    """
    figure, axes = new_figure(4.0 + 0.25 * (len(curves) + len(levels)), title, xlabel, ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, (label, points) in enumerate(curves.items()):
        colour, means = COLOURS[number % 8], np.array([interval.mean for interval in points.values()])
        below, above = error_lengths(points.values())
        axes.fill_between(list(points), means - below, means + above, color=colour, alpha=0.18, linewidth=0)
        axes.plot(list(points), means, "o-", color=colour, markersize=4, label=label)
    for number, (label, level) in enumerate(levels.items(), len(curves)):
        colour, (below, above) = COLOURS[number % 8], error_lengths([level])
        axes.axhspan(level.mean - below[0], level.mean + above[0], color=colour, alpha=0.18, linewidth=0)
        axes.axhline(level.mean, linestyle="--", color=colour, label=label)
    legend_below(figure, axes)
    save(figure, path)
