# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Systems side by side: tasks of lm-eval, and our metrics of what they write."""

from .run import run_evaluation

__all__ = ["run_evaluation"]
