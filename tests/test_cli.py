# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands do what the Python calls do, on files."""

import json
import re
import shutil
import subprocess
import sys

import datasets
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_cong import ContrastivePairForCausalLM, generate_completions
from hf_cong.cli import COMMANDS, main
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

WORDS = ["cat", "dog", "fox", "owl", "mat"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with a weak pair, a strong model of another family and vocabulary, and prompts."""
    root = tmp_path_factory.mktemp("files")
    policy, reference = tiny_pair("llama", vocab_size=320, eos_token_id=2, pad_token_id=0)
    strong = tiny_model("qwen2", 5, vocab_size=328, eos_token_id=2, pad_token_id=0)
    for name, model, seed in (("policy", policy, 0), ("reference", reference, 0), ("strong", strong, 1)):
        model.save_pretrained(root / name)
        tiny_tokenizer(seed).save_pretrained(root / name)
    rows = [
        {"prompt": [{"role": "user", "content": f"tell me about the {a} and the {b}"}]} for a in WORDS for b in WORDS
    ]
    (root / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def recipe(path, **values):
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    return ["--config", str(path)]


def test_generate_then_build(files, tmp_path, capsys):
    common = {"prompts": str(files / "prompts.jsonl"), "max_new_tokens": 8, "dtype": "float32", "batch_size": 16}
    names = {"policy": str(files / "policy"), "reference": str(files / "reference")}
    pair = recipe(tmp_path / "pair.yaml", **common, **names, output_dir=str(tmp_path / "cd"), alpha=0.3)
    assert main(["generate", *pair]) == 0
    assert "25 completions" in capsys.readouterr().out
    alone = recipe(tmp_path / "alone.yaml", **common, policy=str(files / "strong"), output_dir=str(tmp_path / "own"))
    assert main(["generate", *alone, "--seed", "1"]) == 0

    direct = generate_completions(
        common["prompts"],
        ContrastivePairForCausalLM.from_pair(names["policy"], names["reference"], alpha=0.3),
        tokenizer=tiny_tokenizer(),
        output_dir=tmp_path / "direct",
        max_new_tokens=8,
    )
    written = datasets.Dataset.from_parquet(str(tmp_path / "cd" / "completions.parquet"))
    assert written["completion_ids"] == direct["completion_ids"]
    assert set(written["alpha"]) == {0.3}

    build = [
        "--chosen",
        str(tmp_path / "cd"),
        "--rejected",
        str(tmp_path / "own"),
        "--output_dir",
        str(tmp_path / "pairs"),
    ]
    assert main(["build", *build, "--drop_truncated", "false"]) == 0
    assert "25 rows in" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    assert manifest["counts"]["rows_in"] == 25

    # the same directory with another α is another run
    assert main(["generate", *pair, "--alpha", "0.5"]) == 2
    assert "another run: `engine.alpha` 0.3 there, 0.5 here. " in capsys.readouterr().err
    # and no dataset may take the place of its manifest
    before = (tmp_path / "cd" / "manifest.json").read_bytes()
    assert main(["build", "--chosen", str(tmp_path / "cd"), "--output_dir", str(tmp_path / "cd")]) == 2
    assert "holds completions.parquet" in capsys.readouterr().err
    assert (tmp_path / "cd" / "manifest.json").read_bytes() == before
    assert main(["generate", *pair]) == 0


def test_generate_refuses_an_unknown_dtype(tmp_path, capsys):
    argv = ["--prompts", "a", "--policy", "b", "--output_dir", str(tmp_path), "--dtype", "float99"]
    assert main(["generate", *argv]) == 2
    assert "invalid choice: 'float99'" in capsys.readouterr().err


def test_train_runs_the_whole_job_and_resumes(files, tmp_path, capsys):
    values = {
        "model_name_or_path": str(files / "strong"),
        "weak_model_name_or_path": str(files / "policy"),
        "weak_reference_model_name_or_path": str(files / "reference"),
        "dataset_name": str(files / "prompts.jsonl"),
        "output_dir": str(tmp_path / "run"),
        "max_new_tokens": 8,
        "drop_truncated": False,
        "generation_batch_size": 25,
        "per_device_train_batch_size": 8,
        "sft_num_train_epochs": 1,
        "sft_learning_rate": 1e-3,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    argv = ["train", *recipe(tmp_path / "cong.yaml", **values)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "sft/train: 25 rows in" in out and "dpo/train" in out
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    before = AutoModelForCausalLM.from_pretrained(files / "strong")
    moved = [not torch.equal(a, b) for a, b in zip(trained.parameters(), before.parameters(), strict=True)]
    assert all(moved)
    assert main(argv) == 0  # nothing of stage I is left to do; stage II repeats to the same weights
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert main([*argv, "--resume_from_checkpoint", "False"]) == 0
    assert main([*argv, "--resume_from_checkpoint", str(tmp_path / "nowhere")]) == 2
    assert "Cannot resume from " in capsys.readouterr().err
    for name, parameter in trained.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name]), name


def test_train_refuses_what_it_cannot_read(files, tmp_path, capsys):
    missing = {"model_name_or_path": str(files / "strong"), "dataset_name": str(tmp_path / "none.jsonl")}
    argv = ["train", *recipe(tmp_path / "a.yaml", **missing, output_dir=str(tmp_path), use_cpu=True)]
    assert main(argv) == 2
    assert "there is no file" in capsys.readouterr().err
    present = {**missing, "dataset_name": str(files / "prompts.jsonl")}
    argv = ["train", *recipe(tmp_path / "b.yaml", **present, output_dir=str(tmp_path), use_cpu=True)]
    assert main(argv) == 2
    assert "needs the weak pair" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["directory", "repository", "adapter"])
def test_a_strong_model_in_a_pickle_is_refused(files, tmp_path, hub, capsys, kind):
    directory, loader, weights = tmp_path / "strong", AutoModelForCausalLM, "pytorch_model.bin"
    shutil.copytree(files / "strong", directory)
    if kind == "adapter":
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(directory), LoraConfig(task_type="CAUSAL_LM"))
        directory, loader, weights = tmp_path / "adapter", AutoPeftModelForCausalLM, "adapter_model.bin"
        model.save_pretrained(directory)
        tiny_tokenizer(1).save_pretrained(directory)
    (safe,) = directory.glob("*.safetensors")
    torch.save(load_file(safe), directory / weights)
    safe.unlink()
    name = str(directory)
    if kind == "repository":
        name = "org/pickled-strong"
        hub.add(name, directory)
    loader.from_pretrained(name)  # nobody else minds
    (tmp_path / "data.jsonl").write_text('{"prompt": "tell me", "chosen": "a cat"}\n')
    values = {
        "model_name_or_path": name,
        "dataset_name": str(tmp_path / "data.jsonl"),
        "use_cpu": True,
        "max_steps": 1,
    }
    argv = ["train", *recipe(tmp_path / "cong.yaml", **values, output_dir=str(tmp_path / "run"), report_to="none")]
    for stage in ("all", "sft"):
        assert main([*argv, "--stage", stage]) == 2, stage
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("hf-cong train: ") and "safetensors" in error


def test_a_file_is_not_its_own_evaluation_data(files, tmp_path, capsys):
    values = {"model_name_or_path": str(files / "strong"), "output_dir": str(tmp_path / "run"), "use_cpu": True}
    values |= {"eval_strategy": "epoch", "report_to": "none"}
    argv = recipe(tmp_path / "a.yaml", **values, dataset_name=str(files / "prompts.jsonl"))
    assert main(["train", *argv]) == 2
    assert "evaluation would be on the training data. Pass a dataset of the Hub" in capsys.readouterr().err
    # a directory with both splits passes, as far as the weak pair that is not named
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        shutil.copy(files / "prompts.jsonl", data / f"{split}.jsonl")
    assert main(["train", *recipe(tmp_path / "b.yaml", **values, dataset_name=str(data))]) == 2
    assert "needs the weak pair" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffix", "place"),
    [("jsonl", r"bad\.jsonl, line 2 is not JSON"), ("parquet", r"bad\.parquet' cannot be read \(Parquet")],
)
def test_a_broken_file_is_named(files, tmp_path, capsys, suffix, place):
    (tmp_path / f"bad.{suffix}").write_text('{"prompt": "a"}\n{"prompt": \n')
    values = {"model_name_or_path": str(files / "strong"), "dataset_name": str(tmp_path / f"bad.{suffix}")}
    assert main(["train", *recipe(tmp_path / "a.yaml", **values, output_dir=str(tmp_path), use_cpu=True)]) == 2
    error = capsys.readouterr().err
    refusal = [line for line in error.splitlines() if line.startswith("hf-cong train: ")]
    assert len(refusal) == 1 and re.search(place, refusal[0])


def test_without_the_extras_help_works_and_each_command_names_the_extra_that_it_needs(files, tmp_path):
    """Not installed is what `sys.modules` says: an entry of `None` makes an import fail as a missing package does."""
    row = {"prompt": "tell me", "completion": "a fox"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    systems = {name: str(tmp_path / "rows.jsonl") for name in ("a", "b")}
    judge = ["judge", "--systems", json.dumps(systems), "--output_dir", str(tmp_path / "judged"), "--judge"]
    export = ["export", "--completions", systems["a"], "--format", "alpaca_eval", "--name", "a"]
    commands = {
        "server": [*judge, "http://localhost:9/v1"],
        "eval": ["evaluate", "--baseline", "a", "--output_dir", str(tmp_path / "evaluated")],
        "no reward model": [*judge, str(files / "nowhere")],  # gets as far as the missing directory
        "nothing": [*export, "--output_dir", str(tmp_path)],
    }
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("openai", "lm_eval", "evaluate")))
from hf_cong.cli import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit as end:
        print("help of", command, end.code)
for name, argv in {commands!r}.items():
    print(name, main(argv), file=sys.stderr)
for module in ("lm", "metrics", "judges"):
    try:
        exec(f"from hf_cong.evaluation.{{module}} import " + ("EndpointJudge" if module == "judges" else "*"))
    except ImportError as error:
        print(module, error, file=sys.stderr)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    helped = re.findall(r"^help of (\S+) 0$", run.stdout, re.MULTILINE)
    assert helped == list(COMMANDS), run.stdout
    assert "default: None" not in run.stdout and run.stdout.count("(required)") > 10
    for text in COMMANDS.values():
        assert text.split(",")[0][:40] in " ".join(run.stdout.split())
    lines = run.stderr.splitlines()
    ends = {line.rsplit(" ", 1)[0]: int(line[-1]) for line in lines if line.rsplit(" ", 1)[0] in commands}
    assert ends == {"server": 2, "eval": 2, "no reward model": 2, "nothing": 0}
    refusals = [line for line in lines if 'pip install "hf-cong' in line]
    extras = [re.search(r'`pip install "hf-cong\[(\w+)\]"`\.$', line)[1] for line in refusals]
    assert extras == ["server", "eval", "eval", "eval", "server"]
