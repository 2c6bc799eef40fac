# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One process of two is killed, fails, or stands still: the launch ends in time and names stage and process."""

import re
import resource
import shutil
import subprocess
import time

import psutil
import pytest

from .launches import HALF, STAGES, kill, launch, progress_of, start, wait_for

# What a stage finds that begins.
BEFORE = {"decode": (), "sft": ("decode",), "sample": ("decode", "sft"), "dpo": ("decode", "sft", "sample", "pairs")}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("finished")
    launch(recipe, output_dir, "all", *HALF, processes=2)
    return output_dir


@pytest.fixture(params=STAGES)
def stage(request, finished, tmp_path):
    """A stage whose turn it is in `tmp_path`."""
    for name in BEFORE[request.param]:
        for directory in finished.glob(f"_cong/{name}-*"):
            shutil.copytree(directory, tmp_path / "_cong" / directory.name)
    return request.param


def end_of(process, within=120):
    """What a launch says that fails by itself, and in time."""
    began = time.monotonic()
    said, _ = process.communicate(timeout=within)
    assert process.returncode != 0 and time.monotonic() - began < within
    return said


def ranks(process):
    return sorted(psutil.Process(process.pid).children(), key=lambda child: int(child.environ()["RANK"]))


def in_the_middle(process, output_dir, stage):
    wait_for(process, lambda: progress_of(output_dir, stage) >= 3)


@pytest.mark.parametrize("launched", ["at once", "by stage"])
def test_a_process_that_is_killed_is_named(recipe, tmp_path, stage, launched):
    process = start(recipe, tmp_path, "all" if launched == "at once" else stage, *HALF, processes=2)
    in_the_middle(process, tmp_path, stage)
    ranks(process)[1].kill()
    said = end_of(process)
    assert re.findall(r"ConG (\w+) begins\.", said)[-1] == stage
    assert re.search(r"local_rank: 1\)\s+exitcode  : -9 .*\s.*\s.*Signal 9 \(SIGKILL\)", said), said[-4000:]


def test_a_process_that_fails_is_named(recipe, tmp_path, stage):
    """Its disk is full: what it writes, a line of a journal or its part of a checkpoint, cannot be written."""
    process = start(recipe, tmp_path, "all", *HALF, processes=2)
    in_the_middle(process, tmp_path, stage)
    ranks(process)[1].rlimit(resource.RLIMIT_FSIZE, (1, 1))
    said = end_of(process)
    assert re.search(rf"Stage {stage} failed in process 1 of 2: (OSError|RuntimeError)", said), said[-4000:]


def test_a_process_that_stands_still_is_waited_for_no_longer_than_ddp_timeout(recipe, tmp_path, stage, monkeypatch):
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")  # what stands still hears no SIGTERM
    process = start(recipe, tmp_path, stage, *HALF, "--ddp_timeout", "10", processes=2)
    in_the_middle(process, tmp_path, stage)
    ranks(process)[1].suspend()
    said = end_of(process, within=60)
    assert f"Stage {stage} failed in process 0 of 2: RuntimeError" in said, said[-4000:]
    assert "Timed out waiting 10000ms" in said


def test_with_the_default_timeout_it_is_waited_for(recipe, tmp_path):
    """The timeout above, and nothing else, ends a launch."""
    process = start(recipe, tmp_path, "decode", *HALF, processes=2)
    in_the_middle(process, tmp_path, "decode")
    ranks(process)[1].suspend()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=25)
    kill(process)
