# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The console script `hf-cong`. Each command parses, makes one call, and prints; all work is elsewhere."""

import argparse
import sys
from pathlib import Path

_COMMANDS = {
    "demo": "run the whole job on the built-in sandbox, offline: table and plots in a few minutes",
    "check-pair": "is this weak pair any good? To be asked before anything long",
    "train": "ConG on your models and prompts: `--config recipe.yaml`",
    "generate": "prompts to completions, by a pair, a model that it steers, or one model",
    "search": "a frozen model steered by a pair's reward: results, table and picture by method",
    "sweep": "which alpha for this pair? Rewards, text and cost at each, with a recommendation",
    "evaluate": "systems side by side on tasks of lm-eval and on prompts, with paired differences",
    "build": "completions to an SFT or a preference dataset",
    "judge": "whose completions are better? by a reward model, or a model behind a URL in both orders",
    "export": "completions as a file for AlpacaEval 2 or Arena-Hard-Auto",
    "compress": "two full checkpoints to one LoRA pair, and what that loses",
    "bench": "how fast contrastive decoding is here, every way side by side",
}
# A local file is one split, read by this builder of `datasets`.
_FILE_BUILDERS = {".jsonl": "json", ".parquet": "parquet"}


def demo(argv: list[str]):
    from .sandbox import run_demo

    parser = argparse.ArgumentParser(prog="hf-cong demo", description=_COMMANDS["demo"])
    parser.add_argument("--output_dir", default="runs/demo", help="where models, tables and plots go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the ConG runs")
    args = parser.parse_args(argv)
    run_demo(args.output_dir, seeds=tuple(args.seeds))


def check_pair(argv: list[str]) -> int:
    from itertools import takewhile

    from .arguments import CheckPairArguments
    from .evaluation.pair_check import check_pair

    names = list(takewhile(lambda arg: not arg.startswith("-"), argv))
    if len(names) > 2:
        raise ValueError(f"There are {len(names)} models, {', '.join(names):.80}; a pair is a policy and a reference.")
    flags = [part for role, name in zip(("--policy", "--reference"), names, strict=False) for part in (role, name)]
    if twice := [arg for arg in argv if arg.split("=")[0] in flags[::2]]:
        raise ValueError(f"`{twice[0]:.80}` is given twice, once without its name. Leave one out.")
    (args,) = _parse("check-pair", (CheckPairArguments,), [*flags, *argv[len(names) :]])
    report = check_pair(**vars(args))
    print(report)
    return 1 if report.verdict == "unusable" else 0


def train(argv: list[str]):
    from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

    from .cong_config import ConGConfig
    from .cong_trainer import ConGTrainer

    script, config, model = _parse("train", (ScriptArguments, ConGConfig, ModelConfig), argv)
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
    trainer = ConGTrainer(
        model.model_name_or_path,
        args=config,
        train_dataset=_load_split(script, script.dataset_train_split),
        eval_dataset=_load_split(script, script.dataset_test_split) if evaluate else None,
        quantization_config=get_quantization_config(model),
        peft_config=get_peft_config(model),
    )
    # By default the same command goes on where a killed run stopped.
    resume = config.resume_from_checkpoint or "true"
    trainer.train(resume_from_checkpoint={"true": True, "false": False}.get(resume.lower(), resume))
    trainer.save_model(config.output_dir)
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    for stage, counts in trainer.stage_counts.items():
        print(f"{stage}: {_count_line(counts)}")
    print(f"The model is in {config.output_dir}.")


def generate(argv: list[str]):
    from transformers import AutoTokenizer

    from .arguments import GenerateArguments
    from .engines.named import named_engine
    from .generation import generate_completions

    (args,) = _parse("generate", (GenerateArguments,), argv)
    names = ("reference", "base", "alpha", "beta", "plausibility_threshold", "dtype")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.engine is None:
        engine, engine_id, tokenizer = named_engine(args.policy, **given)
    else:
        if given:
            name, value = next(iter(given.items()))
            raise ValueError(
                f"`{name}` is fixed by the engine, got {value!r:.80}: a server has its model when it starts. Leave "
                f"`{name}` out and start the server with it, α of a saved pair so: `vllm serve PAIR --hf-overrides "
                "'{\"alpha\": 0.5}'`."
            )
        engine, engine_id, tokenizer = args.engine, None, AutoTokenizer.from_pretrained(args.policy)
    completions = generate_completions(
        args.prompts,
        engine,
        engine_id=engine_id,
        tokenizer=tokenizer,
        output_dir=args.output_dir,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        batch_size=args.batch_size,
        invalid_prompts=args.invalid_prompts,
    )
    print(f"{len(completions)} completions are in {args.output_dir}.")


def search(argv: list[str]):
    from transformers import AutoTokenizer

    from .arguments import SearchArguments
    from .engines.named import check_has_reward, named_engine
    from .rewards import ImplicitReward
    from .search.run import run_search

    (args,) = _parse("search", (SearchArguments,), argv)
    model, model_id, tokenizer = args.model, None, None
    if "://" not in args.model:
        if args.tokenizer is not None:
            raise ValueError(f"`tokenizer` is for a model behind a URL; {args.model!r:.80} has its own. Leave it out.")
        model, model_id, tokenizer = named_engine(args.model, dtype=args.dtype)
    elif args.tokenizer is not None:
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    load, reward_id, weak_tokenizer = named_engine(args.policy, args.reference, dtype=args.dtype)
    check_has_reward(args.policy, reward_id)
    own = ("prompts", "model", "tokenizer", "policy", "reference", "beta", "dtype")
    run_search(
        args.prompts,
        model,
        lambda: ImplicitReward(load(), None, weak_tokenizer, beta=args.beta),
        tokenizer=tokenizer,
        model_id=model_id,
        reward_id={**reward_id, "beta": args.beta},
        **{name: value for name, value in vars(args).items() if name not in own},
    )
    print((Path(args.output_dir) / "search.md").read_text(encoding="utf-8"))
    print(f"Results, table and picture are in {args.output_dir}.")


def sweep(argv: list[str]):
    from .arguments import SweepArguments
    from .engines.named import named_engine
    from .evaluation.judges import RewardModelJudge
    from .evaluation.sweep import run_sweep

    (args,) = _parse("sweep", (SweepArguments,), argv)
    judges, defaults = [], {"max_new_tokens": 512, "batch_size": 8}
    if args.reward_model is not None:
        judges.append(RewardModelJudge(args.reward_model, dtype=args.dtype, trust_remote_code=args.trust_remote_code))
    if args.sandbox_dir is not None:
        from .sandbox.sweep import sandbox_inputs

        if any((args.policy, args.reference, args.prompts)):
            raise ValueError("`sandbox_dir` brings its own pair and prompts. Leave `policy` and `prompts` out.")
        inputs, defaults, gold = sandbox_inputs(args.sandbox_dir)
        judges.append(gold)
        defaults["output_dir"] = str(Path(args.sandbox_dir) / "sweep")
        args.policy, args.reference, args.prompts = inputs
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("policy", "prompts", "output_dir"):
        if getattr(args, name) is None:
            raise ValueError(f"`{name}` is required: set it in the recipe or pass `--{name}`.")
    pair, pair_id, tokenizer = named_engine(args.policy, args.reference, dtype=args.dtype)
    if "alpha" not in pair_id:
        raise ValueError(
            f"`policy` {args.policy!r:.80} is no pair. Pass a LoRA adapter, a saved pair, or the models after and "
            "before alignment as `policy` and `reference`."
        )
    own = ("policy", "reference", "prompts", "sandbox_dir", "reward_model", "dtype", "trust_remote_code")
    options = {name: value for name, value in vars(args).items() if name not in own}
    run_sweep(args.prompts, pair, pair_id=pair_id, tokenizer=tokenizer, judges=judges, **options)
    print((Path(args.output_dir) / "sweep.md").read_text(encoding="utf-8"))
    print(f"Completions, tables and pictures are in {args.output_dir}.")


def evaluate(argv: list[str]):
    from .arguments import EvaluateArguments

    (args,) = _parse("evaluate", (EvaluateArguments,), argv)  # `--help` does not need lm-eval

    from .evaluation.comparison import run_evaluation
    from .evaluation.judges import named_judge

    options = vars(args)
    own = {"dtype": args.dtype, "trust_remote_code": options.pop("trust_remote_code"), "batch_size": args.batch_size}
    options["judge"] = args.judge and named_judge(args.judge, **own)
    run_evaluation(**options)
    print((Path(args.output_dir) / "evaluation.md").read_text(encoding="utf-8"))
    print(f"Table, picture, completions and what was answered are in {args.output_dir}.")


def build(argv: list[str]):
    from .arguments import BuildArguments
    from .preferences import build_preference_dataset, build_sft_dataset

    (args,) = _parse("build", (BuildArguments,), argv)
    options = {"output_dir": args.output_dir, "drop_truncated": args.drop_truncated}
    if args.rejected is None:
        _, counts = build_sft_dataset(args.chosen, **options)
    else:
        _, counts = build_preference_dataset(args.chosen, args.rejected, **options)
    print(f"{_count_line(counts)}. The dataset is in {args.output_dir}.")


def judge(argv: list[str]):
    from .arguments import JudgeArguments
    from .evaluation.judges import named_judge
    from .evaluation.judges.run import check_systems, run_judge

    (args,) = _parse("judge", (JudgeArguments,), argv)
    check_systems(args.systems, args.baseline)  # before a judge is asked what it is
    own = ("systems", "judge", "output_dir", "baseline")
    options = {name: value for name, value in vars(args).items() if name not in own}
    run_judge(args.systems, named_judge(args.judge, **options), output_dir=args.output_dir, baseline=args.baseline)
    print((Path(args.output_dir) / "judge.md").read_text(encoding="utf-8"))
    print(f"Verdicts, table and picture are in {args.output_dir}.")


def export(argv: list[str]):
    from .arguments import ExportArguments
    from .evaluation.judges.exports import export_completions

    (args,) = _parse("export", (ExportArguments,), argv)
    path, counts = export_completions(**vars(args))
    print(
        f"{counts['records']} records are in {path}. Left out: {counts['unanswered']} questions without a completion, "
        f"{counts['unasked']} completions of other prompts."
    )
    if args.format == "arena_hard" and args.tokenizer is None:
        print("They have no style metadata: pass `--tokenizer`, or run the benchmark's `utils/add_markdown_info.py`.")


def compress(argv: list[str]):
    from .arguments import CompressArguments
    from .compress import compress_pair, report_table

    (args,) = _parse("compress", (CompressArguments,), argv)
    report = compress_pair(**vars(args))
    print(report_table(report))
    kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in report["left_out"]["shares"].items() if share)
    print(f"Left out of every rank, as shares of the whole squared difference: {kinds or 'nothing'}.")
    print(f"The pair of rank {args.rank} is in {args.output_dir}.")


def bench(argv: list[str]):
    from .arguments import BenchArguments
    from .bench import run_bench

    (args,) = _parse("bench", (BenchArguments,), argv)
    run_bench(**vars(args))
    print((Path(args.output_dir) / "bench.md").read_text(encoding="utf-8"))
    print(f"Samples and pictures are in {args.output_dir}.")


def _parse(command: str, dataclass_types: tuple, argv: list[str]) -> tuple:
    from .recipes import parse

    return parse(dataclass_types, argv, prog=f"hf-cong {command}", description=_COMMANDS[command])


def _load_split(script, split: str):
    """The split of a Hub dataset, or a local `.jsonl` or `.parquet` file (which is one split)."""
    import datasets
    import pyarrow

    from .prompts import read_prompts

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


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command; a refusal is one line on stderr and exit status 2, `--debug` shows the traceback. Status 1 is of
    a pair that `check-pair` finds unusable.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [arg for arg in argv if arg != "--debug"]
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hf-cong COMMAND [--config recipe.yaml] [--key value ...] [--debug]\n")
        print("\n".join(f"  {name:10} {text}" for name, text in _COMMANDS.items()))
        return 0 if argv else 2
    command = {
        "demo": demo,
        "check-pair": check_pair,
        "train": train,
        "generate": generate,
        "search": search,
        "sweep": sweep,
        "evaluate": evaluate,
        "build": build,
        "judge": judge,
        "export": export,
        "compress": compress,
        "bench": bench,
    }.get(argv[0])
    if command is None:
        print(f"hf-cong: there is no command {argv[0]!r}. Commands: {', '.join(_COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return command(argv[1:]) or 0
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        if debug:
            raise
        print(f"hf-cong {argv[0]}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
