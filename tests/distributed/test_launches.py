# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The command `hf-cong train --stage`, launched as users launch it: killed, resumed, on several processes, sharded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from safetensors.torch import load_file

from tests.tiny import tiny_tokenizer

from .run_cong import LONG, prompts, strong_model, weak_pair
from .test_staged import artefacts

REPOSITORY = Path(__file__).parents[2]
STAGES = ("decode", "sft", "sample", "dpo")

# Half of a batch on each of two processes.
HALF = ("--per_device_train_batch_size", "1")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe as a user writes it, and the models and prompts that it names."""
    root = tmp_path_factory.mktemp("recipe")
    for name, model in zip(("strong", "policy", "reference"), (strong_model(), *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    prompts().to_json(root / "prompts.jsonl")
    settings = {
        "model_name_or_path": str(root / "strong"),
        "weak_model_name_or_path": str(root / "policy"),
        "weak_reference_model_name_or_path": str(root / "reference"),
        "dataset_name": str(root / "prompts.jsonl"),
        **LONG,
        "max_length": 128,
        "drop_truncated": False,
        "sft_learning_rate": 1e-3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    (root / "cong.yaml").write_text(yaml.safe_dump(settings))
    return root / "cong.yaml"


def start(recipe, output_dir, stage, *overrides, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    if processes == 1:
        launcher = []
    command = [sys.executable, *launcher, "-m", "hf_cong.cli", "train", "--config", str(recipe), "--stage", stage]
    command += ["--output_dir", str(output_dir), *overrides]
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


def progress_of(output_dir, stage, done):
    """Whether a stage has journaled, or trained, so many rows or steps, and is not at its end."""
    if stage in ("decode", "sample"):
        journals = list(output_dir.glob(f"_cong/{stage}-train-*/journal-*.jsonl"))
        return sum(path.read_bytes().count(b"\n") - 1 for path in journals) >= done
    where = output_dir if stage == "dpo" else next(output_dir.glob("_cong/sft-*"), output_dir / "nowhere")
    return any(int(path.name.split("-")[1]) >= done for path in where.glob("checkpoint-*"))


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The artefacts of one launch of all stages that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    launch(recipe, output_dir, "all")
    return artefacts(output_dir)


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory):
    """The same of launches by stage on two processes, with the same rows to an update."""
    output_dir = tmp_path_factory.mktemp("two")
    for stage in STAGES:
        launch(recipe, output_dir, stage, *HALF, processes=2)
    return artefacts(output_dir)


def kill(process):
    """SIGKILL to a launcher and to all that it started, as by a machine that goes down."""
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        victim.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("processes", [1, 2])
def test_stages_that_were_killed_are_repeated_to_the_same_bytes(recipe, request, tmp_path, processes):
    settings = {"processes": processes}
    for number, stage in enumerate(STAGES):
        process = start(recipe, tmp_path, stage, *(HALF if processes == 2 else ()), **settings)
        wait_for(process, lambda: progress_of(tmp_path, stage, 2 + 3 * number))  # noqa: B023
        kill(process)
        launch(recipe, tmp_path, stage, *(HALF if processes == 2 else ()), **settings)
    assert artefacts(tmp_path) == request.getfixturevalue("whole" if processes == 1 else "two")


def difference(one, other):
    """The largest and the mean distance of two checkpoints' weights."""
    one, other = load_file(one), load_file(other)
    distances = [(one[name] - tensor).abs() for name, tensor in other.items()]
    largest = max(distance.max().item() for distance in distances)
    return largest, sum(d.sum().item() for d in distances) / sum(d.numel() for d in distances)


def test_two_processes_with_the_same_global_batch_end_as_one(whole, two, tmp_path):
    (decoded,) = [name for name in whole if name.startswith("_cong/decode") and name.endswith("completions.parquet")]
    assert two[decoded] == whole[decoded]
    for name, files in (("one", whole), ("two", two)):
        (tmp_path / name).write_bytes(files["model.safetensors"])
    print(difference(tmp_path / "one", tmp_path / "two"))
