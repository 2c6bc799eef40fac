# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""`hf-cong generate` with everything that may write: two checkpoints, a saved pair, an adapter, a server."""

import json

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_cong import ContrastivePairForCausalLM, generate_completions
from hf_cong.cli import main
from tests.engines.stand_in import stand_in
from tests.test_generation import PROMPTS, make_model, make_pair, tokens
from tests.tiny import tiny_tokenizer

SETTINGS = {"max_new_tokens": 8, "seed": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    pair = make_pair()
    models = {"pair": pair, "policy": pair.policy, "reference": pair.reference}
    for name, model in models.items():
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    base = make_model()
    base.save_pretrained(root / "base")
    tiny_tokenizer().save_pretrained(root / "base")
    adapted = get_peft_model(
        type(base).from_pretrained(root / "base"),
        LoraConfig(r=4, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(root / "adapter")
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return root


def generate(root, path, policy, *more):
    named = ["--prompts", str(root / "prompts.jsonl"), "--policy", str(root / policy), "--output_dir", str(path)]
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    return main(["generate", *named, *settings, *more])


def completions(path):
    return datasets.Dataset.from_parquet(str(path / "completions.parquet"))


def directly(engine, path):
    return tokens(
        generate_completions(PROMPTS, engine, tokenizer=tiny_tokenizer(), output_dir=path / "directly", **SETTINGS)
    )


def test_a_saved_pair_has_its_own_alpha_unless_one_is_given(root, tmp_path, capsys):
    pair = ContrastivePairForCausalLM.from_pretrained(root / "pair")
    assert generate(root, tmp_path / "own", "pair") == 0
    own = completions(tmp_path / "own")
    assert tokens(own) == directly(pair, tmp_path / "own")
    assert set(own["alpha"]) == {0.4}
    assert generate(root, tmp_path / "given", "pair", "--alpha", "0.9") == 0
    given = completions(tmp_path / "given")
    assert (set(given["alpha"]), set(given["plausibility_threshold"])) == ({0.9}, {0.1})
    pair.config.alpha = 0.9
    assert tokens(given) == directly(pair, tmp_path / "given") != tokens(own)
    assert generate(root, tmp_path / "given", "pair") == 2
    assert "another run: `engine.alpha` 0.9 there, 0.4 here." in capsys.readouterr().err
    assert generate(root, tmp_path / "given", "pair", "--alpha", "0.9") == 0


def test_an_adapter_is_a_pair_with_its_base(root, tmp_path):
    assert generate(root, tmp_path / "pair", "adapter", "--alpha", "0.3") == 0
    pair = ContrastivePairForCausalLM.from_pair(root / "adapter", alpha=0.3)
    assert tokens(completions(tmp_path / "pair")) == directly(pair, tmp_path)
    assert set(completions(tmp_path / "pair")["alpha"]) == {0.3}
    engine = json.loads((tmp_path / "pair" / "manifest.json").read_text())["identity"]["engine"]
    assert engine["reference"].startswith("files:") and engine["reference"] != engine["policy"]
    # the same adapter on another base is another run
    assert generate(root, tmp_path / "pair", "adapter", "--alpha", "0.3", "--reference", str(root / "reference")) == 2


@pytest.mark.parametrize("name", ["alpha", "plausibility_threshold"])
def test_what_is_a_pairs_is_refused_for_one_model(root, tmp_path, capsys, name):
    assert generate(root, tmp_path, "policy", f"--{name}", "0.3") == 2
    assert f"`{name}` is for a pair, and `policy` " in capsys.readouterr().err
    assert generate(root, tmp_path, "pair", "--reference", str(root / "reference")) == 2
    assert "is a saved pair and has its reference" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_server_writes_in_our_stead(root, tmp_path, capsys):
    pair = make_pair()
    with stand_in(pair, tiny_tokenizer()) as server:
        assert generate(root, tmp_path / "there", "pair", "--engine", server.url) == 0
        assert tokens(completions(tmp_path / "there")) == directly(pair, tmp_path)
        for name, value in {"alpha": "0.5", "plausibility_threshold": "0.2", "dtype": "auto"}.items():
            assert generate(root, tmp_path / "no", "pair", "--engine", server.url, f"--{name}", value) == 2
            error = capsys.readouterr().err
            assert f"`{name}` is fixed by the engine, got " in error
            assert """--hf-overrides '{"alpha": 0.5}'`""" in error
        assert not (tmp_path / "no").exists()
    down = ["--engine", server.url]
    assert generate(root, tmp_path / "no", "pair", *down) == 2
    assert f"{server.url} does not say which models it serves" in capsys.readouterr().err
    assert generate(root, tmp_path / "no", "pair", "--engine", "localhost") == 2
    assert "or the URL of a server such as" in capsys.readouterr().err
