# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import shutil

import pytest
from peft import LoraConfig, get_peft_model

from hf_cong.checkpoints import (
    check_resumable,
    checkpoints,
    damage,
    last_whole_checkpoint,
    model_identity,
    seal,
    tokenizer_identity,
)

from .tiny import tiny_model, tiny_tokenizer


def checkpoint(directory, step):
    path = directory / f"checkpoint-{step}"
    (path / "part").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "part/rng_state.pth"):
        (path / name).write_bytes(b"x" * step)
    seal(path)
    return path


def test_checkpoints_are_ordered_by_step_and_nothing_else_is_one(tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]
    assert checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda path: (path / "part/rng_state.pth").unlink(), "part/rng_state.pth is missing"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x"), "model.safetensors has 1 bytes instead of 10"),
        (lambda path: (path / "files.json").unlink(), "has no files.json"),
        (lambda path: shutil.rmtree(path / "part"), "part/rng_state.pth is missing"),
        (lambda path: (path / "files.json").write_text('{"model.safe'), "its files.json is damaged"),
        (lambda path: (path / "files.json").write_text("[]"), "its files.json is damaged"),
        (lambda path: (path / "files.json").write_bytes(b"\xff\xfe"), "its files.json is damaged"),
    ],
)
def test_damage_is_said_in_words_and_passed_over(tmp_path, harm, reason):
    first, last = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert damage(last) is None
    assert last_whole_checkpoint(tmp_path) == str(last)
    harm(last)
    assert reason in damage(last)
    with pytest.raises(ValueError, match="Cannot resume from .*checkpoint-10: "):
        check_resumable(last)
    assert last_whole_checkpoint(tmp_path) == str(first)
    harm(first)
    assert last_whole_checkpoint(tmp_path) is None


def test_a_checkpoint_without_its_optimizer_cannot_be_resumed(tmp_path):
    path = checkpoint(tmp_path, 3)
    (path / "optimizer.pt").unlink()
    seal(path)
    assert damage(path) is None
    with pytest.raises(ValueError, match="save_only_model=True"):
        check_resumable(path)


def test_a_model_is_named_by_its_weights_wherever_it_lies(tmp_path):
    model = tiny_model("llama", 0)
    assert model_identity(model) == model_identity(tiny_model("llama", 0)) != model_identity(tiny_model("llama", 1))
    model.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert model_identity(str(tmp_path / "a")) == model_identity(str(tmp_path / "b"))
    tiny_model("llama", 1).save_pretrained(tmp_path / "b")
    assert model_identity(str(tmp_path / "a")) != model_identity(str(tmp_path / "b"))


@pytest.mark.parametrize("adapter", [False, True])
def test_a_model_of_the_hub_is_named_by_its_commit(tmp_path, monkeypatch, adapter):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = tiny_model("llama", 0)
    repository = tmp_path / "models--org--weak"
    for commit, branch in (("a" * 40, "main"), ("b" * 40, "v2")):
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
        if adapter:  # which has no configuration of a model
            model = get_peft_model(tiny_model("llama", 0), LoraConfig(target_modules=["q_proj"]))
        model.save_pretrained(repository / "snapshots" / commit)
    assert model_identity("org/weak", cache_dir=tmp_path) == f"org/weak@{'a' * 40}"
    assert model_identity("org/weak", cache_dir=tmp_path, revision="v2") == f"org/weak@{'b' * 40}"
    with pytest.raises(OSError, match="couldn.t find them in the cached files"):
        model_identity("org/other", cache_dir=tmp_path)


def test_a_tokenizer_is_named_by_its_vocabulary_and_template():
    tokenizer = tiny_tokenizer()
    name = tokenizer_identity(tokenizer)
    tokenizer(["some text", "more"], padding=True)  # use leaves no trace in the name
    assert name == tokenizer_identity(tokenizer) == tokenizer_identity(tiny_tokenizer())
    assert name != tokenizer_identity(tiny_tokenizer(seed=1))
    tokenizer.chat_template += " "
    assert name != tokenizer_identity(tokenizer)
