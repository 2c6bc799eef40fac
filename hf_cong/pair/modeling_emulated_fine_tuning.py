# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A large base steered by a weak pair, as one causal language model: three models, one cache, log p_β out."""

import copy
import os

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ..compatibility import check_decoder_only, check_head_widths, check_same_vocabulary, eos_token_ids
from ..functional import check_beta, emulated_fine_tuning_scores
from .configuration_contrastive_lora_pair import ContrastiveLoraPairConfig
from .configuration_contrastive_pair import ContrastivePairConfig
from .configuration_emulated_fine_tuning import EmulatedFineTuningConfig
from .modeling_contrastive_lora_pair import ContrastiveLoraPairForCausalLM
from .modeling_contrastive_pair import ContrastivePairForCausalLM
from .modeling_stacks import (
    StacksForCausalLM,
    grow,
    inspect_member,
    is_adapter,
    later,
    load_member,
    load_tokenizer,
    logits_of,
    lookup,
)

_PAIRS = {
    ContrastivePairConfig.model_type: ContrastivePairForCausalLM,
    ContrastiveLoraPairConfig.model_type: ContrastiveLoraPairForCausalLM,
}


class EmulatedFineTuningForCausalLM(StacksForCausalLM):
    r"""
    A base and the weak pair that steers it, as one model that does emulated fine-tuning (EFT).

        F(v) = log π_base(v) + β · (log π(v) − log π_ref(v))   on the base's plausible set,      p_β = softmax(F)

    The base writes in its own voice, moved by what alignment changed in the pair. Proxy-tuning and DeRa are the same
    formula at other weights: see [`emulated_fine_tuning_scores`].

    `forward` returns log p_β, normalised and **unmasked**: a likelihood. `generate`, `generate_batch` and `pipeline`
    sample from p_β on the base's plausible set, π_base ≥ τ·max π_base. Every mode of `generate` works, as it does for
    a [`ContrastivePairForCausalLM`]; `assistant_model` may be `pair.policy`, or any model whose head is as wide as the
    narrowest here. `generate_batch` needs members with equal key-value heads.

    The three models must be of one decoder-only family and share a tokenizer; across tokenizers,
    `weak_to_strong_search` steers by text. Generation configuration, special tokens and tokenizer are the base's; what
    ends a completion of the policy ends one here too. The KV cache holds the layers of the base, then the pair's.

    Args:
        config ([`EmulatedFineTuningConfig`]):
            Configuration of base and pair. To build one from models, use
            [`~EmulatedFineTuningForCausalLM.from_pair`].

    Example:

    ```python
    >>> from hf_cong import EmulatedFineTuningForCausalLM

    >>> steered = EmulatedFineTuningForCausalLM.from_pair("org/strong", "org/weak-dpo", "org/weak-instruct", beta=1.0)
    >>> steered.generate(**inputs, max_new_tokens=256, do_sample=True, temperature=0.8)
    >>> steered.save_pretrained("steered")  # one directory, loads with AutoModelForCausalLM
    ```

    Source: [EFT](https://huggingface.co/papers/2310.12962); a baseline of
    [weak-to-strong search](https://huggingface.co/papers/2405.19262).
    """

    config_class = EmulatedFineTuningConfig
    _sources = (
        *ContrastiveLoraPairForCausalLM._sources,
        "configuration_emulated_fine_tuning",
        "modeling_emulated_fine_tuning",
    )
    scores = staticmethod(emulated_fine_tuning_scores)

    def __init__(self, config: EmulatedFineTuningConfig):
        check_beta(config.beta, config.plausibility_threshold)
        super().__init__(config)

    def _build_members(self, config):
        check_decoder_only(config.base_config, "base")
        self.base = AutoModelForCausalLM.from_config(config.base_config)
        self.pair = _PAIRS[config.pair_config.model_type](config.pair_config)

    @property
    def members(self) -> dict[str, PreTrainedModel]:
        return {"base": self.base, **self.pair.members}

    @property
    def _front(self) -> PreTrainedModel:
        return self.base

    @classmethod
    def from_pair(
        cls,
        base: str | os.PathLike | PreTrainedModel,
        policy: str | os.PathLike | nn.Module,
        reference: str | os.PathLike | PreTrainedModel | None = None,
        *,
        beta: float = 1.0,
        plausibility_threshold: float = 0.1,
        model_init_kwargs: dict | None = None,
    ) -> "EmulatedFineTuningForCausalLM":
        """
        Makes one model of a base and a pair. Models given as objects are adopted, not copied; one that is given twice,
        as for DeRa, must be given by name or as copies for the whole to be saved.

        Args:
            base (`str` or `PreTrainedModel`):
                The large model to be steered: a model, a path or a Hub id. By name, its configuration and tokenizer
                are compared with the pair's before its weights are read.
            policy (`str`, `PreTrainedModel`, `peft.PeftModel` or [`ContrastivePairForCausalLM`]):
                The small model after alignment, or a LoRA adapter, as in [`ContrastivePairForCausalLM.from_pair`]; or
                a pair, as an object, a path or a Hub id. A pair's own `alpha` has no effect.
            reference (`str` or `PreTrainedModel`, *optional*):
                The small model before alignment. Left out for an adapter, whose base it is, and for a pair.
            beta (`float`, *optional*, defaults to `1.0`):
                β, at least 0, the weight of the pair.
            plausibility_threshold (`float`, *optional*, defaults to `0.1`):
                τ in [0, 1): generation keeps the tokens with π_base ≥ τ·max π_base.
            model_init_kwargs (`dict`, *optional*):
                Arguments of `from_pretrained` for models given by name: `dtype`, `device_map`, `revision`, ...

        Returns:
            [`EmulatedFineTuningForCausalLM`]: the steered model, in eval mode.

        Raises:
            ValueError: if the base's vocabulary is another than the pair's (steer by text, with
                `weak_to_strong_search`) or its model type is; if the pair is refused by
                [`ContrastivePairForCausalLM.from_pair`]; or if β or τ is out of range.
        """
        check_beta(beta, plausibility_threshold)
        pair = load_pair(policy, reference, model_init_kwargs)
        base_config, tokenizer = inspect_member(base, "base", model_init_kwargs)
        pair_tokenizer = pair._tokenizer or load_tokenizer(pair.name_or_path)
        if tokenizer is not None and pair_tokenizer is not None:
            check_same_vocabulary(tokenizer, pair_tokenizer, roles=("base", "policy"))
        else:
            check_head_widths(base=base_config.get_text_config().vocab_size, policy=pair.config.vocab_size)
        EmulatedFineTuningConfig(base_config, pair.config)  # refuses another family
        base, _ = load_member(base, "base", model_init_kwargs)
        config = EmulatedFineTuningConfig(base.config, pair.config, beta, plausibility_threshold, dtype=base.dtype)
        with torch.device("meta"):
            model = cls(config)
        model.base, model.pair, model._tokenizer = base, pair, tokenizer
        model._adopt_attention()
        model.generation_config = copy.deepcopy(base.generation_config)
        eos = eos_token_ids(base)
        if also := [token for token in eos_token_ids(pair) if token not in eos]:
            model.generation_config.eos_token_id = eos + also
        return model.eval()

    def _paged_config(self, config):
        return self.pair._paged_config(config)

    def member_logits(self, past_key_values, paged_cache, **inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the base, of the policy and of the reference, raw, for one input."""
        grow(past_key_values, self.config)
        first = self.config.base_config.get_text_config().num_hidden_layers
        base_logits = logits_of(self.base, past_key_values, paged_cache, **inputs)
        return base_logits, *self.pair.member_logits(
            later(past_key_values, first), later(paged_cache, first), **inputs
        )


def load_pair(policy, reference=None, model_init_kwargs: dict | None = None) -> ContrastivePairForCausalLM:
    """The pair that `policy` is, by itself or with its reference."""
    saved = isinstance(policy, str | os.PathLike) and not is_adapter(policy, model_init_kwargs)
    if saved:
        model_type = PreTrainedConfig.get_config_dict(policy, **lookup(model_init_kwargs))[0].get("model_type")
        saved = model_type in _PAIRS
    if not (saved or isinstance(policy, ContrastivePairForCausalLM)):
        return ContrastivePairForCausalLM.from_pair(policy, reference, model_init_kwargs=model_init_kwargs)
    if reference is not None:
        raise ValueError("`policy` is a pair, which has its own reference. Leave `reference` out.")
    if saved:
        init = {"use_safetensors": True, **(model_init_kwargs or {})}
        return _PAIRS[model_type].from_pretrained(policy, **init)
    return policy
