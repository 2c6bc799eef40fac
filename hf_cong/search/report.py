# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results of searches to a table by method and a picture. All is computed from the records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..report.plots import plot_bands
from ..report.statistics import Interval, mean_interval
from ..report.tables import render_table


def summarise(records: Sequence[Mapping], settings: Mapping[str, Mapping], costs: Mapping[str, Mapping | None]):
    """
    One row per method.

    Args:
        records (`Sequence[Mapping]`): What `results.jsonl` holds.
        settings (`Mapping[str, Mapping]`): By method, its `beam_width`, `successors_per_beam` and `chunk_length`.
        costs (`Mapping[str, Mapping]`): By method, what a server counted; `None` for a model in this process.

    Returns:
        `list[dict]`: `method`, its settings, `prompts`, the means over them of `implicit_reward` with the ends of its
        95% `interval` (`None` of one prompt), of `characters`, `tokens` (`None` where only text is known) and `kl`,
        `kl_method`, `finished` (the share that ended before the length limit) and `cost`.
    """
    rows = []
    for method, widths in settings.items():
        found = [record for record in records if record["method"] == method]
        ids = [record["completion_ids"] for record in found]
        reward = mean_interval([record["implicit_reward"] for record in found])
        rows.append(
            {
                "method": method,
                **widths,
                "prompts": len(found),
                "implicit_reward": reward.mean,
                "interval": [reward.low, reward.high] if len(found) > 1 else None,
                "characters": sum(len(record["completion"]) for record in found) / len(found),
                "tokens": None if None in ids else sum(map(len, ids)) / len(ids),
                "finished": sum(record["finish_reason"] == "stop" for record in found) / len(found),
                "kl": sum(record["kl"] for record in found) / len(found),
                "kl_method": found[0]["kl_method"],
                "cost": costs[method],
            }
        )
    return rows


def render_search(summary: Sequence[Mapping], facts: Mapping) -> str:
    """The Markdown page: the table by method, how to read it, costs, the pair's accuracy if known, the setting."""
    lines = [
        "# Search by method",
        "",
        render_table([_table_row(row) for row in summary], markdown=True),
        "",
        "Means over the prompts, with 95% intervals. The implicit reward is what a search maximises, in nats times β; "
        "the quality of its text needs another judge. W×K are the rows that are sampled together for a prompt, L the "
        "tokens of a chunk. KL is an upper bound of the divergence from plain sampling with the same settings.",
        "",
    ]
    if any(row["cost"] for row in summary):
        costs = [{"method": row["method"], **row["cost"]} for row in summary]
        lines += ["## Cost, as the server counted it", "", render_table(costs, markdown=True), ""]
    accuracy = facts["reward_accuracy"]
    if accuracy is not None:
        lines += [
            f"The pair prefers the chosen completion of {accuracy['n']} preferences in {accuracy['accuracy']:.1%} "
            f"(95% interval {accuracy['low']:.1%} to {accuracy['high']:.1%}, {accuracy['ties']} ties).",
            "",
        ]
    lines += ["## Setting", "", *(f"- {name}: {value}" for name, value in facts["identity"].items()), ""]
    return "\n".join(lines)


def _table_row(row: Mapping) -> dict[str, object]:
    reward = f"{row['implicit_reward']:.2f}"
    if row["interval"] is not None:
        reward = f"{Interval(row['implicit_reward'], *row['interval']):.2f}"
    return {
        "method": row["method"],
        "W×K": f"{row['beam_width']}×{row['successors_per_beam']}",
        "L, tokens": "∞" if row["chunk_length"] is None else row["chunk_length"],
        "prompts": row["prompts"],
        "implicit reward": reward,
        "tokens": None if row["tokens"] is None else f"{row['tokens']:.1f}",
        "characters": f"{row['characters']:.1f}",
        "finished": f"{row['finished']:.0%}",
        "KL ≤, nats": f"{row['kl']:.2f}",
        "KL by": row["kl_method"],
    }


def rewards_by_chunk(records: Sequence[Mapping], method: str) -> list[list[float]]:
    """
    For every chunk, the reward of the best hypothesis of every prompt.

    A prompt whose search has ended counts with its last reward, so that every mean is over the same prompts.
    """
    traces = [[step["best_reward"] for step in record["trace"]] for record in records if record["method"] == method]
    return [[trace[min(chunk, len(trace) - 1)] for trace in traces] for chunk in range(max(map(len, traces)))]


def plot_search(path: str | Path, records: Sequence[Mapping], settings: Mapping[str, Mapping]) -> None:
    """The reward of the best hypothesis after each chunk, mean and 95% interval; a level where there is one chunk."""
    curves, levels = {}, {}
    for method, widths in settings.items():
        label = f"{method} ({widths['beam_width']}×{widths['successors_per_beam']})"
        means = [mean_interval(rewards) for rewards in rewards_by_chunk(records, method)]
        if widths["chunk_length"] is None:
            levels[label] = means[-1]
        else:
            curves[label] = dict(enumerate(means, 1))
    lengths = {str(widths["chunk_length"]) for widths in settings.values() if widths["chunk_length"] is not None}
    plot_bands(
        path,
        curves,
        levels,
        title=f"Implicit reward of the best hypothesis, {len(records) // len(settings)} prompts: mean, 95% interval",
        xlabel=f"chunk, of {', '.join(lengths) or 'all'} tokens",
        ylabel="implicit reward, nats times β",
    )
