# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import pytest
import yaml

from tests.tiny import tiny_tokenizer

from .run_cong import LONG, prompts, strong_model, weak_pair


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """A recipe as a user writes it, and the models and prompts that it names."""
    root = tmp_path_factory.mktemp("recipe")
    for name, model in zip(("strong", "policy", "reference"), (strong_model(), *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    prompts().to_json(root / "prompts.jsonl")
    settings = {
        "model_name_or_path": str(root / "strong"),
        "weak_model_name_or_path": str(root / "policy"),
        "weak_reference_model_name_or_path": str(root / "reference"),
        "dataset_name": str(root / "prompts.jsonl"),
        **LONG,
        "max_length": 128,
        "drop_truncated": False,
        "sft_learning_rate": 1e-3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    (root / "cong.yaml").write_text(yaml.safe_dump(settings))
    return root / "cong.yaml"
