# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""lm-evaluation-harness: a pair as its model `cong`, a search as `cong_search`. Importing this registers both."""

try:
    import lm_eval  # noqa: F401
except ImportError as error:
    raise ImportError('The models of lm-eval need it. Install it: `pip install "hf-cong[eval]"`.') from error

from .cong_lm import ConGLM
from .search_lm import SearchLM

__all__ = ["ConGLM", "SearchLM"]
