# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every method on one seed's prompts: what it writes, what it trains on, and what of both it costs.

All start from the same strong model. All completions are sampled at the paper's temperature 0.8 and top-p 0.95, up to
the world's limit; what the limit cuts is not trained on. All supervised training has the settings of ConG's stage I,
also AuxConf and WSPO. Only `evaluate` asks for the gold reward; what a pilot settled by it, the README says.
"""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, concatenate_datasets
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, set_seed
from trl import SFTConfig, SFTTrainer

from hf_cong import (
    AuxConfConfig,
    AuxConfTrainer,
    ConGConfig,
    ConGTrainer,
    ContrastivePairForCausalLM,
    ImplicitReward,
    WSPOConfig,
    WSPOTrainer,
    build_preference_dataset,
    build_sft_dataset,
    generate_completions,
)
from hf_cong.checkpoints import damage, seal
from hf_cong.rewards import completion_logps

from .worlds import World

ALPHAS = (0.4, 0.7)  # the paper's, and one nearer to the policy
SAMPLES = 4  # of the strong model for each prompt, where a method chooses among them
STRONG, WEAK = "strong base", "weak, after alignment"
CD = {f"CD of the pair, α = {alpha:g}": alpha for alpha in ALPHAS}
WEAK_SFT = "WeakSFT"
AUXCONF = {f"AuxConf, a = {coef:g}": coef for coef in (0.5, 0.25)}  # that of the original, and that of the pilot
WSPO = {f"WSPO, β = {beta:g}": beta for beta in (0.1, 1.0)}  # that of the released code, and that of the pilot
CONG_S = {f"ConG-S, α = {alpha:g}": alpha for alpha in ALPHAS}
CONG = {f"ConG, α = {alpha:g}": alpha for alpha in ALPHAS}
DPO, BEST = "DPO, weak-pair labels", f"best of {SAMPLES}, distilled"
UNTRAINED = (STRONG, WEAK, *CD)
TRAINED = (WEAK_SFT, *AUXCONF, *WSPO, *CONG_S, *CONG, DPO, BEST)

SFT = {"sft_learning_rate": 1e-3, "sft_num_train_epochs": 2}  # stage I, as in the worlds' own recipes
STAGE_TWO = {"beta": 0.5, "learning_rate": 6e-5, "num_train_epochs": 1}
PLAIN_DPO = {"beta": 0.5, "learning_rate": 1e-4, "num_train_epochs": 2}


class Budget(NamedTuple):
    """Tokens of a method on one seed, without prompts: written by weak and by strong models, trained on (× epochs)."""

    written_weak: int = 0
    written_strong: int = 0
    trained: int = 0

    def __add__(self, other: "Budget") -> "Budget":
        return Budget(*(a + b for a, b in zip(self, other, strict=True)))


class Trial:
    """
    One seed of a world. Whatever is finished in its folder is not done again.

    Args:
        world (`World`): The models, prompts and gold reward.
        root (`Path`): Folder of this seed.
        seed (`int`): Seed of the training prompts, of all samples and of all training.
        num_prompts (`int`, *optional*): Uses the first of the training prompts only.
        num_test_prompts (`int`, *optional*): Uses the first of the test prompts only.
    """

    def __init__(
        self, world: World, root: Path, seed: int, num_prompts: int | None = None, num_test_prompts: int | None = None
    ):
        self.world, self.root, self.seed = world, root, seed
        self.tokenizer = AutoTokenizer.from_pretrained(world.strong)
        self.prompts = _first(world.training_prompts(seed), num_prompts)
        self.test = _first(world.test_prompts(), num_test_prompts)

    def run(self) -> tuple[list[dict], dict[str, dict]]:
        """One record for each system and test prompt, and the budget of each trained system."""
        weak = self.write(WEAK, self.weak)
        own = [self.write(f"{STRONG} {number}", self.strong, 1000 * number) for number in range(SAMPLES)]
        best, worst = self.extremes(own)
        weak_cost, own_cost = Budget(written_weak=_tokens(weak)), Budget(written_strong=sum(map(_tokens, own)))
        policy, reference = str(self.world.weak_policy), str(self.world.weak_reference)
        wspo = functools.partial(WSPOTrainer, weak_model=policy, weak_reference_model=reference)

        budgets = {WEAK_SFT: weak_cost + self.sft(WEAK_SFT, weak)}
        for label, coef in AUXCONF.items():
            config = functools.partial(AuxConfConfig, aux_coef=coef)
            budgets[label] = weak_cost + self.sft(label, weak, AuxConfTrainer, config)
        for label, beta in WSPO.items():
            budgets[label] = weak_cost + self.sft(label, weak, wspo, functools.partial(WSPOConfig, beta=beta))
        for decoded, stage_one, both in zip(CD, CONG_S, CONG, strict=True):
            chosen = self.write(decoded, self.pair(CD[decoded]))
            # Both models of the pair read every token.
            budgets[stage_one] = Budget(written_weak=2 * _tokens(chosen)) + self.sft(stage_one, chosen)
            rejected = self.write(stage_one, self.model(stage_one), 1)
            stage_two = self.dpo(both, self.folder(stage_one), chosen, rejected, STAGE_TWO)
            budgets[both] = budgets[stage_one] + Budget(written_strong=_tokens(rejected)) + stage_two
        budgets[DPO] = own_cost + self.dpo(DPO, self.world.strong, best, worst, PLAIN_DPO)
        budgets[BEST] = own_cost + self.sft(BEST, best)

        systems = {STRONG: self.strong, WEAK: self.weak}
        systems |= {label: self.pair(alpha) for label, alpha in CD.items()}
        systems |= {label: self.model(label) for label in TRAINED}
        records = [record for label, engine in systems.items() for record in self.evaluate(label, engine)]
        return records, {label: budget._asdict() for label, budget in budgets.items()}

    # Models, each loaded when it is called.

    def strong(self) -> PreTrainedModel:
        return _load(self.world.strong)

    def weak(self) -> PreTrainedModel:
        return _load(self.world.weak_policy)

    def pair(self, alpha: float) -> Callable[[], ContrastivePairForCausalLM]:
        members = str(self.world.weak_policy), str(self.world.weak_reference)
        return lambda: ContrastivePairForCausalLM.from_pair(*members, alpha=alpha)

    def model(self, label: str) -> Callable[[], PreTrainedModel]:
        return lambda: _load(self.folder(label))

    def folder(self, label: str) -> Path:
        return self.root / "models" / _slug(label)

    @functools.cached_property
    def reward(self) -> ImplicitReward:
        return ImplicitReward(self.weak(), _load(self.world.weak_reference), self.tokenizer)

    # What is written, and what is chosen of it.

    def write(
        self, label: str, engine: Callable[[], PreTrainedModel], offset: int = 0, prompts: Dataset | None = None
    ) -> Dataset:
        """A completion of each prompt, by default of the training prompts."""
        return generate_completions(
            self.prompts if prompts is None else prompts,
            engine(),
            tokenizer=self.tokenizer,
            output_dir=self.root / ("samples" if prompts is None else "test") / _slug(label),
            seed=self.seed + offset,
            max_new_tokens=self.world.max_new_tokens,
            batch_size=64,
        )

    def extremes(self, samples: list[Dataset]) -> tuple[Dataset, Dataset]:
        """Of each prompt's samples the one of most implicit reward, finished if one is, and the one of least."""
        rows = concatenate_datasets(samples)
        scores = self.reward.score(
            list(rows["prompt"]),
            list(rows["completion_ids"]),
            finish_reasons=list(rows["finish_reason"]),
            batch_size=64,
        )
        finished = [reason == "stop" for reason in rows["finish_reason"]]
        groups: dict[str, list[int]] = {}
        for index, name in enumerate(rows["prompt_id"]):
            groups.setdefault(name, []).append(index)
        best = [max(group, key=lambda index: (finished[index], scores[index])) for group in groups.values()]
        worst = [min(group, key=scores.__getitem__) for group in groups.values()]
        return rows.select(best), rows.select(worst)

    # Training. Each returns what it cost.

    def sft(
        self, label: str, completions: Dataset, trainer: Callable = SFTTrainer, config: Callable = SFTConfig
    ) -> Budget:
        def train(output_dir: Path) -> Budget:
            rows, _ = build_sft_dataset(completions)
            made = trainer(
                self.strong(),
                config(output_dir=str(output_dir), **self.settings(output_dir, **SFT).sft_settings()),
                train_dataset=rows.select_columns(["prompt", "completion"]),
                processing_class=self.tokenizer,
            )
            set_seed(self.seed)  # the order of the rows follows torch's seed, which anything before may have changed
            made.train()
            made.save_model(str(output_dir))
            labels = sum(token != -100 for row in made.train_dataset["labels"] for token in row)
            return Budget(trained=labels * SFT["sft_num_train_epochs"])

        return self.once(label, train)

    def dpo(self, label: str, start: Path, chosen: Dataset, rejected: Dataset, settings: dict) -> Budget:
        def train(output_dir: Path) -> Budget:
            pairs, _ = build_preference_dataset(chosen, rejected)
            made = ConGTrainer(  # with pairs, exactly DPOTrainer
                str(start),
                args=self.settings(output_dir, **settings),
                train_dataset=pairs.select_columns(["prompt", "chosen", "rejected"]),
                processing_class=self.tokenizer,
            )
            set_seed(self.seed)
            made.train()
            made.save_model(str(output_dir))
            tokens = sum(len(row) for side in ("chosen_ids", "rejected_ids") for row in made.train_dataset[side])
            return Budget(trained=tokens * settings["num_train_epochs"])

        return self.once(label, train)

    def once(self, label: str, train: Callable[[Path], Budget]) -> Budget:
        """Trains what is not whole in its folder, and tells the budget, now or of then."""
        folder = self.folder(label)
        if damage(folder) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            budget = train(folder)
            (folder / "budget.json").write_text(json.dumps(budget._asdict()), encoding="utf-8")
            seal(folder)
        return Budget(**json.loads((folder / "budget.json").read_text(encoding="utf-8")))

    def settings(self, output_dir: Path, **overrides) -> ConGConfig:
        return ConGConfig(
            output_dir=str(output_dir),
            max_new_tokens=self.world.max_new_tokens,
            max_length=self.world.max_length,
            per_device_train_batch_size=32,
            activation_checkpointing=False,
            seed=self.seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **overrides,
        )

    def evaluate(self, label: str, engine: Callable[[], PreTrainedModel]) -> list[dict]:
        rows = self.write(label, engine, prompts=self.test)
        # The token that ends a completion is left out: a world's strong model may have ended its own text otherwise.
        prompts, ids = list(rows["prompt"]), list(rows["completion_ids"])
        implicit = self.reward.score(prompts, ids, finish_reasons=list(rows["finish_reason"]), batch_size=64)
        logps = completion_logps(self.strong(), self.tokenizer, prompts, ids, batch_size=64)
        return [
            {
                "system": label,
                "seed": self.seed,
                "prompt_id": row["prompt_id"],
                "completion": row["completion"],
                "gold": self.world.gold(row["prompt"], row["completion"]),
                "implicit": score,
                "nll": -row_logps.mean().item() if len(row_logps) else 0.0,
                "tokens": len(row_logps),
                "finished": float(row["finish_reason"] == "stop"),
            }
            for row, score, row_logps in zip(rows, implicit, logps, strict=True)
        ]


def run_trial(*arguments) -> tuple[list[dict], dict[str, dict]]:
    return Trial(*arguments).run()


def _first(dataset: Dataset, n: int | None) -> Dataset:
    return dataset if n is None else dataset.select(range(min(n, len(dataset))))


def _load(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def _slug(label: str) -> str:
    return re.sub(r"\W+", "-", label)


def _tokens(rows: Dataset) -> int:
    return sum(map(len, rows["completion_ids"]))
