# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Saved pairs and steered bases of many families and shapes in a real vLLM, and what it refuses.

`make test-vllm` runs these.
"""

import json

import pytest
import torch
import transformers

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from tests.tiny import tiny_lora, tiny_model, tiny_pair

pytest.importorskip("vllm", reason="vLLM is not installed: `make test-vllm`")

from tests.engines.saved_in_vllm import (
    BASE,
    CHUNKED,
    GREEDY,
    PROMPTS,
    SHAPE,
    expected,
    generate,
    generate_apart,
    logps,
    tokens,
)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def random_models(*configs):
    """Unrelated models of a family that `tests/tiny.py` lacks."""
    models = []
    for seed, config in enumerate(configs):
        torch.manual_seed(seed)
        models.append(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    return models


def helium(**shape):
    return transformers.HeliumConfig(
        **{"num_hidden_layers": 2, **SHAPE, **shape},
        max_position_embeddings=512,
        initializer_range=0.3,
        pad_token_id=0,
    )


def spoils_its_class(case):
    """The Transformers backend changes a class of transformers, so that its process can build no other model of it."""
    return "Transformers backend" in case


def layers_decide(*models):
    # Gemma's head is tied and its embeddings are scaled up: random ones drown the layers and repeat the last token.
    for model in models:
        model.get_input_embeddings().weight.data.mul_(0.05)
        model.model.norm.weight.data.add_(20)
    return models


TWO_STACKS = {
    "llama": lambda: tiny_pair("llama", **SHAPE),
    "qwen3": lambda: tiny_pair("qwen3", **SHAPE),
    "gpt2": lambda: tiny_pair("gpt2", vocab_size=512, n_embd=128),
    "mistral, sliding windows": lambda: tiny_pair("mistral", **SHAPE),
    "gemma2, sliding windows in turns": lambda: layers_decide(*tiny_pair("gemma2", **SHAPE)),
    "gemma3, sliding windows by pattern": lambda: layers_decide(*tiny_pair("gemma3", **SHAPE)),
    "gpt_oss, experts and attention sinks": lambda: tiny_pair("gpt_oss", **SHAPE),
    "qwen3_moe, which reads its text configuration": lambda: tiny_pair("qwen3_moe", **SHAPE),
    "helium, other heads by the Transformers backend": lambda: random_models(
        helium(), helium(num_attention_heads=2, num_key_value_heads=1, head_dim=64)
    ),
    "members of other depth and width": lambda: (
        tiny_model("llama", **{**SHAPE, "num_hidden_layers": 3}),
        tiny_model("llama", seed=1, **{**SHAPE, "hidden_size": 64}),
    ),
    "heads of other width": lambda: (
        tiny_model("llama", **SHAPE),
        tiny_model("llama", seed=1, **{**SHAPE, "vocab_size": 600}),
    ),
}


def check_saved(model, members, directory, *, apart=False, **saving):
    want = expected(*members)
    model.save_pretrained(directory, **saving)
    batches = (PROMPTS, GREEDY), (PROMPTS, GREEDY)
    if apart:
        (result,), _ = generate_apart(directory, ({"model": str(directory), **CHUNKED}, batches))
    else:
        result = generate(directory, *batches, **CHUNKED)
    first, again = result["batches"]
    assert tokens(first) == tokens(again) == want
    assert again[3]["cached"] > 0


@pytest.mark.parametrize("case", TWO_STACKS)
def test_two_stacks(case, tmp_path):
    members = TWO_STACKS[case]()
    check_saved(
        ContrastivePairForCausalLM.from_pair(*members),
        members,
        tmp_path,
        apart=spoils_its_class(case),
        max_shard_size="200KB",
    )
    assert len(list(tmp_path.glob("*.safetensors"))) > 2


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_lora(family, tmp_path):
    # Once with the head tied
    adapted, *members = tiny_lora(family, tie_word_embeddings=family == "qwen3", **SHAPE)
    check_saved(ContrastivePairForCausalLM.from_pair(adapted), members, tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2


# Pages of several sizes: vLLM holds full attention in one group of layers and pads where windows make several.
STEERED = {
    "llama, wider heads": lambda: (
        tiny_model("llama", seed=7, **{**BASE, "head_dim": 64}),
        *tiny_pair("llama", **SHAPE),
    ),
    "gemma3, windows and pages that do not divide": lambda: layers_decide(
        tiny_model("gemma3", seed=7, **{**BASE, "head_dim": 96}), *tiny_pair("gemma3", **SHAPE)
    ),
    "qwen3_moe": lambda: (tiny_model("qwen3_moe", seed=7, **BASE), *tiny_pair("qwen3_moe", **SHAPE)),
    "helium, by the Transformers backend": lambda: random_models(helium(**BASE), helium(), helium()),
}


@pytest.mark.parametrize("case", STEERED)
def test_steered(case, tmp_path):
    members = STEERED[case]()
    check_saved(EmulatedFineTuningForCausalLM.from_pair(*members), members, tmp_path, apart=spoils_its_class(case))


def test_steered_by_lora_with_wider_heads(tmp_path):
    base = tiny_model("llama", seed=7, **{**BASE, "head_dim": 64})
    adapted, *members = tiny_lora("llama", **SHAPE)
    model = EmulatedFineTuningForCausalLM.from_pair(base, adapted)
    check_saved(model, (base, *members), tmp_path, max_shard_size="200KB")


def test_bfloat16(tmp_path):
    members = [model.bfloat16() for model in tiny_pair("qwen2", **SHAPE)]
    ContrastivePairForCausalLM.from_pair(*members).save_pretrained(tmp_path)
    one = {**GREEDY, "max_tokens": 1, "logprobs": 5}
    overrides = {"plausibility_threshold": 0.0}
    (batch,) = generate(tmp_path, (PROMPTS, one), dtype="auto", hf_overrides=overrides)["batches"]
    members = [model.float() for model in members]

    def error(members, **settings):
        return max(
            abs(logprob - logps(members, ids, mask=False, **settings)[id].item())
            for ids, output in zip(PROMPTS, batch, strict=True)
            for id, logprob in output["logprobs"][0].items()
        )

    assert 1e-3 < 4 * error(members) < min(error(members[::-1]), error(members, alpha=1))


def test_a_quantized_member(tmp_path):
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("qwen2", **SHAPE))
    pair.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["reference_config"]["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="The reference is quantized, as its `quantization_config` says"):
        generate(tmp_path)


def test_an_incomplete_directory(tmp_path):
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("qwen2", **SHAPE))
    pair.save_pretrained(tmp_path, max_shard_size="200KB")
    sorted(tmp_path.glob("*.safetensors"))[2].unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        generate(tmp_path)


def test_lora_of_an_architecture_without_one_forward(tmp_path):
    adapted, _, _ = tiny_lora("gemma2", **SHAPE)
    ContrastivePairForCausalLM.from_pair(adapted).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="A LoRA pair of Gemma2ForCausalLM does not run in vLLM"):
        generate(tmp_path)
