# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands about a weak pair itself."""

from pathlib import Path

from .commands import parse


def check_pair(argv: list[str]) -> int:
    from itertools import takewhile

    from ..arguments import CheckPairArguments
    from ..evaluation.pair_check import check_pair

    names = list(takewhile(lambda arg: not arg.startswith("-"), argv))
    if len(names) > 2:
        raise ValueError(f"There are {len(names)} models, {', '.join(names):.80}; a pair is a policy and a reference.")
    flags = [part for role, name in zip(("--policy", "--reference"), names, strict=False) for part in (role, name)]
    if twice := [arg for arg in argv if arg.split("=")[0] in flags[::2]]:
        raise ValueError(f"`{twice[0]:.80}` is given twice, once without its name. Leave one out.")
    (args,) = parse("check-pair", (CheckPairArguments,), [*flags, *argv[len(names) :]])
    report = check_pair(**vars(args))
    print(report)
    return 1 if report.verdict == "unusable" else 0


def sweep(argv: list[str]):
    from ..arguments import SweepArguments
    from ..engines.named import named_engine
    from ..evaluation.judges import RewardModelJudge
    from ..evaluation.sweep import run_sweep

    (args,) = parse("sweep", (SweepArguments,), argv)
    judges, defaults = [], {"max_new_tokens": 512, "batch_size": 8}
    if args.reward_model is not None:
        judges.append(RewardModelJudge(args.reward_model, dtype=args.dtype, trust_remote_code=args.trust_remote_code))
    if args.sandbox_dir is not None:
        from ..sandbox.sweep import sandbox_inputs

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


def compress(argv: list[str]):
    from ..arguments import CompressArguments
    from ..compress import compress_pair, report_table

    (args,) = parse("compress", (CompressArguments,), argv)
    report = compress_pair(**vars(args))
    print(report_table(report))
    kinds = ", ".join(f"{kind} {share:.1%}" for kind, share in report["left_out"]["shares"].items() if share)
    print(f"Left out of every rank, as shares of the whole squared difference: {kinds or 'nothing'}.")
    print(f"The pair of rank {args.rank} is in {args.output_dir}.")
