# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""vLLM writes in launches of the stages `decode` and `sample`; launches of the others find what it wrote."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.distributed.run_cong import prompts
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

TOKENIZER = tiny_tokenizer()
# Heads of 32, of which every backend of vLLM has kernels.
SHAPE = {"vocab_size": len(TOKENIZER), "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipe")
    models = (tiny_model("qwen2", seed=7, **SHAPE), *tiny_pair("qwen2", **SHAPE))
    for name, model in zip(("strong", "policy", "reference"), models, strict=True):
        model.save_pretrained(root / name)
        TOKENIZER.save_pretrained(root / name)
    prompts(12).to_json(root / "prompts.jsonl")
    settings = {
        "model_name_or_path": str(root / "strong"),
        "weak_model_name_or_path": str(root / "policy"),
        "weak_reference_model_name_or_path": str(root / "reference"),
        "dataset_name": str(root / "prompts.jsonl"),
        "temperature": 0.001,  # so that what is drawn does not hang on whose random numbers
        "max_new_tokens": 12,
        "max_length": 128,
        "drop_truncated": False,
        "sft_num_train_epochs": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    (root / "cong.yaml").write_text(yaml.safe_dump(settings))
    return root / "cong.yaml"


def launch(recipe, output_dir, stage, *options):
    command = [sys.executable, "-m", "hf_cong.cli", "train", "--config", recipe, "--stage", stage]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output_dir", output_dir, *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env={**os.environ, **quiet},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def completions(output_dir, stage):
    """What the stage wrote, by prompt, and the facts of its engine."""
    (manifest,) = output_dir.glob(f"_cong/{stage}-train-*/manifest.json")
    lines = [line for path in manifest.parent.glob("journal-*.jsonl") for line in path.read_text().splitlines()[1:]]
    rows = {row["prompt_id"]: row["completion_ids"] for row in map(json.loads, lines)}
    return rows, json.loads(manifest.read_text())["engine"]


@pytest.mark.parametrize("adapter", [(), ("--use_peft", "true", "--lora_r", "4", "--learning_rate", "1e-2")])
def test_vllm_writes_what_transformers_would_have_written(recipe, tmp_path, adapter):
    here, there = tmp_path / "here", tmp_path / "there"
    launch(recipe, here, "decode", *adapter)
    if adapter:
        shutil.copytree(here, there)
    else:
        launch(recipe, there, "decode", "--engine", "vllm")
        decoded, facts = completions(there, "decode")
        assert decoded == completions(here, "decode")[0]
        assert facts["vllm"] and facts["alpha"] == 0.4
        launch(recipe, tmp_path / "other", "decode", "--alpha", "1.0")
        assert completions(tmp_path / "other", "decode")[0] != decoded
    for output_dir, options in ((here, ()), (there, ("--engine", "vllm"))):
        launch(recipe, output_dir, "sft", *adapter, "--sft_learning_rate", "1e-2")
        launch(recipe, output_dir, "sample", *adapter, "--sft_learning_rate", "1e-2", *options)
    sampled, facts = completions(there, "sample")
    assert sampled == completions(here, "sample")[0] != completions(there, "decode")[0]
    assert facts["vllm"]
    launch(recipe, there, "dpo", *adapter, "--sft_learning_rate", "1e-2")
    assert (there / ("adapter_model.safetensors" if adapter else "model.safetensors")).exists()
