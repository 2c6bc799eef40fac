# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One launch per stage ends as one launch of all, and each finds what the other left."""

import shutil

import pytest
from safetensors.torch import load_file

from hf_cong import ConGTrainer
from hf_cong.staged import StagedRun
from tests.tiny import tiny_tokenizer

from .run_cong import chosen_rows, config, lora, pairs, prompts, strong_model, weak_pair

STAGES = ("decode", "sft", "sample")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A strong model and a weak pair on disk, by the names that a recipe gives them."""
    root = tmp_path_factory.mktemp("models")
    # With dropout, which TRL's DPO turns off for both stages.
    strong = strong_model("gpt2", resid_pdrop=0.1, embd_pdrop=0.1)
    for name, model in zip(("strong", "policy", "reference"), (strong, *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return root


def settings(models, **overrides):
    weak = {"weak_model_name_or_path": models / "policy", "weak_reference_model_name_or_path": models / "reference"}
    return {**{name: str(path) for name, path in weak.items()}, "save_strategy": "steps", "save_steps": 2, **overrides}


def at_once(models, output_dir, data=None, peft_config=None, eval_dataset=None, **overrides):
    made = ConGTrainer(
        str(models / "strong"),
        args=config(output_dir, **settings(models, **overrides)),
        train_dataset=prompts(12) if data is None else data,
        eval_dataset=eval_dataset,
        peft_config=peft_config,
    )
    made.train(resume_from_checkpoint=True)
    made.save_model()
    return made


def staged(models, output_dir, stage, data=None, peft_config=None, eval_dataset=None, **overrides):
    run = StagedRun(
        overrides.pop("model", str(models / "strong")),
        config(output_dir, stage=stage, **settings(models, **overrides)),
        prompts(12) if data is None else data,
        eval_dataset,
        peft_config=peft_config,
    )
    if stage != "dpo":
        run.launch(stage)
        return run
    made = run.trainer()
    made.train(resume_from_checkpoint=True)
    made.save_model()
    return made


def by_stages(*args, **kwargs):
    return [staged(*args, stage=stage, **kwargs) for stage in (*STAGES, "dpo")][-1]


def artefacts(output_dir):
    """Every file of weights and completions that a run leaves, by its name, and its bytes."""
    names = ("*.safetensors", "completions.parquet", "preferences.parquet")
    files = [path for name in names for path in output_dir.rglob(name)]
    return {path.relative_to(output_dir).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("with_lora", [False, True])
def test_launches_by_stage_leave_the_bytes_of_one_launch(models, tmp_path, with_lora):
    peft = lora() if with_lora else None
    at_once(models, tmp_path / "once", peft_config=peft)
    by_stages(models, tmp_path / "staged", peft_config=lora() if with_lora else None)
    once, by_stage = artefacts(tmp_path / "once"), artefacts(tmp_path / "staged")
    assert {name.split("/")[1].split("-")[0] for name in once if name.startswith("_cong")} == {
        "decode",
        "sft",
        "sample",
        "pairs",
    }
    assert sorted(once) == sorted(by_stage)
    assert once == by_stage
