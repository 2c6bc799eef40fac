# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The comparison as a table and three pictures. The unit of every interval is a seed."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from hf_cong.evaluation.text_metrics import distinct_n
from hf_cong.report.plots import plot_front
from hf_cong.report.statistics import Interval, mean_interval
from hf_cong.report.tables import render_table

MEANS = ("gold", "nll", "tokens", "implicit", "finished")
NOTE = (
    "Mean ± half of the 95% interval over {seeds} seeds (Student's t), each seed's value a mean over {test} held-out "
    "prompts. Gold reward and finished are in [0, 1]; nll is in nats per token under the untouched strong model; "
    "distinct-n is over one sample of each prompt; implicit reward is in nats per completion."
)


def summarise(records: list[dict], labels: Sequence[str]) -> dict[str, dict]:
    """For each system every metric: its mean over seeds, the ends of the 95% interval, and the value of each seed."""
    seeds, systems = sorted({record["seed"] for record in records}), {}
    for label in labels:
        by_seed = [[row for row in records if (row["system"], row["seed"]) == (label, seed)] for seed in seeds]
        values = {metric: [fmean(row[metric] for row in rows) for rows in by_seed] for metric in MEANS}
        for n in (1, 2, 3):
            values[f"distinct_{n}"] = [distinct_n([row["completion"] for row in rows], n) for rows in by_seed]
        systems[label] = {
            metric: {**mean_interval(each)._asdict(), "by_seed": each} for metric, each in values.items()
        }
    return systems


def interval(system: dict, metric: str) -> Interval:
    return Interval(*(system[metric][end] for end in Interval._fields))


def render(results: dict, *, markdown: bool = False) -> str:
    systems = [
        {
            "system": label,
            "gold reward": f"{interval(system, 'gold'):.3f}",
            "by seed": " ".join(f"{value:.2f}" for value in system["gold"]["by_seed"]),
            "nll/token": f"{interval(system, 'nll'):.3f}",
            **{f"distinct-{n}": f"{system[f'distinct_{n}']['mean']:.3f}" for n in (1, 2, 3)},
            "tokens": f"{system['tokens']['mean']:.1f}",
            "finished": f"{system['finished']['mean']:.2f}",
            "implicit reward": f"{system['implicit']['mean']:.1f}",
        }
        for label, system in results["systems"].items()
    ]
    written = [
        {
            "form": label,
            "prompts": seeds[0]["prompts"],
            "finished": f"{fmean(each['finished'] for each in seeds):.0f}",
            "tokens written": f"{fmean(each['tokens'] for each in seeds) / 1000:.1f}k",
            "forwards per token": f"{seeds[0]['strong']} strong, {seeds[0]['weak']} weak",
        }
        for label, seeds in results["written"].items()
    ]
    settings = results["settings"]
    note = NOTE.format(seeds=len(settings["seeds"]), test=settings["num_test_prompts"])
    tables = [render_table(each, markdown=markdown) for each in (systems, written)]
    return "\n\n".join([tables[0], note, "What the chosen completions took, mean over seeds:", tables[1]])


def draw(results: dict, output_dir: Path, *, stage_one: Sequence[str], stage_two: Sequence[str]) -> None:
    """`gold_against_nll.png` and `gold_against_diversity.png` of what writes and of stage I; of stage II, two more."""
    nll = "negative log-likelihood under the untouched strong model, nats per token"
    before = [label for label in results["systems"] if label not in stage_two]
    _front(results, output_dir / "gold_against_nll.png", before, "nll", "Writers and stage I (better: up, left)", nll)
    title, xlabel = "Writers and stage I (better: up, right)", "distinct-2 over one sample of each prompt"
    _front(results, output_dir / "gold_against_diversity.png", before, "distinct_2", title, xlabel)
    for rejected in ("policy", "base"):
        labels = [*stage_one, *(label for label in stage_two if f"rejected: {rejected}" in label)]
        title = f"Stage II, rejected_from = {rejected} (better: up, left)"
        _front(results, output_dir / f"stage_two_{rejected}.png", labels, "nll", title, nll)


def _front(results: dict, path: Path, labels: Sequence[str], metric: str, title: str, xlabel: str) -> None:
    points = {
        re.sub("rejected: [a-z]+, ", "", label): tuple(
            interval(results["systems"][label], each) for each in (metric, "gold")
        )
        for label in labels
    }
    world = results["settings"]["world"]
    plot_front(path, points, title=f"{title}, {world}", xlabel=xlabel, ylabel="gold reward, from 0 to 1")
