# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What two processes log is what one logs: once, and of the rows of both."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hf_cong.watching.run_log import read_run_log

from .run_watched import watched_run

pytestmark = pytest.mark.slow
_OF_A_LAUNCH = ("second", "runtime", "peak_gib", "total_flos")


def logged(output_dir):
    log = read_run_log(output_dir)
    return {
        f"{stage} {step} {name}": value
        for stage, of_stage in log.items()
        for step, values in of_stage.items()
        for name, value in values.items()
        if not any(word in name for word in _OF_A_LAUNCH)
    }


def test_two_processes_log_what_one_does(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.distributed.run_watched", str(tmp_path / "two"), "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    watched_run(tmp_path / "one", 4)
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert list(one) == list(two)
    for name in ("dpo 3 kl_to_reference", "dpo 3 length_gap", "dpo 2 eval_length_gap", "stages 0 decode/train/rows"):
        assert name in one and one[name] != 0
    assert two == pytest.approx(one, rel=1e-4, abs=1e-5)
    for name in ("decode/train", "sample/eval"):
        assert read_run_log(tmp_path / "two")["stages"][0][f"{name}/tokens_per_second"] > 0

    # One process alone has written, each line once; the tables are the same too.
    sizes = [len((tmp_path / name / "_cong/logs.jsonl").read_bytes().splitlines()) for name in ("one", "two")]
    assert sizes[0] == sizes[1]
    tables = [sorted((tmp_path / name).glob("_cong/completions/*.parquet")) for name in ("one", "two")]
    assert len(tables[0]) == 2
    for one_table, two_table in zip(*tables, strict=True):
        assert pd.read_parquet(one_table).equals(pd.read_parquet(two_table))

    watched_run(tmp_path / "other", 4, seed=1)
    assert logged(tmp_path / "other") != pytest.approx(one, rel=1e-4, abs=1e-5)
