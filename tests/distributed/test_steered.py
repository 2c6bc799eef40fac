# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run with a steered strong model, killed in each stage, and shared by two processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .run_cong import LONG, prompts
from .run_steered import steered_trainer
from .test_staged import artefacts

REPOSITORY = Path(__file__).parents[2]
KINDS = ("llama", "search")

pytestmark = pytest.mark.slow


def start(output_dir, kind, *, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "tests.distributed.run_steered"]
    command += [str(output_dir), kind, str(2 // processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, **pipes)


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """A run that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp(request.param)
    steered_trainer(output_dir, request.param, prompts(), settings=LONG).train(resume_from_checkpoint=True)
    return request.param, artefacts(output_dir)


def journaled(output_dir, stage):
    journals = output_dir.glob(f"_cong/{stage}-train-*/journal-*.jsonl")
    return sum(path.read_bytes().count(b"\n") - 1 for path in journals)


def test_kills_in_every_stage_leave_no_trace(whole, tmp_path):
    kind, expected = whole
    reached = {
        "decode": lambda: journaled(tmp_path, "decode") >= 5,
        "sample": lambda: journaled(tmp_path, "sample") >= 5,
        "sft": lambda: list(tmp_path.glob("_cong/sft-*/checkpoint-6")),
        "dpo": lambda: list(tmp_path.glob("checkpoint-6")),
    }
    for stage, progress in reached.items():
        process = start(tmp_path, kind)
        deadline = time.monotonic() + 240
        while not progress():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-4000:]
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, stage
    process = start(tmp_path, kind)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said[-4000:]
    assert artefacts(tmp_path) == expected


def test_two_processes_write_the_same(whole, tmp_path):
    kind, expected = whole
    process = start(tmp_path, kind, processes=2)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said[-4000:]
    found = artefacts(tmp_path)
    written = [name for name in expected if name.endswith("completions.parquet")]
    assert len(written) == 2  # chosen and rejected
    assert {name: found[name] for name in written} == {name: expected[name] for name in written}
    journals = tmp_path.glob("_cong/decode-train-*/journal-*.jsonl")
    assert [path.read_bytes().count(b"\n") - 1 for path in sorted(journals)] == [12, 12]  # each its share
