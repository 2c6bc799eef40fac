# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The command `hf-cong train` in processes of its own, how far it has come, and its sudden end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[2]
STAGES = ("decode", "sft", "sample", "dpo")

# Half of a batch on each of two processes.
HALF = ("--per_device_train_batch_size", "1")


def start(recipe, output_dir, stage, *overrides, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    if processes == 1:
        launcher = []
    command = [sys.executable, *launcher, "-m", "hf_cong.cli", "train", "--config", str(recipe), "--stage", stage]
    return run([*command, "--output_dir", str(output_dir), *overrides])


def run(command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes)


def launch(*args, status=0, **kwargs):
    process = start(*args, **kwargs)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == status, said[-4000:]
    return said


def wait_for(process, progress):
    """Returns once `progress()`; nobody else tells in what a process is."""
    deadline = time.monotonic() + 200
    while not progress():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-4000:]
        time.sleep(0.002)


def progress_of(output_dir, stage):
    """How many rows a stage has journaled, or until what step it has trained."""
    if stage in ("decode", "sample"):
        journals = list(output_dir.glob(f"_cong/{stage}-train-*/journal-*.jsonl"))
        return sum(path.read_bytes().count(b"\n") - 1 for path in journals)
    where = output_dir if stage == "dpo" else next(output_dir.glob("_cong/sft-*"), output_dir / "nowhere")
    return max((int(path.name.split("-")[1]) for path in where.glob("checkpoint-*")), default=0)


def family(process):
    """A launcher and all that it started."""
    launcher = psutil.Process(process.pid)
    return [*launcher.children(recursive=True), launcher]


def kill(process):
    """SIGKILL to all of them, as by a machine that goes down."""
    for victim in family(process):
        victim.kill()
    assert process.wait() == -signal.SIGKILL
