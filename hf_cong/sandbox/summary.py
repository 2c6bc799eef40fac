# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The demo's samples as tables and pictures."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from ..evaluation.text_metrics import distinct_n
from ..report.plots import plot_front, plot_scatter, plot_stages, plot_sweep
from ..report.statistics import Interval, mean_interval, spearman
from ..report.tables import render_table

ALPHA = 0.4  # the paper's
ALPHAS = (0.3, ALPHA, 0.5, 0.7, 1.0)
TEMPERATURE = 0.8  # the paper's


def decoded(alpha: float) -> str:
    """Label of the pair's own samples."""
    return f"CD of the pair, α = {alpha:g}"


WEAK_PRE, WEAK_POST, STRONG = "weak, before alignment", "weak, after alignment", "strong base"
WEAK_SFT, CONG_S, CONG, CONG_FAST = "WeakSFT", "ConG-S (stage I)", "ConG (stages I + II)", "ConG, stage II at 5x lr"
# The contrast scales the policy's log-probabilities by about α, which is a temperature of 1/α; this undoes it.
COOLED = f"CD, α = {ALPHA:g}, temperature × α"
SYSTEMS = (WEAK_PRE, WEAK_POST, *map(decoded, ALPHAS), COOLED, STRONG, WEAK_SFT, CONG_S, CONG, CONG_FAST)
METRICS = ("gold", "implicit", "nll", "tokens", "finished")
PARTS = ("truth", "manner", "focus")  # of the gold reward
COMPARISONS = (
    (decoded(ALPHA), WEAK_POST),
    (COOLED, WEAK_POST),
    (WEAK_SFT, STRONG),
    (CONG_S, WEAK_SFT),
    (CONG, CONG_S),
    (CONG_FAST, CONG_S),
    (CONG, decoded(ALPHA)),
    (CONG, STRONG),
)


def summarise(records: list[dict], labels: Sequence[str] = SYSTEMS, parts: Sequence[str] = PARTS) -> dict:
    """Means with 95% intervals over held-out prompts; each prompt's value is its mean over the seeds.

    Args:
        records (`list[dict]`):
            One per system, seed and prompt, with a number for each of the metrics and parts.
        labels (`Sequence[str]`, *optional*):
            The systems, in the order of the table; all of the demo's must be among them.
        parts (`Sequence[str]`, *optional*):
            What the gold reward is made of, each in [0, 1].

    Returns:
        `dict`: `parts`, `systems` (for each the interval of each metric, the gold reward by seed, and `distinct_2`),
        `comparisons` (differences of gold reward, paired by prompt) and `spearman` (implicit against gold reward).
    """
    seeds = sorted({record["seed"] for record in records})
    by_system = defaultdict(list)
    for record in records:
        by_system[record["system"]].append(record)
    systems, per_prompt, per_seed = {}, {}, {}
    for label in labels:
        rows = by_system[label]
        means = {metric: _means(rows, metric, "prompt_id") for metric in (*METRICS, *parts)}
        per_prompt[label], per_seed[label] = means["gold"], _means(rows, "gold", "seed")
        systems[label] = {
            **{metric: mean_interval(list(values.values()))._asdict() for metric, values in means.items()},
            "gold_by_seed": [per_seed[label][seed] for seed in seeds],
            "distinct_2": fmean(
                distinct_n([row["completion"] for row in rows if row["seed"] == seed], 2) for seed in seeds
            ),
        }
    comparisons = []
    for label, baseline in COMPARISONS:
        ours, theirs = per_prompt[label], per_prompt[baseline]
        comparisons.append(
            {
                "system": label,
                "baseline": baseline,
                "gold": mean_interval([ours[prompt] - theirs[prompt] for prompt in ours])._asdict(),
                "by_seed": [per_seed[label][seed] - per_seed[baseline][seed] for seed in seeds],
            }
        )
    correlations = {
        label: spearman([row["implicit"] for row in rows], [row["gold"] for row in rows])
        for label, rows in {**by_system, "all": records}.items()
    }
    return {"parts": list(parts), "systems": systems, "comparisons": comparisons, "spearman": correlations}


def _means(rows: list[dict], metric: str, key: str) -> dict:
    groups = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row[metric])
    return {name: fmean(values) for name, values in groups.items()}


def tables(results: dict, *, markdown: bool = False) -> str:
    """The comparison of all systems, then the paired differences."""
    systems, parts = [], results["parts"]
    for label, row in results["systems"].items():
        interval = {metric: Interval(**row[metric]) for metric in (*METRICS, *parts)}
        systems.append(
            {
                "system": label,
                "gold reward": f"{interval['gold']:.3f}",
                **{part: f"{interval[part].mean:.2f}" for part in (*parts, "finished")},
                "implicit reward": f"{interval['implicit']:.2f}",
                "nll/token": f"{interval['nll']:.3f}",
                "tokens": f"{interval['tokens']:.1f}",
                "distinct-2": row["distinct_2"],
            }
        )
    comparisons = [
        {
            "difference in gold reward": f"{row['system']} - {row['baseline']}",
            "mean": f"{Interval(**row['gold']):.3f}",
            "by seed": " ".join(f"{value:+.3f}" for value in row["by_seed"]),
            "reading": _reading(row),
        }
        for row in results["comparisons"]
    ]
    settings = results["settings"]
    note = (
        f"Mean ± half of the 95% interval over {settings['num_test_prompts']} held-out prompts, "
        f"{len(settings['seeds'])} seeds averaged per prompt. Gold reward, its parts and the share of finished texts "
        "are in [0, 1]; implicit reward is in nats per completion, nll in nats per token under the strong base; "
        "distinct-2 is over one sample of each prompt. Better or worse: the interval excludes 0 and all seeds agree."
    )
    return "\n\n".join([render_table(systems, markdown=markdown), note, render_table(comparisons, markdown=markdown)])


def _reading(row: dict) -> str:
    """A difference counts when the interval over prompts excludes 0 and every seed has its sign."""
    gold, signs = Interval(**row["gold"]), {value > 0 for value in row["by_seed"]}
    if gold.low > 0 and signs == {True}:
        return "better"
    if gold.high < 0 and signs == {False}:
        return "worse"
    return "undecided"


def draw(results: dict, records: list[dict], output_dir: Path) -> None:
    """`gold_by_stage.png`, `implicit_against_gold.png`, `alpha_sweep.png`, `reward_against_fluency.png`."""
    systems = results["systems"]
    gold = {label: Interval(**row["gold"]) for label, row in systems.items()}
    seeds = {label: row["gold_by_seed"] for label, row in systems.items()}
    shown = [WEAK_PRE, WEAK_POST, decoded(ALPHA), STRONG, WEAK_SFT, CONG_S, CONG, CONG_FAST]
    plot_stages(
        output_dir / "gold_by_stage.png",
        {label: gold[label] for label in shown},
        seeds=seeds,
        title="Gold reward by stage",
        xlabel="gold reward of a held-out prompt, from 0 to 1",
    )
    plot_sweep(
        output_dir / "alpha_sweep.png",
        {alpha: gold[decoded(alpha)] for alpha in ALPHAS},
        seeds={alpha: seeds[decoded(alpha)] for alpha in ALPHAS},
        references={label: gold[label].mean for label in (WEAK_PRE, WEAK_POST)},
        title="Contrastive decoding of the weak pair",
        xlabel="α, the weight kept on the aligned model (1 = no contrast)",
        ylabel="gold reward, from 0 to 1",
    )
    points = {
        label: (
            [row["implicit"] for row in records if row["system"] == label],
            [row["gold"] for row in records if row["system"] == label],
        )
        for label in (WEAK_PRE, WEAK_POST, decoded(ALPHA), STRONG, CONG_S, CONG)
    }
    plot_scatter(
        output_dir / "implicit_against_gold.png",
        points,
        title="Implicit against gold reward, per sample",
        xlabel="implicit reward of the weak pair, nats per completion",
        ylabel="gold reward, from 0 to 1",
    )
    plot_front(
        output_dir / "reward_against_fluency.png",
        {label: (Interval(**row["nll"]), gold[label]) for label, row in systems.items()},
        title="Reward against fluency (better is up and to the left)",
        xlabel="negative log-likelihood under the strong base, nats per token",
        ylabel="gold reward, from 0 to 1",
    )
