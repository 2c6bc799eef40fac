# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The weak pair as one model. Importing this makes the auto classes of transformers know it."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration_contrastive_lora_pair import ContrastiveLoraPairConfig
from .configuration_contrastive_pair import ContrastivePairConfig
from .modeling_contrastive_lora_pair import ContrastiveLoraPairForCausalLM
from .modeling_contrastive_pair import ContrastivePairForCausalLM

for config, model in (
    (ContrastivePairConfig, ContrastivePairForCausalLM),
    (ContrastiveLoraPairConfig, ContrastiveLoraPairForCausalLM),
):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForCausalLM.register(config, model, exist_ok=True)

__all__ = [
    "ContrastiveLoraPairConfig",
    "ContrastiveLoraPairForCausalLM",
    "ContrastivePairConfig",
    "ContrastivePairForCausalLM",
]
