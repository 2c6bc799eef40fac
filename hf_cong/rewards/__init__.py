# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a model makes of given completions, and the reward that a pair implies: of whole texts, and of growing ones."""

from .implicit_reward import ImplicitReward
from .incremental_reward import IncrementalReward
from .likelihood import completion_logps

__all__ = ["ImplicitReward", "IncrementalReward", "completion_logps"]
