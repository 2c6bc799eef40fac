# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Is this weak pair any good? To be asked before anything long."""

from .report import PairReport
from .run import check_pair

__all__ = ["PairReport", "check_pair"]
