# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Several rounds: fresh samples, a fresh reference, one adapter, and the same bits after a kill in any of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_cong import ConGTrainer, rounds, train_rounds
from hf_cong.cli.training import train

from .distributed.run_cong import LONG, chosen_rows, config, lora, pairs, prompts, strong_model, weak_pair, weights
from .tiny import tiny_tokenizer

REPOSITORY = Path(__file__).parents[1]
SMALL = {"learning_rate": 1e-2, "sft_learning_rate": 1e-2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """The directory of the models, each with its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for name, model in zip(("strong", "policy", "reference"), (strong_model(), *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return root


def pair(names):
    return {"weak_model": str(names / "policy"), "weak_reference_model": str(names / "reference")}


def run(names, output_dir, train_dataset=None, *, settings=None, **kwargs):
    weak = {} if train_dataset is not None and "chosen" in train_dataset.column_names else pair(names)
    return train_rounds(
        str(names / "strong"),
        config(output_dir, **{**SMALL, **(settings or {})}),
        prompts(8) if train_dataset is None else train_dataset,
        **{"num_rounds": 2, **weak, **kwargs},
    )


def written(output_dir, stage):
    (path,) = output_dir.glob(f"_cong/{stage}-train-*/completions.parquet")
    return Dataset.from_parquet(str(path))["completion"][:]


def manifest(output_dir):
    return json.loads((output_dir / "_cong" / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def two_rounds(names, tmp_path_factory):
    """Where a run of two rounds ended, and its weights. Tests work on copies."""
    output_dir = tmp_path_factory.mktemp("two") / "rounds"
    return output_dir, weights(run(names, output_dir))


class FirstSteps(TrainerCallback):
    """What is logged at step 1 of every stage II."""

    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.global_step == 1 and "rewards/margins" in logs:
            self.lines.append({name: float(logs[name]) for name in ("rewards/chosen", "rewards/rejected")})


@pytest.mark.parametrize("with_lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_round_is_cong_trainer(names, tmp_path, with_lora):
    def adapter():
        return {"peft_config": lora() if with_lora else None}

    plain = ConGTrainer(
        str(names / "strong"),
        args=config(tmp_path / "plain", **SMALL),
        train_dataset=prompts(8),
        **pair(names),
        **adapter(),
    )
    plain.train()
    one = run(names, tmp_path / "one", num_rounds=1, **adapter())
    assert weights(one) == weights(plain)
    file = "adapter_model.safetensors" if with_lora else "model.safetensors"
    assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert not list((tmp_path / "one").glob("round-*"))
    assert weights(run(names, tmp_path / "other", num_rounds=1, settings={"seed": 1}, **adapter())) != weights(plain)


@pytest.mark.parametrize(
    "kind", ["full", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("lora", "no copy"))]
)
def test_the_reference_of_a_round_is_what_its_stage_one_leaves(names, tmp_path, kind, monkeypatch):
    steps = FirstSteps()
    options = {"num_rounds": 3, "callbacks": [steps], "peft_config": lora() if kind == "lora" else None}
    settings = {"precompute_ref_log_probs": kind != "no copy"}
    last = run(names, tmp_path / "out", settings=settings, **options)
    rounding = 1e-5 if kind != "no copy" else 0.0
    assert len(steps.lines) == 3
    assert all(abs(value) <= rounding for line in steps.lines for value in line.values())
    moved = [float(line["loss"]) for line in last.state.log_history if "rewards/margins" in line]
    assert len(set(moved)) == len(moved) > 1
    if kind == "no copy":  # the negative control: a reference that stays what the round began with
        monkeypatch.setattr(rounds.Round, "_set_reference", lambda self: None)
        steps.lines.clear()
        run(names, tmp_path / "old", settings=settings, **options)
        assert all(abs(line["rewards/chosen"]) > 1e-2 for line in steps.lines)


def test_a_round_begins_with_the_result_of_the_one_before(names, two_rounds, tmp_path):
    """The last round, done by hand."""

    def by_hand(model, output_dir):
        settings = {**SMALL, "seed": 42 + rounds.SEED_STEP}
        trainer = ConGTrainer(model, args=config(output_dir, **settings), train_dataset=prompts(8), **pair(names))
        trainer.train()
        return weights(trainer)

    assert by_hand(str(two_rounds[0] / "round-1"), tmp_path / "hand") == two_rounds[1]
    assert by_hand(str(names / "strong"), tmp_path / "anew") != two_rounds[1]


@pytest.mark.slow
def test_every_round_has_samples_of_its_own(names, two_rounds, tmp_path, monkeypatch):
    def both(output_dir, stage):
        return [written(directory, stage) for directory in (output_dir / "round-1", output_dir)]

    for stage in ("decode", "sample"):
        first, second = both(two_rounds[0], stage)
        assert first != second
    monkeypatch.setattr(rounds, "SEED_STEP", 0)  # the negative control: the pair is the same in every round
    run(names, tmp_path)
    first, second = both(tmp_path, "decode")
    assert first == second


@pytest.mark.slow
def test_alpha_by_round_and_what_is_told_of_it(names, tmp_path):
    run(names, tmp_path, num_rounds=3, alphas=[0.4, 0.5, 0.7])
    found = [manifest(tmp_path / place)["settings"] for place in ("round-1", "round-2", ".")]
    assert [settings["alpha"] for settings in found] == [0.4, 0.5, 0.7]
    assert [settings["seed"] for settings in found] == [42, 1042, 2042]
    assert (found[2]["round"], found[2]["earlier_alphas"]) == (3, [0.4, 0.5])
    assert "round" not in found[0]
    for place, alpha in (("round-1", 0.4), ("round-2", 0.5), (".", 0.7)):
        (path,) = (tmp_path / place).glob("_cong/decode-train-*/manifest.json")
        assert json.loads(path.read_text())["identity"]["engine"]["alpha"] == alpha
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "`strong`" in card and "round-2" not in card  # the base is the first round's
    assert "This is round 3 of several" in card
    assert "This is round" not in (tmp_path / "round-1" / "README.md").read_text(encoding="utf-8")
    assert "| `round` | 3 |" in card and "`0.4, 0.5`" in card


def test_one_adapter_on_the_original_base(names, tmp_path):
    freed = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            assert all(reference() is None for reference in freed)  # one model at a time
            freed.append(weakref.ref(model))

    last = run(names, tmp_path, peft_config=lora(), callbacks=[Watch()], settings={"sft_num_train_epochs": 0})
    assert len(freed) == 2
    for place in (tmp_path / "round-1", tmp_path):
        settings = json.loads((place / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(names / "strong")
        assert not (place / "model.safetensors").exists() and not (place / "ref").exists()
    first, second = (load_file(place / "adapter_model.safetensors") for place in (tmp_path / "round-1", tmp_path))
    assert all(torch.any(first[name] != second[name]) for name in first)
    assert set(last.model.peft_config) == {"default", "ref"}
    # Where the adapter came from does not matter: the second round is the first of one that begins with it.
    args = config(tmp_path / "from-adapter", **SMALL, seed=1042, sft_num_train_epochs=0)
    again = train_rounds(str(tmp_path / "round-1"), args, prompts(8), num_rounds=1, **pair(names))
    found = load_file(tmp_path / "from-adapter" / "adapter_model.safetensors")
    assert all(torch.equal(second[name], found[name]) for name in second)
    assert weights(again) == weights(last)


@pytest.mark.slow
def test_later_rounds_without_stage_one(names, tmp_path):
    steps, (policy, reference) = FirstSteps(), weak_pair()  # in memory, and so in both rounds
    weak = {"weak_model": policy, "weak_reference_model": reference, "weak_processing_class": tiny_tokenizer()}
    run(names, tmp_path, sft_every_round=False, callbacks=[steps], **weak)
    assert list((tmp_path / "round-1").glob("_cong/sft-*/final")) and not list(tmp_path.glob("_cong/sft-*/final"))
    assert all(abs(value) <= 1e-5 for line in steps.lines for value in line.values())


@pytest.mark.slow
def test_given_completions_and_a_steered_strong_model(names, tmp_path):
    run(names, tmp_path / "given", chosen_rows(8))
    given = [written(place, "sample") for place in (tmp_path / "given" / "round-1", tmp_path / "given")]
    assert given[0] != given[1]
    steered = {"chosen_from": "steered", "beam_width": 1, "successors_per_beam": 2}
    run(names, tmp_path / "steered", prompts(4), settings=steered)
    told = [manifest(place)["settings"] for place in (tmp_path / "steered" / "round-1", tmp_path / "steered")]
    assert told[1]["round"] == 2 and "earlier_alphas" not in told[1] and told[1]["chosen_from"] == "steered"


def test_what_has_ended_is_not_done_again(names, two_rounds, tmp_path):
    shutil.copytree(two_rounds[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "_cong")
    (tmp_path / "model.safetensors").unlink()
    model = tmp_path / "round-1" / "model.safetensors"
    before, steps = model.stat().st_mtime_ns, FirstSteps()
    assert weights(run(names, tmp_path, callbacks=[steps])) == two_rounds[1]
    assert model.stat().st_mtime_ns == before and len(steps.lines) == 1
    # Another run, and another model.
    with pytest.raises(ValueError, match="alpha"):
        run(names, tmp_path, alphas=[0.5, 0.5])
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"model\.safetensors is missing or is not the file that its manifest"):
        run(names, tmp_path)


# Killed in any round.


def recipe(names, root, **settings):
    (root / "prompts.jsonl").parent.mkdir(parents=True, exist_ok=True)
    prompts(12).to_json(root / "prompts.jsonl")
    content = {
        "model_name_or_path": str(names / "strong"),
        "weak_model_name_or_path": str(names / "policy"),
        "weak_reference_model_name_or_path": str(names / "reference"),
        "dataset_name": str(root / "prompts.jsonl"),
        **LONG,
        **SMALL,
        **{"max_length": 128, "drop_truncated": False, "report_to": "none", "use_cpu": True, "bf16": False},
        **{"gradient_checkpointing": False, "disable_tqdm": True, "logging_steps": 1},
        "round_alphas": [0.4, 0.5, 0.6],
        **settings,
    }
    (root / "cong.yaml").write_text(yaml.safe_dump(content))
    return root / "cong.yaml"


def launch(path, output_dir, *options, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launcher = launcher if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "hf_cong.cli", "train", "--config", str(path), "--num_rounds", "3"]
    return subprocess.Popen(
        [*command, "--output_dir", str(output_dir), *options],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        stdout=open(output_dir.with_suffix(".log"), "a"),
        stderr=subprocess.STDOUT,
    )


def finish(process, output_dir, timeout=600):
    assert process.wait(timeout) == 0, output_dir.with_suffix(".log").read_text()[-3000:]


def kill(process, output_dir, reached):
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline and not reached():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, output_dir.with_suffix(".log").read_text()[-3000:]


MOMENTS = {
    "the first, stage I": ("round-1", "_cong/sft-*/checkpoint-*/files.json"),
    "between two": ("round-1", "round.json"),
    "the second, decoding": ("round-2", "_cong/decode-train-*"),
    "the second, sampling": ("round-2", "_cong/sample-train-*"),
    "the second, stage II": ("round-2", "checkpoint-4/files.json"),
    "the last, stage I": (".", "_cong/sft-*/checkpoint-*/files.json"),
    "the last, stage II": (".", "checkpoint-4/files.json"),
}


@pytest.mark.slow
@pytest.mark.parametrize("with_lora", [False, True])
def test_killed_in_any_round_and_resumed_by_the_same_command(names, tmp_path, with_lora):
    adapter = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"]} if with_lora else {}
    path = recipe(names, tmp_path, **adapter)
    finish(launch(path, tmp_path / "whole"), tmp_path / "whole")
    file = "adapter_model.safetensors" if with_lora else "model.safetensors"
    for place, pattern in MOMENTS.values():  # one run that is killed at every one of them
        out = tmp_path / "out"
        kill(launch(path, out), out, lambda place=out / place, pattern=pattern: any(place.glob(pattern)))
        assert not (out / file).exists()
    finish(launch(path, out), out)
    for place in ("round-1", "round-2", "."):
        assert (out / place / file).read_bytes() == (tmp_path / "whole" / place / file).read_bytes()
    contents = {(out / place / file).read_bytes() for place in ("round-1", "round-2", ".")}
    assert len(contents) == 3


@pytest.mark.slow
@pytest.mark.parametrize("with_lora", [False, True])
def test_two_processes(names, tmp_path, with_lora):
    adapter = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"]} if with_lora else {}
    small_steps = {
        "learning_rate": 1e-3,
        "sft_learning_rate": 1e-3,
        "warmup_steps": 0.1,
    }  # large ones magnify rounding
    path = recipe(names, tmp_path, save_strategy="no", **small_steps, **adapter)
    finish(launch(path, tmp_path / "one"), tmp_path / "one")
    half = ("--per_device_train_batch_size", "1")
    finish(launch(path, tmp_path / "two", *half, processes=2), tmp_path / "two")
    file = "adapter_model.safetensors" if with_lora else "model.safetensors"
    totals = {}
    for place in ("round-1", "round-2", "."):
        # What small differences of an adapter grow to from round to round, its samples show.
        for stage in ("decode",) if with_lora else ("decode", "sample"):
            assert written(tmp_path / "one" / place, stage) == written(tmp_path / "two" / place, stage)
        for name in ("one", "two"):
            found = load_file(tmp_path / name / place / file).values()
            totals[name, place] = sum(tensor.double().abs().sum() for tensor in found).item()
        assert totals["two", place] == pytest.approx(totals["one", place], rel=1e-2 if with_lora else 1e-5)
    assert totals["one", "round-2"] != pytest.approx(totals["one", "."], rel=1e-2 if with_lora else 1e-4)


# The command, and what is refused.


def test_the_command(names, tmp_path, capsys):
    fewer = {"per_device_train_batch_size": 4, "generation_batch_size": 8, "save_strategy": "no", "max_new_tokens": 8}
    path = recipe(names, tmp_path, **fewer, num_train_epochs=1, sft_num_train_epochs=1, round_alphas=[0.4, 0.6])
    train(["--config", str(path), "--output_dir", str(tmp_path / "cli"), "--num_rounds", "2"])
    assert "ConG round 2 of 2, α = 0.6." in capsys.readouterr().out
    by_hand = run(names, tmp_path / "python", prompts(12), alphas=(0.4, 0.6))
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("cli", "python"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert manifest(tmp_path / "cli")["settings"]["earlier_alphas"] == [0.4] and by_hand.stage_counts
    with pytest.raises(ValueError, match="`alphas` has 2 values for 1 rounds"):
        train(["--config", str(path), "--output_dir", str(tmp_path / "x")])
    with pytest.raises(ValueError, match="`stage` is 'decode', and a round is all stages"):
        train(["--config", str(path), "--output_dir", str(tmp_path / "x"), "--num_rounds", "2", "--stage", "decode"])


@pytest.mark.parametrize(
    ("error", "text", "settings", "options"),
    [
        (ValueError, "`num_rounds` must be at least 1, got 0", {}, {"num_rounds": 0}),
        (TypeError, "`num_rounds` must be an integer, got '3'", {}, {"num_rounds": "3"}),
        (ValueError, "`alphas` has 1 values for 2 rounds", {}, {"alphas": [0.5]}),
        (ValueError, "alpha", {}, {"alphas": [0.5, 1.5]}),
        (ValueError, "`alpha` is 0.7, and `alphas` give", {"alpha": 0.7}, {"alphas": [0.4, 0.5]}),
        (ValueError, "`steering_beta` is the same in all", {"chosen_from": "steered"}, {"alphas": [0.4, 0.5]}),
        (ValueError, "rounds always go on", {"resume_from_checkpoint": "checkpoint-2"}, {}),
        (ValueError, "the dataset has its completions", {}, {"alphas": [0.4, 0.5], "train_dataset": chosen_rows(4)}),
        (ValueError, "Remove the column `rejected`", {}, {"train_dataset": pairs(4)}),
    ],
)
def test_what_makes_no_round_is_refused_before_anything(names, tmp_path, error, text, settings, options):
    with pytest.raises(error, match=text):
        run(names, tmp_path / "out", settings=settings, **options)
    assert not (tmp_path / "out").exists()


def test_other_things_than_names_are_refused(names, tmp_path):
    with pytest.raises(TypeError, match="`model` is a Qwen2ForCausalLM; .*Save it"):
        train_rounds(strong_model(), config(tmp_path), prompts(4), num_rounds=2)
    with pytest.raises(TypeError, match="`args` must be a `ConGConfig`, got dict"):
        train_rounds(str(names / "strong"), {}, prompts(4), num_rounds=2)


@pytest.mark.slow
def test_the_last_round_is_what_is_published(hub, names, tmp_path):
    settings = {"push_to_hub": True, "hub_model_id": "alice/of-two-rounds", "push_stages_to_hub": True}
    run(names, tmp_path, settings=settings)
    sent = hub.repositories["models", "alice/of-two-rounds"].branches["main"].files
    assert {"model.safetensors", "README.md"} <= set(sent)
    assert not [name for name in sent if "round" in name]
    assert ("models", "alice/round-1") not in hub.repositories
    assert ("datasets", "alice/of-two-rounds-data") in hub.repositories
