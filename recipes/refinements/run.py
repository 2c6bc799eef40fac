# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every refinement of ConG beside ConG without it: the same prompts and settings, one thing changed.

    python -m recipes.refinements.run --world sandbox --output_dir runs/refinements/sandbox

The same command goes on where a killed run stopped.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from hf_cong import ConGConfig, train_rounds

from ..compare.methods import SFT, STRONG, Budget
from ..compare.run import load_world
from ..compare.trials import read_arguments, run_settings, run_trials, write_results
from ..steered.run import SteeredTrial
from .summary import draw, render, summarise

# Who writes the chosen completions, and the stage II that does something for that form: see README.md.
FORMS = {
    "ConG": {"chosen_from": "weak", "learning_rate": 1e-4, "beta": 0.1},
    "steered": {"chosen_from": "steered", "steering_beta": 2.0, "learning_rate": 3e-4, "beta": 0.1},
}
BASE, STAGE_ONE = "without", "stage I alone"
ROUNDS = ("num_rounds", "alphas", "sft_every_round")  # arguments of `train_rounds`; the others are of `ConGConfig`
ALPHAS = (0.4, 0.5, 0.6)
REFINEMENTS = {
    BASE: {},
    "stage II for 3 epochs (control)": {"num_train_epochs": 3},
    "3 rounds": {"num_rounds": 3},
    "3 rounds, later ones DPO alone": {"num_rounds": 3, "sft_every_round": False},
    "3 rounds, α = 0.4, 0.5, 0.6": {"num_rounds": 3, "alphas": ALPHAS},
    "margin, γ = 0.1": {"reward_margin": 0.1},
    "RPO": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]},
    "length-normalised, β = 2": {"loss_type": "sigmoid_norm", "beta": 2.0},
    "best of 4": {"num_chosen_samples": 4},
    "best and worst of 4": {"num_chosen_samples": 4, "rejected_from": "worst"},
    "better half": {"chosen_share": 0.5},
    "no contradicting pairs": {"drop_contradicting": True},
}
SYSTEMS = {
    f"{form}, {refinement}": {**writer, **changed}
    for form, writer in FORMS.items()
    for refinement, changed in REFINEMENTS.items()
    if not (form == "steered" and "alphas" in changed)  # which has no α
}


class RefinedTrial(SteeredTrial):
    """One seed: every refinement of both forms."""

    def run(self) -> tuple[list[dict], dict[str, dict]]:
        """One record for each system and test prompt, and how many completions and pairs each trained on."""
        records = self.measured(STRONG, self.strong)
        for form, writer in FORMS.items():
            label = f"{form}, {STAGE_ONE}"
            self.once(label, functools.partial(self.stage_one, writer))
            records += self.measured(label, self.model(label))
        for label, form in SYSTEMS.items():
            self.once(label, functools.partial(self.refined, form))
            records += self.measured(label, self.model(label))
        return records, {label: json.loads((self.folder(label) / "kept.json").read_text()) for label in SYSTEMS}

    def refined(self, form: dict, folder: Path) -> Budget:
        rounds = {"num_rounds": 1, **{name: form[name] for name in ROUNDS if name in form}}
        made = train_rounds(
            str(self.world.strong), self.config(form), self.prompts, processing_class=self.tokenizer, **rounds
        )
        made.save_model(str(folder))
        kept = {stage: made.stage_counts[f"{stage}/train"]["kept"] for stage in ("sft", "dpo")}
        (folder / "kept.json").write_text(json.dumps(kept), encoding="utf-8")
        return Budget()

    def home(self, form: dict) -> Path:
        """Where the stages of a form lie. Those that differ in stage II alone share what comes before it."""
        own = {
            name: form[name] for name in (*ROUNDS, "chosen_from", "num_chosen_samples", "chosen_share") if name in form
        }
        return self.root / "stages" / re.sub(r"[^\w.]+", "-", json.dumps(own)).strip("-")

    def config(self, form: dict, **overrides) -> ConGConfig:
        """Settings of every round."""
        plain = {name: value for name, value in form.items() if name not in ROUNDS}
        return dataclasses.replace(super().config(plain, **overrides), output_dir=str(self.home(form)))


def run_trial(*arguments) -> tuple[list[dict], dict[str, dict]]:
    return RefinedTrial(*arguments).run()


def run(
    world: str,
    output_dir: str | Path,
    *,
    world_dir: str | Path | None = None,
    seeds: Sequence[int] = (3, 4, 5),
    num_prompts: int | None = None,
    num_test_prompts: int | None = None,
    effort: float = 1.0,
    num_workers: int = 2,
) -> dict:
    """
    Runs the recipe; prints the table and writes it to `output_dir`. The arguments are those of `recipes/compare`.

    Returns:
        `dict`: the content of `results.json`.
    """
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    made = load_world(world, Path(world_dir or output_dir / "world"), effort, num_workers)
    trials = (made, output_dir, seeds, num_prompts, num_test_prompts, num_workers)
    records, kept = run_trials(run_trial, *trials)
    results = {
        "settings": {
            "seeds": list(seeds),
            **run_settings(world, made, seeds, num_prompts, num_test_prompts, effort),
            "sft": SFT,
            "forms": FORMS,
        },
        "systems": summarise(records, kept=kept, base=BASE),
    }
    write_results(output_dir, results, render(results, markdown=True))
    draw(results, output_dir, forms=tuple(FORMS), base=BASE)
    print(f"\n{render(results)}\n\nTables, samples and pictures: {output_dir}", flush=True)
    return results


def main() -> None:
    run(**read_arguments(__doc__, seeds=(3, 4, 5)))


if __name__ == "__main__":
    main()
