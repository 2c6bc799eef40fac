# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a contrastive pair: two configurations, α and τ."""

from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..functional import check_alpha
from .configuration_stacks import StacksConfig, build_config, check_one_family


class ContrastivePairConfig(StacksConfig):
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
        self.policy_config, self.reference_config = build_config(policy_config), build_config(reference_config)
        check_one_family("ContrastiveLogitsProcessor", policy=self.policy_config, reference=self.reference_config)
        self.alpha, self.plausibility_threshold = alpha, plausibility_threshold
        super().__init__(self.policy_config, **kwargs)

    @property
    def settings(self) -> dict[str, float]:
        return {"alpha": self.alpha, "plausibility_threshold": self.plausibility_threshold}

    @property
    def stacks(self) -> dict[str, PreTrainedConfig]:
        return {
            "policy": self.policy_config.get_text_config(),
            "reference": self.reference_config.get_text_config(),
        }
