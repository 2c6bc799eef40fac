# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Two processes on one machine: the stages share the work and end with one model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .run_cong import long_run, pairs, weights

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def launch(output_dir, *options, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += ["-m", "tests.distributed.run_cong", str(output_dir), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"process (\d) weights (\w+) sum ([\d.]+)", done.stdout)
    assert sorted(rank for rank, _, _ in found) == [str(rank) for rank in range(processes)]
    return {name for _, name, _ in found}, [float(total) for _, _, total in found]


def completions(output_dir, stage):
    (manifest,) = output_dir.glob(f"_cong/{stage}-train-*/manifest.json")
    return json.loads(manifest.read_text())["files"]


@pytest.mark.parametrize("options", [(), ("--lora",)])
def test_two_processes_end_with_one_model_near_that_of_one(tmp_path, options):
    names, totals = launch(tmp_path / "two", "--batch-size", "1", *options)
    assert len(names) == 1  # bit for bit on both
    alone = long_run(tmp_path / "one", with_lora=bool(options))
    total = sum(p.double().abs().sum() for p in alone.model.parameters()).item()
    assert totals[0] == pytest.approx(total, rel=1e-7)
    assert completions(tmp_path / "two", "decode") == completions(tmp_path / "one", "decode")
    other = long_run(tmp_path / "other", with_lora=bool(options), settings={"seed": 1})
    assert sum(p.double().abs().sum() for p in other.model.parameters()).item() != pytest.approx(total, rel=1e-7)


def test_pairs_that_live_in_memory_are_scored_by_two_processes(tmp_path):
    """TRL alone fails here: each process looks for the scores in a temporary folder of its own."""
    names, totals = launch(tmp_path / "two", "--batch-size", "1", "--pairs")
    assert len(names) == 1
    alone = long_run(tmp_path / "one", pairs())
    assert totals[0] == pytest.approx(sum(p.double().abs().sum() for p in alone.model.parameters()).item(), rel=1e-7)


def test_resuming_with_two_processes_is_exact(tmp_path):
    whole, _ = launch(tmp_path, "--batch-size", "1")
    removed = [path for path in tmp_path.glob("checkpoint-*") if int(path.name.split("-")[1]) > 10]
    assert removed
    for path in removed:
        (path / "rng_state_1.pth").unlink()  # what a kill leaves when one process was slower
    assert launch(tmp_path, "--batch-size", "1", "--resume")[0] == whole
    assert all((path / "rng_state_1.pth").exists() for path in removed)


def test_weights_hash_tells_models_apart(tmp_path):
    """The equalities above rest on it."""
    runs = [long_run(tmp_path / str(seed), settings={"seed": seed, "max_steps": 2}) for seed in (0, 1)]
    assert len({weights(run) for run in runs}) == 2
