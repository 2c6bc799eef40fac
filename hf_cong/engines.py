# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What writes completions: may it, what is recorded of it, and what tells it from another."""

import hashlib

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .compatibility import eos_token_ids
from .pair import ContrastivePairForCausalLM


def check_engine(engine: PreTrainedModel | PeftModel):
    """
    Refuses what cannot continue a prompt.

    Args:
        engine (`PreTrainedModel` or `PeftModel`): The model.

    Raises:
        TypeError: if it is no model.
        ValueError: if it is an encoder-decoder.
    """
    if not isinstance(engine, PreTrainedModel | PeftModel):
        raise TypeError(
            f"`engine` is {repr(engine)[:80]} ({type(engine).__name__}); it must be a loaded model, or a function "
            "without arguments that returns one. Load it: `AutoModelForCausalLM.from_pretrained(...)`."
        )
    if engine.config.is_encoder_decoder:
        raise ValueError(
            f"`engine` is an encoder-decoder ({engine.config.model_type!r}), which does not continue its prompt. Use "
            "a decoder-only model, one that `AutoModelForCausalLM` loads."
        )


def check_vocabulary(engine: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, largest_id: int):
    """
    Refuses a tokenizer that makes ids for which the engine has no embedding.

    Args:
        engine (`PreTrainedModel` or `PeftModel`): The model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        largest_id (`int`): The largest id in the prompts.

    Raises:
        ValueError: naming both sizes.
    """
    rows = min(model.get_input_embeddings().weight.shape[0] for model in _members(engine).values())
    needed = max(len(tokenizer), largest_id + 1)
    if needed > rows:
        raise ValueError(
            f"`tokenizer` has {needed} tokens, and the embedding of `engine` has {rows} rows. Pass the engine's own "
            "tokenizer."
        )


def describe_engine(engine: PreTrainedModel | PeftModel) -> dict:
    """What is recorded of an engine; its `identity` is what another run must have to be the same run."""
    pair = isinstance(engine, ContrastivePairForCausalLM)
    weights = {role: _hash_weights(model) for role, model in _members(engine).items()}
    names = {role: model.name_or_path or f"weights {weights[role]}" for role, model in _members(engine).items()}
    names_and_weights = {role: {"model": names[role], "weights": weights[role]} for role in names}
    contrast = {
        "alpha": engine.config.alpha if pair else None,
        "plausibility_threshold": engine.config.plausibility_threshold if pair else None,
    }
    return {
        "model": engine.name_or_path or " vs ".join(names.values()),
        **contrast,
        **(names_and_weights if pair else {"weights": weights["model"]}),
        "identity": {**weights, **(contrast if pair else {}), "eos_token_ids": eos_token_ids(engine)},
    }


def _members(engine: PreTrainedModel | PeftModel) -> dict[str, PreTrainedModel | PeftModel]:
    if isinstance(engine, ContrastivePairForCausalLM):
        return {"policy": engine.policy, "reference": engine.reference}
    return {"model": engine}


def _hash_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy())
    return digest.hexdigest()[:16]
