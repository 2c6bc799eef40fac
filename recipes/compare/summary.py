# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The comparison as numbers, one table and three pictures. The unit of every interval is a seed."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from hf_cong.evaluation.text_metrics import distinct_n
from hf_cong.report.plots import plot_front, plot_stages
from hf_cong.report.statistics import Interval, mean_interval
from hf_cong.report.tables import render_table

from .methods import STRONG, TRAINED, UNTRAINED, WEAK_SFT, Budget

MEANS = ("gold", "nll", "tokens", "implicit", "finished")


def summarise(records: list[dict], budgets: Sequence[dict[str, dict]], baseline: str = WEAK_SFT) -> dict[str, dict]:
    """For each system every metric: its mean over seeds, the ends of the 95% interval, and the value of each seed.

    Args:
        records (`list[dict]`):
            One per system, seed and test prompt.
        budgets (`Sequence[dict[str, dict]]`):
            For each seed, the budget of each trained system.
        baseline (`str`, *optional*):
            The system from which differences of gold reward are taken, seed by seed.
    """
    seeds = sorted({record["seed"] for record in records})
    systems = {}
    for label in (*UNTRAINED, *TRAINED):
        by_seed = [[row for row in records if (row["system"], row["seed"]) == (label, seed)] for seed in seeds]
        values = {metric: [fmean(row[metric] for row in rows) for rows in by_seed] for metric in MEANS}
        values["distinct_2"] = [distinct_n([row["completion"] for row in rows], 2) for rows in by_seed]
        systems[label] = {
            **{metric: {**mean_interval(each)._asdict(), "by_seed": each} for metric, each in values.items()},
            "budget": {
                name: fmean(budget[label][name] for budget in budgets) if label in TRAINED else None
                for name in Budget._fields
            },
        }
    for label, system in systems.items():
        pairs = zip(system["gold"]["by_seed"], systems[baseline]["gold"]["by_seed"], strict=True)
        gains = [ours - theirs for ours, theirs in pairs]
        system["gain"] = {**mean_interval(gains)._asdict(), "by_seed": gains} if label != baseline else None
    return systems


def interval(system: dict, metric: str) -> Interval:
    return Interval(*(system[metric][end] for end in Interval._fields))


def table(systems: dict[str, dict], *, markdown: bool = False) -> str:
    def thousands(tokens: float | None) -> str | None:
        return None if tokens is None else f"{tokens / 1000:.1f}k"

    return render_table(
        [
            {
                "system": label,
                "gold reward": f"{interval(system, 'gold'):.3f}",
                f"gold - {WEAK_SFT}": None if system["gain"] is None else _signed(interval(system, "gain")),
                "nll/token": f"{interval(system, 'nll'):.2f}",
                "distinct-2": f"{interval(system, 'distinct_2'):.3f}",
                "tokens": f"{interval(system, 'tokens'):.1f}",
                "finished": f"{system['finished']['mean']:.2f}",
                "implicit reward": f"{interval(system, 'implicit'):.1f}",
                "weak wrote": thousands(system["budget"]["written_weak"]),
                "strong wrote": thousands(system["budget"]["written_strong"]),
                "trained on": thousands(system["budget"]["trained"]),
            }
            for label, system in systems.items()
        ],
        markdown=markdown,
    )


def _signed(difference: Interval) -> str:
    return f"{'+' if difference.mean > 0 else ''}{difference:.3f}"


def draw(systems: dict[str, dict], world: str, output_dir: Path) -> None:
    """`gold.png`, `gold_against_nll.png` and `gold_against_diversity.png`."""
    gold = {label: interval(system, "gold") for label, system in systems.items()}
    plot_stages(
        output_dir / "gold.png",
        gold,
        seeds={label: system["gold"]["by_seed"] for label, system in systems.items()},
        title=f"Gold reward on the held-out prompts ({world}), interval over seeds",
        xlabel="gold reward, from 0 to 1",
    )
    for name, metric, title, xlabel in (
        (
            "nll",
            "nll",
            "Reward against fluency (better is up and to the left)",
            f"negative log-likelihood under the {STRONG}, nats per token",
        ),
        (
            "diversity",
            "distinct_2",
            "Reward against diversity (better is up and to the right)",
            "distinct-2 over one sample of each prompt",
        ),
    ):
        plot_front(
            output_dir / f"gold_against_{name}.png",
            {label: (interval(system, metric), gold[label]) for label, system in systems.items()},
            title=title,
            xlabel=xlabel,
            ylabel="gold reward, from 0 to 1",
        )
