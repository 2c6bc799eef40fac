# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One launch per stage ends as one launch of all, and each finds what the other left."""

import json
import shutil

import pytest
from safetensors.torch import load_file
from trl.trainer.utils import hash_module

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


@pytest.mark.parametrize("with_lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_launches_by_stage_leave_the_bytes_of_one_launch(models, tmp_path, with_lora):
    # Dropout that shows in the scores of the reference, if anything draws it there.
    peft = [lora(lora_dropout=0.3) if with_lora else None for _ in range(2)]
    at_once(models, tmp_path / "once", peft_config=peft[0])
    by_stages(models, tmp_path / "staged", peft_config=peft[1])
    once, by_stage = artefacts(tmp_path / "once"), artefacts(tmp_path / "staged")
    assert {name.split("/")[1].split("-")[0] for name in once if name.startswith("_cong")} == {
        "decode",
        "sft",
        "sample",
        "pairs",
    }
    assert sorted(once) == sorted(by_stage)
    assert once == by_stage
    manifests = [json.loads((tmp_path / name / "_cong/manifest.json").read_text()) for name in ("once", "staged")]
    for name in ("run", "stages", "counts", "sources", "settings"):
        assert manifests[0][name] == manifests[1][name], name
    assert set(manifests[0]["measures"]) == set(manifests[1]["measures"]) == {"sft", "dpo"}


def test_what_would_make_them_differ_does(models, tmp_path, monkeypatch):
    """The equality above sees weights that were trained with dropout, and samples of another seed."""
    by_stages(models, tmp_path / "a")
    monkeypatch.setattr("hf_cong.staged.disable_dropout_in_model", lambda model: None)
    by_stages(models, tmp_path / "dropout")
    a, dropout = artefacts(tmp_path / "a"), artefacts(tmp_path / "dropout")
    (trained,) = (name for name in a if name.endswith("final/model.safetensors"))
    assert a[trained] != dropout[trained]
    assert a["model.safetensors"] != dropout["model.safetensors"]
    by_stages(models, tmp_path / "seed", seed=1)
    seed = artefacts(tmp_path / "seed")
    assert not [name for name in a if name.startswith("_cong") and name in seed]
    assert a["model.safetensors"] != seed["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("with_lora", [False, True])
def test_each_takes_over_from_the_other_after_any_stage(models, tmp_path, with_lora):
    def peft():
        return lora() if with_lora else None

    evals = {"eval_dataset": prompts(16).select(range(12, 16)), "eval_strategy": "epoch"}
    at_once(models, tmp_path / "once", peft_config=peft(), **evals)
    whole = artefacts(tmp_path / "once")
    assert [name for name in whole if name.startswith("_cong/sample-eval")]
    for last in range(1, len(STAGES) + 1):
        for stage in STAGES[:last]:
            staged(models, tmp_path / str(last), stage, peft_config=peft(), **evals)
        begun = [tmp_path / str(last) / name for name in artefacts(tmp_path / str(last)) if "pairs-" not in name]
        times = [path.stat().st_mtime_ns for path in begun]
        at_once(models, tmp_path / str(last), peft_config=peft(), **evals)
        assert artefacts(tmp_path / str(last)) == whole
        assert times == [path.stat().st_mtime_ns for path in begun]  # nothing was done twice
    # The reverse: DPO was cut off, and only its own launch is repeated; earlier stages have nothing to do.
    shutil.rmtree(max((tmp_path / "once").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])))
    (tmp_path / "once" / ("adapter_model.safetensors" if with_lora else "model.safetensors")).unlink()
    by_stages(models, tmp_path / "once", peft_config=peft(), **evals)
    assert artefacts(tmp_path / "once") == whole


@pytest.mark.slow
def test_a_stage_has_nothing_to_do_if_its_columns_are_there(models, tmp_path, capsys):
    def told(stage, data, **overrides):
        staged(models, tmp_path / "out", stage, data, weak_model_name_or_path=None, **overrides)
        return "nothing to do" in capsys.readouterr().out

    assert told("decode", chosen_rows(6))
    assert not told("sft", chosen_rows(6)) and not told("sample", chosen_rows(6))
    assert told("sft", chosen_rows(6), sft_num_train_epochs=0)
    assert all(told(stage, pairs(6)) for stage in STAGES)
    for name, data, extra in (("chosen", chosen_rows(6), {}), ("none", chosen_rows(6), {"sft_num_train_epochs": 0})):
        at_once(models, tmp_path / f"{name}-once", data, **extra)
        by_stages(models, tmp_path / name, data=data, **extra)
        assert artefacts(tmp_path / f"{name}-once") == artefacts(tmp_path / name)
    given = [staged(models, tmp_path / "pairs", "dpo", pairs(6)), at_once(models, tmp_path / "pairs-once", pairs(6))]
    assert len({hash_module(made.model) for made in given}) == 1


@pytest.mark.slow
def test_lora_without_stage_one(models, tmp_path):
    for name, run in (("once", at_once), ("staged", by_stages)):
        run(models, tmp_path / name, data=chosen_rows(6), peft_config=lora(), sft_num_train_epochs=0)
    assert artefacts(tmp_path / "once") == artefacts(tmp_path / "staged")


@pytest.mark.slow
def test_the_rows_of_an_update_may_be_cut_otherwise_on_the_way(models, tmp_path):
    """As for another number of processes. A number of rows that is another one makes another run."""
    whole, halved = {"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 2}
    alike = {**halved, "gradient_accumulation_steps": 2}
    for stage in (*STAGES, "dpo"):
        staged(models, tmp_path / "whole", stage, **whole)
    for stage in STAGES:
        staged(models, tmp_path / "cut", stage, **(alike if stage == "sample" else whole))
    with pytest.raises(FileNotFoundError, match="`per_device_train_batch_size` 4 there, 2 here"):
        staged(models, tmp_path / "cut", "sample", **halved)
    staged(models, tmp_path / "cut", "dpo", **whole)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-3")
    with pytest.raises(FileNotFoundError):
        staged(models, tmp_path / "cut", "dpo", **halved)
    resumed = staged(models, tmp_path / "cut", "dpo", **alike)
    assert resumed.state.global_step == 3
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert sum((one[name] - tensor).abs().mean() for name, tensor in other.items()) / len(one) < 1e-7
    assert artefacts(tmp_path / "whole")["model.safetensors"] != artefacts(tmp_path / "cut")["model.safetensors"]


# Refusals.


def test_a_stage_names_the_one_to_run_first(models, tmp_path):
    for before, stage in zip(STAGES, (*STAGES[1:], "dpo"), strict=True):
        with pytest.raises(FileNotFoundError, match=rf"Stage `{before}` .* has not ended: .*--stage {before}`"):
            staged(models, tmp_path, stage)
        staged(models, tmp_path, before)
    staged(models, tmp_path, "dpo")


def other_rows():
    return prompts(13).select(range(1, 13))


CHANGES = {
    "alpha": ({"alpha": 0.7}, "decode", r"decode-train-\w+ is of another run: `engine.alpha` 0.4 there, 0.7 here"),
    "temperature": ({"temperature": 0.5}, "decode", "`temperature` 0.8 there, 0.5 here"),
    "prompts": ({"data": other_rows}, "decode", "is of another run: other prompts, or another tokenizer"),
    "weak model": ({"weak_model_name_or_path": "strong"}, "decode", "`engine.policy` 'files:"),
    "sft setting": (
        {"sft_learning_rate": 2e-3},
        "sft",
        r"sft-\w+ is of another run: `learning_rate` 0.001 there",
    ),
    "sft_kwargs": ({"sft_kwargs": {"weight_decay": 0.1}}, "sft", "`weight_decay` 0.0 there, 0.1 here"),
    "strong model": ({"model": "other"}, "sft", "`model` 'files:"),
    "adapter": ({"peft_config": lora}, "sft", "`adapters` '"),
}


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """All stages but `dpo`, and another strong model."""
    output_dir = tmp_path_factory.mktemp("finished")
    for stage in STAGES:
        staged(models, output_dir, stage)
    if not (models / "other").exists():
        shutil.copytree(models / "strong", models / "other")
        strong_model("gpt2", seed=9).save_pretrained(models / "other")
    return output_dir


@pytest.mark.parametrize("change", CHANGES)
def test_artefacts_of_another_chain_are_refused(models, finished, change):
    overrides, stage, says = CHANGES[change]
    overrides = {name: value() if callable(value) else value for name, value in overrides.items()}
    overrides |= {name: str(models / value) for name, value in overrides.items() if value in ("strong", "other")}
    before = sorted(finished.rglob("*"))
    with pytest.raises(FileNotFoundError, match=says) as refusal:
        staged(models, finished, "dpo", **overrides)
    assert f"--stage {stage}`" in str(refusal.value)
    assert sorted(finished.rglob("*")) == before


def test_weights_that_were_changed_in_place_are_another_chain(models, finished, tmp_path):
    shutil.copytree(models / "strong", tmp_path / "strong")
    shutil.copytree(finished, tmp_path / "out")
    staged(models, tmp_path / "out", "sample", model=str(tmp_path / "strong"))  # the name of a folder is no content
    strong_model("gpt2", seed=9).save_pretrained(tmp_path / "strong")
    with pytest.raises(FileNotFoundError, match="`model` 'files:"):
        staged(models, tmp_path / "out", "sample", model=str(tmp_path / "strong"))


def test_checkpoints_of_another_run_are_refused_by_its_stage(models, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    staged(models, tmp_path / "out", "dpo")
    with pytest.raises(ValueError, match="belongs to another run: `learning_rate` 0.001 there, 0.002 here"):
        staged(models, tmp_path / "out", "dpo", learning_rate=2e-3)


def test_damaged_weights_of_stage_one_are_refused_then_mended(models, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    whole = artefacts(tmp_path / "out")
    (weights,) = (tmp_path / "out").glob("_cong/sft-*/final/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(FileNotFoundError, match=r"model.safetensors has \d+ bytes instead of \d+.*--stage sft`"):
        staged(models, tmp_path / "out", "dpo")
    staged(models, tmp_path / "out", "sft")
    assert artefacts(tmp_path / "out") == whole


def test_stages_are_of_models_with_names(models, tmp_path):
    with pytest.raises(TypeError, match="`model` is a GPT2LMHeadModel; .* Save it, and pass the directory"):
        staged(models, tmp_path, "decode", model=strong_model("gpt2"))
    with pytest.raises(ValueError, match="`stage` is 'sft', and `ConGTrainer` runs every stage that is left"):
        at_once(models, tmp_path, stage="sft")
    with pytest.raises(ValueError, match="`stage` must be one of all, decode, sft, sample, dpo, got 'rlhf'"):
        config(tmp_path, stage="rlhf")
    with pytest.raises(ValueError, match="is for the stages 'decode' and 'sample', got `stage='sft'`"):
        config(tmp_path, stage="sft", engine="vllm")


def test_what_would_fail_after_decoding_is_refused_before_it(models, tmp_path):
    with pytest.raises(ValueError, match="no room is left for a prompt"):
        staged(models, tmp_path, "decode", max_new_tokens=600)
    assert not list(tmp_path.glob("_cong/*"))
