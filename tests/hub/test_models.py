# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Models of ours go to the Hub and come back: pairs by their two ids, saved pairs, LoRA adapters, prompts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM, generate_completions
from hf_cong.checkpoints import model_identity
from hf_cong.engines.named import named_engine
from hf_cong.pair.modeling_stacks import load_tokenizer
from hf_cong.prompts import prompt_id, read_prompts
from hf_cong.weights import Weights
from tests.oracle import oracle_greedy
from tests.tiny import tiny_base, tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

PROMPT = [5, 17, 3, 40, 22]
WIDTH = {"vocab_size": 320}


def push(repo_id: str, model, tokenizer=None, **options) -> str:
    """Pushes, and returns the commit that the model is then at."""
    model.push_to_hub(repo_id, **options)
    if tokenizer is not None:
        tokenizer.push_to_hub(repo_id, **options)
    return HfApi().model_info(repo_id, revision=options.get("revision")).sha


def write(model, prompt=PROMPT, **options) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=[], pad_token_id=0, **options
    )
    return output[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def weak(hub):
    """A policy and its reference on the Hub, with their tokenizer: `alice/weak-dpo` and `alice/weak`."""
    policy, reference = tiny_pair("qwen2", **WIDTH)
    push("alice/weak-dpo", policy, tiny_tokenizer())
    push("alice/weak", reference, tiny_tokenizer())
    return policy, reference


@pytest.mark.parametrize("max_shard_size", ["5GB", "20kB"])
def test_a_model_comes_back_byte_by_byte(hub, tmp_path, max_shard_size):
    model, name = tiny_model("llama"), f"alice/whole-{max_shard_size}"
    push(name, model, tiny_tokenizer(), max_shard_size=max_shard_size)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    folder = Path(snapshot_download(name))
    weights = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(weights) == 1 if max_shard_size == "5GB" else len(weights) > 2
    for file in weights:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()
    loaded = AutoModelForCausalLM.from_pretrained(name)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(name).get_vocab() == tiny_tokenizer().get_vocab()


def test_a_pair_of_two_ids(weak):
    load, engine_id, tokenizer = named_engine("alice/weak-dpo", "alice/weak", alpha=0.3)
    commits = {
        role: HfApi().model_info(f"alice/{name}").sha for role, name in (("policy", "weak-dpo"), ("reference", "weak"))
    }
    assert engine_id["policy"] == f"alice/weak-dpo@{commits['policy']}"
    assert engine_id["reference"] == f"alice/weak@{commits['reference']}"
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    expected = oracle_greedy(*weak, PROMPT, max_new_tokens=8, alpha=0.3)
    assert write(load()) == expected
    assert write(ContrastivePairForCausalLM.from_pair("alice/weak-dpo", "alice/weak", alpha=0.3)) == expected
    swapped = ContrastivePairForCausalLM.from_pair("alice/weak", "alice/weak-dpo", alpha=0.3)
    assert write(swapped) != expected


def test_members_may_be_revisions_of_one_repository(hub):
    policy, reference = tiny_pair("llama", 2, **WIDTH)
    push("alice/stages", reference, tiny_tokenizer())
    HfApi().create_tag("alice/stages", tag="before")
    HfApi().create_branch("alice/stages", branch="dpo")
    push("alice/stages", policy, revision="dpo")
    push("alice/stages", tiny_model("llama", 9, **WIDTH))  # neither of the two
    revisions = {"policy": "dpo", "reference": "before"}
    load, engine_id, _ = named_engine("alice/stages", "alice/stages", revisions=revisions)
    commits = {role: HfApi().model_info("alice/stages", revision=name).sha for role, name in revisions.items()}
    assert {role: engine_id[role] for role in commits} == {
        role: f"alice/stages@{sha}" for role, sha in commits.items()
    }
    assert write(load()) == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


def test_an_engine_is_what_its_name_says_though_the_branch_moves(hub):
    policy, reference = tiny_pair("llama", 3, **WIDTH)
    push("alice/moving-dpo", policy, tiny_tokenizer())
    push("alice/moving", reference, tiny_tokenizer())
    load, engine_id, _ = named_engine("alice/moving-dpo", "alice/moving")
    push("alice/moving-dpo", tiny_model("llama", 8, **WIDTH))
    push("alice/moving", tiny_model("llama", 9, **WIDTH))
    assert model_identity("alice/moving-dpo") != engine_id["policy"]
    assert write(load()) == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


def test_a_run_goes_on_only_with_the_same_commits(weak, tmp_path):
    policy = weak[0]
    push("alice/run", policy, tiny_tokenizer())
    prompts = ["the cat sat", "a kind owl ran"]

    def run(**options):
        load, engine_id, tokenizer = named_engine("alice/run", "alice/weak", **options)
        return generate_completions(
            prompts, load, tokenizer=tokenizer, engine_id=engine_id, output_dir=tmp_path, max_new_tokens=4
        )

    first = run()
    assert run()["completion"] == first["completion"]
    commit = HfApi().model_info("alice/run").sha
    push("alice/run", tiny_model("qwen2", 6, **WIDTH))
    with pytest.raises(ValueError, match="engine"):
        run()
    assert run(revisions={"policy": commit})["completion"] == first["completion"]


@pytest.mark.parametrize("lora", [False, True])
def test_a_saved_pair(hub, lora):
    adapted, policy, reference = tiny_lora("llama", **WIDTH)
    members = (adapted,) if lora else (policy, reference)
    pair = ContrastivePairForCausalLM.from_pair(*members, alpha=0.3)
    expected = oracle_greedy(policy, reference, PROMPT, max_new_tokens=8, alpha=0.3)
    name = f"alice/pair-lora-{lora}"
    commit = push(name, pair, tiny_tokenizer())
    files = {file for file in HfApi().list_repo_files(name) if file.endswith((".bin", ".pkl", ".pt"))}
    assert not files
    assert write(AutoModelForCausalLM.from_pretrained(name)) == expected
    load, engine_id, tokenizer = named_engine(name)
    assert engine_id["policy"] == f"{name}@{commit}" and engine_id["alpha"] == 0.3
    assert write(load()) == expected != write(named_engine(name, alpha=1.0)[0]())
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_saved_pair_without_hf_cong(hub, tmp_path, lora):
    adapted, policy, reference = tiny_lora("mistral")
    pair = ContrastivePairForCausalLM.from_pair(*((adapted,) if lora else (policy, reference)))
    name = f"alice/remote-lora-{lora}"
    commit = push(name, pair)
    script = f"""
import sys, json
sys.modules["hf_cong"] = sys.modules["peft"] = None  # importing them raises ImportError
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({name!r}, revision={commit!r}, trust_remote_code=True)
output = model.generate(torch.tensor([{PROMPT}]), max_new_tokens=8, do_sample=False, pad_token_id=2)
print("OUT", json.dumps(output[0].tolist()))
"""
    environment = {**hub.env, "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.split("OUT")[1])[len(PROMPT) :] == oracle_greedy(
        policy, reference, PROMPT, max_new_tokens=8
    )


def test_an_adapter_brings_its_base_at_the_revision_that_it_names(hub, tmp_path):
    adapted, policy, reference = tiny_lora("llama", 4, **WIDTH)
    commit = push("alice/base", reference, tiny_tokenizer())
    adapted.peft_config["default"].base_model_name_or_path = "alice/base"
    adapted.peft_config["default"].revision = commit
    adapter = push("alice/adapter", adapted)
    assert "model.safetensors" not in HfApi().list_repo_files("alice/adapter")
    push("alice/base", tiny_model("llama", 9, **WIDTH))  # the base moves on
    expected = oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)
    assert write(ContrastivePairForCausalLM.from_pair("alice/adapter")) == expected
    load, engine_id, tokenizer = named_engine("alice/adapter")
    assert write(load()) == expected
    assert engine_id["policy"] == f"alice/adapter@{adapter}" and engine_id["reference"] == f"alice/base@{commit}"
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert write(ContrastivePairForCausalLM.from_pair("alice/adapter", "alice/base")) != expected


def test_a_base_steered_by_a_saved_pair(weak):
    base = tiny_base("qwen2", **WIDTH)
    push("alice/strong", base, tiny_tokenizer())
    pair = ContrastivePairForCausalLM.from_pair(*weak)
    push("alice/weak-pair", pair, tiny_tokenizer())
    expected = write(EmulatedFineTuningForCausalLM.from_pair(base, *weak))
    for members in (("alice/weak-dpo", "alice/weak"), ("alice/weak-pair",)):
        load, engine_id, _ = named_engine(*members, base="alice/strong")
        assert write(load()) == expected
        assert engine_id["base"].startswith("alice/strong@")
    assert expected != write(base)


def test_weights_to_compare_come_from_the_hub_too(weak):
    weights = Weights("alice/weak-dpo", "policy")
    name = next(iter(weights.shapes))
    assert torch.equal(weights.tensor(name), weak[0].state_dict()[name])


# What is not there


@pytest.mark.parametrize("role", ["policy", "reference"])
@pytest.mark.parametrize("load", [named_engine, ContrastivePairForCausalLM.from_pair])
@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("missing", "alice/missing is not a (local folder|valid model identifier)"),
        ("private", "alice/private-weak"),
        ("gated", "gated repo"),
    ],
)
def test_a_member_that_cannot_be_had_is_named(hub, weak, monkeypatch, load, role, case, match):
    name = {"missing": "alice/missing", "private": "alice/private-weak", "gated": "alice/gated-weak"}[case]
    if case != "missing":
        push(name, weak[0], private=case == "private")
    if case == "gated":
        HfApi().update_repo_settings(name, gated="manual")
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    members = {"policy": "alice/weak-dpo", "reference": "alice/weak"} | {role: name}
    with pytest.raises(OSError, match=match):
        load(**members)


@pytest.mark.parametrize("load", [named_engine, ContrastivePairForCausalLM.from_pair])
def test_an_adapter_that_cannot_be_had_is_not_called_no_adapter(hub, monkeypatch, load):
    with pytest.raises(OSError, match="alice/nowhere is not a"):
        load("alice/nowhere")
    push("alice/gated-lora", tiny_lora("llama")[0])
    HfApi().update_repo_settings("alice/gated-lora", gated="auto")
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    with pytest.raises(OSError, match=r"gated repo(.|\n)*alice/gated-lora"):
        load("alice/gated-lora")


@pytest.mark.parametrize("case", ["private", "gated", "spoilt"])
def test_a_tokenizer_that_cannot_be_had_is_not_called_none(hub, weak, tmp_path, monkeypatch, case):
    """Vocabularies would pass uncompared, or be compared with the empty one that transformers makes up."""
    name = f"alice/tokenizer-{case}"
    push(name, weak[1], tiny_tokenizer())
    load = AutoModelForCausalLM.from_pretrained
    policy, reference = load("alice/weak-dpo"), load(name, cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        if case == "spoilt":  # a status that the client does not try again
            patch.setattr(hub, "misbehave", lambda method, address: 418 if "tokenizer.json" in address else None)
        else:
            HfApi().update_repo_settings(name, **{"private": True} if case == "private" else {"gated": "auto"})
            patch.setenv("HF_TOKEN", hub.other_token)
        with pytest.raises(OSError, match=name if case != "spoilt" else "check your connection"):
            ContrastivePairForCausalLM.from_pair(policy, reference)
    ContrastivePairForCausalLM.from_pair(policy, reference)  # the control


def test_a_model_without_a_tokenizer_is_given_none(weak, tmp_path, monkeypatch):
    push("alice/bare", weak[1])
    for name in ("alice/bare", str(tmp_path / "gone"), ""):
        assert load_tokenizer(name) is None
    with pytest.raises(ValueError, match="`policy` 'alice/bare' has no tokenizer beside it"):
        named_engine("alice/bare", "alice/weak")
    ContrastivePairForCausalLM.from_pair("alice/weak-dpo", "alice/bare").save_pretrained(tmp_path / "pair")
    assert AutoTokenizer.from_pretrained(tmp_path / "pair").get_vocab() == tiny_tokenizer().get_vocab()
    ContrastivePairForCausalLM.from_pair("alice/bare", "alice/weak").save_pretrained(tmp_path / "bare")
    assert not list((tmp_path / "bare").glob("*token*"))
    # Without a network, what was downloaded is all there is.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_tokenizer("alice/bare") is None
    assert load_tokenizer("alice/weak") is not None


def test_a_private_pair_loads_for_its_owner(hub, weak, monkeypatch):
    for name, member in zip(("alice/own-dpo", "alice/own"), weak, strict=True):
        push(name, member, tiny_tokenizer(), private=True)
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    assert write(named_engine("alice/own-dpo", "alice/own")[0]()) == oracle_greedy(*weak, PROMPT, max_new_tokens=8)


@pytest.mark.parametrize("role", ["policy", "reference"])
def test_a_missing_revision_is_named(weak, role):
    with pytest.raises(OSError, match="v9"):
        named_engine("alice/weak-dpo", "alice/weak", revisions={role: "v9"})
    with pytest.raises(OSError, match="v9"):
        ContrastivePairForCausalLM.from_pair("alice/weak-dpo", "alice/weak", model_init_kwargs={"revision": "v9"})


def test_only_safetensors_are_read(hub, weak, tmp_path):
    weak[0].save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weak[0].state_dict(), tmp_path / "pytorch_model.bin")
    hub.add("alice/pickled", tmp_path)
    before = len(hub.requests)
    for members in (("alice/pickled", "alice/weak"), ("alice/weak", "alice/pickled")):
        with pytest.raises(OSError, match="safetensors"):
            ContrastivePairForCausalLM.from_pair(*members)
    assert not [address for method, address, _ in hub.requests[before:] if method == "GET" and ".bin" in address]


# Prompts

CHATS = [[{"role": "user", "content": f"tell me about {animal}"}] for animal in ("a cat", "a dog", "an owl")]


@pytest.mark.parametrize("prompts", [CHATS, ["the cat", "the dog", "the owl"]])
def test_prompts_by_id(hub, prompts):
    name = f"alice/prompts-{type(prompts[0]).__name__}"
    Dataset.from_dict({"prompt": prompts, "level": [1, 2, 3]}).push_to_hub(name, private=True)
    rows, dropped = read_prompts(name)
    assert rows["prompt"] == prompts and rows["level"] == [1, 2, 3] and dropped == {}
    assert rows["prompt_id"] == [prompt_id(prompt) for prompt in prompts]


def test_a_dataset_of_two_configurations(hub):
    for config, number in (("sft", 2), ("dpo", 3)):
        splits = DatasetDict(
            {"train": Dataset.from_dict({"prompt": CHATS[:number]}), "test": Dataset.from_dict({"prompt": CHATS})}
        )
        splits.push_to_hub("alice/two", config_name=config)
    assert load_dataset("alice/two", "sft", split="train")["prompt"] == CHATS[:2]
    stream = load_dataset("alice/two", "dpo", split="train", streaming=True)
    assert [row["prompt"] for row in stream] == CHATS
    with pytest.raises(ValueError, match="sft"):
        read_prompts("alice/two")  # which of the two is not said


def test_prompts_that_cannot_be_had_are_named(hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match="alice/no-prompts"):
        read_prompts("alice/no-prompts")
    Dataset.from_dict({"prompt": CHATS}).push_to_hub("alice/hidden", private=True)
    Dataset.from_dict({"prompt": CHATS}).push_to_hub("alice/untrained", split="test")
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    with pytest.raises(FileNotFoundError, match="alice/hidden"):
        read_prompts("alice/hidden")
    with pytest.raises(ValueError, match='"train"'):
        read_prompts("alice/untrained")
