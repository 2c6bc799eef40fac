# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What can be seen of a run: with the real trackers, on tiny models."""

import json
import sqlite3

import pandas as pd
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from transformers import AutoModelForCausalLM, TrainerCallback

from hf_cong import ConGConfig, generate_completions
from hf_cong.cli import main
from hf_cong.report.lines import Line, plot_bars, plot_lines
from hf_cong.staged import StagedRun
from hf_cong.watching.plots import _lines, _with_rounds, plot_runs
from hf_cong.watching.run_log import read_run_log
from hf_cong.watching.trackers import Trackers, WatchWriting

from .distributed.run_cong import config, pairs, prompts, strong_model, trainer, weak_pair, weights
from .tiny import tiny_tokenizer

EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 16}


def held_out(n=6):
    return prompts(40).select(range(40 - n, 40))


def run(
    output_dir, train_dataset=None, *, resume=False, callbacks=None, eval_dataset=None, peft_config=None, **settings
):
    eval_dataset = held_out() if eval_dataset is None else eval_dataset
    made = trainer(
        output_dir,
        prompts(12) if train_dataset is None else train_dataset,
        settings={**EVALUATED, **settings},
        eval_dataset=eval_dataset,
        callbacks=callbacks,
    )
    made.train(resume_from_checkpoint=resume)
    return made


def lines(output_dir):
    return [json.loads(line) for line in (output_dir / "_cong/logs.jsonl").read_text().splitlines()]


def steps(log, name):
    return {step: values[name] for step, values in log.items() if name in values}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run of all stages that is only looked at."""
    output_dir = tmp_path_factory.mktemp("done")
    return output_dir, run(output_dir, log_completions=True)


# One run in the trackers.


def test_all_stages_are_one_run_of_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)  # where TensorBoard's callback writes what comes before it has begun
    made = run(tmp_path / "out", report_to="tensorboard")
    (directory,) = (tmp_path / "out/runs").iterdir()
    assert not (tmp_path / "runs").exists()
    found = EventAccumulator(str(directory)).Reload()
    scalars = {name: {event.step: event.value for event in found.Scalars(name)} for name in found.Tags()["scalars"]}
    log = read_run_log(tmp_path / "out")
    names = {"sft": {"train/sft/loss": "loss", "train/sft/eval_loss": "eval_loss"}, "dpo": {"train/loss": "loss"}}
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "length_gap", "kl_to_reference"):
        names["dpo"] |= {f"train/{name}": name, f"eval/{name}": f"eval_{name}"}
    for stage, same in names.items():
        for tag, name in same.items():
            expected = steps(log[stage], name)
            assert len(expected) == (2 if name.startswith("eval_") else 3), tag
            assert scalars[tag] == pytest.approx(expected, rel=1e-6), tag
    assert scalars["train/decode/train/rows"] == {12: 12} and scalars["train/sample/eval/rows"] == {6: 6}
    assert scalars["train/sft/train/kept"] == {0: 12}

    # What was logged as transformers would log it, before any training has begun, lands somewhere else.
    again = trainer(tmp_path / "again", prompts(12), settings={"report_to": "tensorboard"})
    again.callback_handler.on_log(again.args, again.state, again.control, {"decode/train/rows": 12})
    assert (tmp_path / "runs").exists() and not (tmp_path / "again/runs").exists()
    assert made.state.global_step == 3


def test_weights_and_biases_drops_nothing(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    run(tmp_path / "out", report_to="wandb", run_name="all stages", log_completions=True)
    wandb.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    store, rows, name = DataStore(), [], None
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            name = record.run.display_name
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            rows.append({key: json.loads(value) for key, value in items.items()})
    assert name == "all stages"
    # A row whose step is not above that of the row before is what wandb would have dropped.
    counted = [row["_step"] for row in rows]
    assert counted == list(range(len(rows)))
    log = read_run_log(tmp_path / "out")
    for tag, expected in {
        "train/sft/loss": steps(log["sft"], "loss"),
        "train/loss": steps(log["dpo"], "loss"),
        "eval/kl_to_reference": steps(log["dpo"], "eval_kl_to_reference"),
        "train/decode/train/rows": {12: 12},
    }.items():
        assert {row["train/global_step"]: row[tag] for row in rows if tag in row} == pytest.approx(expected)
    tables = list(file.parent.rglob("completions_*.table.json"))
    assert len(tables) == 2  # one for each evaluation
    assert json.loads(tables[0].read_text())["columns"][:3] == ["step", "prompt", "completion"]


def test_launches_by_stage_are_one_run_of_trackio(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    stages = by_stage(tmp_path, report_to="trackio", run_name="by stage", project="watching", log_completions=True)
    assert stages == ["decode", "sft", "sample", "dpo"]
    with sqlite3.connect(tmp_path / "trackio/watching.db") as store:
        rows = store.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in rows} == {"by stage"}
    assert [step for _, step, _ in rows] == list(range(len(rows)))
    found = [json.loads(metrics) for _, _, metrics in rows]
    log = read_run_log(tmp_path / "out")
    for tag, expected in {
        "train/decode/train/rows": {12: 12},
        "train/sft/loss": steps(log["sft"], "loss"),
        "train/sample/train/rows": {12: 12},
        "train/loss": steps(log["dpo"], "loss"),
    }.items():
        assert {row["train/global_step"]: row[tag] for row in found if tag in row} == pytest.approx(expected), tag
    assert any("completions" in row for row in found)


def by_stage(tmp_path, **settings):
    """All stages of a run, each by a launch of its own; returns which have been."""
    for name, model in zip(("strong", "policy", "reference"), (strong_model(), *weak_pair()), strict=True):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    been = []
    for stage in ("decode", "sft", "sample", "dpo"):
        launched = StagedRun(
            str(tmp_path / "strong"),
            config(tmp_path / "out", stage=stage, **{**EVALUATED, **settings}),
            prompts(12),
            held_out(),
            weak_model=str(tmp_path / "policy"),
            weak_reference_model=str(tmp_path / "reference"),
        )
        launched.trainer().train() if stage == "dpo" else launched.launch(stage)
        been.append(stage)
    return been


def test_launches_by_stage_log_what_one_launch_does(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    by_stage(tmp_path, report_to="tensorboard")
    run(tmp_path / "once", seed=42)
    staged, once = read_run_log(tmp_path / "out"), read_run_log(tmp_path / "once")
    timed = ("second", "runtime", "peak_gib")

    def same(log):
        return {
            stage: {
                step: {name: value for name, value in values.items() if not any(word in name for word in timed)}
                for step, values in log[stage].items()
            }
            for stage in log
        }

    assert same(staged) == same(once)
    assert len(staged["sft"]) == len(staged["dpo"]) == 3
    found = EventAccumulator(str(tmp_path / "board")).Reload().Tags()["scalars"]
    assert {"train/decode/train/rows", "train/sft/loss", "train/sample/eval/rows", "train/loss"} <= set(found)


# What is written.


def test_a_stage_that_writes_says_how_much(done):
    output_dir, _ = done
    log = read_run_log(output_dir)["stages"][0]
    for stage in ("decode", "sample"):
        for split, rows in (("train", 12), ("eval", 6)):
            (file,) = output_dir.glob(f"_cong/{stage}-{split}-*/completions.parquet")
            written = pd.read_parquet(file)
            said = {name.rsplit("/")[2]: value for name, value in log.items() if name.startswith(f"{stage}/{split}/")}
            assert said.pop("tokens_per_second") > 0
            assert said == {
                "rows": rows,
                "mean_tokens": pytest.approx(written["completion_ids"].map(len).mean()),
                "truncated": pytest.approx((written["finish_reason"] == "length").mean()),
            }
    assert {name for name in log if name.startswith("memory/")} == {
        f"memory/{stage}_peak_gib" for stage in ("decode", "sft", "sample", "dpo")
    }


def test_what_was_scored_is_logged(tmp_path):
    run(tmp_path, num_chosen_samples=2, rejected_from="worst", max_new_tokens=6)
    log = read_run_log(tmp_path)["stages"][0]
    assert log["decode/train/rows"] == log["decode/train-2/rows"] == 12
    assert log["sample/train/implicit_reward_chosen"] > log["sample/train/implicit_reward_rejected"]
    (file,) = tmp_path.glob("_cong/pairs-train-*/preferences.parquet")
    table = pd.read_parquet(file)
    for side in ("chosen", "rejected"):
        assert log[f"sample/train/implicit_reward_{side}"] == pytest.approx(table[f"{side}_reward"].mean())
    assert log["decode/train/implicit_reward"] > table["rejected_reward"].mean()
    assert not any("kl_to_reference" in values for values in read_run_log(tmp_path)["dpo"].values())


def test_a_long_stage_says_how_it_gets_on(tmp_path, monkeypatch):
    told = []

    class Logs(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append((state.global_step, dict(logs)))

    made = trainer(tmp_path, prompts(12), settings={"generation_batch_size": 5}, callbacks=[Logs()])
    monkeypatch.setattr("hf_cong.watching.trackers._SECONDS", 0.0)
    made.train()
    progress = [(step, line) for step, line in told if "decode/train/rows_written" in line]
    assert [step for step, _ in progress] == [line["decode/train/rows_written"] for _, line in progress] == [5, 10, 12]
    assert all(line["decode/train/tokens_per_second"] > 0 for _, line in progress)
    # of what was resumed, only what this launch wrote is timed
    watch = WatchWriting(Trackers(config(tmp_path / "other")), "decode/train")
    watch(7, 0)
    watch(5, 40)
    assert watch._rows == 12 and watch._tokens == 40


# What DPO logs.


def logp(model, row, side):
    ids = torch.tensor([list(row["prompt_ids"]) + list(row[f"{side}_ids"])])
    with torch.no_grad():
        found = model(input_ids=ids).logits.log_softmax(-1)
    of_next = found[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return of_next[-len(row[f"{side}_ids"]) :].sum().item()


@pytest.mark.parametrize("precompute", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_kl_and_length_gap_are_of_the_pairs(tmp_path, precompute):
    settings = {"precompute_ref_log_probs": precompute, "learning_rate": 1e-2}
    if not precompute:
        strong_model().save_pretrained(tmp_path / "strong")
        settings["model"] = str(tmp_path / "strong")
    model = settings.pop("model", None)
    made = trainer(
        tmp_path / "out", prompts(12), model=model, settings={**EVALUATED, **settings}, eval_dataset=held_out()
    )
    made.train()
    made.evaluate()
    logged, rows = made.state.log_history[-1], list(made.eval_dataset)
    (stage_one,) = tmp_path.glob("out/_cong/sft-*/final")
    reference = AutoModelForCausalLM.from_pretrained(stage_one, dtype=torch.float32)
    policy = made.model.eval()
    policy.__dict__.pop("forward", None)  # TRL's fused one
    kl = {
        side: sum(logp(reference, row, side) - logp(policy, row, side) for row in rows) / len(rows)
        for side in ("chosen", "rejected")
    }
    assert logged["eval_kl_to_reference"] == pytest.approx(kl["rejected"], abs=1e-3)
    assert abs(kl["chosen"] - kl["rejected"]) > 1e-2  # of the others it would not be that
    gaps = [len(row["chosen_ids"]) - len(row["rejected_ids"]) for row in rows]
    assert logged["eval_length_gap"] == pytest.approx(sum(gaps) / len(gaps))
    first = next(logs for logs in made.state.log_history if "kl_to_reference" in logs)
    assert abs(first["kl_to_reference"]) < 1e-4 and first["length_gap"] != 0


def test_there_is_no_kl_where_the_rejected_are_not_the_references(tmp_path, done):
    def names(made):
        return {name for logs in made.state.log_history for name in logs}

    given = run(tmp_path / "given", pairs(8), eval_dataset=pairs(4))
    assert "length_gap" in names(given) and "eval_length_gap" in names(given)
    assert not {"kl_to_reference", "eval_kl_to_reference"} & names(given)
    assert "kl_to_reference" not in names(run(tmp_path / "base", rejected_from="base"))
    assert "kl_to_reference" not in names(run(tmp_path / "weighed", ld_alpha=0.5))
    only_train = run(tmp_path / "train", eval_dataset=pairs(4))
    assert {"kl_to_reference"} == {"kl_to_reference", "eval_kl_to_reference"} & names(only_train)
    assert {"kl_to_reference", "eval_kl_to_reference"} <= names(done[1])


@pytest.mark.slow
def test_pairs_passed_to_evaluate_are_of_anybody(tmp_path):
    strong_model().save_pretrained(tmp_path / "strong")
    made = trainer(
        tmp_path / "out",
        prompts(8),
        model=str(tmp_path / "strong"),
        settings={"precompute_ref_log_probs": False, **EVALUATED},
        eval_dataset=held_out(),
    )
    made.train()
    made.evaluate(pairs(4))
    assert "eval_kl_to_reference" not in made.state.log_history[-1]
    made.evaluate()
    assert "eval_kl_to_reference" in made.state.log_history[-1]


# The log on disk.


def test_the_log_on_disk_is_that_of_the_trainers(done):
    output_dir, made = done
    log = read_run_log(output_dir)
    (state,) = output_dir.glob("_cong/sft-*/trainer_state.json")
    histories = {"sft": json.loads(state.read_text())["log_history"], "dpo": made.state.log_history}
    for stage, history in histories.items():
        merged = {}
        for entry in history:
            entry = dict(entry)
            merged.setdefault(entry.pop("step"), {}).update(entry)
        assert len(merged) == 3
        for values in [*merged.values(), *log[stage].values()]:
            values.pop(f"memory/{stage}_peak_gib", None)
        assert log[stage] == merged


class Dies(TrainerCallback):
    """Ends a run as a kill would, after a step was logged of which there is no checkpoint."""

    def __init__(self, stage, step):
        self.name, self.step = {"sft": "sft/loss", "dpo": "loss"}[stage], step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.name in logs and state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stage", [pytest.param("sft", marks=pytest.mark.slow), "dpo"])
def test_a_resumed_run_has_no_step_twice(tmp_path, stage):
    settings = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 2, "eval_steps": 3}
    whole = run(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", callbacks=[Dies(stage, 5)], **settings)
    cut = read_run_log(tmp_path / "killed")
    assert list(cut[stage]) == [1, 2, 3, 4, 5] and "train_runtime" not in cut[stage][5]
    with (tmp_path / "killed/_cong/logs.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 0.1')  # a line that was being written
    run(tmp_path / "killed", resume=True, **settings)
    logs = [read_run_log(tmp_path / name)[stage] for name in ("whole", "killed")]
    assert list(logs[0]) == list(logs[1]) == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "eval_loss", "learning_rate"):
        assert steps(logs[0], name) == steps(logs[1], name) != {}
    # The file itself has what happened: step 5 twice, and the torn line.
    raw = [line for line in (tmp_path / "killed/_cong/logs.jsonl").read_text().splitlines() if line[-1] == "}"]
    fifth = [values for values in map(json.loads, raw) if values["step"] == 5]
    assert sum({"sft": "sft/loss", "dpo": "loss"}[stage] in values for values in fifth) == 2
    assert whole.state.global_step == 6


@pytest.mark.slow
def test_another_training_in_the_same_directory_takes_the_place_of_the_first(tmp_path):
    run(tmp_path, per_device_train_batch_size=2)
    assert len(read_run_log(tmp_path)["dpo"]) == 6
    run(tmp_path, per_device_train_batch_size=4, logging_steps=3)
    log = read_run_log(tmp_path)
    assert sorted(step for step in log["dpo"]) == [2, 3]  # an evaluation, and the one line of the training


# Tables of completions.


def test_a_table_shows_what_the_policy_writes(tmp_path, done):
    output_dir, made = done
    tables = [pd.read_parquet(path) for path in sorted(output_dir.glob("_cong/completions/*.parquet"))]
    assert [set(table["step"]) for table in tables] == [{2}, {3}]
    for table in tables:
        assert list(table) == [
            *("step", "prompt", "completion", "finish_reason", "chosen", "rejected"),
            *("tokens", "chosen_tokens", "rejected_tokens"),
        ]
        assert [row[0]["content"] for row in table["prompt"]] == [row[0]["content"] for row in held_out()["prompt"]]
        assert list(table["chosen"]) == [row["chosen"][0]["content"] for row in made.eval_dataset]
        assert list(table["rejected_tokens"]) == [len(row["rejected_ids"]) for row in made.eval_dataset]
    written = generate_completions(
        held_out(),
        made.model,
        tokenizer=tiny_tokenizer(),
        output_dir=tmp_path,
        engine_id="the policy at the end",
        seed=made.args.seed,
        max_new_tokens=8,
    )
    before, last = (list(table["completion"]) for table in tables)
    assert last == written["completion"]
    assert before != last  # of a policy that was one step younger


@pytest.mark.slow
def test_several_evaluation_sets_make_one_table_of_at_most_eight_each(tmp_path, capsys):
    evals = {"a": held_out(10), "b": prompts(30).select(range(27, 30))}
    run(tmp_path, eval_dataset=evals, log_completions=True, eval_steps=3)
    (path,) = tmp_path.glob("_cong/completions/*.parquet")
    assert len(pd.read_parquet(path)) == 8 + 3
    assert "Step 3" in capsys.readouterr().out  # TRL's own table
    # What TRL logs of both under one name is told apart.
    (values,) = (found for found in read_run_log(tmp_path)["dpo"].values() if "eval_a_loss" in found)
    raw = [line for line in lines(tmp_path) if line.keys() & {"eval_a_loss", "eval_b_loss"}]
    for name in ("length_gap", "rewards/margins", "kl_to_reference"):
        assert [values[f"eval_{data}_{name}"] for data in "ab"] == [line[f"eval_{name}"] for line in raw]
        assert f"eval_{name}" not in values
    assert len({line["eval_kl_to_reference"] for line in raw}) == 2
    table, _ = plot_runs([tmp_path], tmp_path / "plots")
    assert all(f"\neval_{data}_rewards/margins " in table for data in "ab")
    sides = {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}
    found = _lines({"run": read_run_log(tmp_path)}, "dpo", sides)
    kinds = ("training", "evaluation on a", "evaluation on b")
    assert [line.label for line in found] == [f"{side}, {kind}" for side in sides.values() for kind in kinds]
    assert len({(line.colour, line.rare) for line in found}) == 6


class Draws(TrainerCallback):
    def on_evaluate(self, args, state, control, **kwargs):
        torch.rand(1)


@pytest.mark.parametrize(
    ("with_lora", "checkpointing"),
    [(False, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((False, True), (True, True)))],
)
def test_writing_completions_changes_no_weight(tmp_path, with_lora, checkpointing):
    """Neither by dropout's random numbers, nor by what writing leaves on the model."""

    own = {**EVALUATED, "eval_steps": 1, "disable_dropout": False, "gradient_checkpointing": checkpointing}

    def trained(name, callbacks=None, **settings):
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.3)
        made = trainer(
            tmp_path / name,
            prompts(12),
            settings={**own, **settings},
            model=None if with_lora else strong_model("gpt2", resid_pdrop=0.3),
            eval_dataset=held_out(),
            peft_config=lora if with_lora else None,
            callbacks=callbacks,
        )
        made.train()
        return weights(made)

    without = trained("without")
    assert trained("with", log_completions=True) == without
    assert trained("drawn", callbacks=[Draws()]) != without


def test_completions_without_evaluation_are_refused_early(tmp_path):
    with pytest.raises(ValueError, match=r"`log_completions`.*`eval_dataset` is None"):
        trainer(tmp_path, settings={"log_completions": True, "eval_strategy": "steps", "eval_steps": 1})
    with pytest.raises(ValueError, match=r"`log_completions`.*`eval_strategy` 'no'"):
        trainer(tmp_path, settings={"log_completions": True}, eval_dataset=held_out())
    args = ConGConfig(output_dir=str(tmp_path), stage="decode", log_completions=True, use_cpu=True, bf16=False)
    with pytest.raises(ValueError, match="`log_completions`"):
        StagedRun("no model is loaded", args, prompts(), weak_model="a", weak_reference_model="b")


# Pictures.


def drawn(path):
    with Image.open(path) as picture:
        width, height = picture.size
        assert width == 1200 and height > 300
        return len(picture.convert("RGB").getcolors(1 << 20))


def test_one_command_draws_a_run(done, tmp_path, capsys):
    output_dir, _ = done
    assert main(["plot", "--output_dir", str(output_dir), "--plot_dir", str(tmp_path / "plots")]) == 0
    out = capsys.readouterr().out
    pictures = sorted((tmp_path / "plots").iterdir())
    assert [path.name for path in pictures] == ["cost.png", "stage_1.png", "stage_2.png"]
    assert all(drawn(path) > 50 and str(path) in out for path in pictures)
    for name in ("decode/train/mean_tokens", "sft/eval_loss", "rewards/margins", "eval_kl_to_reference", "length_gap"):
        assert f"\n{name} " in out
    # By default, in the run itself.
    table, pictures = plot_runs([output_dir])
    assert {path.parent for path in pictures} == {output_dir / "_cong/plots"} and table in out


def test_a_run_that_has_only_begun_is_drawn_as_far_as_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Dies("sft", 2)])
    table, pictures = plot_runs([tmp_path])
    assert [path.name for path in pictures] == ["stage_1.png", "cost.png"]
    assert "decode/train/rows" in table and "rewards/margins" not in table
    assert [name for name in table.split() if name.startswith("memory/")] == ["memory/decode_peak_gib"]


def test_several_runs_are_drawn_over_each_other(done, tmp_path):
    output_dir, _ = done
    other = tmp_path / "other"
    run(other, pairs(8), eval_dataset=pairs(4))
    table, pictures = plot_runs([output_dir, other], tmp_path)
    header, _, *rows = table.splitlines()
    assert header.split() == ["last", "logged", output_dir.name, "other"]
    (row,) = [row.split() for row in rows if row.startswith("eval_kl_to_reference ")]
    assert row[2] == "-"  # what only one has
    assert [path.parent for path in pictures] == [tmp_path] * 3


def test_rounds_are_drawn_over_each_other(done, tmp_path):
    output_dir, _ = done
    log = (output_dir / "_cong/logs.jsonl").read_bytes()
    for name in ("rounds/round-10", "rounds/round-9"):
        (tmp_path / name / "_cong").mkdir(parents=True)
        (tmp_path / name / "_cong/logs.jsonl").write_bytes(log)
    table, pictures = plot_runs([tmp_path / "rounds"])  # killed in the tenth
    assert table.split()[2:4] == ["round-9", "round-10"]
    assert {path.parent for path in pictures} == {tmp_path / "rounds/_cong/plots"}
    (tmp_path / "rounds/_cong/logs.jsonl").write_bytes(log)
    assert [path.name for path in _with_rounds(tmp_path / "rounds")] == ["round-9", "round-10", "rounds"]


def test_a_run_that_has_logged_nothing_is_refused(tmp_path):
    (tmp_path / "_cong").mkdir()
    (tmp_path / "_cong/logs.jsonl").write_text('{"step": 0, "begins": "sft"}\n{"step": 0, "dec')
    with pytest.raises(ValueError, match="Nothing is logged yet of"):
        plot_runs([tmp_path])
    assert not (tmp_path / "_cong/plots").exists()


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main(["plot", "--output_dir", str(tmp_path)]) == 2
    assert "has no log of a run (_cong/logs.jsonl)" in capsys.readouterr().err


def test_lines_and_bars_of_every_kind(tmp_path):
    long = "a quantity with a name that does not fit on one line of a picture at all"
    panels = {long: [Line(long, {1: 0.0, 2: float("nan")}, 0), Line("b", {2: 1e9}, 9, rare=True)], "one": []}
    panels["one"] = [Line("alone", {7: 1.0}, 1)]
    plot_lines(tmp_path / "lines.png", {**panels, "third": panels["one"]}, title=long, xlabel="step")
    plot_bars(tmp_path / "bars.png", {long: {"a": {long: 1.0}, "b": {"x": 123456.0}}}, title="t")
    assert drawn(tmp_path / "lines.png") > 50 and drawn(tmp_path / "bars.png") > 50
