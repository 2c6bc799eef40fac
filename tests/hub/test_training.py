# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""ConG with everything on the Hub: strong model, weak pair, prompts, and in the end the result."""

import json

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from hf_cong import ConGConfig, ContrastivePairForCausalLM, generate_completions
from hf_cong.chain import Chain
from hf_cong.cli import main
from hf_cong.watching.trackers import Trackers
from tests.hub.test_models import WIDTH, push
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

CHATS = [[{"role": "user", "content": f"tell me about a {animal}"}] for animal in ("cat", "dog", "fox", "owl")]
ENDS = {"eos_token_id": 2, "pad_token_id": 0}


@pytest.fixture(scope="module")
def adapter(hub):
    """`alice/weak-lora` at the tag `v2`, on `alice/weak-base` at a commit; both have moved on since."""
    adapted, policy, reference = tiny_lora("llama", 4, **WIDTH, **ENDS)
    settings = adapted.peft_config["default"]
    settings.base_model_name_or_path = "alice/weak-base"
    settings.revision = push("alice/weak-base", reference, tiny_tokenizer())
    commit = push("alice/weak-lora", adapted)
    HfApi().create_tag("alice/weak-lora", tag="v2")
    push("alice/weak-base", tiny_model("llama", 9, **WIDTH, **ENDS))
    push("alice/weak-lora", tiny_lora("llama", 5, **WIDTH, **ENDS)[0])
    return commit, settings.revision


def test_training_by_ids(hub, adapter, tmp_path, capsys):
    strong = tiny_model("qwen2", 5, vocab_size=328, **ENDS)
    push("alice/student", strong, tiny_tokenizer(1))
    Dataset.from_dict({"prompt": CHATS}).push_to_hub("alice/questions", private=True)
    settings = {
        "model_name_or_path": "alice/student",
        "weak_model_name_or_path": "alice/weak-lora",
        "weak_model_init_kwargs": {"revision": "v2"},
        "dataset_name": "alice/questions",
        "output_dir": str(tmp_path / "run"),
        "push_to_hub": True,
        "hub_model_id": "alice/student-cong",
        "hub_private_repo": True,
        "hub_strategy": "end",
        "max_new_tokens": 8,
        "drop_truncated": False,
        "sft_num_train_epochs": 1,
        "sft_learning_rate": 1e-3,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (tmp_path / "cong.yaml").write_text(json.dumps(settings))
    status, (out, err) = main(["train", "--config", str(tmp_path / "cong.yaml")]), capsys.readouterr()
    assert status == 0, err
    assert f"On the Hub it is {hub.url}/alice/student-cong." in out
    (manifest,) = tmp_path.glob("run/_cong/**/decode-train-*/manifest.json")
    engine = json.loads(manifest.read_text())["identity"]["engine"]
    commit, base_commit = adapter
    assert engine["policy"] == f"alice/weak-lora@{commit}" and engine["reference"] == f"alice/weak-base@{base_commit}"
    assert HfApi().model_info("alice/student-cong").private
    pushed = AutoModelForCausalLM.from_pretrained("alice/student-cong").state_dict()
    local = AutoModelForCausalLM.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(pushed[name], weight) for name, weight in local.items())
    assert not all(torch.equal(pushed[name], weight) for name, weight in strong.state_dict().items())


@pytest.mark.parametrize("lora", [False, True])
def test_the_pair_that_writes_is_the_one_that_was_named(hub, tmp_path, lora):
    adapted, policy, reference = tiny_lora("llama", 6, **WIDTH, **ENDS)
    names = f"alice/post-{lora}", f"alice/pre-{lora}"
    push(names[0], adapted if lora else policy, tiny_tokenizer())
    push(names[1], reference, tiny_tokenizer())
    prompts = Dataset.from_dict({"prompt": CHATS})
    args = ConGConfig(output_dir=tmp_path, max_new_tokens=8, use_cpu=True, bf16=False)
    weak = dict(zip(("weak_model", "weak_reference_model"), names, strict=True))
    chain = Chain(args, prompts, **weak, weak_processing_class=tiny_tokenizer())
    assert all("@" in name for name in chain.weak.id)  # named before they move
    push(names[0], tiny_lora("llama", 7, **WIDTH, **ENDS)[0] if lora else tiny_pair("llama", 7, **WIDTH, **ENDS)[0])
    push(names[1], tiny_model("llama", 8, **WIDTH, **ENDS))
    chain.trackers = Trackers(args)
    written = chain.chosen(chain.weak.load, {})["train"]
    settings = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 8, "seed": args.seed}
    before = ContrastivePairForCausalLM.from_pair(*((adapted,) if lora else (policy, reference)))
    after = ContrastivePairForCausalLM.from_pair(*names)
    expected, moved = (
        generate_completions(CHATS, pair, output_dir=tmp_path / name, **settings)["completion"]
        for name, pair in (("before", before), ("after", after))
    )
    assert written["completion"] == expected != moved
