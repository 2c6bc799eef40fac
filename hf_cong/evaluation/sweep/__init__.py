# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
from .measures import FunctionJudge
from .run import run_sweep

__all__ = ["FunctionJudge", "run_sweep"]
