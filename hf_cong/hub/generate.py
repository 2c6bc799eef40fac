# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Contrastive decoding as the `custom_generate` of a Hub repository: the logits processor, behind `model.generate`."""

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, PreTrainedModel
from transformers.utils import ModelOutput

from ..compatibility import check_decoder_only, check_head_widths
from ..logits_process import ContrastiveLogitsProcessor

# By these, transformers finds this code; it hands them on with everything else.
_LOADING = {"revision", "token", "cache_dir", "force_download", "local_files_only"}
_OTHER_INPUTS = {"inputs_embeds", "pixel_values", "input_features"}


def generate(
    inputs: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    model: PreTrainedModel,
    reference_model: PreTrainedModel | None = None,
    alpha: float = 0.4,
    plausibility_threshold: float = 0.1,
    logits_processor: list[LogitsProcessor] | None = None,
    **kwargs,
) -> torch.LongTensor | ModelOutput:
    r"""
    Contrastive decoding of `model`, the policy, with its reference: samples from p_α instead of π.

        F(v) = log π(v) − (1 − α) · log π_ref(v)   on the plausible set π ≥ τ·max π,      p_α = softmax(F)

    Everything else is as in `generate` itself: greedy search, sampling, beams, assisted decoding, streaming, what is
    returned. [`ContrastiveLogitsProcessor`], in `logits_process.py`, says how they go together.

    Args:
        inputs (`torch.LongTensor` of shape `(B, T)`, *optional*):
            The prompts, here or as `input_ids`.
        generation_config (`GenerationConfig`, *optional*):
            As in `generate`.
        model (`PreTrainedModel`):
            The model after alignment, the one whose `generate` is called.
        reference_model (`PreTrainedModel`):
            The model before alignment, loaded. It must share the policy's vocabulary; dtype and device may differ.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1).
        logits_processor (`list[LogitsProcessor]`, *optional*):
            What is to follow the contrast, on log p_α.
        kwargs:
            All other arguments of `generate`. A left-padded batch needs its `attention_mask`. With `revision`, the
            commit of this code is pinned.

    Returns:
        What `generate` returns.

    Raises:
        TypeError: if `reference_model` is missing or not a loaded model.
        ValueError: if α or τ is out of range; if the two models cannot be contrasted token by token; if there is more
            to the prompts than token ids; for continuous batching; or if a batch may be padded and has no mask.

    Source: [ConG](https://huggingface.co/papers/2510.07884).
    """
    if reference_model is None:
        raise TypeError(
            "`reference_model` is missing: the model before alignment, loaded. Pass it to `generate`, as in "
            "`reference_model=AutoModelForCausalLM.from_pretrained(...)`."
        )
    if isinstance(kwargs.get("custom_generate"), str):
        raise ValueError(
            "`custom_generate` is another way to decode, and this model was loaded with this one in the place of its "
            "`generate`. Leave one out: the argument, or `trust_remote_code` when the model is loaded."
        )
    for name in _OTHER_INPUTS & kwargs.keys():
        if kwargs[name] is not None:
            raise ValueError(
                f"`{name}` would reach the policy alone, since its reference is shown token ids. Pass text only, as "
                "`input_ids`."
            )
    if kwargs.get("cache_implementation") == "paged":
        raise ValueError(
            "`cache_implementation='paged'` is continuous batching, which ignores logits processors and so would "
            "decode the policy alone. Leave it out, or use `ContrastivePairForCausalLM` of hf_cong."
        )
    contrast = ContrastiveLogitsProcessor(
        reference_model,
        alpha=alpha,
        plausibility_threshold=plausibility_threshold,
        attention_mask=kwargs.get("attention_mask"),
    )
    check_decoder_only(model.config, "model")
    check_head_widths(
        model=model.config.get_text_config().vocab_size,
        reference_model=reference_model.config.get_text_config().vocab_size,
    )
    for name in _LOADING & kwargs.keys():
        del kwargs[name]
    # Not `model.generate`: that is this very function if the model was loaded from a repository that holds it.
    return GenerationMixin.generate(
        model, inputs, generation_config, logits_processor=[contrast, *(logits_processor or [])], **kwargs
    )
