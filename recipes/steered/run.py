# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Who writes the chosen completions: the weak pair, as in the paper, or the strong model that it steers?

    python -m recipes.steered.run --world sandbox --output_dir runs/steered/sandbox
    python -m recipes.steered.run --world stories --output_dir runs/steered/stories    # needs HF_CONG_REAL_DATA

The same command goes on where a killed run stopped.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel

from hf_cong import ConGTrainer, ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM, ImplicitReward
from hf_cong.journal import replacing
from hf_cong.search.engine import SearchEngine
from hf_cong.staged import StagedRun

from ..compare.methods import CD, SFT, STRONG, WEAK, Budget, Trial
from ..compare.run import load_world
from ..compare.trials import read_arguments, run_settings, run_trials, write_results
from .summary import draw, render, summarise
from .vocabulary import renumbered

BETAS = (1.0, 2.0, 4.0)  # of the steering; the default goes through stage II
PLAUSIBLE = "strong base, its plausible set"  # steered with β = 0: what the plausible set does alone
STEERED = {PLAUSIBLE: 0.0, **{f"strong, steered, β = {beta:g}": beta for beta in BETAS}}
PAPER = f"ConG-S, {next(iter(CD)).rpartition(', ')[2]}"
# W, K and L of the search by which the strong model is steered where the pair has another vocabulary.
WIDTHS = ("beam_width", "successors_per_beam", "chunk_length")
SEARCHES = {f"W {w}, K {k}, L {l}": dict(zip(WIDTHS, (w, k, l), strict=True)) for w, k, l in ((2, 2, 5), (4, 4, 5))}
SEARCHED = {f"strong, steered by search, {label}": widths for label, widths in SEARCHES.items()}
STAGE_ONE = {
    PAPER: {"chosen_from": "weak"},
    **{f"S-steered, β = {beta:g}": {"chosen_from": "steered", "steering_beta": beta} for beta in BETAS},
    **{f"S-steered by search, {label}": {"chosen_from": "steered", **widths} for label, widths in SEARCHES.items()},
}
# Stage II of both forms: learning rate and β. The first learning rate has the paper's ratio to stage I's.
SETTINGS = ((6e-5, 0.5), (3e-4, 0.5), (3e-4, 0.1))
FORMS = {"ConG": {"chosen_from": "weak"}, "steered": {"chosen_from": "steered", "steering_beta": BETAS[1]}}
STAGE_TWO = {
    f"{form}, rejected: {rejected}, lr {rate:g}, β {beta:g}": {
        **writer,
        "rejected_from": rejected,
        "learning_rate": rate,
        "beta": beta,
    }
    for rate, beta in SETTINGS
    for rejected in ("policy", "base")
    for form, writer in FORMS.items()
}
UNTRAINED = (STRONG, WEAK, next(iter(CD)), *STEERED, *SEARCHED)
SYSTEMS = (*UNTRAINED, *STAGE_ONE, *STAGE_TWO)


class SteeredTrial(Trial):
    """One seed: the paper's form and the steered one, on the same prompts with the same settings."""

    def run(self) -> tuple[list[dict], dict[str, dict]]:
        """One record for each system and test prompt, and what each form wrote."""
        engines = {STRONG: self.strong, WEAK: self.weak, UNTRAINED[2]: self.pair(next(iter(CD.values())))}
        engines |= {label: self.steered(beta) for label, beta in STEERED.items()}
        engines |= {label: functools.partial(self.searched, widths) for label, widths in SEARCHED.items()}
        records = []
        for label in SYSTEMS:
            if label in STAGE_ONE:
                self.once(label, functools.partial(self.stage_one, STAGE_ONE[label]))
            elif label in STAGE_TWO:
                self.once(label, functools.partial(self.stage_two, STAGE_TWO[label]))
            records += self.measured(label, engines.get(label) or self.model(label))
        return records, {label: self.written(form) for label, form in STAGE_ONE.items()}

    def measured(self, label: str, engine: Callable[[], PreTrainedModel]) -> list[dict]:
        """The records of a system, which are kept."""
        path = self.folder(label).parent.with_name("measured") / f"{self.folder(label).name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            records = self.evaluate(label, engine)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(records), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def steered(self, beta: float) -> Callable[[], PreTrainedModel]:
        def load() -> PreTrainedModel:
            names = (str(path) for path in (self.world.strong, self.world.weak_policy, self.world.weak_reference))
            return EmulatedFineTuningForCausalLM.from_pair(*names, beta=beta)

        return load

    @functools.cached_property
    def stranger(self) -> tuple[str, str]:
        """The weak pair, after and before alignment, under another vocabulary."""
        weak = (self.world.weak_policy, self.world.weak_reference)
        return tuple(str(renumbered(source, self.root / "other_vocabulary" / source.name)) for source in weak)

    def searched(self, widths: dict[str, int]) -> SearchEngine:
        pair = ContrastivePairForCausalLM.from_pair(*self.stranger)
        reward = ImplicitReward(pair, None, AutoTokenizer.from_pretrained(self.stranger[0]))
        return SearchEngine(self.strong(), reward, seed=self.seed, **widths)

    def home(self, form: dict) -> Path:
        """Where the stages of a form lie that do not depend on stage II."""
        how = f"{form.get('steering_beta', 0):g}"
        if "beam_width" in form:
            how = "-".join(["search", *(str(form[name]) for name in WIDTHS)])
        return self.root / "stages" / f"{form['chosen_from']}-{how}"

    def config(self, form: dict, **overrides):
        own = (str(self.world.weak_policy), str(self.world.weak_reference))
        policy, reference = self.stranger if "beam_width" in form else own
        return self.settings(
            self.home(form),
            weak_model_name_or_path=policy,
            weak_reference_model_name_or_path=reference,
            generation_batch_size=64,
            **SFT,
            **form,
            **overrides,
        )

    def stage_one(self, form: dict, folder: Path) -> Budget:
        for stage in ("decode", "sft"):
            StagedRun(str(self.world.strong), self.config(form, stage=stage), self.prompts).launch(stage)
        (final,) = self.home(form).glob("_cong/sft-*/final")
        folder.mkdir(parents=True)
        for file in final.iterdir():
            if file.name not in ("files.json", "training_args.bin"):
                (folder / file.name).write_bytes(file.read_bytes())
        return Budget()

    def stage_two(self, form: dict, folder: Path) -> Budget:
        args = self.config(form)
        made = ConGTrainer(
            str(self.world.strong), args=args, train_dataset=self.prompts, processing_class=self.tokenizer
        )
        made.train()
        made.save_model(str(folder))
        return Budget()

    def written(self, form: dict) -> dict[str, float]:
        """Prompts and tokens of the chosen completions, and what a token took of forward passes."""
        (path,) = self.home(form).glob("_cong/decode-train-*/completions.parquet")
        rows = Dataset.from_parquet(str(path))
        tokens = sum(map(len, rows["completion_ids"]))
        finished = sum(reason == "stop" for reason in rows["finish_reason"])
        steered = form["chosen_from"] == "steered"
        tried = form.get("beam_width", 1) * form.get("successors_per_beam", 1)  # rows, of which one is kept
        forwards = {"weak": 2 * tried, "strong": tried * steered}
        return {"prompts": len(rows), "finished": finished, "tokens": tokens, **forwards}


def run_trial(*arguments) -> tuple[list[dict], dict[str, dict]]:
    return SteeredTrial(*arguments).run()


def run(
    world: str,
    output_dir: str | Path,
    *,
    world_dir: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
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
    records, written = run_trials(run_trial, *trials)
    results = {
        "settings": {
            "seeds": list(seeds),
            **run_settings(world, made, seeds, num_prompts, num_test_prompts, effort),
            "sft": SFT,
        },
        "systems": summarise(records, SYSTEMS),
        "written": {label: [one[label] for one in written] for label in STAGE_ONE},
    }
    write_results(output_dir, results, render(results, markdown=True))
    draw(results, output_dir, stage_one=(PAPER, [*STAGE_ONE][2]), stage_two=tuple(STAGE_TWO))
    print(f"\n{render(results)}\n\nTables, samples and pictures: {output_dir}", flush=True)
    return results


def main() -> None:
    run(**read_arguments(__doc__, seeds=(0, 1, 2)))


if __name__ == "__main__":
    main()
