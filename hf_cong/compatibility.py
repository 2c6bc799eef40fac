# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""May these two models be contrasted token by token? Takes tokenizers, configurations, models; generates nothing."""

import logging
from inspect import signature

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# Layer types of `config.layer_types` that keep keys and values per token; any other kind is a recurrent state.
_ATTENTION_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")


def check_same_vocabulary(
    policy_tokenizer: PreTrainedTokenizerBase,
    reference_tokenizer: PreTrainedTokenizerBase,
    *,
    roles: tuple[str, str] = ("policy", "reference"),
):
    """
    Refuses two tokenizers that do not map the same ids to the same tokens.

    Token-level methods subtract log-probabilities id by id, so one swapped token is silently wrong text. Methods that
    work on text (weak-to-strong search, ConG's transfer to the strong model) need no common vocabulary.

    Args:
        policy_tokenizer (`PreTrainedTokenizerBase`): Tokenizer of the policy.
        reference_tokenizer (`PreTrainedTokenizerBase`): Tokenizer of the reference.
        roles (`tuple[str, str]`, *optional*, defaults to `("policy", "reference")`): What they are, for the message.

    Raises:
        ValueError: naming the first id that differs.
    """
    differing = differing_tokens(policy_tokenizer, reference_tokenizer)
    if not differing:
        return
    first, (policy_token, reference_token) = next(iter(differing.items()))
    sizes = [len(tokenizer.get_vocab()) for tokenizer in (policy_tokenizer, reference_tokenizer)]
    raise ValueError(
        f"`{roles[0]}` and `{roles[1]}` must share one vocabulary, but {len(differing)} ids differ: token {first} is "
        f"{policy_token!r} in {policy_tokenizer.name_or_path!r} ({sizes[0]} tokens) and "
        f"{reference_token!r} in {reference_tokenizer.name_or_path!r} ({sizes[1]} tokens). "
        "Use checkpoints of one family. A base with another vocabulary is steered by text: `weak_to_strong_search`."
    )


def differing_tokens(
    policy_tokenizer: PreTrainedTokenizerBase, reference_tokenizer: PreTrainedTokenizerBase
) -> dict[int, tuple[str | None, str | None]]:
    """The ids that are not the same token in both, in order, with the token of each; `None` where it has none."""
    policy_vocab, reference_vocab = policy_tokenizer.get_vocab(), reference_tokenizer.get_vocab()
    policy_tokens = {id: token for token, id in policy_vocab.items()}
    reference_tokens = {id: token for token, id in reference_vocab.items()}
    # By tokens, since two of them may have one id, which the inverse mapping hides.
    ids = sorted({id for _, id in policy_vocab.items() ^ reference_vocab.items()})
    return {id: (policy_tokens.get(id), reference_tokens.get(id)) for id in ids}


def check_head_widths(**widths: int):
    """
    Refuses heads that are further apart than padding brings them: their models do not share a vocabulary.

    It is what can be told without tokenizers. Heads are padded for speed, to a multiple of up to 512.

    Args:
        widths (`int`): Columns of the logits, by role.

    Raises:
        ValueError: naming the narrowest and the widest.
    """
    narrow, wide = min(widths, key=widths.get), max(widths, key=widths.get)
    if widths[wide] - widths[narrow] > min(512, widths[narrow] // 8):
        raise ValueError(
            f"`{narrow}` has {widths[narrow]} tokens and `{wide}` {widths[wide]}: that is more than padding, so they "
            "do not share a vocabulary, and log-probabilities cannot be added id by id. Use checkpoints of one "
            "family. A base with another vocabulary is steered by text: `weak_to_strong_search`."
        )


def check_decoder_only(config: PreTrainedConfig, role: str):
    """
    Refuses, by name, an architecture that token-level contrastive decoding cannot serve.

    Args:
        config (`PreTrainedConfig`): Configuration of the model.
        role (`str`): What the model is here, for the message: `"policy"` or `"reference"`.

    Raises:
        ValueError: for an encoder-decoder, for layers with a recurrent state (Mamba, RWKV, linear attention), for
            layers that share or vary the shape of their keys and values, and for a model that keeps none.
    """
    if config.is_encoder_decoder:
        raise ValueError(
            f"`{role}` is an encoder-decoder ({config.model_type!r}). Contrastive decoding needs a decoder-only "
            "model, one that `AutoModelForCausalLM` loads and that generates from `input_ids` alone."
        )
    recurrent = sorted(set(config.get_text_config().to_dict().get("layer_types") or ()) - set(_ATTENTION_LAYERS))
    model_class = _model_class(config)
    if recurrent or (model_class is not None and model_class._is_stateful):
        kind = f"{', '.join(recurrent)} layers" if recurrent else "a recurrent state"
        raise ValueError(
            f"`{role}` is a {config.model_type!r} model with {kind}: its cache cannot be rolled back, reordered or "
            "shared by position, so a pair of it would be silently wrong. Use a family whose every layer is attention "
            "(Llama, Qwen2/3, Mistral, Gemma, GPT-2, Mixtral, ...)."
        )
    text_config = config.get_text_config()
    if text_config.is_heterogeneous or text_config.to_dict().get("num_kv_shared_layers"):
        raise ValueError(
            f"`{role}` is a {config.model_type!r} model whose layers share, or vary the shape of, their keys and "
            "values. A pair of it is not supported; use a family whose layers each keep their own, of one shape."
        )
    if model_class is not None and "past_key_values" not in signature(model_class.forward).parameters:
        raise ValueError(
            f"`{role}` is a {config.model_type!r} model, which keeps no cache of keys and values. Use a later family."
        )


def _model_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that `AutoModelForCausalLM` would build, `None` for a configuration that comes with remote code."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def check_decoder_model(model: PreTrainedModel, role: str):
    """[`check_decoder_only`] of a loaded model, remote code included."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"`{role}` must be a loaded transformers model, got {type(model).__name__}. Load it; merge an "
            "adapter first: `peft_model.merge_and_unload()`."
        )
    check_decoder_only(model.config, role)
    if model._is_stateful or not model.can_generate() or "past_key_values" not in signature(model.forward).parameters:
        raise ValueError(
            f"`{role}` is a {type(model).__name__}, which has no language-model head or no cache of keys and values. "
            "Use a causal language model whose every layer is attention."
        )


def eos_token_ids(model: PreTrainedModel) -> list[int]:
    """The ids that end a completion of `model`: those of its generation configuration, else of its configuration."""
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = model.config.get_text_config().eos_token_id
    if eos is None:
        return []
    return [eos] if isinstance(eos, int) else list(eos)


def context_length(model: PreTrainedModel) -> int | None:
    """Longest row of tokens the model was built for; `None` when its configuration states none."""
    # GPT-2 and others name it otherwise and map the attribute, so the dictionary of the configuration would not do.
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


@torch.no_grad()
def warn_if_identical(policy: PreTrainedModel, reference: PreTrainedModel, *, threshold: float = 1e-6):
    """
    Warns, with the measured divergence, when a pair has nothing to contrast.

    Two different checkpoints disagree on any text, so 64 arbitrary token ids tell as much as real prompts and need no
    tokenizer: KL(π ‖ π_ref) per token is exactly 0 for equal weights and far above `threshold` after any training.

    Args:
        policy (`PreTrainedModel`): The model after alignment.
        reference (`PreTrainedModel`): The model before alignment.
        threshold (`float`, *optional*, defaults to `1e-6`): KL per token, in nats, under which to warn.
    """
    width = min(policy.config.get_text_config().vocab_size, reference.config.get_text_config().vocab_size)
    length = min(64, *(context_length(model) or 64 for model in (policy, reference)))
    ids = (torch.arange(length) * 7919 % width)[None]
    policy_logits = policy(ids.to(policy.device)).logits.float().cpu()[..., :width]
    reference_logits = reference(ids.to(reference.device)).logits.float().cpu()[..., :width]
    logps = policy_logits.log_softmax(-1)
    divergence = (logps.exp() * (logps - reference_logits.log_softmax(-1))).sum(-1).mean().item()
    if divergence < threshold:
        logger.warning(
            "`policy` and `reference` are the same model as far as text shows: KL(policy ‖ reference) is %.1e nats "
            "per token. There is nothing to contrast; pass the checkpoints after and before alignment.",
            divergence,
        )
