# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run that logs all there is to see: in this process, or under torchrun."""

import argparse
from pathlib import Path

import torch

from tests.distributed.run_cong import prompts, trainer


def watched_run(output_dir, rows, *, seed=42):
    """A run of which this process takes `rows` rows to a batch."""
    settings = {
        "per_device_train_batch_size": rows,
        "per_device_eval_batch_size": 2 * rows,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "log_completions": True,
        "generation_batch_size": 4,
        "seed": seed,
    }
    made = trainer(output_dir, prompts(12), settings=settings, eval_dataset=prompts(40).select(range(32, 40)))
    made.train()
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("rows", type=int)
    options = parser.parse_args()
    watched_run(options.output_dir, options.rows).end()
