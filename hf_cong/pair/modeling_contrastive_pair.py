# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A contrastive pair as one causal language model: two stacks, one cache, log p_α out."""

import copy
import logging
import os

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..compatibility import check_decoder_only, check_same_vocabulary, warn_if_identical
from ..functional import check_alpha, contrastive_scores
from .configuration_contrastive_pair import ContrastivePairConfig
from .modeling_stacks import StacksForCausalLM, grow, is_adapter, later, load_member, logits_of

logger = logging.getLogger(__name__)


class ContrastivePairForCausalLM(StacksForCausalLM):
    r"""
    A weak pair, the policy after alignment and the reference before it, as one model that does contrastive decoding.

    `forward` returns log p_α, normalised and **unmasked**: a likelihood, so perplexity and lm-eval score rightly.
    `generate`, `generate_batch` and `pipeline` sample from p_α on the plausible set, π ≥ τ·max π. Every mode of
    `generate` works: sampling, beams, left-padded batches, static cache and compile, assisted and prompt-lookup
    decoding, streaming. Penalties and warpers of the generation configuration act after the contrast, on log p_α.

    The two members must be of one decoder-only family and share a tokenizer. Generation configuration, special tokens
    and tokenizer are the policy's. The KV cache holds the layers of both stacks, the policy's first.

    Args:
        config ([`ContrastivePairConfig`]):
            Configuration of the pair. To build a pair from two models, use [`~ContrastivePairForCausalLM.from_pair`].

    Example:

    ```python
    >>> from hf_cong import ContrastivePairForCausalLM

    >>> pair = ContrastivePairForCausalLM.from_pair("org/weak-dpo", "org/weak-instruct", alpha=0.4)
    >>> pair.generate(**inputs, max_new_tokens=256, do_sample=True, temperature=0.8, top_p=0.95)
    >>> pair.save_pretrained("weak-pair")  # one directory, loads with AutoModelForCausalLM
    ```

    Source: [ConG](https://huggingface.co/papers/2510.07884); see [`contrastive_scores`] for the formula.
    """

    config_class = ContrastivePairConfig
    _sources = (*StacksForCausalLM._sources, "configuration_contrastive_pair", "modeling_contrastive_pair")
    scores = staticmethod(contrastive_scores)

    def __init__(self, config: ContrastivePairConfig):
        check_alpha(config.alpha, config.plausibility_threshold)
        super().__init__(config)

    def _build_members(self, config):
        check_decoder_only(config.policy_config, "policy")
        check_decoder_only(config.reference_config, "reference")
        self.policy = AutoModelForCausalLM.from_config(config.policy_config)
        self.reference = AutoModelForCausalLM.from_config(config.reference_config)

    @property
    def members(self) -> dict[str, PreTrainedModel]:
        return {"policy": self.policy, "reference": self.reference}

    @property
    def _front(self) -> PreTrainedModel:
        return self.policy

    @classmethod
    def from_pair(
        cls,
        policy: str | os.PathLike | torch.nn.Module,
        reference: str | os.PathLike | PreTrainedModel | None = None,
        *,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        model_init_kwargs: dict | None = None,
    ) -> "ContrastivePairForCausalLM":
        """
        Makes a pair of two models, or of a LoRA adapter and its base. Models given as objects are adopted, not copied.

        Args:
            policy (`str`, `PreTrainedModel` or `peft.PeftModel`):
                The model after alignment: a model, a path or a Hub id. A LoRA adapter, as a `PeftModel` or by name,
                makes a [`ContrastiveLoraPairForCausalLM`], which reads the base's weights once.
            reference (`str` or `PreTrainedModel`, *optional*):
                The model before alignment: a model, a path or a Hub id. When both are given by name (or were loaded by
                name and their tokenizers are at hand), their vocabularies are compared token by token. Left out for an
                adapter: its base is the reference.
            alpha (`float`, *optional*, defaults to `0.4`):
                α in [0, 1], the weight kept on the policy: F = log π − (1 − α)·log π_ref.
            plausibility_threshold (`float`, *optional*, defaults to `0.1`):
                τ in [0, 1): generation keeps the tokens with π ≥ τ·max π.
            model_init_kwargs (`dict`, *optional*):
                Arguments of `from_pretrained` for the members given by name: `dtype`, `device_map`, `revision`, ...

        Returns:
            [`ContrastivePairForCausalLM`]: the pair, in eval mode.

        Raises:
            ValueError: if the models cannot be contrasted token by token: another vocabulary, another model type, an
                encoder-decoder, a recurrent state; if an adapter is of a kind that one forward does not cover; or if α
                or τ is out of range.
        """
        check_alpha(alpha, plausibility_threshold)
        if reference is None or (isinstance(policy, str | os.PathLike) and is_adapter(policy, model_init_kwargs)):
            # Not `from .module`: transformers would want the file beside every two-stack pair that it loads.
            from . import modeling_contrastive_lora_pair as lora

            return lora.ContrastiveLoraPairForCausalLM.from_pair(
                policy,
                reference,
                alpha=alpha,
                plausibility_threshold=plausibility_threshold,
                model_init_kwargs=model_init_kwargs,
            )
        policy, policy_tokenizer = load_member(policy, "policy", model_init_kwargs)
        reference, reference_tokenizer = load_member(reference, "reference", model_init_kwargs)
        config = ContrastivePairConfig(
            policy.config, reference.config, alpha, plausibility_threshold, dtype=policy.dtype
        )
        if policy_tokenizer is not None and reference_tokenizer is not None:
            check_same_vocabulary(policy_tokenizer, reference_tokenizer)
        else:
            widths = [member.config.get_text_config().vocab_size for member in (policy, reference)]
            if widths[0] != widths[1]:
                logger.warning(
                    "The heads of `policy` and `reference` are %d and %d wide and their tokenizers are not at hand to "
                    "be compared: both are cut to %d.",
                    *widths,
                    min(widths),
                )
        with torch.device("meta"):
            pair = cls(config)
        pair.policy, pair.reference, pair._tokenizer = policy, reference, policy_tokenizer
        pair._adopt_attention()
        pair.generation_config = copy.deepcopy(policy.generation_config)
        pair.eval()
        warn_if_identical(policy, reference)
        return pair

    def member_logits(self, past_key_values, paged_cache, **inputs) -> tuple[Tensor, Tensor]:
        """Logits of the policy and of the reference, raw, for one input."""
        grow(past_key_values, self.config)
        first = self.config.policy_config.get_text_config().num_hidden_layers
        policy_logits = logits_of(self.policy, past_key_values, paged_cache, **inputs)
        reference_caches = later(past_key_values, first), later(paged_cache, first)
        return policy_logits, logits_of(self.reference, *reference_caches, **inputs)
