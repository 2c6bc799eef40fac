# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tiny random models and a tokenizer, built in memory: what every test stands on."""

import copy

import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_MOE = {"num_experts_per_tok": 2, "output_router_logits": False}
_SLIDING = {"head_dim": 8, "num_hidden_layers": 3, "sliding_window": 8}

# family -> (configuration class, what makes this family itself)
_FAMILIES = {
    "llama": (transformers.LlamaConfig, _SHAPE),
    "qwen2": (transformers.Qwen2Config, _SHAPE),
    "qwen3": (transformers.Qwen3Config, {**_SHAPE, "head_dim": 8}),
    "gpt2": (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "mistral": (transformers.MistralConfig, {**_SHAPE, **_SLIDING}),
    "gemma2": (transformers.Gemma2Config, {**_SHAPE, **_SLIDING}),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {**_SHAPE, **_SLIDING, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "mixtral": (transformers.MixtralConfig, {**_SHAPE, **_MOE, "num_local_experts": 4}),
    "gpt_oss": (
        transformers.GptOssConfig,
        {**_SHAPE, **_MOE, **_SLIDING, "num_hidden_layers": 2, "num_local_experts": 4, "rope_scaling": None},
    ),
    "qwen3_moe": (
        transformers.Qwen3MoeConfig,
        {**_SHAPE, **_MOE, "num_experts": 4, "head_dim": 8, "moe_intermediate_size": 24, "decoder_sparse_step": 1},
    ),
}
FAMILIES = tuple(_FAMILIES)
ALIKE = ("qwen2", "gemma2", "qwen3", "mistral", "qwen3_moe", "gpt_oss")  # show what others of their kind do


def tiny_config(family: str, **overrides) -> transformers.PreTrainedConfig:
    config_class, shape = _FAMILIES[family]
    return config_class(
        **{
            "vocab_size": 64,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            "initializer_range": 0.3,  # wide enough that two seeds disagree about every next token
            **shape,
            **overrides,
        }
    )


def tiny_model(family: str, seed: int = 0, **overrides) -> transformers.PreTrainedModel:
    """A random float32 causal language model in eval mode; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(tiny_config(family, **overrides)).float().eval()


def tiny_pair(family: str, seed: int = 0, **overrides) -> tuple[transformers.PreTrainedModel, ...]:
    """`(policy, reference)`: a random policy, and a reference that is the policy with every weight disturbed."""
    policy = tiny_model(family, seed, **overrides)
    reference = tiny_model(family, seed, **overrides)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return policy, reference


def tiny_base(family: str, seed: int = 7, **overrides) -> transformers.PreTrainedModel:
    """A random model of the family, deeper and wider than [`tiny_model`], to be steered by a pair of those."""
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 16}
    shape |= {"num_attention_heads": 3, "num_key_value_heads": 3}
    if family == "gpt2":
        shape = {"n_embd": 48, "n_layer": 4, "n_head": 3}
    if family == "gemma3":
        shape["layer_types"] = ["sliding_attention", "full_attention"] * 2
    return tiny_model(family, seed, **{**shape, **overrides})


def tiny_lora(family: str, seed: int = 0, lora: dict | None = None, **overrides):
    """`(adapted, policy, reference)`: a PEFT model with a random LoRA adapter, that model merged, and its base."""
    reference = tiny_model(family, seed, **overrides)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    if not hasattr(reference.config, "num_experts_per_tok"):
        targets += ["gate_proj", "up_proj", "down_proj"]
    torch.manual_seed(seed + 1)
    # PEFT starts at B = 0, which would be the reference itself
    defaults = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "init_lora_weights": False}
    config = peft.LoraConfig(**{**defaults, "target_modules": targets, **(lora or {})})
    adapted = peft.get_peft_model(copy.deepcopy(reference), config).eval()
    return adapted, copy.deepcopy(adapted).merge_and_unload(), reference


def tiny_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a ChatML-like template; another seed gives another vocabulary."""
    words = "the cat dog fox owl sat ran on mat tell me about a kind rude small old user assistant system".split()
    corpus = [" ".join(words[(i * (seed + 3) + j * 7) % len(words)] for j in range(12)) for i in range(200)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320 + 8 * seed,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
