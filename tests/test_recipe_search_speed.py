# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The recipe that times a search: its contestants do the same work, and its files are written."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from hf_cong import ImplicitReward

SCRIPT = Path(__file__).parents[1] / "recipes" / "search_speed" / "measure.py"
TINY = {"vocab_size": 64, "base_hidden": 64, "base_layers": 2, "pair_hidden": 64, "pair_layers": 1}


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("search_speed", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(recipe):
    args = argparse.Namespace(**TINY, device="cpu", dtype="float32")
    tokenizer = recipe.word_tokenizer(args.vocab_size)
    base = recipe.random_model(args.base_hidden, args.base_layers, args, seed=0)
    pair = [recipe.random_model(args.pair_hidden, args.pair_layers, args, seed=seed) for seed in (1, 2)]
    return tokenizer, base, pair


def test_all_write_as_many_tokens(recipe, models):
    tokenizer, base, pair = models
    prompts = ["w3 w4 w5", "w6 w7 w8"]
    written = recipe.sample_rows(base, tokenizer, prompts, 6, 12)
    assert [len(row.ids) for row in written] == [12] * 12
    assert recipe.generate_rows(base, tokenizer, prompts, 6, 12).shape == (12, 3 + 12)
    text = recipe.original_search(base, pair, tokenizer, prompts[0], 2, 3, 5, 12)
    assert len(text.split()) == 12


def test_the_originals_way_selects_by_reward(recipe, models):
    tokenizer, base, pair = models
    reward = ImplicitReward(*pair, tokenizer)
    torch.manual_seed(0)
    chosen = [recipe.original_search(base, pair, tokenizer, "w3 w4", 2, 3, 4, 12) for _ in range(8)]
    plain = [recipe.original_search(base, pair, tokenizer, "w3 w4", 1, 1, 4, 12) for _ in range(8)]
    best, single = (sum(reward.score(["w3 w4"] * 8, [f" {text}" for text in texts])) for texts in (chosen, plain))
    assert best > single + 8


def test_the_recipe_writes_its_files(recipe, tmp_path, monkeypatch, capsys):
    options = {**TINY, "prompts": 2, "prompt_length": 4, "original_prompts": 1, "scored_rows": 2, "repeats": 1}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    arguments += ["--tokens", "10", "12", "--lengths", "5", "10", "--output_dir", str(tmp_path)]
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    recipe.main()
    torch.set_num_threads(threads)
    assert "the original's way" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["search over sampling"] > 0
    assert results["original over search"] > 0
    assert (tmp_path / "results.md").read_text().startswith("| way")
    assert (tmp_path / "search_speed.png").stat().st_size > 10_000
