# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""SGLang's class of the pair: what can be said without SGLang, and, where it is installed, that SGLang takes it."""

import ast
from pathlib import Path

import pytest

from hf_cong import ContrastivePairConfig, ContrastivePairForCausalLM
from tests.tiny import tiny_config, tiny_pair

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "hf_cong" / "pair" / "sglang_models.py"


def test_entry_point_and_names_agree_with_the_saved_directory():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["sglang.srt.plugins"] == {"hf_cong": "hf_cong.pair.sglang_models:register"}
    # SGLang looks a model up by the architecture in config.json, which is the class's name.
    assert {"register", ContrastivePairForCausalLM.__name__} <= names
    (entry,) = (node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "EntryClass")
    assert entry.value.id == ContrastivePairForCausalLM.__name__
    assert f'"{ContrastivePairConfig.model_type}"' in SOURCE.read_text(encoding="utf-8")


def test_sglang_takes_a_saved_pair(tmp_path):
    pytest.importorskip("sglang.srt.models.registry", exc_type=ImportError)
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader.utils import get_model_architecture

    from hf_cong.pair import sglang_models

    ContrastivePairForCausalLM.from_pair(*tiny_pair("qwen2")).save_pretrained(tmp_path)
    sglang_models.register()
    seen = ModelConfig(str(tmp_path), dtype="float32", model_override_args='{"alpha": 0.5}')
    one = tiny_config("qwen2")
    assert get_model_architecture(seen)[0] is sglang_models.ContrastivePairForCausalLM
    assert seen.num_attention_layers == 2 * one.num_hidden_layers
    assert (seen.num_key_value_heads, seen.vocab_size) == (one.num_key_value_heads, one.vocab_size)
    assert seen.hf_config.alpha == 0.5
    assert not seen.is_multimodal
