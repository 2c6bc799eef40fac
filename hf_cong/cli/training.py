# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands that make training data and train."""

import argparse
import shutil
from pathlib import Path

from .commands import COMMANDS, parse

# A local file is one split, read by this builder of `datasets`.
_FILE_BUILDERS = {".jsonl": "json", ".parquet": "parquet"}


def demo(argv: list[str]):
    from ..sandbox import run_demo

    parser = argparse.ArgumentParser(prog="hf-cong demo", description=COMMANDS["demo"])
    parser.add_argument("--output_dir", default="runs/demo", help="where models, tables and plots go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the ConG runs")
    args = parser.parse_args(argv)
    run_demo(args.output_dir, seeds=tuple(args.seeds))


def train(argv: list[str]):
    from accelerate import PartialState
    from huggingface_hub import constants
    from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

    from ..arguments import RoundsArguments
    from ..cong_config import ConGConfig
    from ..cong_trainer import ConGTrainer
    from ..rounds import train_rounds
    from ..staged import StagedRun

    script, config, model, rounds = parse("train", (ScriptArguments, ConGConfig, ModelConfig, RoundsArguments), argv)
    for name, value in (("model_name_or_path", model.model_name_or_path), ("dataset_name", script.dataset_name)):
        if value is None:
            raise ValueError(f"`{name}` is required: set it in the recipe or pass `--{name}`.")
    # As TRL's own scripts do: the model's arguments travel inside the trainer's.
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    evaluate = config.eval_strategy != "no"
    if evaluate and Path(script.dataset_name).suffix in _FILE_BUILDERS:
        raise ValueError(
            f"`dataset_name` is the file {script.dataset_name!r}, which is one split: evaluation would be on the "
            f"training data. Pass a dataset of the Hub or a directory with the split `{script.dataset_test_split}`, "
            "or set `eval_strategy: 'no'`."
        )
    data = {
        "train_dataset": _load_split(script, script.dataset_train_split),
        "eval_dataset": _load_split(script, script.dataset_test_split) if evaluate else None,
    }
    adapt = {"quantization_config": get_quantization_config(model), "peft_config": get_peft_config(model)}
    if rounds != RoundsArguments():
        options = {"alphas": rounds.round_alphas, "sft_every_round": rounds.sft_every_round}
        trainer = train_rounds(
            model.model_name_or_path, config, **data, **adapt, num_rounds=rounds.num_rounds, **options
        )
    elif config.stage == "all":
        trainer = ConGTrainer(model.model_name_or_path, args=config, **data, **adapt)
    else:
        run = StagedRun(model.model_name_or_path, config, **data, **adapt)
        if config.stage != "dpo":
            run.launch(config.stage)
            if config.stage == "sft" and "sft" in run.chain.stages and not run.chain.decodes:
                _deliver(run.chain.root / run.chain.stages["sft"], config.output_dir)
            place = run.chain.stages.get("sft", "") if config.stage == "sft" else ""
            PartialState().print(f"What stage {config.stage} leaves is in {run.chain.root / place}.")
            return
        trainer = run.trainer()
    if rounds == RoundsArguments():
        # By default the same command goes on where a killed run stopped.
        resume = config.resume_from_checkpoint or "true"
        trainer.train(resume_from_checkpoint={"true": True, "false": False}.get(resume.lower(), resume))
    if config.push_to_hub and not config.push_stages_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    for stage, counts in trainer.stage_counts.items():
        print(f"{stage}: {_count_line(counts)}")
    print(f"The model is in {config.output_dir}.")
    if config.push_to_hub and trainer.is_world_process_zero():
        print(f"On the Hub it is {constants.ENDPOINT}/{trainer.hub_model_id}.")


def build(argv: list[str]):
    from ..arguments import BuildArguments
    from ..preferences import build_preference_dataset, build_sft_dataset

    (args,) = parse("build", (BuildArguments,), argv)
    options = {"output_dir": args.output_dir, "drop_truncated": args.drop_truncated}
    if args.rejected is None:
        _, counts = build_sft_dataset(args.chosen, **options)
    else:
        _, counts = build_preference_dataset(args.chosen, args.rejected, **options)
    print(f"{_count_line(counts)}. The dataset is in {args.output_dir}.")


def _deliver(model: Path, output_dir: str):
    """Of a launch of stage I alone, on completions that others wrote, the model is the result: puts it in sight."""
    from accelerate import PartialState

    if PartialState().is_main_process:
        ignored = shutil.ignore_patterns("training_args.bin", "files.json")
        shutil.copytree(model, output_dir, ignore=ignored, dirs_exist_ok=True)
    PartialState().wait_for_everyone()


def _load_split(script, split: str):
    """The split of a Hub dataset, or a local `.jsonl` or `.parquet` file (which is one split)."""
    import datasets
    import pyarrow

    from ..prompts import read_prompts

    name, builder = script.dataset_name, _FILE_BUILDERS.get(Path(script.dataset_name).suffix)
    if builder is not None and not Path(name).is_file():
        raise FileNotFoundError(f"`dataset_name`: there is no file {name!r}.")
    try:
        if builder is not None:
            return datasets.load_dataset(builder, data_files={split: name}, split=split)
        return datasets.load_dataset(name, script.dataset_config, split=split)
    except (datasets.exceptions.DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        if builder == "json":
            read_prompts(name, invalid_prompts="drop")  # raises with the line's number, which Arrow does not know
        reason = error.__cause__ or error
        raise ValueError(f"`dataset_name`: {name!r} cannot be read ({reason}). Correct the file.") from None


def _count_line(counts: dict) -> str:
    drops = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items() if number) or "nothing"
    return f"{counts['rows_in']} rows in, {counts['kept']} kept, dropped: {drops}"
