# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What of a run with an adapter arrives on the Hub: the adapter with the very base it fits, or one merged model."""

import shutil

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong.cli import main
from hf_cong.hub.run import publish_run, run_publications
from hf_cong.staged import StagedRun
from tests.distributed.run_cong import chosen_rows, config, lora, strong_model, trainer
from tests.hub.test_models import push
from tests.hub.test_stage_pushes import ADAPTER, MODEL, commits, contents
from tests.tiny import tiny_tokenizer

IDS = torch.arange(24)[None]


def distance(one, other):
    with torch.no_grad():
        return float((one.eval()(IDS).logits - other.eval()(IDS).logits).abs().max())


@pytest.fixture(scope="module")
def base(hub):
    """`alice/moving`, at the commit that its tag `v1` names; the branch goes on during the test."""
    commit = push("alice/moving", strong_model(), tiny_tokenizer())
    HfApi().create_tag("alice/moving", tag="v1")
    return commit


def make(output_dir, repo_id, model="alice/moving", **settings):
    publishing = {"push_to_hub": True, "hub_model_id": repo_id, "hub_strategy": "end", "learning_rate": 2e-2}
    settings = {**publishing, "sft_learning_rate": 2e-2, "max_steps": 2, **settings}
    return trainer(output_dir, chosen_rows(8), model=model, weak=False, peft_config=lora(), settings=settings)


@pytest.mark.parametrize("by_stages", [False, True])
def test_an_adapter_is_published_with_the_commit_of_its_base(hub, base, tmp_path, by_stages):
    name = f"org/fits-{by_stages}"
    if by_stages:
        settings = {"push_to_hub": True, "hub_model_id": name, "hub_strategy": "end", "push_stages_to_hub": True}
        settings |= {"sft_learning_rate": 2e-2, "learning_rate": 2e-2, "model_init_kwargs": {"revision": "v1"}}
        for stage in ("sft", "sample", "dpo"):
            args = config(tmp_path, stage=stage, **settings)
            run = StagedRun("alice/moving", args, chosen_rows(8), None, tiny_tokenizer(), peft_config=lora())
            if stage != "dpo":
                run.launch(stage)
        made = run.trainer()
    else:
        made = make(tmp_path, name, push_stages_to_hub=True, model_init_kwargs={"revision": "v1"})
    made.train()
    push("alice/moving", strong_model(seed=8))  # the branch moves
    for repository in (name, f"{name}-S"):
        assert set(contents(hub, repository)) == ADAPTER
        loaded = AutoPeftModelForCausalLM.from_pretrained(repository)
        assert loaded.peft_config["default"].revision == base
    made.model.set_adapter("ref")
    assert distance(loaded, made.model) < 1e-5
    made.model.set_adapter("default")
    assert distance(AutoPeftModelForCausalLM.from_pretrained(name), made.model) < 1e-5
    moved = AutoModelForCausalLM.from_pretrained("alice/moving")
    assert distance(moved, made.model.get_base_model()) > 1e-2  # the control


@pytest.mark.slow
def test_a_merged_model_at_every_push(hub, base, tmp_path):
    name, saves = "org/merged", {"hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
    settings = {"merge_adapter": True, "push_stages_to_hub": True, "model_init_kwargs": {"revision": "v1"}}
    made = make(tmp_path, name, **saves, **settings)
    made.train()
    assert commits(name) == ["Training in progress, step 1", "Training in progress, step 2", "End of training"]
    for repository in (name, f"{name}-S"):
        for commit in list(hub.repositories["models", repository].branches["main"].history())[:-1]:
            assert set(commit.files) == MODEL
        card = contents(hub, repository)["README.md"].decode()
        metadata = yaml.safe_load(card.split("---")[1])
        assert (metadata["library_name"], metadata["base_model_relation"]) == ("transformers", "finetune")
        assert metadata["base_model"] == "alice/moving" and "AutoPeft" not in card and "merged into its base" in card
        assert AutoTokenizer.from_pretrained(repository).get_vocab() == tiny_tokenizer().get_vocab()
    assert distance(AutoModelForCausalLM.from_pretrained(name), made.model) < 1e-5
    made.model.set_adapter("ref")
    assert distance(AutoModelForCausalLM.from_pretrained(f"{name}-S"), made.model) < 1e-5 < 1e-2
    assert distance(AutoModelForCausalLM.from_pretrained(name), made.model) > 1e-2
    # A second push, and `publish run`, find the same model.
    before = len(hub.requests)
    publish_run(tmp_path, run_publications(tmp_path, repo_id=name), repo_id=name)
    made.model.set_adapter("default")
    made.push_to_hub()
    assert not [address for _, address, _ in hub.requests[before:] if f"{name}/commit/" in address]


@pytest.mark.slow
def test_the_other_choice_replaces_what_was_published(hub, base, tmp_path):
    name, settings = "org/either", {"save_strategy": "steps", "model_init_kwargs": {"revision": "v1"}}
    for merge, files in ((False, ADAPTER), (True, MODEL), (False, ADAPTER)):
        made = make(tmp_path, name, merge_adapter=merge, **settings)
        made.train(resume_from_checkpoint=True)
        made.push_to_hub()
        assert set(contents(hub, name)) == files


def test_a_merged_model_of_a_local_base(hub, tmp_path, capsys):
    strong_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="An adapter is published with the Hub id of its base.*`merge_adapter`"):
        make(tmp_path / "adapter", "org/local", model=str(tmp_path / "base"))
    made = make(tmp_path / "run", "org/local", model=str(tmp_path / "base"), merge_adapter=True)
    made.train()
    made.push_to_hub()
    assert set(contents(hub, "org/local")) == MODEL
    assert not [file for file, content in contents(hub, "org/local").items() if str(tmp_path).encode() in content]
    assert distance(AutoModelForCausalLM.from_pretrained("org/local"), made.model) < 1e-5
    # Later, by the command, to another place.
    shutil.rmtree(tmp_path / "base")
    argv = ["publish", "run", "--source", str(tmp_path / "run"), "--repo_id", "org/local-again"]
    assert main(argv) == 0, capsys.readouterr().err
    assert set(contents(hub, "org/local-again")) == set(contents(hub, "org/local-again-S")) == MODEL
