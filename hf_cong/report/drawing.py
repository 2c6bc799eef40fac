# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How every picture here looks: PNG files that are readable at a width of 800 pixels, in colours that colour-blind
readers can tell apart (Okabe and Ito 2008)."""

import re
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 8.0  # inches, at 150 dots per inch


def new_figure(height: float, title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    # Without pyplot: no global state, no display.
    figure = Figure(figsize=(WIDTH, height), dpi=150, layout="constrained")
    return figure, style_axes(figure.subplots(), wrap(title, 76), xlabel, ylabel, fontsize=12)


def style_axes(axes: Axes, title: str, xlabel: str, ylabel: str, *, fontsize: int) -> Axes:
    axes.set_title(title, loc="left", fontsize=fontsize)
    axes.set_xlabel(wrap(xlabel, 72), fontsize=11)
    axes.set_ylabel(wrap(ylabel, 44), fontsize=11)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if max(map(len, labels)) <= 30 else 2
    figure.legend(
        handles,
        [wrap(label, 40) for label in labels],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=10,
    )


def error_lengths(intervals) -> np.ndarray:
    """Lengths below and above the means, of shape `(2, number of intervals)`; none where an end is infinite."""
    lengths = np.array([[i.mean - i.low, i.high - i.mean] for i in intervals]).T
    return np.where(np.isfinite(lengths), lengths, 0.0)


def wrap(text: str, width: int) -> str:
    """Text in lines, in which a dollar is one: a name is no formula."""
    lines = "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, width))
    return re.sub(r"(?<!\\)\$", r"\\$", lines)


def save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, facecolor="white")
