# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands take ids of the Hub where they take paths."""

import json
import re

import pytest
from datasets import Dataset
from huggingface_hub import HfApi

from hf_cong import ContrastivePairForCausalLM, generate_completions
from hf_cong.cli import main
from tests.hub.test_models import WIDTH, push
from tests.tiny import tiny_pair, tiny_tokenizer

PROMPTS = ["the cat sat", "a kind owl ran", "tell me about the fox"]


@pytest.fixture(scope="module")
def named(hub):
    """The ids of a policy, a reference and prompts, as arguments."""
    names = {"policy": "org/post", "reference": "org/pre", "prompts": "org/prompts"}
    for role, model in zip(names, tiny_pair("llama", 3, **WIDTH), strict=False):
        push(names[role], model, tiny_tokenizer(), private=True)
    Dataset.from_dict({"prompt": PROMPTS}).push_to_hub(names["prompts"], private=True)
    return [part for name, value in names.items() for part in (f"--{name}", value)]


def test_generate(named, tmp_path):
    assert main(["generate", *named, "--output_dir", str(tmp_path / "by_id"), "--max_new_tokens", "4"]) == 0
    manifest = json.loads((tmp_path / "by_id" / "manifest.json").read_text())
    assert manifest["identity"]["engine"]["policy"] == f"org/post@{HfApi().model_info('org/post').sha}"
    written = Dataset.from_parquet(str(tmp_path / "by_id" / "completions.parquet"))
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("llama", 3, **WIDTH))
    options = {"tokenizer": tiny_tokenizer(), "output_dir": tmp_path / "direct", "max_new_tokens": 4}
    assert written["completion"] == generate_completions(PROMPTS, pair, **options)["completion"]


def test_compress(named, tmp_path, capsys):
    command = ["compress", *named[:4], "--output_dir", str(tmp_path / "lora"), "--rank", "4", "--ranks", "4"]
    assert main(command) == 0, capsys.readouterr().err
    assert (tmp_path / "lora" / "tokenizer.json").exists()


@pytest.mark.parametrize("command", ["generate", "compress", "search"])
@pytest.mark.parametrize("role", ["policy", "reference"])
def test_what_is_not_there_is_named(named, tmp_path, capsys, command, role):
    arguments = [*named, "--model", "org/post"] if command == "search" else named[: 4 if command == "compress" else 6]
    arguments = [*arguments, f"--{role}", "org/nowhere", "--output_dir", str(tmp_path / "out")]
    assert main([command, *arguments]) == 2
    assert re.search(rf"hf-cong {command}: .*org/nowhere", capsys.readouterr().err, re.DOTALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["generate", "search"])
@pytest.mark.parametrize("owner", ["another", "nobody"])
def test_what_is_private_is_named(hub, named, tmp_path, capsys, monkeypatch, command, owner):
    monkeypatch.setenv("HF_TOKEN", hub.other_token if owner == "another" else "")
    arguments = [*named, "--model", "org/post"] if command == "search" else named
    assert main([command, *arguments, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"hf-cong {command}: .*org/post .*private", error, re.DOTALL)
    assert not (tmp_path / "out").exists() and hub.other_token not in error
