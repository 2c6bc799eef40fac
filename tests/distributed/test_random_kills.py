# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run of two processes that goes down again and again, at random moments: it ends as if it never had."""

import json
import random
import time

import pytest

from hf_cong.checkpoints import damage

from .launches import HALF, STAGES, family, kill, launch, progress_of, start, wait_for
from .test_staged import artefacts

# Rows (of 24) or steps (of 24) of each stage, after which and a little later a run is killed.
_RANDOM = random.Random(24)  # noqa: S311
MOMENTS = [
    (stage, done, _RANDOM.uniform(0, 0.15))
    for stage, kills in zip(STAGES, (2, 3, 2, 3), strict=True)
    for done in sorted(_RANDOM.sample(range(1, 19), kills))
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """What one launch leaves that nothing disturbed."""
    output_dir = tmp_path_factory.mktemp("whole")
    launch(recipe, output_dir, "all", *HALF, processes=2)
    return artefacts(output_dir)


def stage_of(output_dir):
    """The stage that has not ended."""
    if not list(output_dir.glob("_cong/decode-train-*/manifest.json")):
        return "decode"
    if not any(damage(final) is None for final in output_dir.glob("_cong/sft-*/final")):
        return "sft"
    return "dpo" if list(output_dir.glob("_cong/pairs-train-*/dataset/files.json")) else "sample"


def finished_work(output_dir):
    """The lines of journals, and the files of whole checkpoints and data with the times when they were written."""
    lines = {path: path.read_bytes().rpartition(b"\n")[0] for path in output_dir.rglob("journal-*.jsonl")}
    whole = [seal.parent for seal in output_dir.rglob("files.json") if damage(seal.parent) is None]
    files = [path for directory in whole for path in directory.rglob("*") if path.name != "README.md"]
    return lines, {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def assert_kept(work):
    lines, times = work
    for path, content in lines.items():
        assert path.read_bytes().startswith(content), path
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_ten_kills_at_random_moments_leave_no_trace(recipe, whole, tmp_path):
    hit, work = [], ({}, {})
    for stage, done, later in MOMENTS:
        process = start(recipe, tmp_path, "all", *HALF, processes=2)
        done = max(done, progress_of(tmp_path, stage) + 1)
        wait_for(process, lambda: progress_of(tmp_path, stage) >= done)  # noqa: B023
        time.sleep(later)
        kill(process)
        hit.append(stage_of(tmp_path))
        assert_kept(work)  # at most the batch in work is done again
        work = finished_work(tmp_path)
    assert set(hit) == set(STAGES), hit
    launch(recipe, tmp_path, "all", *HALF, processes=2)
    assert_kept(work)
    assert artefacts(tmp_path) == whole


def kill_inside(process, incomplete):
    """Kills while something is `incomplete()`: everybody stands still while that is looked at again."""
    while True:
        wait_for(process, incomplete)
        stopped = family(process)
        for member in stopped:
            member.suspend()
        if incomplete():
            return kill(process)
        for member in stopped:
            member.resume()


def unsealed(output_dir, names):
    """Looks for a directory of these names that is being written, and was not there before."""
    before = set(output_dir.glob(names))
    return lambda: any(damage(path) is not None for path in set(output_dir.glob(names)) - before)


def recorded(output_dir):
    """The stages that have ended, says the manifest."""
    return json.loads((output_dir / "_cong" / "manifest.json").read_text())["stages"]


def test_kills_inside_of_saves_by_stages_leave_no_trace(recipe, whole, tmp_path):
    """What a launch of all stages leaves, launches by stage leave: with each kill inside of a file that is written."""

    def killed(stage, incomplete):
        kill_inside(start(recipe, tmp_path, stage, *HALF, processes=2), incomplete)

    killed("decode", lambda: 3 <= progress_of(tmp_path, "decode") < 24)
    launch(recipe, tmp_path, "decode", *HALF, processes=2)
    for names in ("_cong/sft-*/checkpoint-*", "_cong/sft-*/final"):
        killed("sft", unsealed(tmp_path, names))
        assert [path for path in tmp_path.glob(names) if damage(path) is not None]
    launch(recipe, tmp_path, "sft", *HALF, processes=2)
    killed("sample", lambda: 3 <= progress_of(tmp_path, "sample") < 24)
    launch(recipe, tmp_path, "sample", *HALF, processes=2)
    killed("dpo", unsealed(tmp_path, "checkpoint-*"))
    killed("dpo", lambda: (tmp_path / "model.safetensors").exists() and "dpo" not in recorded(tmp_path))
    launch(recipe, tmp_path, "dpo", *HALF, processes=2)
    assert artefacts(tmp_path) == whole


def test_another_seed_ends_elsewhere(recipe, whole, tmp_path):
    """The equalities above see what a run has drawn."""
    launch(recipe, tmp_path, "all", *HALF, "--seed", "43", processes=2)
    other = artefacts(tmp_path)
    assert other["model.safetensors"] != whole["model.safetensors"]
    assert not [name for name in other if name.startswith("_cong") and name in whole]
