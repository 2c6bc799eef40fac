# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run that publishes its stages; under torchrun, one in which no process but the first can reach the Hub."""

import os
import sys
from pathlib import Path

if os.environ.get("RANK", "0") != "0":
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # clients read it when they are imported

import torch

from tests.distributed.run_cong import prompts, trainer

STEPS = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "per_device_train_batch_size": 2}
STEPS |= {"lr_scheduler_type": "constant"}  # else a step too many may change nothing

if __name__ == "__main__":
    torch.set_num_threads(1)
    output_dir, repo_id = Path(sys.argv[1]), sys.argv[2]
    settings = {"push_to_hub": True, "push_stages_to_hub": True, "hub_model_id": repo_id, "hub_strategy": "every_save"}
    made = trainer(output_dir, prompts(8), settings={**STEPS, **settings})
    made.train(resume_from_checkpoint=True)
    made.push_to_hub()
    made.end()
