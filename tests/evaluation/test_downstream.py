# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""lm-eval's own task files, from the Hub (its stand-in), for all systems of a comparison, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_cong.evaluation.comparison.run import run_evaluation
from hf_cong.evaluation.comparison.tasks import PROTOCOLS
from tests.evaluation.lm_tasks import write_systems


def systems(names):
    pair = {"policy": names["policy"], "reference": names["reference"]}
    search = {"beam_width": 1, "successors_per_beam": 2, "chunk_length": 300}
    return {
        "strong": {"model": names["strong"]},
        "pair": {**pair, "alpha": 0.4},
        "search": {"model": names["strong"], **pair, **search},
    }


def check(rows, limit):
    for row in rows:
        if row["system"] == "search" and row["task"] not in ("gsm8k", "ifeval"):
            assert row["reason"] == "a search has no likelihoods"
            continue
        assert (row["num_fewshot"], row["metric"]) == PROTOCOLS[row["task"]]
        assert row["higher_is_better"] is True
        assert 0 <= row["score"] <= 1 and row["stderr"] is not None
        assert row["documents"] == (57 * limit if row["task"] == "mmlu" else limit)
        if row["system"] != "strong":
            assert row["difference"]["documents"] == row["documents"] and row["difference"]["low"] is not None


@pytest.mark.slow
def test_real_task_files_run_for_every_kind_of_system(benchmarks, tmp_path):
    names = write_systems(tmp_path / "systems", max_position_embeddings=8192)
    tasks = ["arc_challenge", "winogrande", "gsm8k"]
    settings = {"tasks": tasks, "limit": 2, "dtype": "float32", "output_dir": tmp_path / "out"}
    rows = run_evaluation(systems(names), baseline="strong", **settings)
    assert [row["task"] for row in rows[::3]] == tasks
    check(rows, 2)
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "arc_challenge, acc_norm, 25-shot" in page and "gsm8k, exact_match,strict-match, 5-shot" in page


@pytest.mark.slow
def test_the_downstream_tasks_run_by_command_in_a_process_of_their_own(benchmarks, tmp_path):
    pytest.importorskip("langdetect")
    names = write_systems(tmp_path / "systems", max_position_embeddings=8192)
    values = {"systems": systems(names), "baseline": "strong", "tasks": "downstream", "limit": 2}
    values |= {"dtype": "float32", "output_dir": str(tmp_path / "out")}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    run = subprocess.run(
        [sys.executable, "-m", "hf_cong.cli", "evaluate", "--config", str(recipe)],
        env={**os.environ, **benchmarks.env, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    rows = json.loads((tmp_path / "out" / "evaluation.json").read_text())["rows"]
    assert [row["task"] for row in rows[::3]] == list(PROTOCOLS)
    check(rows, 2)
    assert "only the first 2 documents" in run.stdout
