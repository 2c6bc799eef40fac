# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Our metrics as modules of `evaluate`: as classes, and by `evaluate.load`, without a network.

A module is a thin shell over a function of ours and lies in a folder of its own name, which can be pushed as a Space.
`evaluate` copies its file elsewhere and reads its imports line by line, so those are absolute, one to a line, and
without a comment behind.
"""

from pathlib import Path

try:
    import evaluate
except ImportError as error:
    raise ImportError('These modules need the package evaluate. Install it: `pip install "hf-cong[eval]"`.') from error

from .distinct_n.distinct_n import DistinctN
from .implicit_reward.implicit_reward import ImplicitReward
from .length.length import Length
from .perplexity_under.perplexity_under import PerplexityUnder
from .reward_accuracy.reward_accuracy import RewardAccuracy
from .win_rate.win_rate import WinRate

__all__ = ["DistinctN", "ImplicitReward", "Length", "PerplexityUnder", "RewardAccuracy", "WinRate", "load"]

_FOLDER = Path(__file__).parent


def load(name: str) -> evaluate.EvaluationModule:
    """
    `evaluate.load` of one of our modules, which keeps its columns in memory.

    Args:
        name (`str`):
            `"distinct_n"`, `"implicit_reward"`, `"length"`, `"perplexity_under"`, `"reward_accuracy"` or `"win_rate"`.

    Raises:
        ValueError: if there is no such module.
    """
    names = sorted(path.parent.name for path in _FOLDER.glob("*/README.md"))
    if name not in names:
        raise ValueError(f"There is no module {name!r:.80}. Choose one of {', '.join(names)}.")
    return evaluate.load(str(_FOLDER / name), keep_in_memory=True)
