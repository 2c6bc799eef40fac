# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Pictures of an evaluation, from numbers and labels alone.

PNG files that are readable at a width of 800 pixels, in colours that colour-blind readers can tell apart (Okabe and
Ito 2008).
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .statistics import Interval, spearman

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_WIDTH = 8.0  # inches, at 150 dots per inch


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
    figure, axes = _figure(0.42 * len(stages) + 1.5, title, xlabel, "")
    places = np.arange(len(stages))
    means = np.array([interval.mean for interval in stages.values()])
    axes.barh(places, means, height=0.62, color=COLOURS[5], label="mean over prompts")
    errors = _errors(stages.values())
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
    axes.set_yticks(places, [_wrap(label, 24) for label in stages])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    _legend_below(figure, axes)
    _save(figure, path)


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
    figure = Figure(figsize=(_WIDTH, 2.3 * rows + 1.2), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (label, (x, y)) in zip(panels, groups.items(), strict=False):
        axes.scatter(*every, s=5, color="#D5D5D5", linewidths=0)
        axes.scatter(x, y, s=9, color=COLOURS[0], alpha=0.35, linewidths=0)
        _style(axes, _wrap(f"{label}\n{_rho(x, y)}", 32), "", "", fontsize=10)
    for axes in panels[len(groups) :]:
        axes.set_axis_off()
    figure.suptitle(_wrap(f"{title}\nAll {len(every[0])} samples (grey): {_rho(*every)}", 76), fontsize=12)
    figure.supxlabel(_wrap(xlabel, 72), fontsize=11)
    figure.supylabel(_wrap(ylabel, 36 if rows == 1 else 50), fontsize=11)
    _save(figure, path)


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
    figure, axes = _figure(4.6, title, xlabel, ylabel)
    points = dict(sorted(points.items()))
    means = [interval.mean for interval in points.values()]
    axes.errorbar(
        list(points),
        means,
        yerr=_errors(points.values()),
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
    _legend_below(figure, axes)
    _save(figure, path)


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
    figure, axes = _figure(5.6, title, xlabel, ylabel)
    for number, (label, (x, y)) in enumerate(points.items()):
        colour, marker = COLOURS[number % 8], MARKERS[(number + number // 8) % 8]
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=_errors([x]),
            yerr=_errors([y]),
            fmt=marker,
            color=colour,
            ecolor=colour,
            elinewidth=1,
            markersize=8,
            label=label,
        )
    _legend_below(figure, axes)
    _save(figure, path)


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
    figure = Figure(figsize=(_WIDTH, 3.6 + 0.25 * len(labels)), dpi=150, layout="constrained")
    for axes, (ylabel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _style(axes, "", _wrap(xlabel, 36), ylabel, fontsize=11)
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
    figure.suptitle(_wrap(title, 76), fontsize=12)
    _legend_below(figure, axes)
    _save(figure, path)


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
    figure = Figure(figsize=(_WIDTH, 4.8), dpi=150, layout="constrained")
    panels = figure.subplots(1, 1 + measured, squeeze=False)[0]
    _style(panels[0], "Weights", "rank", "share of the squared weight difference", fontsize=11)
    for number, (label, shares) in enumerate(curves.items()):
        colour, style = (COLOURS[6], 2.8) if number == 0 else (COLOURS[(0, 1, 2, 3, 4, 5, 7)[(number - 1) % 7]], 1.4)
        panels[0].plot(range(1, len(shares) + 1), shares, color=colour, linewidth=style, label=label)
    panels[0].set_ylim(0, 1.03)
    if measured:
        _style(panels[1], "Text", "rank", "KL(exact ‖ approximate), nats per token", fontsize=11)
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
    figure.suptitle(_wrap(title, 76), fontsize=12)
    for axes in panels:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


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
    figure, axes = _figure(4.0 + 0.25 * (len(curves) + len(levels)), title, xlabel, ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for number, (label, points) in enumerate(curves.items()):
        colour, means = COLOURS[number % 8], np.array([interval.mean for interval in points.values()])
        below, above = _errors(points.values())
        axes.fill_between(list(points), means - below, means + above, color=colour, alpha=0.18, linewidth=0)
        axes.plot(list(points), means, "o-", color=colour, markersize=4, label=label)
    for number, (label, level) in enumerate(levels.items(), len(curves)):
        colour, (below, above) = COLOURS[number % 8], _errors([level])
        axes.axhspan(level.mean - below[0], level.mean + above[0], color=colour, alpha=0.18, linewidth=0)
        axes.axhline(level.mean, linestyle="--", color=colour, label=label)
    _legend_below(figure, axes)
    _save(figure, path)


def plot_win_matrix(
    names: Sequence[str],
    rates: Sequence[Sequence[float | None]],
    ties: Sequence[Sequence[float | None]],
    path: str | Path,
    *,
    title: str,
) -> None:
    """Every system against every other: how often the row wins, a tie counting half, and how often they tie.

    Args:
        names (`Sequence[str]`):
            Label of each system, in the order of rows and columns.
        rates (`Sequence[Sequence[float | None]]`):
            Row by row, the [`WinRate.rate`] of the row's system over the column's; `None` where they were not
            compared. The diagonal is not looked at.
        ties (`Sequence[Sequence[float | None]]`):
            The share of the prompts that are ties.
        path (`str` or `Path`):
            PNG file to write.
        title (`str`):
            What is shown.

    Raises:
        ValueError: if the rows and columns are not as many as the names.
    """
    size = len(names)
    for name, table in (("rates", rates), ("ties", ties)):
        if [len(row) for row in table] != [size] * size:
            found = [len(row) for row in table]
            raise ValueError(f"`{name}` must have {size} rows of {size}, one for each name, got rows of {found}.")
    shares = np.array(rates, dtype=np.float64)
    np.fill_diagonal(shares, np.nan)
    figure, axes = _figure(min(6.6, 1.5 + 0.75 * size), title, "", "")
    colours = LinearSegmentedColormap.from_list("wins", [COLOURS[1], "#FFFFFF", COLOURS[0]])
    colours = colours.with_extremes(bad="#EEEEEE")
    # Wider than any share, so that no cell is too dark for its text.
    image = axes.imshow(shares, cmap=colours, vmin=-0.3, vmax=1.3, aspect="auto")
    for row, column in np.argwhere(np.isfinite(shares)):
        text = f"{shares[row, column]:.0%}\n({ties[row][column]:.0%})"
        axes.text(column, row, text, ha="center", va="center", fontsize=min(11, 105 / size))
    upright = size > 7
    axes.set_xticks(range(size), [_wrap(name, 22 if upright else 14) for name in names], rotation=90 * upright)
    axes.set_yticks(range(size), [_wrap(name, 22) for name in names])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1), pad=0.02, aspect=30, label="win rate of the row")
    bar.ax.set_ylim(0, 1)
    bar.outline.set_visible(False)
    figure.supxlabel("share of the prompts that the row wins, a tie counting half (in brackets: ties)", fontsize=11)
    _save(figure, path)


def plot_differences(
    path: str | Path,
    differences: Mapping[str, Mapping[str, Interval | None]],
    *,
    baseline: str,
    title: str,
) -> None:
    """A panel for every task, in it how far each system is from the baseline; filled where the interval excludes 0.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        differences (`Mapping[str, Mapping[str, Interval | None]]`):
            For every task (with its metric and unit) and system, the [`paired_difference`] to the baseline; `None`, or
            left out, where there is none. A system has one place and colour in all panels.
        baseline (`str`):
            Label of the system that is the zero line.
        title (`str`):
            What is shown.
    """
    systems = list(dict.fromkeys(system for panel in differences.values() for system in panel))
    columns = min(3, len(differences))
    rows = -(-len(differences) // columns)
    figure = Figure(figsize=(_WIDTH, (0.9 + 0.3 * len(systems)) * rows + 1.1), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (task, panel) in zip(panels, differences.items(), strict=False):
        _style(axes, _wrap(task, 78 // columns - 2), "", "", fontsize=10)
        axes.axvline(0, color=COLOURS[6], linewidth=1.2)
        for place, system in enumerate(systems):
            interval = panel.get(system)
            if interval is None:
                axes.text(
                    0.02,
                    place,
                    "not measured",
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    color="#666666",
                    fontsize=9,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
                continue
            colour = COLOURS[place % 8]
            axes.errorbar(
                interval.mean,
                place,
                xerr=_errors([interval]),
                fmt=MARKERS[(place + place // 8) % 8],
                color=colour,
                markerfacecolor="white" if interval.low <= 0 <= interval.high else colour,
                markersize=7,
                capsize=3,
            )
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.1)
        axes.grid(axis="y", visible=False)
    for axes in panels[len(differences) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(systems)), [_wrap(system, 22) for system in systems])
    panels[0].set_ylim(len(systems) - 0.4, -0.6)
    figure.suptitle(_wrap(title, 76), fontsize=12)
    figure.supxlabel(_wrap(f"difference to {baseline}, 95% interval (filled: it excludes 0)", 72), fontsize=11)
    _save(figure, path)


def _figure(height: float, title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    # Without pyplot: no global state, no display.
    figure = Figure(figsize=(_WIDTH, height), dpi=150, layout="constrained")
    return figure, _style(figure.subplots(), _wrap(title, 76), xlabel, ylabel, fontsize=12)


def _style(axes: Axes, title: str, xlabel: str, ylabel: str, *, fontsize: int) -> Axes:
    axes.set_title(title, loc="left", fontsize=fontsize)
    axes.set_xlabel(_wrap(xlabel, 72), fontsize=11)
    axes.set_ylabel(_wrap(ylabel, 44), fontsize=11)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) <= 30 else 2
    figure.legend(
        handles,
        [_wrap(label, 40) for label in labels],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=10,
    )


def _errors(intervals) -> np.ndarray:
    """Lengths below and above the means, of shape `(2, number of intervals)`; none where an end is infinite."""
    lengths = np.array([[i.mean - i.low, i.high - i.mean] for i in intervals]).T
    return np.where(np.isfinite(lengths), lengths, 0.0)


def _wrap(text: str, width: int) -> str:
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width))


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, facecolor="white")
