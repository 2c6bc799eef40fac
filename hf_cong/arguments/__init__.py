# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the commands: what a recipe may say, and what `--help` shows."""

from .evaluation import EvaluateArguments, ExportArguments, JudgeArguments
from .generation import BenchArguments, BuildArguments, GenerateArguments, SearchArguments
from .pair import CheckPairArguments, CompressArguments, SweepArguments
from .publishing import PublishArguments
from .training import RoundsArguments
from .watching import PlotArguments

__all__ = [
    "BenchArguments",
    "BuildArguments",
    "CheckPairArguments",
    "CompressArguments",
    "EvaluateArguments",
    "ExportArguments",
    "GenerateArguments",
    "JudgeArguments",
    "PlotArguments",
    "PublishArguments",
    "RoundsArguments",
    "SearchArguments",
    "SweepArguments",
]
