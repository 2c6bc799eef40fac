# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every Python block of every card runs as it stands, in a fresh process, on what the card is about."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hf_cong import ContrastiveLoraPairForCausalLM, ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from hf_cong.cards import dataset_card, decoding_card, model_card, pair_card
from hf_cong.hub.decoding import decoding_files
from tests.cards.examples import FILES, MANIFEST, python_blocks, source
from tests.hub.fresh_process import run_fresh
from tests.tiny import tiny_base, tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

SHAPE = {"vocab_size": len(tiny_tokenizer())}
PAIRS = ("two stacks", "one forward", "steered")
LOCAL = "my 'base'"
# Each block has names of its own, and ends with `output` or `dataset`.
RUN_ALL = """
for name, block in json.loads({blocks!r}).items():
    scope = {{}}
    try:
        exec(block, scope)
        result[name] = str((scope.get("output") if "output" in scope else scope["dataset"])[0])
    except Exception as error:
        result[name] = f"{{type(error).__name__}}: {{error}}"
"""


def make_pair(kind: str):
    if kind == "one forward":
        return ContrastiveLoraPairForCausalLM.from_pair(tiny_lora("qwen2", **SHAPE)[0])
    pair = tiny_pair("qwen2", **SHAPE)
    if kind == "two stacks":
        return ContrastivePairForCausalLM.from_pair(*pair)
    return EmulatedFineTuningForCausalLM.from_pair(tiny_base("qwen2", **SHAPE), *pair)


@pytest.fixture(scope="module")
def cards(hub, tmp_path_factory) -> dict[str, str]:
    """Publishes one of each kind, and gives their cards by what they are."""
    home = tmp_path_factory.mktemp("published")

    def publish(name: str, model, chat: bool = True) -> str:
        folder, tokenizer = home / name.replace("/", "-"), tiny_tokenizer()
        model.save_pretrained(folder)
        if not chat:
            tokenizer.chat_template = None
        tokenizer.save_pretrained(folder)
        return hub.add(name, folder).sha

    found = {"model": model_card(MANIFEST, repo_id="org/snippet-model")}
    publish("org/snippet-model", tiny_model("qwen2", **SHAPE))

    found["plain"] = model_card(MANIFEST, repo_id="org/snippet-plain", conversational=False)
    found["plain, as if it could chat"] = model_card(MANIFEST, repo_id="org/snippet-plain")
    publish("org/snippet-plain", tiny_model("gpt2", **SHAPE), chat=False)

    commit = publish("org/snippet-base", tiny_model("llama", **SHAPE))
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    publish("org/snippet-adapter", get_peft_model(AutoModelForCausalLM.from_pretrained("org/snippet-base"), lora))
    facts = {**MANIFEST, "sources": {"model": source("org/snippet-base", commit)}}
    found["adapter"] = model_card(facts, repo_id="org/snippet-adapter", kind="adapter")

    publish("org/snippet-local", tiny_lora("llama", **SHAPE)[0])
    found["adapter of a local base"] = model_card(
        {**MANIFEST, "sources": {"model": source(LOCAL, None)}}, repo_id="org/snippet-local", kind="adapter"
    )
    for kind in PAIRS:
        name, pair = f"org/snippet-{kind.replace(' ', '-')}", make_pair(kind)
        publish(name, pair)
        found[kind] = pair_card(MANIFEST, repo_id=name, model_type=pair.config.model_type)

    found["data"] = dataset_card(MANIFEST, repo_id="org/snippet-data", files=FILES)
    hub.add("org/snippet-data", {**FILES, "README.md": found["data"]}, kind="datasets")
    found["data, counted wrong"] = dataset_card(MANIFEST, repo_id="org/snippet-wrong", files=FILES)
    wrong = found["data, counted wrong"].replace("num_examples: 2", "num_examples: 3")
    hub.add("org/snippet-wrong", {**FILES, "README.md": wrong}, kind="datasets")

    policy, reference = tiny_pair("qwen2", **SHAPE)
    publish("Qwen/Qwen2.5-0.5B-Instruct", policy)
    publish("Qwen/Qwen2.5-0.5B", reference)
    found["decoding"] = decoding_card("org/snippet-decoding")
    hub.add("org/snippet-decoding", {**decoding_files(), "README.md": found["decoding"]})
    return found


def run_all(hub, home, blocks: dict[str, str], absent: tuple[str, ...]) -> dict[str, str]:
    tiny_lora("llama", **SHAPE)[2].save_pretrained(home / LOCAL)
    return run_fresh(hub, home, RUN_ALL.format(blocks=json.dumps(blocks)), absent=absent)


@pytest.fixture(scope="module")
def without_hf_cong(hub, cards, tmp_path_factory) -> dict[str, str]:
    """What the blocks end with that need no hf_cong, where there is none."""
    blocks = {kind: python_blocks(card)[-1] for kind, card in cards.items()}
    return run_all(hub, tmp_path_factory.mktemp("without"), blocks, ("hf_cong",))


@pytest.fixture(scope="module")
def with_hf_cong(hub, cards, tmp_path_factory) -> dict[str, str]:
    """What the first blocks of the pairs end with."""
    blocks = {kind: python_blocks(cards[kind])[0] for kind in PAIRS}
    return run_all(hub, tmp_path_factory.mktemp("with"), blocks, ())


@pytest.mark.parametrize("kind", ["model", "plain", "adapter", "adapter of a local base", *PAIRS, "decoding"])
def test_what_writes(cards, without_hf_cong, kind):
    assert without_hf_cong[kind].startswith("tensor([")
    assert len(python_blocks(cards[kind])) == (2 if kind in PAIRS else 1)


@pytest.mark.parametrize("kind", PAIRS)
def test_a_pair_writes_the_same_with_hf_cong(with_hf_cong, without_hf_cong, kind):
    assert with_hf_cong[kind] == without_hf_cong[kind]


def test_a_dataset(cards, without_hf_cong):
    assert "'rejected': [{'role': 'assistant', 'content': 'rude'}]" in without_hf_cong["data"]
    assert len(python_blocks(cards["data"])) == 1


def test_a_block_that_does_not_fit_is_seen_to_fail(without_hf_cong):
    """Negative controls: chat without a template, and rows that are not as many as the metadata says."""
    assert "chat_template" in without_hf_cong["plain, as if it could chat"]
    assert "NonMatchingSplitsSizesError" in without_hf_cong["data, counted wrong"]
