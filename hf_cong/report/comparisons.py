# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Pictures of systems against each other: who wins how often, and by how much on which task."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .drawing import COLOURS, MARKERS, WIDTH, error_lengths, new_figure, save, style_axes, wrap
from .statistics import Interval


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
    figure, axes = new_figure(min(6.6, 1.5 + 0.75 * size), title, "", "")
    colours = LinearSegmentedColormap.from_list("wins", [COLOURS[1], "#FFFFFF", COLOURS[0]])
    colours = colours.with_extremes(bad="#EEEEEE")
    # Wider than any share, so that no cell is too dark for its text.
    image = axes.imshow(shares, cmap=colours, vmin=-0.3, vmax=1.3, aspect="auto")
    for row, column in np.argwhere(np.isfinite(shares)):
        text = f"{shares[row, column]:.0%}\n({ties[row][column]:.0%})"
        axes.text(column, row, text, ha="center", va="center", fontsize=min(11, 105 / size))
    upright = size > 7
    axes.set_xticks(range(size), [wrap(name, 22 if upright else 14) for name in names], rotation=90 * upright)
    axes.set_yticks(range(size), [wrap(name, 22) for name in names])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1), pad=0.02, aspect=30, label="win rate of the row")
    bar.ax.set_ylim(0, 1)
    bar.outline.set_visible(False)
    figure.supxlabel("share of the prompts that the row wins, a tie counting half (in brackets: ties)", fontsize=11)
    save(figure, path)


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
    figure = Figure(figsize=(WIDTH, (0.9 + 0.3 * len(systems)) * rows + 1.1), dpi=150, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (task, panel) in zip(panels, differences.items(), strict=False):
        style_axes(axes, wrap(task, 78 // columns - 2), "", "", fontsize=10)
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
                xerr=error_lengths([interval]),
                fmt=MARKERS[(place + place // 8) % 8],
                color=colour,
                markerfacecolor="white" if interval.low <= 0 <= interval.high else colour,
                markersize=7,
                capsize=3,
            )
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.1)
        axes.grid(axis="y", visible=False)
    for axes in panels[len(differences) :]:
        axes.set_axis_off()
    panels[0].set_yticks(range(len(systems)), [wrap(system, 24) for system in systems])
    panels[0].set_ylim(len(systems) - 0.4, -0.6)
    figure.suptitle(wrap(title, 76), fontsize=12)
    figure.supxlabel(wrap(f"difference to {baseline}, 95% interval (filled: it excludes 0)", 72), fontsize=11)
    save(figure, path)
