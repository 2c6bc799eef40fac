# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How fast contrastive decoding is, every way side by side in one run."""

from .run import run_bench

__all__ = ["run_bench"]
