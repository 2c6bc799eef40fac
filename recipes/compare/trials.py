# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the recipes over worlds and seeds share: their arguments, one job for each seed, and what they write down."""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import trl

from hf_cong.sandbox.workers import run_jobs

from .worlds import World


def read_arguments(description: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The arguments of the command, by the names that `run` has for them."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=["sandbox", "stories"], required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--world_dir", help="models of the world, to be used again; default: `world` in output_dir")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--num_prompts", type=int, help="training prompts; all by default")
    parser.add_argument("--num_test_prompts", type=int, help="held-out prompts; all by default")
    parser.add_argument("--effort", type=float, default=1.0, help="multiplies the training of the world's models")
    parser.add_argument("--num_workers", type=int, default=2)
    args = parser.parse_args()
    if args.world == "stories" and "HF_CONG_REAL_DATA" not in os.environ:
        parser.error("the stories need a real model and real text: set HF_CONG_REAL_DATA to their directory")
    return vars(args)


def run_settings(
    world: str, made: World, seeds: Sequence[int], num_prompts: int | None, num_test_prompts: int | None, effort: float
) -> dict[str, Any]:
    """What every run notes of itself."""
    return {
        "world": world,
        "num_prompts": num_prompts or len(made.training_prompts(seeds[0])),
        "num_test_prompts": num_test_prompts or len(made.test_prompts()),
        "effort": effort,
        "versions": {library.__name__: library.__version__ for library in (torch, transformers, trl)},
    }


def run_trials(
    run_trial: Callable[..., tuple[list[dict], dict]],
    made: World,
    output_dir: Path,
    seeds: Sequence[int],
    num_prompts: int | None,
    num_test_prompts: int | None,
    num_workers: int,
) -> tuple[list[dict], list[dict]]:
    """The records of all seeds, which are also `output_dir/samples.jsonl`, and what else each trial returned."""
    jobs = [(run_trial, made, output_dir / f"seed-{seed}", seed, num_prompts, num_test_prompts) for seed in seeds]
    done = run_jobs(jobs, num_workers=num_workers, log=output_dir / "run.log", description="Seeds")
    records = [record for rows, _ in done for record in rows]
    with open(output_dir / "samples.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return records, [other for _, other in done]


def write_results(output_dir: Path, results: dict, tables: str) -> None:
    """`results.json`, and the tables in Markdown as `results.md`."""
    (output_dir / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    (output_dir / "results.md").write_text(f"{tables}\n", encoding="utf-8")
