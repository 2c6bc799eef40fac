# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The weak pair as one model. Importing this makes the auto classes of transformers know it."""

from transformers import AutoConfig, AutoModelForCausalLM

from .configuration_contrastive_pair import ContrastivePairConfig
from .modeling_contrastive_pair import ContrastivePairForCausalLM

AutoConfig.register("contrastive_pair", ContrastivePairConfig, exist_ok=True)
AutoModelForCausalLM.register(ContrastivePairConfig, ContrastivePairForCausalLM, exist_ok=True)

__all__ = ["ContrastivePairConfig", "ContrastivePairForCausalLM"]
