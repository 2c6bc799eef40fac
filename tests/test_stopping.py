# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import os
import signal

import pytest
import torch
from transformers import TrainerCallback
from trl import DPOTrainer

from hf_cong.checkpoints import damage
from hf_cong.prompts import prompt_id

from .distributed.run_cong import chosen_rows, config, pairs, prompts, strong_model, trainer, weights
from .tiny import tiny_tokenizer


class At(TrainerCallback):
    """Does something before a step of a trainer, `sft` or `dpo`."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act(kwargs["model"])


def poison(model):
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)


@pytest.mark.parametrize("data", ["prompts", "pairs"])
def test_a_loss_that_is_no_number_stops_with_its_step_and_prompts(tmp_path, caplog, data):
    rows = pairs(12) if data == "pairs" else prompts(12)
    made = trainer(tmp_path, rows, weak=data == "prompts", callbacks=[At(1, poison)])
    with pytest.raises(
        FloatingPointError, match=r"The loss of step 2 is nan in process 0 of 1, .*`prompt_id`"
    ) as stop:
        made.train()
    named = [name for name in map(prompt_id, rows["prompt"]) if name in str(stop.value)]
    assert len(named) == 4  # the batch
    assert "Stage dpo failed in process 0 of 1: FloatingPointError" in caplog.text


def test_stage_one_stops_too(tmp_path, monkeypatch, caplog):
    seen = []

    def training_step(self, model, inputs, num_items_in_batch=None):
        seen.append(inputs["input_ids"].clone())
        return torch.tensor(torch.inf if len(seen) == 3 else 1.0)

    monkeypatch.setattr("trl.SFTTrainer.training_step", training_step)
    rows = chosen_rows(12)
    made = trainer(tmp_path, rows, weak=False)
    with pytest.raises(FloatingPointError, match="The loss of step 3 is inf") as stop:
        made.train()
    (batch,) = seen[2:]
    texts = tiny_tokenizer().batch_decode(batch)
    of_batch = [
        row["prompt"] for row in rows if any(row["prompt"][0]["content"] + "<|im_end|>" in text for text in texts)
    ]
    assert len(of_batch) == 4 and all(prompt_id(prompt) in str(stop.value) for prompt in of_batch)
    assert sum(prompt_id(prompt) in str(stop.value) for prompt in rows["prompt"]) == 4
    assert "Stage sft failed" in caplog.text
    assert not list(tmp_path.glob("_cong/sft-*/final"))


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_packed_rows_have_names_unless_they_were_cut(tmp_path, monkeypatch, strategy):
    step, seen = "trl.SFTTrainer.training_step", []

    def training_step(self, model, inputs, num_items_in_batch=None):
        seen.append(inputs["input_ids"].clone())
        return torch.tensor(torch.nan)

    monkeypatch.setattr(step, training_step)
    packing = {"packing": True, "packing_strategy": strategy, "per_device_train_batch_size": 1}
    rows = chosen_rows(12)
    made = trainer(tmp_path, rows, weak=False, settings={"sft_kwargs": packing})
    with pytest.raises(FloatingPointError) as stop:
        made.train()
    (text,) = tiny_tokenizer().batch_decode(seen[0])
    inside = [row["prompt"][0]["content"] + "<|im_end|>" in text for row in rows]
    assert 1 < sum(inside) < 12
    named = [prompt_id(prompt) in str(stop.value) for prompt in rows["prompt"]]
    assert named == (inside if strategy == "bfd" else [False] * 12)
    assert ("packed together" in str(stop.value)) == (strategy == "wrapped")


def test_trl_alone_goes_on_without_a_word(tmp_path):
    made = DPOTrainer(
        strong_model(),
        args=config(tmp_path, precompute_ref_log_probs=True),
        train_dataset=pairs(12),
        processing_class=tiny_tokenizer(),
        callbacks=[At(1, poison)],
    )
    made.train()
    assert made.state.global_step == 3


def long_trainer(output_dir, *, asked, callbacks=()):
    settings = {"enable_jit_checkpoint": asked, "save_strategy": "no", "num_train_epochs": 4}
    return trainer(output_dir, pairs(12), weak=False, settings=settings, callbacks=list(callbacks))


def terminate(model=None):
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_a_whole_checkpoint_and_the_same_command_goes_on(tmp_path, caplog):
    before = signal.getsignal(signal.SIGTERM)
    whole = long_trainer(tmp_path / "whole", asked=False)
    whole.train()
    made = long_trainer(tmp_path / "out", asked=True, callbacks=[At(5, terminate)])
    with pytest.raises(SystemExit) as left:
        made.train()
    assert left.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped after step 6 of 12 and saved" in caplog.text and "failed" not in caplog.text
    assert damage(tmp_path / "out" / "checkpoint-6") is None
    again = long_trainer(tmp_path / "out", asked=True)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 12
    assert weights(again) == weights(whole)


def test_sigterm_in_stage_one_leaves_no_result(tmp_path):
    class InStageOne(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if (
                "sft/loss" in logs
                and state.global_step == 3
                and not list(tmp_path.glob("out/_cong/sft-*/checkpoint-*"))
            ):
                terminate()

    def run(name, asked):
        settings = {"enable_jit_checkpoint": asked, "save_strategy": "no"}
        watch = [InStageOne()] if asked else []
        made = trainer(tmp_path / name, chosen_rows(24), weak=False, settings=settings, callbacks=watch)
        made.train(resume_from_checkpoint=True)
        return weights(made)

    whole = run("whole", False)
    with pytest.raises(SystemExit):
        run("out", True)
    assert not list(tmp_path.glob("out/_cong/sft-*/final")) and not list(tmp_path.glob("out/_cong/sample-*"))
    assert run("out", True) == whole


ENDS = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "per_device_train_batch_size": 2}
ENDS |= {"lr_scheduler_type": "constant"}  # else a step too many may change nothing


def test_what_has_ended_takes_no_further_step(tmp_path):
    settings = {**ENDS, "sft_kwargs": {"max_steps": 2}}
    made = trainer(tmp_path, chosen_rows(12), weak=False, settings=settings)
    made.train()
    (final,) = tmp_path.glob("_cong/sft-*/final")
    stage_one = (final / "model.safetensors").read_bytes()
    (final / "files.json").unlink()  # as if it had been killed after its last checkpoint
    again = trainer(tmp_path, chosen_rows(12), weak=False, settings=settings)
    again.train(resume_from_checkpoint=True)
    assert (final / "model.safetensors").read_bytes() == stage_one
    assert weights(again) == weights(made) and again.state.global_step == 2
    assert again.state.log_history[:-1] == made.state.log_history[:-1]  # the last is of the launch


def test_trl_alone_takes_one(tmp_path):
    made = trainer(tmp_path, pairs(12), weak=False, cls=DPOTrainer, settings=ENDS)
    made.train()
    again = trainer(tmp_path, pairs(12), weak=False, cls=DPOTrainer, settings=ENDS)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3 and weights(again) != weights(made)
