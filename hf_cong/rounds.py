# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Several rounds of ConG, each from where the one before ended, on samples of its own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from peft import PeftConfig
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from .adapters import adapter_base
from .chain import Chain
from .cong_config import ConGConfig
from .cong_trainer import ConGTrainer
from .functional import check_alpha
from .identity import check_same_run
from .journal import read_manifest, write_manifest
from .manifest import RunRecord
from .pair.modeling_stacks import lookup
from .stages import check_dataset

# A round's seed is that of the one before and this. Inside a round, sampling takes the seed after decoding's.
SEED_STEP = 1000

_ENDED = "round.json"


class Round(ConGTrainer):
    """
    One of several rounds.

    Overrides `_begin`: what is told of a run names the model of the first round, and the rounds before.

    Attributes:
        previous (`dict`, *optional*): The manifest of the round before.
    """

    previous: dict[str, Any] | None = None

    def _begin(self):
        super()._begin()
        if self.previous is not None:
            self._record.follow(self.previous)

    def train_once(self) -> None:
        """
        Trains, unless an earlier launch came to the end; otherwise goes on where that stopped.

        Raises:
            ValueError: if `output_dir` has the result of another run, or a result that was changed since.
        """
        ended = Path(self.args.output_dir) / _ENDED
        if ended.exists():
            check_same_run(self._identity, ended.parent, self.args)
            read_manifest(ended)
            PartialState().print(f"It has ended; its model is in {ended.parent}.")
            return
        self.train(resume_from_checkpoint=True)
        if self.is_world_process_zero():
            files = sorted({*ended.parent.glob("*.safetensors"), *ended.parent.glob("*config.json")})
            facts = {"alpha": self.args.alpha, "seed": self.args.seed, "counts": self.stage_counts}
            write_manifest(ended, facts, files=tuple(file.name for file in files))
        PartialState().wait_for_everyone()


def train_rounds(
    model: str,
    args: ConGConfig,
    train_dataset: Dataset,
    eval_dataset: Dataset | dict[str, Dataset] | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    callbacks: list[TrainerCallback] | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    peft_config: PeftConfig | None = None,
    *,
    num_rounds: int,
    alphas: Sequence[float] | None = None,
    sft_every_round: bool = True,
    weak_model: str | PreTrainedModel | None = None,
    weak_reference_model: str | PreTrainedModel | None = None,
    weak_processing_class: PreTrainedTokenizerBase | None = None,
) -> ConGTrainer:
    """
    Runs [`ConGTrainer`] several times, each from the result of the time before, and always with fresh samples.

    A round is a whole ConG run: the pair writes the chosen completions anew, the strong model as it is by then the
    rejected ones, and the reference is the strong model as stage I of that round leaves it. With `peft_config` one
    adapter goes through all rounds, on the original base.

    Round r lies in `output_dir/round-<r>`, the last one in `output_dir` itself, which it leaves, and publishes, as a
    run of one round does. The same call goes on where a killed one stopped: rounds that have ended are not repeated,
    and the one in work continues from its last checkpoint. More rounds than were asked for are a call of their own,
    with the result as `model`, another `output_dir` and another seed. To the trackers, every round is a training of
    its own.

    Args:
        model (`str`):
            The strong model: path or Hub id, of a LoRA adapter too. See [`ConGTrainer`], also for the arguments not
            listed here.
        args ([`ConGConfig`]):
            Settings of every round; `args.seed` is the first one's, and each has 1000 more than the one before.
        num_rounds (`int`):
            How many, at least 1. One round is [`ConGTrainer`], bit for bit.
        alphas (`Sequence[float]`, *optional*):
            α of each round. By default it is `args.alpha` in all.
        sft_every_round (`bool`, *optional*, defaults to `True`):
            Whether later rounds do stage I too. Without it they are DPO against the result of the round before.

    Returns:
        [`ConGTrainer`]: that of the last round, when it has trained.

    Raises:
        TypeError: if `model` is not a name, or `num_rounds` no integer.
        ValueError: if a setting leaves nothing fresh, or nothing to do, in a round; or `output_dir` has another run.

    Example:

    ```python
    >>> from hf_cong import ConGConfig, train_rounds

    >>> trainer = train_rounds(
    ...     "Qwen/Qwen2.5-7B-Instruct",
    ...     ConGConfig(output_dir="qwen-cong-rounds"),
    ...     prompts,
    ...     weak_model="org/qwen2.5-3b-dpo",
    ...     weak_reference_model="Qwen/Qwen2.5-3B-Instruct",
    ...     num_rounds=3,
    ...     alphas=(0.4, 0.5, 0.6),
    ... )
    ```
    """
    _check(model, args, train_dataset, num_rounds, alphas)
    weak = {"weak_model": weak_model, "weak_reference_model": weak_reference_model}
    weak["weak_processing_class"] = weak_processing_class
    if args.push_to_hub:  # the Hub is asked now, not when the last round begins
        base, _ = adapter_base(model, lookup(args.model_init_kwargs))
        RunRecord(Chain(args, train_dataset, eval_dataset, **weak), base or (model if peft_config else None))
    trainer = None
    for number in range(1, num_rounds + 1):
        before, own = _directory(args, number - 1), {"seed": args.seed + SEED_STEP * (number - 1)}
        own |= {} if alphas is None else {"alpha": alphas[number - 1]}
        if number < num_rounds:
            own |= {"output_dir": str(_directory(args, number)), "merge_adapter": False}
            own |= {"push_to_hub": False, "push_stages_to_hub": False}
        if number > 1:
            processing_class, init = trainer.processing_class, trainer.args.model_init_kwargs
            trainer.accelerator.free_memory()
            trainer = None
            clear_device_cache(garbage_collection=True)  # one model at a time
            model, peft_config = str(before), None
            own["model_init_kwargs"] = {name: value for name, value in init.items() if name != "revision"}
            own |= {} if sft_every_round else {"sft_num_train_epochs": 0}
        alpha = "" if args.chosen_from == "steered" else f", α = {own.get('alpha', args.alpha):g}"
        PartialState().print(f"ConG round {number} of {num_rounds}{alpha}.")
        trainer = Round(
            model,
            # New settings reset accelerate's global state, which only the next trainer built fills again.
            args=dataclasses.replace(args, **own),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            quantization_config=quantization_config,
            peft_config=peft_config,
            **weak,
        )
        if number > 1:
            trainer.previous = read_manifest(before / "_cong" / "manifest.json")
        if number < num_rounds:
            trainer.train_once()
    trainer.train(resume_from_checkpoint=True)
    return trainer


def _directory(args: ConGConfig, number: int) -> Path:
    return Path(args.output_dir) / f"round-{number}"


def _check(
    model: str, args: ConGConfig, train_dataset: Dataset, num_rounds: int, alphas: Sequence[float] | None
) -> None:
    if not isinstance(model, str):
        raise TypeError(
            f"`model` is a {type(model).__name__}; a run that goes on after a kill loads it by name. Save it, and "
            "pass the directory."
        )
    if not isinstance(args, ConGConfig):
        raise TypeError(f"`args` must be a `ConGConfig`, got {type(args).__name__}.")
    if not isinstance(num_rounds, int) or isinstance(num_rounds, bool):
        raise TypeError(f"`num_rounds` must be an integer, got {repr(num_rounds)[:80]}.")
    if num_rounds < 1:
        raise ValueError(f"`num_rounds` must be at least 1, got {num_rounds}.")
    if args.stage != "all":
        raise ValueError(
            f"`stage` is {args.stage!r}, and a round is all stages. Leave it out; or launch the stages of each round "
            "one by one, the later rounds with `model_name_or_path` the `output_dir` of the one before and another "
            "`seed`."
        )
    if args.resume_from_checkpoint not in (None, "true", True):
        raise ValueError(
            f"`resume_from_checkpoint` is {args.resume_from_checkpoint[:80]!r}, and rounds always go on where they "
            "stopped. Leave it out, or take another `output_dir`."
        )
    check_dataset(train_dataset, "train_dataset")
    if num_rounds > 1 and "rejected" in train_dataset.column_names:
        raise ValueError(
            "`train_dataset` has pairs, and every round would train on the same. Remove the column `rejected`, so "
            "that each round samples its own; or leave `num_rounds` out, and set `num_train_epochs`."
        )
    if alphas is None:
        return
    if len(alphas) != num_rounds:
        raise ValueError(f"`alphas` has {len(alphas)} values for {num_rounds} rounds. Give one for each.")
    for alpha in alphas:
        check_alpha(alpha, args.plausibility_threshold)
    if args.chosen_from == "steered":
        raise ValueError(
            "`alphas` are weights of a pair that writes by itself; with `chosen_from='steered'` there is none. Leave "
            "them out: `steering_beta` is the same in all rounds."
        )
    if {"chosen", "completion"} & set(train_dataset.column_names):
        raise ValueError("`alphas` have no effect: the dataset has its completions. Leave them out.")
    if args.alpha != ConGConfig.alpha:
        raise ValueError(f"`alpha` is {args.alpha!r}, and `alphas` give each round its own. Leave one of them out.")
