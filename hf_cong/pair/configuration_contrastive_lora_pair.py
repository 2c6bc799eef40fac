# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a LoRA pair: the reference's configuration, the shape of the adapter, α and τ."""

import copy
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..functional import check_alpha
from .configuration_stacks import StacksConfig, build_config, key_value_shape

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ContrastiveLoraPairConfig(StacksConfig):
    r"""
    Configuration of a [`ContrastiveLoraPairForCausalLM`].

    Args:
        reference_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the reference, the model before alignment and the base of the adapter.
        lora_rank (`int`, *optional*, defaults to `8`):
            The adapter's rank, the largest if layers differ: smaller ones are padded with zeros, which changes
            nothing.
        target_modules (`list[str]`, *optional*):
            Projections that have an adapter in at least one layer: names among `q_proj`, `k_proj`, `v_proj`,
            `o_proj`, `gate_proj`, `up_proj`, `down_proj`. Where a layer has none, its adapter is zeros.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy: F = log π − (1 − α)·log π_ref.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1): generation keeps the tokens with π ≥ τ·max π.
        kwargs (*optional*):
            Fields of [`~transformers.PreTrainedConfig`].

    Raises:
        ValueError: if α, τ, the rank or a target is out of range, or the reference is more than a text model.
    """

    model_type = "contrastive_lora_pair"
    sub_configs: ClassVar = {"reference_config": AutoConfig}

    def __init__(
        self,
        reference_config=None,
        lora_rank: int = 8,
        target_modules: list[str] | None = None,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        **kwargs,
    ):
        check_alpha(alpha, plausibility_threshold)
        reference_config = build_config(reference_config)
        if reference_config.get_text_config() is not reference_config:
            raise ValueError(
                f"`reference_config` is of a {reference_config.model_type!r} model, which is more than a text model. "
                "A LoRA pair needs a text-only causal language model; for this one merge the adapter and use "
                "`ContrastivePairForCausalLM`."
            )
        target_modules = sorted(target_modules or (), key=str)
        if unknown := [name for name in target_modules if name not in TARGETS]:
            raise ValueError(f"`target_modules` must be names among {', '.join(TARGETS)}, got {unknown!r:.80}.")
        if not isinstance(lora_rank, int) or lora_rank < 1:
            raise ValueError(f"`lora_rank` must be a whole number of at least 1, got {lora_rank!r:.80}.")
        self.reference_config = reference_config
        self.lora_rank, self.target_modules = lora_rank, target_modules
        self.alpha, self.plausibility_threshold = alpha, plausibility_threshold
        super().__init__(reference_config, **kwargs)

    @property
    def settings(self) -> dict[str, float]:
        return {"alpha": self.alpha, "plausibility_threshold": self.plausibility_threshold}

    @property
    def stacks(self) -> dict[str, PreTrainedConfig]:
        return {"policy and reference": self.get_text_config()}

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """What caches, masks and continuous batching size themselves by: the two streams are twice the heads."""
        reference = self.reference_config
        both = copy.copy(reference)
        key_value_heads, both.head_dim = key_value_shape(reference)
        both.num_attention_heads, both.num_key_value_heads = 2 * reference.num_attention_heads, 2 * key_value_heads
        return both
