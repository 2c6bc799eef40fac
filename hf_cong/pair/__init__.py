# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The weak pair as one model, and a base steered by it. Importing this makes transformers' auto classes know them."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration_contrastive_lora_pair import ContrastiveLoraPairConfig
from .configuration_contrastive_pair import ContrastivePairConfig
from .configuration_emulated_fine_tuning import EmulatedFineTuningConfig
from .configuration_stacks import StacksConfig
from .modeling_contrastive_lora_pair import ContrastiveLoraPairForCausalLM
from .modeling_contrastive_pair import ContrastivePairForCausalLM
from .modeling_emulated_fine_tuning import EmulatedFineTuningForCausalLM
from .modeling_stacks import StacksForCausalLM

for config, model in (
    (ContrastivePairConfig, ContrastivePairForCausalLM),
    (ContrastiveLoraPairConfig, ContrastiveLoraPairForCausalLM),
    (EmulatedFineTuningConfig, EmulatedFineTuningForCausalLM),
):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForCausalLM.register(config, model, exist_ok=True)

__all__ = [
    "ContrastiveLoraPairConfig",
    "ContrastiveLoraPairForCausalLM",
    "ContrastivePairConfig",
    "ContrastivePairForCausalLM",
    "EmulatedFineTuningConfig",
    "EmulatedFineTuningForCausalLM",
    "StacksConfig",
    "StacksForCausalLM",
]
