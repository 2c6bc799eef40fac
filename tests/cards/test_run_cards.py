# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The card that a trainer writes beside its model: whatever the folder is called, and whoever writes."""

import pytest
from huggingface_hub import HfApi, ModelCard

from hf_cong.hub.run import run_publications
from hf_cong.journal import write_manifest
from tests.cards.examples import MANIFEST
from tests.distributed.run_cong import pairs, prompts, trainer
from tests.distributed.run_steered import steered_trainer

FOLDERS = ["ü ✓ 模型", "x" * 200, "-._.-", "a..b--c.git", "v2.0 (final)", "[x](y) <b>", "'\"{{ x }}", "www.x.example"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_gets_a_card(tmp_path, folder):
    made = trainer(tmp_path / folder, pairs(4), weak=False, settings={"max_steps": 1})
    made.create_model_card()
    card = ModelCard.load(tmp_path / folder / "README.md")
    assert card.text.strip().startswith("# ") and "](y)" not in card.text and "<b>" not in card.text


@pytest.mark.parametrize("name", ["x" * 300, "org/name", "", "../../x", "<b>"])
def test_a_name_of_any_kind(tmp_path, name):
    made = trainer(tmp_path, pairs(4), weak=False)
    made.create_model_card(model_name=name, dataset_name=f"my {name} rows", tags=["1e3", "no", name])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags[:2] == ["1e3", "no"] and all(len(tag) <= 200 for tag in card.data.tags)


def test_a_model_that_was_not_trained_is_published_as_that(hub, tmp_path):
    made = trainer(tmp_path, prompts(4), settings={"hub_model_id": "alice/untrained"})
    made.push_to_hub()
    text = ModelCard.load("alice/untrained").text
    assert "The run had not ended" in text and "trained with" not in text
    assert "model.safetensors" in HfApi().list_repo_files("alice/untrained")


@pytest.mark.parametrize(
    ("kind", "told", "untold"), [("llama", "steering_beta", "beam_width"), ("search", "beam_width", "steering_beta")]
)
def test_settings_that_had_a_part_in_steering(tmp_path, kind, told, untold):
    steered_trainer(tmp_path, kind, prompts(4)).create_model_card()
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"| `{told}` |" in text and untold not in text and "`alpha`" not in text
    assert ("`plausibility_threshold`" in text) == (kind == "llama")


def test_a_pair_that_steered_is_not_published_as_one_that_decoded(tmp_path):
    settings = {"chosen_from": "steered", "steering_beta": 4.0}
    for manifest, error in ((MANIFEST, FileNotFoundError), ({**MANIFEST, "settings": settings}, ValueError)):
        write_manifest(tmp_path / "_cong" / "manifest.json", manifest)
        with pytest.raises(error):
            run_publications(tmp_path, repo_id="org/x", stages=["pair"])
