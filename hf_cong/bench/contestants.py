# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Who runs: a weak pair of a named shape with random weights, and every way to decode with it.

All decode greedily, the same prompts, without end of sequence. This module knows nothing about clocks.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    Qwen2Config,
    StaticCache,
)

from ..logits_process import ContrastiveLogitsProcessor
from ..pair import ContrastivePairForCausalLM

# Configurations without a Hub. The first is for CPUs and has 109.8 M parameters; the others are those of Qwen2.5.
SHAPES = {
    "qwen2-110m": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "intermediate_size": 2400,
        "vocab_size": 32_000,
    },
    "qwen2.5-0.5b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151_936,
    },
    "qwen2.5-1.5b": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151_936,
    },
    "qwen2.5-3b": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11_008,
        "vocab_size": 151_936,
    },
}
_LORA_RANK = 16
_CHANGE = 0.03  # of a weight by the adapter, relative
_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_DRAFT_TOKENS = 5
_PAGE, _CHUNK = 32, 1024  # tokens: of a page of the cache, and of one packed forward


class Members(NamedTuple):
    """The models of one bench: two full ones, and the same pair as an adapter on one if it is known as such."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    adapted: PeftModel | None


class Contestant(NamedTuple):
    """
    One way to decode.

    Attributes:
        name (`str`): Its name in records and tables.
        decode (`Callable`): Prompts `(B, T)` and a number of new tokens to the new tokens `(B, new_tokens)`.
        models (`tuple[PreTrainedModel, ...]`): Those with weights and a cache of their own.
        writes (`str`): Name of the contestant whose tokens it must write.
        baseline (`str`): Name of the contestant that its time is divided by.
        single_row (`bool`, *optional*, defaults to `False`): Whether it decodes one prompt at a time.
        speculates (`bool`, *optional*, defaults to `False`): Whether a forward may give several tokens.
    """

    name: str
    decode: Callable[[Tensor, int], Tensor]
    models: tuple[PreTrainedModel, ...]
    writes: str
    baseline: str
    single_row: bool = False
    speculates: bool = False


def shape_config(shape: str) -> Qwen2Config:
    """The configuration that a key of `SHAPES` names; its random layers keep the size of what runs through them."""
    sizes = SHAPES[shape]
    return Qwen2Config(**sizes, tie_word_embeddings=True, initializer_range=sizes["hidden_size"] ** -0.5)


def random_members(shape: str, *, dtype: torch.dtype, device: torch.device, seed: int) -> Members:
    """
    A random reference, and a policy that is the reference plus a random LoRA adapter on every linear layer.

    The scales keep the contrast in the range of a trained pair: the logits of a row have a standard deviation of 3,
    about twenty tokens are plausible, and the adapter changes a weight by 3% of its size.

    Args:
        shape (`str`): Key of `SHAPES`.
        dtype (`torch.dtype`): Of the weights.
        device (`torch.device`): Where they are made.
        seed (`int`): Seed of the weights.
    """
    torch.manual_seed(seed)
    config = shape_config(shape)
    with torch.device(device):
        reference = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        head = reference.get_output_embeddings().weight
        with torch.no_grad():
            head.normal_(std=3 / config.hidden_size**0.5)
        lora = LoraConfig(r=_LORA_RANK, lora_alpha=_LORA_RANK, target_modules=_TARGETS)
        adapted = get_peft_model(copy.deepcopy(reference), lora, autocast_adapter_dtype=False).eval()
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    change = _CHANGE * config.initializer_range / _LORA_RANK**0.5
                    parameter.normal_(std=1.0 if "lora_B" in name else change)
    policy = copy.deepcopy(adapted).merge_and_unload()
    return Members(_without_end(policy), _without_end(reference), adapted)


def given_members(policy: str, reference: str, *, dtype: torch.dtype, device: torch.device) -> Members:
    """Two models by path or Hub id. They are no adapter pair, so there is no LoRA pair of them."""
    init = {"dtype": dtype, "use_safetensors": True}
    models = (AutoModelForCausalLM.from_pretrained(name, **init).eval().to(device) for name in (policy, reference))
    return Members(*map(_without_end, models), None)


def _without_end(model: PreTrainedModel) -> PreTrainedModel:
    # Also no penalties: a fresh configuration decodes greedily on the raw scores.
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=0,
        num_assistant_tokens=_DRAFT_TOKENS,
        num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.0,
    )
    return model


def make_contestants(
    members: Members, *, compiled: bool, continuous: bool, alpha: float, plausibility_threshold: float
) -> list[Contestant]:
    """
    Every way to decode with the members: plain and pair always, since the others are measured by them.

    Args:
        members ([`Members`]): The models.
        compiled (`bool`): Whether to add the compiled forms, with a static cache; CUDA graphs on a GPU.
        continuous (`bool`): Whether to add continuous batching.
        alpha (`float`): α in [0, 1], the weight kept on the policy.
        plausibility_threshold (`float`): τ in [0, 1).

    Returns:
        `list[Contestant]`: the first is `"plain"`; a baseline comes before what is measured by it.
    """
    policy, reference, adapted = members
    contrast = {"alpha": alpha, "plausibility_threshold": plausibility_threshold}

    def official(prompts, new_tokens):
        return official_decode(policy, reference, prompts, new_tokens, **contrast)

    def processor(prompts, new_tokens):
        contrastive = ContrastiveLogitsProcessor(reference, **contrast, attention_mask=torch.ones_like(prompts))
        return _generate(policy, prompts, new_tokens, logits_processor=[contrastive])

    pairs = {"pair": ContrastivePairForCausalLM.from_pair(policy, reference, **contrast)}
    if adapted is not None:
        pairs["LoRA pair"] = _without_end(ContrastivePairForCausalLM.from_pair(adapted, **contrast))
    contestants = [
        Contestant("plain", partial(_generate, policy), (policy,), "plain", "plain"),
        Contestant("official-style loop", official, (policy, reference), "pair", "plain", single_row=True),
        Contestant("processor", processor, (policy, reference), "pair", "plain"),
    ]
    for name, pair in pairs.items():
        drafter = pair.policy
        lookup = partial(_generate, pair, prompt_lookup_num_tokens=_DRAFT_TOKENS)
        drafted = partial(_generate, pair, assistant_model=drafter)
        contestants += [
            Contestant(name, partial(_generate, pair), (pair,), "pair", "plain"),
            # transformers speculates for one row at a time
            Contestant(f"{name}, prompt lookup", lookup, (pair,), "pair", "plain", True, True),
            Contestant(f"{name}, policy drafts", drafted, (pair, drafter), "pair", "plain", True, True),
        ]
    for form, wanted, decoder in (("compiled", compiled, _Compiled), ("continuous", continuous, _Continuous)):
        for name, model in ({"plain": policy} | pairs).items() if wanted else ():
            writes = "plain" if name == "plain" else "pair"
            contestants.append(Contestant(f"{name}, {form}", decoder(model), (model,), writes, f"plain, {form}"))
    return contestants


def _generate(model: PreTrainedModel, prompts: Tensor, new_tokens: int, **kwargs) -> Tensor:
    output = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new_tokens, **kwargs)
    return output[:, prompts.shape[1] :]


class _Compiled:
    """
    A model with a static cache and a compiled decode step.

    The cache stays: a fresh one in every call would have other addresses, and a CUDA graph would be recorded again.
    """

    def __init__(self, model: PreTrainedModel):
        self.model, self.cache, self.sized_for = model, None, None
        self.compile_config = CompileConfig(fullgraph=True)
        if model.device.type == "cpu":
            self.compile_config.mode = "default"
            self.compile_config._compile_all_devices = True

    def __call__(self, prompts: Tensor, new_tokens: int) -> Tensor:
        rows, width = prompts.shape
        if self.cache is None or self.sized_for[0] != rows or self.sized_for[1] < width + new_tokens:
            self.sized_for = rows, width + new_tokens
            self.cache = StaticCache(self.model.config.get_text_config(decoder=True), max_cache_len=width + new_tokens)
        self.cache.reset()
        options = {"past_key_values": self.cache, "compile_config": self.compile_config}
        return _generate(self.model, prompts, new_tokens, **options)


class _Continuous:
    """A model under `generate_batch`, with as many pages as the rows need."""

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def __call__(self, prompts: Tensor, new_tokens: int) -> Tensor:
        rows, width = prompts.shape
        pages = rows * -(-(width + new_tokens) // _PAGE)
        config = ContinuousBatchingConfig(page_size=_PAGE, num_blocks=pages, max_batch_tokens=max(_CHUNK, rows))
        outputs = self.model.generate_batch(
            prompts.tolist(),
            generation_config=GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=-1),
            continuous_batching_config=config,
        )
        rows_out = [output.generated_tokens for output in outputs.values()]
        if [len(row) for row in rows_out] != [new_tokens] * rows:
            raise RuntimeError(
                f"`generate_batch` was given {rows} prompts for {new_tokens} tokens each and wrote "
                f"{len(rows_out)} rows of {sorted({len(row) for row in rows_out})} tokens; its log says why."
            )
        return torch.tensor(rows_out, device=prompts.device)


@torch.no_grad()
def official_decode(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompts: Tensor,
    new_tokens: int,
    *,
    alpha: float,
    plausibility_threshold: float,
) -> Tensor:
    """
    The algorithm of ConG's released code at its cost: one prompt at a time, two eager forwards with a cache each, a
    sort of the whole vocabulary for the plausible set, and a second log-softmax of the refilled reference.

    It has none of the bookkeeping of the vendored `generate` around that, so it is somewhat faster than the original.

    Returns:
        `torch.LongTensor` of shape `(B, new_tokens)`: what greedy decoding writes.

    Source: the released code of [ConG](https://huggingface.co/papers/2510.07884), written anew.
    """
    offset = math.log(plausibility_threshold) if plausibility_threshold > 0 else -math.inf
    rows = []
    for prompt in prompts:
        fed, written = prompt[None], []
        caches = [DynamicCache(config=model.config.get_text_config(decoder=True)) for model in (policy, reference)]
        for _ in range(new_tokens):
            policy_logps, reference_logps = (
                model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
                .logits[:, -1]
                .float()
                .log_softmax(-1)
                for model, cache in zip((policy, reference), caches, strict=True)
            )
            ranked, _ = policy_logps.sort(descending=True)
            implausible = policy_logps < ranked[:, :1] + offset
            reference_logps = reference_logps.masked_fill(implausible, -1e-3).log_softmax(-1)
            scores = (policy_logps - (1 - alpha) * reference_logps).masked_fill(implausible, -math.inf)
            fed = scores.argmax(-1, keepdim=True)
            written.append(fed)
        rows.append(torch.cat(written, -1))
    return torch.cat(rows)
