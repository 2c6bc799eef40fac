# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a contrastive pair: two configurations, α and τ."""

import copy
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..functional import check_alpha


class ContrastivePairConfig(PreTrainedConfig):
    r"""
    Configuration of a [`ContrastivePairForCausalLM`].

    Args:
        policy_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the policy, the model after alignment.
        reference_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the reference, the model before alignment. The same `model_type`; depth and width may
            differ.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy: F = log π − (1 − α)·log π_ref.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1): generation keeps the tokens with π ≥ τ·max π.
        kwargs (*optional*):
            Fields of [`~transformers.PreTrainedConfig`].

    Raises:
        ValueError: if α or τ is out of range, or the two members are of different model types.
    """

    model_type = "contrastive_pair"
    sub_configs: ClassVar = {"policy_config": AutoConfig, "reference_config": AutoConfig}

    def __init__(
        self,
        policy_config=None,
        reference_config=None,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        **kwargs,
    ):
        check_alpha(alpha, plausibility_threshold)
        # transformers builds every configuration without arguments when it writes only what differs from the default
        policy_config, reference_config = _build(policy_config), _build(reference_config)
        _check_one_family(policy_config, reference_config)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, policy_config.get_text_config().to_dict().get(name))
        kwargs.setdefault("tie_word_embeddings", False)  # each stack ties its own
        # `super` hands these down to the sub-configurations, and without a value would reset theirs.
        for name in ("attn_implementation", "experts_implementation"):
            own = {"policy_config": policy_config, "reference_config": reference_config, "": policy_config}
            kwargs.setdefault(name, {key: getattr(config, f"_{name}") for key, config in own.items()})
        self.policy_config, self.reference_config = policy_config, reference_config
        self.alpha, self.plausibility_threshold = alpha, plausibility_threshold
        super().__init__(**kwargs)

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """What caches, masks and continuous batching size themselves by: one stack as deep as both, policy first."""
        policy, reference = self.policy_config.get_text_config(), self.reference_config.get_text_config()
        both = copy.copy(policy)
        both.num_hidden_layers = policy.num_hidden_layers + reference.num_hidden_layers
        both.vocab_size = self.vocab_size
        if policy.to_dict().get("layer_types") is not None:
            both.layer_types = [*policy.layer_types, *reference.layer_types]
        limits = [getattr(config, "max_position_embeddings", None) for config in (policy, reference)]
        limits = [limit for limit in limits if limit is not None]
        if limits:
            both.max_position_embeddings = min(limits)
        return both

    @property
    def vocab_size(self) -> int:
        """Width of the logits: the narrower head, since padded heads are cut."""
        return min(c.get_text_config().vocab_size for c in (self.policy_config, self.reference_config))

    @property
    def hidden_size(self) -> int:
        return self.policy_config.get_text_config().hidden_size

    @property
    def num_hidden_layers(self) -> int:
        return self.get_text_config().num_hidden_layers


def _check_one_family(policy: PreTrainedConfig, reference: PreTrainedConfig):
    if policy.model_type != reference.model_type:
        raise ValueError(
            f"`policy` is a {policy.model_type!r} model and `reference` a {reference.model_type!r} one. The two "
            "stacks of a pair share masks and cache layout, so they must be of one model type; for two that only "
            "share a tokenizer use `ContrastiveLogitsProcessor`."
        )
    for name in ("sliding_window", "attention_chunk_size"):
        windows = [config.get_text_config().to_dict().get(name) for config in (policy, reference)]
        if windows[0] != windows[1]:
            raise ValueError(
                f"`policy` and `reference` have `{name}` {windows[0]} and {windows[1]}. The two stacks of a pair "
                "share their masks, so their windows must be equal; for these two use `ContrastiveLogitsProcessor`."
            )


def _build(config) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    config = dict(config or {"model_type": "llama"})
    return AutoConfig.for_model(**config)
