# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what was measured while something ran."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .drawing import COLOURS, WIDTH, save, style_axes, wrap


class Line(NamedTuple):
    """
    One quantity over the steps.

    Args:
        label (`str`): Its name in the legend, once for all panels.
        points (`Mapping[int, float]`): By step.
        colour (`int`): Which colour it has.
        rare (`bool`): Whether it was measured now and then: it is dashed, with a marker at each point.
    """

    label: str
    points: Mapping[int, float]
    colour: int
    rare: bool = False


def plot_lines(path: str | Path, panels: Mapping[str, Sequence[Line]], *, title: str, xlabel: str) -> None:
    """Panels in two columns, each with lines over the same steps.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        panels (`Mapping[str, Sequence[Line]]`):
            The lines of every quantity (with its unit).
        title (`str`):
            What is shown.
        xlabel (`str`):
            What is counted.
    """
    figure, every = _panels(len(panels), 2.3, title)
    handles = {}
    for axes, (quantity, lines) in zip(every, panels.items(), strict=True):
        style_axes(axes, wrap(quantity, 48), "", "", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for line in lines:
            style = "o--" if line.rare else "o-" if len(line.points) == 1 else "-"
            colour = COLOURS[line.colour % len(COLOURS)]
            places, heights = list(line.points), list(line.points.values())
            (handle,) = axes.plot(places, heights, style, color=colour, markersize=4, linewidth=1.4)
            handles.setdefault(line.label, handle)
    for axes in every[-2:]:
        axes.set_xlabel(wrap(xlabel, 36), fontsize=11)
    _legend(figure, handles)
    save(figure, path)


def plot_bars(path: str | Path, panels: Mapping[str, Mapping[str, Mapping[str, float]]], *, title: str) -> None:
    """Panels in two columns, each with a bar for every case and label.

    Args:
        path (`str` or `Path`):
            PNG file to write.
        panels (`Mapping[str, Mapping[str, Mapping[str, float]]]`):
            For every quantity (with its unit) and label, the values by case. A label has one colour in all panels.
        title (`str`):
            What is shown.
    """
    figure, every = _panels(len(panels), 2.1, title)
    labels = list(dict.fromkeys(label for bars in panels.values() for label in bars))
    handles, height = {}, 0.8 / len(labels)
    for axes, (quantity, bars) in zip(every, panels.items(), strict=True):
        style_axes(axes, wrap(quantity, 48), "", "", fontsize=11)
        cases = list(dict.fromkeys(case for values in bars.values() for case in values))
        for label, values in bars.items():
            number = labels.index(label)
            places = [cases.index(case) + height * (number - (len(labels) - 1) / 2) for case in values]
            drawn = axes.barh(places, list(values.values()), height=height, color=COLOURS[number % len(COLOURS)])
            axes.bar_label(drawn, fmt=_number, padding=3, fontsize=9)
            handles.setdefault(label, drawn)
        axes.set_yticks(range(len(cases)), [wrap(case, 24) for case in cases])
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.grid(axis="y", visible=False)
    if len(handles) > 1:
        _legend(figure, handles)
    save(figure, path)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _panels(number: int, height: float, title: str):
    rows = -(-number // 2)
    figure = Figure(figsize=(WIDTH, height * rows + 1.3), dpi=150, layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels[number:]:
        axes.set_axis_off()
    figure.suptitle(wrap(title, 76), fontsize=12)
    return figure, panels[:number]


def _legend(figure: Figure, handles: Mapping[str, object]) -> None:
    columns = 4 if max(map(len, handles)) <= 20 else 2
    labels = [wrap(label, 40) for label in handles]
    options = {"ncols": columns, "frameon": False, "fontsize": 10}
    figure.legend(list(handles.values()), labels, loc="outside lower center", **options)
