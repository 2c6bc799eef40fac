# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which of two completions is better: by a reward model, by a model behind a URL, or by other people's benchmarks."""

from .judge import Judge
from .named import named_judge
from .reward_model_judge import RewardModelJudge
from .run import run_judge

__all__ = ["EndpointJudge", "Judge", "RewardModelJudge", "named_judge", "run_judge"]


def __getattr__(name: str):
    if name != "EndpointJudge":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .endpoint_judge import EndpointJudge  # needs the package openai, which the others do not

    return EndpointJudge


def __dir__():
    return sorted({*globals(), *__all__})
