# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands that write completions, and the one that times it."""

from pathlib import Path

from .commands import parse


def generate(argv: list[str]):
    from transformers import AutoTokenizer

    from ..arguments import GenerateArguments
    from ..engines.named import named_engine
    from ..generation import generate_completions

    (args,) = parse("generate", (GenerateArguments,), argv)
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

    from ..arguments import SearchArguments
    from ..engines.named import check_has_reward, named_engine
    from ..rewards import ImplicitReward
    from ..search.run import run_search

    (args,) = parse("search", (SearchArguments,), argv)
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


def bench(argv: list[str]):
    from ..arguments import BenchArguments
    from ..bench import run_bench

    (args,) = parse("bench", (BenchArguments,), argv)
    run_bench(**vars(args))
    print((Path(args.output_dir) / "bench.md").read_text(encoding="utf-8"))
    print(f"Samples and pictures are in {args.output_dir}.")
