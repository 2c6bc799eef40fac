# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Configuration of emulated fine-tuning: that of a base, that of a weak pair, β and τ."""

from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..functional import check_beta
from .configuration_contrastive_lora_pair import ContrastiveLoraPairConfig
from .configuration_contrastive_pair import ContrastivePairConfig
from .configuration_stacks import StacksConfig, build_config, check_one_family

_PAIRS = {config.model_type: config for config in (ContrastivePairConfig, ContrastiveLoraPairConfig)}


class EmulatedFineTuningConfig(StacksConfig):
    r"""
    Configuration of an [`EmulatedFineTuningForCausalLM`].

    Args:
        base_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the base, the large model that is steered.
        pair_config ([`ContrastivePairConfig`], [`ContrastiveLoraPairConfig`] or `dict`, *optional*):
            Configuration of the weak pair that steers it. The members' `model_type` is the base's; depth and width may
            differ. The pair's own `alpha` and `plausibility_threshold` have no effect here.
        beta (`float`, *optional*, defaults to `1.0`):
            β, at least 0, the weight of the pair: F = log π_base + β·(log π − log π_ref).
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1): generation keeps the tokens with π_base ≥ τ·max π_base.
        kwargs (*optional*):
            Fields of [`~transformers.PreTrainedConfig`].

    Raises:
        ValueError: if β or τ is out of range, `pair_config` is not that of a pair, or base and pair are of different
            model types.
    """

    model_type = "emulated_fine_tuning"
    sub_configs: ClassVar = {"base_config": AutoConfig, "pair_config": AutoConfig}

    def __init__(
        self,
        base_config=None,
        pair_config=None,
        beta: float = 1.0,
        plausibility_threshold: float = 0.1,
        **kwargs,
    ):
        check_beta(beta, plausibility_threshold)
        self.base_config, self.pair_config = build_config(base_config), _build_pair_config(pair_config)
        check_one_family(
            "EmulatedFineTuningLogitsProcessor", base=self.base_config, policy=self.pair_config.reference_config
        )
        self.beta, self.plausibility_threshold = beta, plausibility_threshold
        super().__init__(self.base_config, **kwargs)

    @property
    def settings(self) -> dict[str, float]:
        return {"beta": self.beta, "plausibility_threshold": self.plausibility_threshold}

    @property
    def stacks(self) -> dict[str, PreTrainedConfig]:
        return {"base": self.base_config.get_text_config(), **self.pair_config.stacks}


def _build_pair_config(config) -> ContrastivePairConfig | ContrastiveLoraPairConfig:
    given = isinstance(config, PreTrainedConfig)
    fields = {} if given else dict(config or {})
    model_type = config.model_type if given else fields.pop("model_type", ContrastivePairConfig.model_type)
    if model_type not in _PAIRS:
        raise ValueError(
            f"`pair_config` is of a {model_type!r:.80} model; it must be that of a pair: {' or '.join(_PAIRS)}. Make "
            "one with `ContrastivePairForCausalLM.from_pair`."
        )
    # Not by `AutoConfig`, which does not know the pairs where hf_cong is not installed.
    return config if given else _PAIRS[model_type](**fields)
