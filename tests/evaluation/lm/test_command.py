# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""`python -m hf_cong.evaluation.lm`, and lm-eval's own command on a saved pair."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_cong import ContrastivePairForCausalLM
from hf_cong.evaluation.lm.__main__ import main, results_path
from tests.evaluation.lm.harness import save, save_members, write_tasks

ROOT = Path(__file__).parents[3]
TASKS = "cong_choice,cong_text,cong_write"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    directory = tmp_path_factory.mktemp("members")
    names = save_members(directory)
    pair = ContrastivePairForCausalLM.from_pair(names["policy"], names["reference"], alpha=0.3)
    return {**names, **save(directory, saved=pair)}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def command(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["lm-eval", *map(str, argv)])
    main()


def results(directory):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(directory.rglob("results_*.json"))}


def scores(result):
    return {
        task: {name: value for name, value in found.items() if "," in name and "stderr" not in name}
        for task, found in result["results"].items()
    }


@pytest.mark.slow
def test_two_weights_into_one_place(tmp_path, monkeypatch, paths, tasks):
    """By flags and by a file, with one cache of answers: both are kept, and each is its own."""
    out = tmp_path / "out"
    flags = ["--tasks", TASKS, "--include_path", tasks, "--batch_size", 4, "--output_path", out, "--log_samples"]
    flags += ["--use_cache", tmp_path / "cache", "--device", "cpu", "--limit", 4]
    model_args = {"pretrained": paths["policy"], "reference": paths["reference"]}
    as_text = ",".join(f"{name}={value}" for name, value in model_args.items())
    command(monkeypatch, "run", "--model", "cong", "--model_args", f"{as_text},alpha=0.3", *flags)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": "cong", "model_args": {**model_args, "alpha": 0.8}}))
    command(monkeypatch, "run", "--config", config, *flags)
    found = results(out)
    assert sorted(result["config"]["alpha"] for result in found.values()) == [0.3, 0.8]
    assert all(name.startswith(f"policy_alpha-{result['config']['alpha']}_") for name, result in found.items())
    first, second = map(scores, found.values())
    assert first != second
    for name in found:
        assert len(list((out / name).glob("samples_cong_*.jsonl"))) == 3


@pytest.mark.slow
def test_stock_lm_eval_on_a_saved_pair_gives_the_same_numbers(tmp_path, monkeypatch, paths, tasks):
    """Without hf_cong: the code that was saved beside the weights."""
    flags = ["--tasks", TASKS, "--include_path", tasks, "--batch_size", 4, "--device", "cpu"]
    ours, stock = tmp_path / "ours", tmp_path / "stock"
    command(monkeypatch, "run", "--model", "cong", "--model_args", f"pretrained={paths['saved']}", *flags, "-o", ours)
    argv = ["run", "--model", "hf", "--model_args", f"pretrained={paths['saved']}", "--trust_remote_code"]
    code = "import sys; sys.modules['hf_cong'] = None; from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
    run = subprocess.run(
        [sys.executable, "-c", code, *argv, *map(str, [*flags, "-o", stock])],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (own,), (other,) = (list(results(directory).values()) for directory in (ours, stock))
    assert scores(own) == scores(other)
    other_weight = tmp_path / "other"
    saved = f"pretrained={paths['saved']},alpha=0.8"
    command(monkeypatch, "run", "--model", "cong", "--model_args", saved, *flags, "-o", other_weight)
    assert scores(next(iter(results(other_weight).values()))) != scores(own)  # the control


@pytest.mark.slow
def test_two_processes_share_the_documents_out(tmp_path, paths, tasks):
    argv = ["run", "--model", "cong", "--model_args", f"pretrained={paths['saved']}", "--tasks", TASKS]
    argv += ["--include_path", str(tasks), "--batch_size", "4", "--device", "cpu", "--log_samples"]
    found = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        start = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        run = subprocess.run(
            [sys.executable, *start, "-m", "hf_cong.evaluation.lm", *argv, "-o", str(out)],
            env={**ENVIRONMENT, "ACCELERATE_USE_CPU": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        (found[processes],) = results(out).values()
        rows = next(out.rglob("samples_cong_choice_*.jsonl")).read_text().splitlines()
        assert sorted(json.loads(row)["doc_id"] for row in rows) == list(range(8))  # none twice
    one, two = (scores(found[processes]) for processes in (1, 2))
    assert {task: pytest.approx(numbers) for task, numbers in one.items()} == two


def test_a_place_that_cannot_be_written_is_refused_before_the_evaluation(tmp_path, monkeypatch, paths):
    (tmp_path / "out").write_text("a file")
    flags = ["--model", "cong", "--model_args", f"pretrained={paths['saved']}", "--tasks", "no_such_task"]
    with pytest.raises(OSError, match="out"):
        command(monkeypatch, "run", *flags, "--output_path", tmp_path / "out")


def test_results_have_a_place_of_their_own():
    weights = {"pretrained": "../weak/policy/", "reference": "org/reference"}
    one, two = (results_path(Path("out"), {**weights, "alpha": alpha}) for alpha in (0.3, 0.4))
    assert one.parent.name.startswith("policy_alpha-0.3_") and one.parent != two.parent
    other_reference = {**weights, "reference": "org/other", "alpha": 0.3}
    assert results_path(Path("out"), other_reference) != one
    assert results_path(Path("out/all.json"), weights).name.startswith("all_policy_")
