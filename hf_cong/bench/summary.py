# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Samples to numbers, a table and a picture. All is computed from the records alone."""

from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..report.plots import plot_curves
from ..report.tables import render_table


class Spread(NamedTuple):
    """The median of some values, and the ends of their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


def summarise(records: list[dict], settings: dict) -> list[dict]:
    """
    One row for each batch size and contestant.

    A step is the time from the first token to the last over the number of steps between, so the prompt is not in it.
    Ratios are taken within a round, where both sides met the same machine, and their median is given.

    Args:
        records (`list[dict]`): Checks and samples of all rounds.
        settings (`dict`): Of the run, `new_tokens` among them.

    Returns:
        `list[dict]`: `batch_size`, `contestant`, `baseline`; spreads `(median, low, high)` of `step` and `first_token`
        in seconds, of `tokens_per_second` while decoding, of `ratio` (its step over the baseline's); for what writes
        the pair's tokens of `ratio_to_pair`, for a pair of `contrast_share` (the contrast alone over the step), else
        `None`; and the facts of its check.
    """
    steps = settings["new_tokens"] - 1
    samples, contrasts = {}, {}
    for record in records:
        if "total" in record:
            samples[record["batch_size"], record["contestant"], record["round"]] = record
        elif "contrast_of" in record:
            contrasts[record["batch_size"], record["contrast_of"], record["round"]] = record["seconds"]

    def step(batch_size, contestant, number):
        sample = samples[batch_size, contestant, number]
        return (sample["total"] - sample["first_token"]) / steps

    rows, rounds = [], range(settings["rounds"])
    for check in (record for record in records if "rows_equal" in record):
        size, name = check["batch_size"], check["contestant"]
        taken = [step(size, name, number) for number in rounds]
        shares = [
            contrasts[size, name, number] / taken[number] for number in rounds if (size, name, number) in contrasts
        ]

        def ratio(other, size=size, taken=taken):
            return Spread.of([taken[number] / step(size, other, number) for number in rounds])

        rows.append(
            {
                **check,
                "step": Spread.of(taken),
                "first_token": Spread.of([samples[size, name, number]["first_token"] for number in rounds]),
                "tokens_per_second": Spread.of([size / seconds for seconds in taken]),
                "ratio": ratio(check["baseline"]),
                "ratio_to_pair": ratio("pair") if check["writes"] == "pair" else None,
                "contrast_share": Spread.of(shares) if shares else None,
            }
        )
    return rows


def key_ratios(summary: list[dict]) -> dict[str, float]:
    """Throughput of the best batch of each pair over the official-style loop, whose throughput no batch changes."""
    best = {}
    for row in summary:
        name, speed = row["contestant"], row["tokens_per_second"].median
        best[name] = max(best.get(name, 0.0), speed)
    official = best.pop("official-style loop", None)
    return {} if official is None else {name: speed / official for name, speed in best.items() if "pair" in name}


def render_bench(summary: list[dict], settings: dict, *, title: str) -> str:
    """The Markdown page: what ran on what, one table per batch size, and throughput against the official loop."""
    facts = {**settings["hardware"], **{name: settings[name] for name in settings if name != "hardware"}}
    lines = [
        f"# Speed of contrastive decoding: {title}",
        "",
        f"Greedy, {settings['prompt_length']} prompt tokens and {settings['new_tokens']} new ones. A step gives every "
        "row one token; the prompt is not in it. Medians of "
        f"{settings['rounds']} interleaved rounds, with the range in brackets; a ratio is taken within each round, to "
        "the policy alone in the same form. Weights and cache are computed, the peak is measured.",
        "",
    ]
    for size in settings["batch_sizes"]:
        rows = [_table_row(row) for row in summary if row["batch_size"] == size]
        lines += [f"## Batch {size}", "", render_table(rows, markdown=True), ""]
    against = key_ratios(summary)
    if against:
        rows = [{"best batch of": name, "tokens/s ÷ official-style loop": ratio} for name, ratio in against.items()]
        lines += ["## Throughput against the official-style loop", "", render_table(rows, markdown=True), ""]
    lines += ["## Setting", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def _table_row(row: dict) -> dict[str, object]:
    mib = {name: row[f"{name}_bytes"] for name in ("weight", "cache", "peak")}
    equal = f"{row['rows_equal']}/{row['rows']}"
    if row["first_difference"] is not None:
        equal += f" (from token {row['first_difference']})"
    share = row["contrast_share"]
    return {
        "contestant": row["contestant"],
        "ms/step": _spread(row["step"], 1000, 2),
        "× plain": _spread(row["ratio"], 1, 2),
        "× pair": None if row["ratio_to_pair"] is None else _spread(row["ratio_to_pair"], 1, 2),
        "tokens/s": f"{row['tokens_per_second'].median:.1f}",
        "first token, ms": f"{row['first_token'].median * 1000:.1f}",
        "contrast": None if share is None else f"{share.median:.1%}",
        "tokens/forward": None if row["tokens_per_forward"] is None else f"{row['tokens_per_forward']:.2f}",
        **{f"{name}, MiB": None if value is None else f"{value / 2**20:.0f}" for name, value in mib.items()},
        "rows equal": equal,
    }


def _spread(spread: Spread, scale: float, digits: int) -> str:
    middle, low, high = (f"{value * scale:.{digits}f}" for value in spread)
    return f"{middle} [{low}, {high}]"


def plot_bench(path: str | Path, summary: list[dict], *, title: str) -> None:
    """Time per step over plain, and throughput, by batch size."""
    panels = {"ratio": "time of a step ÷ plain", "tokens_per_second": "tokens per second, decoding"}
    curves = {
        label: {
            name: {row["batch_size"]: tuple(row[key]) for row in summary if row["contestant"] == name}
            for name in dict.fromkeys(row["contestant"] for row in summary)
        }
        for key, label in panels.items()
    }
    plot_curves(path, curves, title=f"{title}: median and range of the rounds", xlabel="batch size")
