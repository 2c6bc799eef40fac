# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-strong generalization for Hugging Face: contrastive decoding of a weak pair, and ConG training.

Importing this registers the pair with transformers' auto classes. Everything that needs trl, datasets or lm-eval is
imported when it is first used.
"""

from importlib import import_module

from .functional import (
    contrastive_scores,
    emulated_fine_tuning_scores,
    implicit_reward,
    plausibility_mask,
    sequence_logps,
)
from .logits_process import (
    ContrastiveLogitsProcessor,
    EmulatedFineTuningLogitsProcessor,
    OfficialContrastiveLogitsProcessor,
)
from .pair import (
    ContrastiveLoraPairConfig,
    ContrastiveLoraPairForCausalLM,
    ContrastivePairConfig,
    ContrastivePairForCausalLM,
    EmulatedFineTuningConfig,
    EmulatedFineTuningForCausalLM,
)

__version__ = "0.1.0.dev0"

_LAZY = {
    "ImplicitReward": "rewards",
    "generate_completions": "generation",
    "best_of_n": "search.search",
    "chunk_beam_search": "search.custom_generate",
    "weak_to_strong_search": "search.search",
    "ContinuousEngine": "engines.continuous_engine",
    "compress_pair": "compress",
    "run_search": "search.run",
    "check_pair": "evaluation.pair_check",
    "run_evaluation": "evaluation.comparison",
    "run_sweep": "evaluation.sweep",
    "build_sft_dataset": "preferences",
    "build_preference_dataset": "preferences",
    "ConGConfig": "cong_config",
    "ConGTrainer": "cong_trainer",
    "train_rounds": "rounds",
    "AuxConfConfig": "baselines.auxconf_config",
    "AuxConfTrainer": "baselines.auxconf_trainer",
    "WSPOConfig": "baselines.wspo_config",
    "WSPOTrainer": "baselines.wspo_trainer",
}

__all__ = [
    "AuxConfConfig",
    "AuxConfTrainer",
    "ConGConfig",
    "ConGTrainer",
    "ContinuousEngine",
    "ContrastiveLogitsProcessor",
    "ContrastiveLoraPairConfig",
    "ContrastiveLoraPairForCausalLM",
    "ContrastivePairConfig",
    "ContrastivePairForCausalLM",
    "EmulatedFineTuningConfig",
    "EmulatedFineTuningForCausalLM",
    "EmulatedFineTuningLogitsProcessor",
    "ImplicitReward",
    "OfficialContrastiveLogitsProcessor",
    "WSPOConfig",
    "WSPOTrainer",
    "best_of_n",
    "build_preference_dataset",
    "build_sft_dataset",
    "check_pair",
    "chunk_beam_search",
    "compress_pair",
    "contrastive_scores",
    "emulated_fine_tuning_scores",
    "generate_completions",
    "implicit_reward",
    "plausibility_mask",
    "run_evaluation",
    "run_search",
    "run_sweep",
    "sequence_logps",
    "train_rounds",
    "weak_to_strong_search",
]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *__all__})
