# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The SLURM example, under commands that stand in for SLURM's and for the launchers, and say what they were asked."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "recipes" / "slurm" / "cong.slurm"
STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "scontrol $*" >> "$SAID"; fi',
    "srun": 'shift; export SLURM_NODEID=1; exec "$@"',
    "torchrun": 'echo "torchrun $*" >> "$SAID"',
    "accelerate": 'echo "accelerate $*" >> "$SAID"; while [ -n "${SLOW:-}" ]; do sleep 0.1; done',
}


@pytest.fixture
def job(tmp_path):
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "31", "SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    path = f"{tmp_path}:{os.environ['PATH']}"

    def start(*arguments, **environment):
        environment = {**os.environ, "PATH": path, "SAID": str(tmp_path / "said"), **slurm, **environment}
        return subprocess.Popen(["bash", SCRIPT, *arguments], cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE)

    start.said = lambda: (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""
    return start


@pytest.mark.parametrize("stage", ["decode", "sft", "sample", "dpo"])
def test_a_job_launches_its_stage_on_every_machine(job, stage):
    assert job("cong.yaml", stage, "--alpha", "0.3", "--output_dir", "a b").wait() == 0
    train = f"-m hf_cong.cli train --config cong.yaml --stage {stage} --enable_jit_checkpoint true --alpha 0.3"
    assert job.said().strip().endswith(f"{train} --output_dir a b")
    if stage in ("decode", "sample"):
        assert job.said().startswith("torchrun --nnodes 2 --nproc_per_node 4 --rdzv_backend c10d --rdzv_id 31 ")
        assert "--rdzv_endpoint node-a:20031" in job.said()
    else:
        assert job.said().startswith("accelerate launch --config_file recipes/accelerate/fsdp2.yaml --num_machines 2 ")
        assert "--num_processes 8 --main_process_ip node-a --main_process_port 20031 --machine_rank 1" in job.said()
        assert (REPOSITORY / "recipes/accelerate/fsdp2.yaml").exists()


def test_another_stage_is_refused(job):
    process = job("cong.yaml", "rlhf")
    assert process.wait() == 2 and b"not 'rlhf'" in process.stderr.read()
    assert job.said() == ""


def test_a_job_whose_time_is_up_is_queued_again(job):
    process = job("cong.yaml", "sft", SLOW="1")
    while "accelerate" not in job.said():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert job.said().strip().endswith("scontrol requeue 31")
