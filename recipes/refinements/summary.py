# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The ablation as a table and two pictures. The unit of every interval is a seed."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from hf_cong.report.comparisons import plot_differences
from hf_cong.report.plots import plot_front
from hf_cong.report.statistics import mean_interval
from hf_cong.report.tables import render_table

from ..steered import summary
from ..steered.summary import NOTE, interval

DIFFERENCE = "Difference: to the same form without the refinement, seed by seed."


def summarise(records: list[dict], *, kept: Sequence[dict[str, dict]], base: str) -> dict[str, dict]:
    """
    What [`recipes.steered.summary.summarise`] says of each system, its differences to its base, and what it kept.

    Args:
        records (`list[dict]`): One per system, seed and test prompt.
        kept (`Sequence[dict[str, dict]]`): For each seed, the rows of stages I and II by system.
        base (`str`): What the system of a form without any refinement is called, behind the form and a comma.
    """
    systems = summary.summarise(records, list(dict.fromkeys(record["system"] for record in records)))
    for label, system in systems.items():
        theirs = systems.get(f"{label.partition(', ')[0]}, {base}")
        for metric in ("gold", "nll"):
            if theirs in (None, system):
                system[f"{metric}_difference"] = None
                continue
            pairs = zip(system[metric]["by_seed"], theirs[metric]["by_seed"], strict=True)
            gains = [ours - without for ours, without in pairs]
            system[f"{metric}_difference"] = {**mean_interval(gains)._asdict(), "by_seed": gains}
        rows = [seed[label] for seed in kept if label in seed]
        system["kept"] = {stage: fmean(row[stage] for row in rows) for stage in ("sft", "dpo")} if rows else None
    return systems


def render(results: dict, *, markdown: bool = False) -> str:
    def difference(system: dict, metric: str) -> str | None:
        if system[f"{metric}_difference"] is None:
            return None
        found = interval(system, f"{metric}_difference")
        return f"{'+' if found.mean > 0 else ''}{found:.3f}"

    table = render_table(
        [
            {
                "system": label,
                "gold reward": f"{interval(system, 'gold'):.3f}",
                "difference": difference(system, "gold"),
                "nll/token": f"{system['nll']['mean']:.3f}",
                "difference of nll": difference(system, "nll"),
                "distinct-2": f"{system['distinct_2']['mean']:.3f}",
                "tokens": f"{system['tokens']['mean']:.1f}",
                "finished": f"{system['finished']['mean']:.2f}",
                "implicit reward": f"{system['implicit']['mean']:.1f}",
                "rows of I": None if system["kept"] is None else f"{system['kept']['sft']:.0f}",
                "rows of II": None if system["kept"] is None else f"{system['kept']['dpo']:.0f}",
            }
            for label, system in results["systems"].items()
        ],
        markdown=markdown,
    )
    settings = results["settings"]
    note = NOTE.format(seeds=len(settings["seeds"]), test=settings["num_test_prompts"])
    return f"{table}\n\n{note} {DIFFERENCE} Rows: that stages I and II of the last round trained on."


def draw(results: dict, output_dir: Path, *, forms: Sequence[str], base: str) -> None:
    """`differences.png`, and `gold_against_nll.png` of the last form."""
    systems, world = results["systems"], results["settings"]["world"]
    panels = {
        f"{name}, {form}": {
            label.partition(", ")[2]: interval(system, f"{metric}_difference")
            for label, system in systems.items()
            if label.startswith(f"{form}, ") and system[f"{metric}_difference"] is not None
        }
        for metric, name in (("gold", "gold reward"), ("nll", "nats per token (less is more fluent)"))
        for form in forms
    }
    plot_differences(
        output_dir / "differences.png",
        panels,
        baseline=f"the form {base}",
        title=f"What each refinement does, {world}",
    )
    for form in forms:
        points = {
            label.partition(", ")[2]: (interval(system, "nll"), interval(system, "gold"))
            for label, system in systems.items()
            if label.startswith(f"{form}, ")
        }
        plot_front(
            output_dir / f"{form.lower()}_gold_against_nll.png",
            points,
            title=f"{form} and its refinements (better: up, left), {world}",
            xlabel="negative log-likelihood under the untouched strong model, nats per token",
            ylabel="gold reward, from 0 to 1",
        )
