# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a sweep over α takes from the sandbox: its pair, held-out prompts, its gold reward as a judge."""

import time
from pathlib import Path

import datasets

from ..evaluation.sweep import FunctionJudge
from .gold import gold_reward
from .models import MAX_NEW_TOKENS, build_sandbox
from .world import prompts

GOLD = FunctionJudge("gold", gold_reward)


def sandbox_inputs(
    sandbox_dir: str | Path, *, num_workers: int = 2
) -> tuple[tuple[str, str, datasets.Dataset], dict, FunctionJudge]:
    """
    The world in a directory, built there first if there is none.

    Args:
        sandbox_dir (`str` or `Path`): The output directory of `hf-cong demo`, or any other.
        num_workers (`int`, *optional*, defaults to `2`): Processes that build.

    Returns:
        `tuple`: policy, reference and prompts; settings that suit them; the gold reward.

    Raises:
        ValueError: if the directory holds a world that was built otherwise.
    """
    world_dir = Path(sandbox_dir) / "world"
    start, there = time.monotonic(), (world_dir / "world.json").exists()
    if not there:
        print(f"There is no world in {sandbox_dir} yet. Building it, once: about three minutes on two cores.")
    world = build_sandbox(world_dir, num_workers=num_workers)
    if not there:
        print(f"Built in {time.monotonic() - start:.0f} s.", flush=True)
    inputs = str(world.weak_policy), str(world.weak_reference), prompts(300, split="test")
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "batch_size": 100, "perplexity_model": str(world.strong)}
    return inputs, settings, GOLD
