# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Samples as means with intervals, tables and pictures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from hf_cong.evaluation.text_metrics import distinct_n
from hf_cong.report.drawing import COLOURS, MARKERS
from hf_cong.report.statistics import Interval
from hf_cong.report.tables import render_table

from .measure import BASE, BEST_OF, CBS, CD, EFT, EXACT, GUIDED, METHODS, WEAK_POST, WEAK_PRE
from .worlds import FULL, PAIRS

METRICS = ("gold", "kl", "nll", "implicit", "tokens")
COMPARISONS = (
    *((method, BASE) for method in METHODS if method != BASE),
    ("search (W, K, L) = (4, 4, 5)", "best of 16"),
    ("search (W, K, L) = (2, 4, 10)", "best of 8"),
    ("EFT, β = 1", "EFT, β = 0"),
    ("EFT, β = 1", "search (W, K, L) = (4, 4, 5)"),
    ("EFT, β = 2", "search (W, K, L) = (4, 4, 5)"),
    ("EFT, β = 2", WEAK_POST),
)
# What is drawn in one colour, joined by a line.
FAMILIES = {
    "base": (BASE,),
    "weak model, before (open) and after alignment": (WEAK_PRE, WEAK_POST),
    "contrastive decoding of the pair, α = 0.4": (CD,),
    "best of 4 (open), 8, 16": tuple(BEST_OF),
    "search (W, K, L) = (2, 4, 10) (open), (4, 4, 5)": tuple(reversed(CBS)),
    "EFT, β = 0 (open), 0.5, 1, 2, 4": tuple(EFT),
}


def interval(values: Sequence[float]) -> Interval:
    """The mean over prompts and its 95% interval: a bootstrap over prompts, each with all of its seeds."""
    array = np.asarray(values)
    if np.ptp(array) == 0:
        return Interval(float(array[0]), float(array[0]), float(array[0]))
    ends = stats.bootstrap((array,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    return Interval(float(array.mean()), float(ends.low), float(ends.high))


def summarise(records: list[dict], checks: dict[str, dict]) -> dict:
    """
    The content of `results.json` for one setting.

    Args:
        records (`list[dict]`): One per pair, method, seed and prompt, with its `gold` reward.
        checks (`dict[str, dict]`): For every pair, the accuracy of its reward, see [`RewardAccuracy`].
    """
    seeds = sorted({record["seed"] for record in records})
    groups = defaultdict(list)
    for record in records:
        groups[record["pair"], record["method"]].append(record)
    methods = {}
    for method in METHODS:
        rows = groups[FULL, method]
        methods[method] = {
            **{metric: _over_prompts(rows, metric) for metric in METRICS},
            "gold_by_seed": _means(rows, "gold", "seed"),
            "kl_method": rows[0]["kl_method"],
            "finished": fmean(row["finish_reason"] == "stop" for row in rows),
            "too_short": fmean(row["gold"] == 0 for row in rows),
            "distinct_2": fmean(
                distinct_n([row["completion"] for row in rows if row["seed"] == seed], 2) for seed in seeds
            ),
        }
    differences = [
        {"method": method, "baseline": baseline, **_difference(groups[FULL, method], groups[FULL, baseline])}
        for method, baseline in COMPARISONS
    ]
    # Worse pairs guide the first seed only.
    first = {name: [row for row in rows if row["seed"] == seeds[0]] for name, rows in groups.items()}
    robustness = [
        {
            "pair": pair,
            "accuracy": checks[pair],
            "gold": {method: _over_prompts(first[pair, method], "gold") for method in GUIDED},
            "minus_base": {method: _difference(first[pair, method], first[FULL, BASE])["gold"] for method in GUIDED},
        }
        for pair in PAIRS
    ]
    base = _over_prompts(first[FULL, BASE], "gold")
    return {"methods": methods, "differences": differences, "robustness": {"base": base, "pairs": robustness}}


def _over_prompts(rows: list[dict], metric: str) -> dict:
    return interval(_means(rows, metric, "prompt_id"))._asdict()


def _difference(ours: list[dict], theirs: list[dict]) -> dict:
    """Of gold reward, paired by prompt; and by seed."""
    by_prompt, by_seed = (
        [a - b for a, b in zip(_means(ours, "gold", key), _means(theirs, "gold", key), strict=True)]
        for key in ("prompt_id", "seed")
    )
    return {"gold": interval(by_prompt)._asdict(), "by_seed": by_seed}


def _means(rows: list[dict], metric: str, key: str) -> list[float]:
    """The mean for every value of `key`, in its order."""
    values = defaultdict(list)
    for row in rows:
        values[row[key]].append(row[metric])
    return [fmean(values[name]) for name in sorted(values)]


def tables(results: dict, *, markdown: bool = False) -> str:
    """The methods, their differences, and the worse pairs."""
    methods = [
        {
            "method": method,
            "gold reward": f"{Interval(**row['gold']):.3f}",
            "KL from base": _kl(row),
            "nll/token": f"{Interval(**row['nll']):.2f}",
            "implicit reward": f"{Interval(**row['implicit']):.1f}",
            "tokens": f"{row['tokens']['mean']:.0f}",
            "finished": f"{row['finished']:.2f}",
            "too short": f"{row['too_short']:.2f}",
            "distinct-2": f"{row['distinct_2']:.2f}",
        }
        for method, row in results["methods"].items()
    ]
    differences = [
        {
            "difference in gold reward": f"{row['method']} - {row['baseline']}",
            "mean": f"{Interval(**row['gold']):.3f}",
            "by seed": " ".join(f"{value:+.3f}" for value in row["by_seed"]),
        }
        for row in results["differences"]
    ]
    robustness = [
        {
            "pair": row["pair"],
            "reward accuracy": f"{_accuracy(row):.2f}",
            **{f"{method}, minus base": f"{Interval(**row['minus_base'][method]):.3f}" for method in GUIDED},
        }
        for row in results["robustness"]["pairs"]
    ]
    return "\n\n".join(render_table(rows, markdown=markdown) for rows in (methods, differences, robustness))


def _accuracy(row: dict) -> Interval:
    accuracy = row["accuracy"]
    return Interval(accuracy["accuracy"], accuracy["low"], accuracy["high"])


def _kl(row: dict) -> str:
    return f"{'' if row['kl_method'] == EXACT else '≤ '}{row['kl']['mean']:.1f}"


def draw_front(results: dict, path: Path, title: str) -> None:
    """Gold reward against what it costs: divergence from the large model, and unlikely text."""
    figure = Figure(figsize=(8, 5.4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title, fontsize=12)
    for axes, metric, label in (
        (panels[0], "kl", "KL from the base sampler, nats per completion\n(search and best of n: an upper bound)"),
        (panels[1], "nll", "negative log-likelihood under the base,\nnats per token"),
    ):
        for number, (family, methods) in enumerate(FAMILIES.items()):
            rows = [results["methods"][method] for method in methods]
            _line(axes, [Interval(**row[metric]) for row in rows], [Interval(**row["gold"]) for row in rows], number)
            axes.lines[-1].set_label(family)
        _style(axes, label)
    panels[0].set_xscale("symlog", linthresh=1)
    panels[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].set_xlim(left=-0.1)
    panels[0].set_ylabel("gold reward, from 0 to 1")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, facecolor="white")


def _line(axes: Axes, x: list[Interval], y: list[Interval], number: int) -> None:
    """Points with both intervals, joined by a line that starts at an open marker."""
    axes.errorbar(
        [point.mean for point in x],
        [point.mean for point in y],
        xerr=_lengths(x),
        yerr=_lengths(y),
        fmt="none",
        ecolor=COLOURS[number],
        elinewidth=1,
    )
    options = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 7, "linewidth": 1.2}
    if len(x) > 1:
        axes.plot(x[0].mean, y[0].mean, **{**options, "linestyle": ""}, markerfacecolor="white", zorder=3)
    axes.plot([point.mean for point in x], [point.mean for point in y], **options)


def draw_robustness(results: dict, path: Path, title: str) -> None:
    """Gold reward by the accuracy of the pair's reward, a marker for each pair."""
    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    axes = figure.subplots()
    figure.suptitle(title, fontsize=12)
    for number, method in enumerate(GUIDED):
        for place, row in enumerate(results["robustness"]["pairs"]):
            x, y = _accuracy(row), Interval(**row["gold"][method])
            axes.errorbar(
                x.mean,
                y.mean,
                xerr=_lengths([x]),
                yerr=_lengths([y]),
                fmt=MARKERS[place],
                color=COLOURS[number],
                elinewidth=1,
                markersize=8,
            )
    base = Interval(**results["robustness"]["base"])
    axes.axhspan(base.low, base.high, color="#DDDDDD", zorder=0)
    handles = [axes.axhline(base.mean, color="black", linestyle="--", linewidth=1.2, label="base, no guidance")]
    handles.append(axes.axvline(0.5, color="black", linestyle=":", linewidth=1.2, label="accuracy of chance"))
    handles += [
        axes.plot([], [], color=COLOURS[number], linewidth=4, label=method)[0] for number, method in enumerate(GUIDED)
    ]
    handles += [
        axes.plot([], [], MARKERS[place], color="#8C8C8C", markersize=8, label=row["pair"])[0]
        for place, row in enumerate(results["robustness"]["pairs"])
    ]
    _style(axes, "accuracy of the pair's implicit reward on held-out preferences")
    axes.set_ylabel("gold reward, from 0 to 1")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, facecolor="white")


def _style(axes: Axes, xlabel: str) -> None:
    axes.set_xlabel(xlabel)
    axes.grid(color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _lengths(intervals: list[Interval]) -> np.ndarray:
    """Below and above the means, of shape `(2, number of intervals)`; a bootstrap may leave its mean by rounding."""
    return np.array([[i.mean - i.low, i.high - i.mean] for i in intervals]).T.clip(min=0)
