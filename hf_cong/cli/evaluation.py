# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands that compare systems."""

from pathlib import Path

from .commands import parse


def evaluate(argv: list[str]):
    from ..arguments import EvaluateArguments

    (args,) = parse("evaluate", (EvaluateArguments,), argv)  # `--help` does not need lm-eval

    from ..evaluation.comparison import run_evaluation
    from ..evaluation.judges import named_judge

    options = vars(args)
    own = {"dtype": args.dtype, "trust_remote_code": options.pop("trust_remote_code"), "batch_size": args.batch_size}
    options["judge"] = args.judge and named_judge(args.judge, **own)
    run_evaluation(**options)
    print((Path(args.output_dir) / "evaluation.md").read_text(encoding="utf-8"))
    print(f"Table, picture, completions and what was answered are in {args.output_dir}.")


def judge(argv: list[str]):
    from ..arguments import JudgeArguments
    from ..evaluation.judges import named_judge
    from ..evaluation.judges.run import check_systems, run_judge

    (args,) = parse("judge", (JudgeArguments,), argv)
    check_systems(args.systems, args.baseline)  # before a judge is asked what it is
    own = ("systems", "judge", "output_dir", "baseline")
    options = {name: value for name, value in vars(args).items() if name not in own}
    run_judge(args.systems, named_judge(args.judge, **options), output_dir=args.output_dir, baseline=args.baseline)
    print((Path(args.output_dir) / "judge.md").read_text(encoding="utf-8"))
    print(f"Verdicts, table and picture are in {args.output_dir}.")


def export(argv: list[str]):
    from ..arguments import ExportArguments
    from ..evaluation.judges.exports import export_completions

    (args,) = parse("export", (ExportArguments,), argv)
    path, counts = export_completions(**vars(args))
    print(
        f"{counts['records']} records are in {path}. Left out: {counts['unanswered']} questions without a completion, "
        f"{counts['unasked']} completions of other prompts."
    )
    if args.format == "arena_hard" and args.tokenizer is None:
        print("They have no style metadata: pass `--tokenizer`, or run the benchmark's `utils/add_markdown_info.py`.")
