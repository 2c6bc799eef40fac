# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A training run publishes its stages as they end: what arrives, what never leaves, and what happens when it fails."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.utils import hash_module

from hf_cong.hub.run import publish_run, run_publications
from hf_cong.staged import StagedRun
from tests.distributed.run_cong import config, lora, prompts, strong_model, trainer, weak_pair
from tests.hub.test_models import push
from tests.tiny import tiny_tokenizer

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
MADE = {".gitattributes", "README.md", "hf_cong.json"}
MODEL = {"config.json", "generation_config.json", "model.safetensors", *TOKENIZER, *MADE}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors", *TOKENIZER, *MADE}


@pytest.fixture(scope="module")
def sources(hub):
    """The models and prompts of every run here: `alice/steady-...`."""
    push("alice/steady-strong", strong_model(), tiny_tokenizer())
    for name, model in zip(("post", "pre"), weak_pair(), strict=True):
        push(f"alice/steady-{name}", model, tiny_tokenizer())
    prompts(12).push_to_hub("alice/steady-prompts", private=True)


def make(output_dir, repo_id, *, stages=True, with_lora=False, train_dataset=None, settings=None, **kwargs):
    """A trainer of models of the Hub that publishes."""
    train_dataset = load_dataset("alice/steady-prompts", split="train") if train_dataset is None else train_dataset
    settings = {
        "push_to_hub": True,
        "push_stages_to_hub": stages,
        "hub_model_id": repo_id,
        "hub_strategy": "end",
        "max_steps": 2,
        "weak_model_name_or_path": "alice/steady-post",
        "weak_reference_model_name_or_path": "alice/steady-pre",
        **(settings or {}),
    }
    model = kwargs.pop("model", "alice/steady-strong")
    kwargs["peft_config"] = lora() if with_lora else None
    return trainer(output_dir, train_dataset, model=model, weak=False, settings=settings, **kwargs)


def commits(repo_id, repo_type="model"):
    """Titles of its commits, the first one first, without the one that made it."""
    found = HfApi().list_repo_commits(repo_id, repo_type=repo_type)
    return [commit.title for commit in reversed(found)][1:]


def contents(hub, repo_id, kind="models"):
    return {path: file.content for path, file in hub.repositories[kind, repo_id].branches["main"].files.items()}


def manifest_of(output_dir):
    return json.loads((Path(output_dir) / "_cong" / "manifest.json").read_text())


def writes(hub, since=0):
    """Requests that changed something."""
    return [(method, address) for method, address, _ in hub.requests[since:] if "/commit/" in address]


# Whole runs.


@pytest.fixture(scope="module", params=["full", "lora"])
def whole(request, hub, sources, tmp_path_factory):
    """A run of which everything was published: its kind, where it is, its repository, the trainer."""
    kind = request.param
    output_dir, repo_id = tmp_path_factory.mktemp("run"), f"org/whole-{kind}"
    made = make(output_dir, repo_id, with_lora=kind == "lora", eval_dataset=prompts(16).select(range(12, 16)))
    made.train()
    return kind, output_dir, repo_id, made


def test_every_stage_arrives(hub, whole):
    kind, output_dir, repo_id, made = whole
    files = MODEL if kind == "full" else ADAPTER
    assert set(contents(hub, repo_id)) == set(contents(hub, f"{repo_id}-S")) == files
    assert set(contents(hub, f"{repo_id}-data", "datasets")) == MADE | {
        f"{name}/{split}.parquet" for name in ("sft", "preferences") for split in ("train", "eval")
    }
    assert len(commits(repo_id)) == len(commits(f"{repo_id}-S")) == 1
    assert commits(repo_id) == ["End of training"]
    assert len(commits(f"{repo_id}-data", "dataset")) == 2  # with `sft` alone, then with the preferences
    for name, repo_type in ((repo_id, "model"), (f"{repo_id}-S", "model"), (f"{repo_id}-data", "dataset")):
        assert HfApi().repo_info(name, repo_type=repo_type).private
    (collection,) = [found for found in hub.collections.values() if found["title"] == repo_id.split("/")[1]]
    assert collection["private"] and collection["owner"]["name"] == "org"
    assert {item["id"] for item in collection["items"]} == {repo_id, f"{repo_id}-S", f"{repo_id}-data"}


def test_what_arrives_is_what_is_here(hub, whole):
    kind, output_dir, repo_id, made = whole
    weights = "model.safetensors" if kind == "full" else "adapter_model.safetensors"
    stage_one = output_dir / "_cong" / manifest_of(output_dir)["stages"]["sft"]
    for name, folder in ((repo_id, output_dir), (f"{repo_id}-S", stage_one)):
        pushed = contents(hub, name)
        assert sha256(pushed[weights]).digest() == sha256((folder / weights).read_bytes()).digest()
        load = AutoModelForCausalLM if kind == "full" else AutoPeftModelForCausalLM
        loaded = load.from_pretrained(name)
        assert AutoTokenizer.from_pretrained(name).get_vocab() == made.processing_class.get_vocab()
        if kind == "full":
            state = load_file(folder / weights)
            assert all((loaded.state_dict()[key] == value).all() for key, value in state.items())
        else:
            assert loaded.peft_config["default"].base_model_name_or_path == "alice/steady-strong"
    assert contents(hub, repo_id)[weights] != contents(hub, f"{repo_id}-S")[weights]
    assert contents(hub, repo_id)["README.md"] == (output_dir / "README.md").read_bytes()


def test_the_same_run_again_changes_nothing(hub, whole):
    kind, output_dir, repo_id, made = whole
    before, seen = manifest_of(output_dir), len(hub.requests)
    again = make(output_dir, repo_id, with_lora=kind == "lora", eval_dataset=prompts(16).select(range(12, 16)))
    again.train()
    assert writes(hub, seen) == []
    publish_run(output_dir, run_publications(output_dir, repo_id=repo_id), repo_id=repo_id)
    assert writes(hub, seen) == []
    assert manifest_of(output_dir) == before
    assert hash_module(again.model) == hash_module(made.model)
    again.push_to_hub(tags=["another"])  # the control
    assert len(writes(hub, seen)) == 1
    assert b"- another" in contents(hub, repo_id)["README.md"]


def test_preferences_train_the_same_model(hub, whole, tmp_path):
    kind, output_dir, repo_id, made = whole
    pairs = load_dataset(f"{repo_id}-data", "preferences")
    assert pairs["train"].column_names == ["prompt_id", "prompt", "chosen", "rejected"]
    assert len(pairs["train"]) == manifest_of(output_dir)["counts"]["dpo/train"]["kept"]
    model = (
        f"{repo_id}-S"
        if kind == "full"
        else AutoPeftModelForCausalLM.from_pretrained(f"{repo_id}-S", is_trainable=True)
    )
    settings = {"push_to_hub": False}
    new = make(tmp_path, None, stages=False, model=model, train_dataset=pairs["train"], settings=settings)
    new.train()
    assert not (tmp_path / "_cong" / "sample-train").exists() and set(manifest_of(tmp_path)["stages"]) == {"dpo"}
    if kind == "full":
        assert hash_module(new.model) == hash_module(made.model)
    assert hash_module(new.model) != hash_module(AutoModelForCausalLM.from_pretrained("alice/steady-strong"))


def test_completions_train_the_same_stage_one(hub, whole, tmp_path):
    kind, output_dir, repo_id, made = whole
    if kind == "lora":
        pytest.skip("one of the two says it")
    rows = load_dataset(f"{repo_id}-data", "sft", split="train")
    assert {"alpha", "plausibility_threshold", "finish_reason", "prompt_id"} <= set(rows.column_names)
    assert set(rows["alpha"]) == {0.4}
    new = make(tmp_path, None, stages=False, train_dataset=rows, settings={"push_to_hub": False})
    new.train()
    stages = manifest_of(tmp_path)["stages"]
    assert set(stages) == {"sft", "sample", "pairs", "dpo"}
    ours, theirs = (
        load_file(folder / "_cong" / manifest_of(folder)["stages"]["sft"] / "model.safetensors")
        for folder in (tmp_path, output_dir)
    )
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert hash_module(new.model) == hash_module(made.model)


def test_cards_say_what_was_done(hub, whole):
    kind, output_dir, repo_id, made = whole
    cards = {name: contents(hub, name)["README.md"].decode() for name in (repo_id, f"{repo_id}-S")}
    cards["data"] = contents(hub, f"{repo_id}-data", "datasets")["README.md"].decode()
    meta = {name: yaml.safe_load(text.split("---")[1]) for name, text in cards.items()}
    for name in (repo_id, f"{repo_id}-S"):
        assert meta[name]["base_model"] == "alice/steady-strong"
        assert meta[name]["datasets"] == [f"{repo_id}-data", "alice/steady-prompts"]
    assert {one["config_name"] for one in meta["data"]["configs"]} == {"sft", "preferences"}
    for commit in (HfApi().model_info(f"alice/steady-{name}").sha for name in ("strong", "post", "pre")):
        assert all(commit in text for text in cards.values())


def test_the_manifest(whole):
    kind, output_dir, repo_id, made = whole
    found = manifest_of(output_dir)
    sources = found["sources"]
    assert {role: source["name"] for role, source in sources.items()} == {
        "model": "alice/steady-strong",
        "weak_model": "alice/steady-post",
        "weak_reference_model": "alice/steady-pre",
        "prompts": "alice/steady-prompts",
    }
    assert all(len(source["commit"]) == 40 for source in sources.values())
    assert found["settings"]["alpha"] == 0.4 and found["settings"]["effective_batch_size"] == 4
    assert (found["adapter"] is None) == (kind == "full")
    assert found["stages"]["dpo"] == "finished" and set(found["stages"]["decode"]) == {"train", "eval"}
    assert found["counts"] == made.stage_counts
    assert found["measures"]["sft"]["loss"] > 0 and "rewards/margins" in found["measures"]["dpo"]
    assert not [name for stage in found["measures"].values() for name in stage if "runtime" in name]
    assert str(output_dir) not in json.dumps(found)


def test_no_token_is_anywhere(hub, whole):
    kind, output_dir, repo_id, made = whole
    token = os.environ["HF_TOKEN"].encode()
    kept = [path for path in output_dir.rglob("*") if path.is_file()]
    assert output_dir / "training_args.bin" in kept
    assert not [path for path in kept if token in path.read_bytes()]
    for key in (("models", repo_id), ("models", f"{repo_id}-S"), ("datasets", f"{repo_id}-data")):
        for commit in hub.repositories[key].commits.values():
            assert not [path for path, file in commit.files.items() if token in file.content]
            assert not [path for path in commit.files if path.endswith((".bin", ".pt", ".pth", ".jsonl"))]


@pytest.mark.slow
def test_stages_in_launches_of_their_own(hub, whole, tmp_path):
    kind, output_dir, repo_id, made = whole
    name, settings = f"org/launched-{kind}", {"weak_model_name_or_path": "alice/steady-post", "max_steps": 2}
    settings |= {"weak_reference_model_name_or_path": "alice/steady-pre", "hub_strategy": "end"}
    settings |= {"push_to_hub": True, "push_stages_to_hub": True, "hub_model_id": name}
    data = load_dataset("alice/steady-prompts", split="train"), prompts(16).select(range(12, 16))
    arrived = {}
    for stage in ("decode", "sft", "sample", "dpo"):
        args = config(tmp_path, stage=stage, **settings)
        adapter = lora() if kind == "lora" else None
        run = StagedRun("alice/steady-strong", args, *data, processing_class=tiny_tokenizer(), peft_config=adapter)
        run.trainer().train() if stage == "dpo" else run.launch(stage)
        arrived[stage] = sorted(key[1] for key in hub.repositories if key[1].startswith(name))
    assert arrived == {
        "decode": [f"{name}-data"],
        "sft": [f"{name}-S", f"{name}-data"],
        "sample": [f"{name}-S", f"{name}-data"],
        "dpo": [name, f"{name}-S", f"{name}-data"],
    }
    assert len(commits(name)) == len(commits(f"{name}-S")) == 1
    assert len(commits(f"{name}-data", "dataset")) == 2
    assert f"\n- {name}-data\n".encode() in contents(hub, name)["README.md"]
    for file in ("sft/train.parquet", "preferences/train.parquet", "preferences/eval.parquet"):
        ours, theirs = (contents(hub, f"{one}-data", "datasets")[file] for one in (name, repo_id))
        assert ours == theirs
    # Of the adapter, launches know what was asked for before PEFT filled it in; tags are a test's above.
    ours, theirs = ({**manifest_of(folder), "adapter": None, "tags": []} for folder in (tmp_path, output_dir))
    assert ours == theirs


def test_a_token_in_the_data_stays_here(hub, sources, tmp_path, caplog):
    planted = "hf_" + "abcdefghij" * 4
    rows = prompts(6).to_list()
    rows[3]["prompt"][0]["content"] += f" with {planted}"
    made = make(tmp_path, "org/planted", train_dataset=Dataset.from_list(rows))
    with pytest.raises(
        RuntimeError, match="org/planted-data: Nothing was uploaded: .*a Hugging Face token"
    ) as refusal:
        made.train()
    assert planted not in str(refusal.value) + caplog.text
    assert ("datasets", "org/planted-data") not in hub.repositories
    assert commits("org/planted") == ["End of training"] and len(commits("org/planted-S")) == 1
