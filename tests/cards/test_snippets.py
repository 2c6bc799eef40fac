# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every Python block of every card runs as it stands, in a process of its own, on what the card is about."""

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hf_cong import ContrastiveLoraPairForCausalLM, ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from hf_cong.cards import adapter_card, dataset_card, decoding_card, model_card, pair_card
from hf_cong.hub.decoding import decoding_files
from tests.cards.examples import FILES, MANIFEST, python_blocks, source
from tests.hub.fresh_process import run_fresh
from tests.tiny import tiny_base, tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

CONG = ("hf_cong",)  # what a reader may not have


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def published(hub, tmp_path, tokenizer):
    """Publishes models, each with a tokenizer, under a name."""

    def publish(repo_id: str, model, **options):
        folder = tmp_path / repo_id.replace("/", "-")
        model.save_pretrained(folder)
        named = tiny_tokenizer()
        for name, value in options.items():
            setattr(named, name, value)
        named.save_pretrained(folder)
        return hub.add(repo_id, folder).sha

    return publish


def shape(tokenizer) -> dict:
    return {"vocab_size": len(tokenizer)}


def run(hub, home, card: str, absent=CONG, block: int = 0) -> str:
    home.mkdir()
    return run_fresh(hub, home, python_blocks(card)[block] + "\nresult['output'] = str(output[0])", absent=absent)[
        "output"
    ]


def test_model(hub, tmp_path, published, tokenizer):
    published("org/snippet-model", tiny_model("qwen2", **shape(tokenizer)))
    assert run(hub, tmp_path / "home", model_card(MANIFEST, repo_id="org/snippet-model"))


def test_model_without_a_chat_template(hub, tmp_path, published, tokenizer):
    published("org/snippet-plain", tiny_model("gpt2", **shape(tokenizer)), chat_template=None)
    card = model_card(MANIFEST, repo_id="org/snippet-plain", conversational=False)
    assert run(hub, tmp_path / "home", card)
    with pytest.raises(AssertionError, match="chat_template"):  # negative control: the other block needs one
        run(hub, tmp_path / "again", model_card(MANIFEST, repo_id="org/snippet-plain"))


def test_adapter(hub, tmp_path, published, tokenizer):
    base = tiny_model("llama", **shape(tokenizer))
    commit = published("org/snippet-base", base)
    base = AutoModelForCausalLM.from_pretrained("org/snippet-base")
    published(
        "org/snippet-adapter", get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    )
    facts = {**MANIFEST, "sources": {"model": source("org/snippet-base", commit)}}
    assert run(hub, tmp_path / "home", adapter_card(facts, repo_id="org/snippet-adapter"))


def test_adapter_of_a_local_base(hub, tmp_path, published, tokenizer):
    adapted, _, base = tiny_lora("llama", **shape(tokenizer))
    published("org/snippet-local", adapted)
    facts = {**MANIFEST, "sources": {"model": source("my 'base'", None)}}
    home = tmp_path / "home"
    base.save_pretrained(home / "my 'base'")
    block = python_blocks(adapter_card(facts, repo_id="org/snippet-local"))[0]
    assert run_fresh(hub, home, block + "\nresult['output'] = str(output[0])")["output"]


def of_two_stacks(tokenizer):
    return ContrastivePairForCausalLM.from_pair(*tiny_pair("qwen2", **shape(tokenizer)))


def of_one_forward(tokenizer):
    return ContrastiveLoraPairForCausalLM.from_pair(tiny_lora("qwen2", **shape(tokenizer))[0])


def steered(tokenizer):
    base = tiny_base("qwen2", **shape(tokenizer))
    return EmulatedFineTuningForCausalLM.from_pair(base, *tiny_pair("qwen2", **shape(tokenizer)))


@pytest.mark.parametrize("make", [of_two_stacks, of_one_forward, steered])
def test_pair(hub, tmp_path, published, tokenizer, make):
    name = f"org/snippet-{make.__name__.replace('_', '-')}"
    pair = make(tokenizer)
    published(name, pair)
    card = pair_card(MANIFEST, repo_id=name, model_type=pair.config.model_type)
    assert len(python_blocks(card)) == 2
    with_package = run(hub, tmp_path / "with", card, (), 0)
    assert with_package == run(hub, tmp_path / "without", card, CONG, 1)


def test_dataset(hub, tmp_path):
    card = dataset_card(MANIFEST, repo_id="org/snippet-data", files=FILES)
    hub.add("org/snippet-data", {**FILES, "README.md": card}, kind="datasets")
    home = tmp_path / "home"
    home.mkdir()
    block = python_blocks(card)[0] + (
        "\nresult |= dataset[0]\nresult['features'] = str(dataset.features)"
        "\nresult['sft'] = len(load_dataset('org/snippet-data', 'sft', split='train'))"
        "\nresult['eval'] = len(load_dataset('org/snippet-data', 'preferences', split='eval'))"
    )
    found = run_fresh(hub, home, block)
    assert found["chosen"] == [{"role": "assistant", "content": "kind"}] and (found["sft"], found["eval"]) == (3, 1)
    # Negative control: that the rows are counted right is seen, for one that is wrong is refused.
    wrong = card.replace("num_examples: 2", "num_examples: 3")
    hub.add("org/snippet-data", {"README.md": wrong}, kind="datasets")
    (tmp_path / "again").mkdir()
    with pytest.raises(AssertionError, match="NonMatchingSplitsSizesError"):
        run_fresh(hub, tmp_path / "again", python_blocks(card)[0])


def test_decoding(hub, tmp_path, published, tokenizer):
    policy, reference = tiny_pair("qwen2", **shape(tokenizer))
    published("Qwen/Qwen2.5-0.5B-Instruct", policy)
    published("Qwen/Qwen2.5-0.5B", reference)
    card = decoding_card("org/snippet-decoding")
    hub.add("org/snippet-decoding", {**decoding_files(), "README.md": card})
    assert run(hub, tmp_path / "home", card)


def test_no_block_is_left_out():
    """Every kind of card has as many blocks as are run above."""
    counts = {
        model_card: 1,
        adapter_card: 1,
        pair_card: 2,
    }
    for make, count in counts.items():
        assert len(python_blocks(make(MANIFEST, repo_id="org/x"))) == count
    assert len(python_blocks(dataset_card(MANIFEST, repo_id="org/x", files=FILES))) == 1
    assert len(python_blocks(decoding_card("org/x"))) == 1
