# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How often a system scores higher than a baseline on the same prompts."""

import datasets
import evaluate

from hf_cong.evaluation.metrics import module
from hf_cong.report.statistics import win_rate

_DESCRIPTION = "How often a system scores higher than a baseline on the same prompts; a tie counts half."
_INPUTS = """
Args:
    predictions (`list[float]`): The system's score for each prompt, more is better.
    references (`list[float]`): The baseline's for the same prompts in the same order.
    tie_margin (`float`, *optional*, defaults to `0.0`): Largest difference that is a tie.
    confidence (`float`, *optional*, defaults to `0.95`): Probability that the interval covers the true rate.
    seed (`int`, *optional*, defaults to `0`): Seed of the bootstrap over prompts.

Returns:
    `dict`: `win_rate`, its `stderr`, `low` and `high` end; and the numbers `n`, `wins`, `ties`, `losses`.
"""


class WinRate(module.Module, evaluate.Metric):
    """[`~report.statistics.win_rate`] as a metric."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": module.NUMBER, "references": module.NUMBER}),
        )

    def _compute(self, predictions, references, tie_margin=0.0, confidence=0.95, seed=0):
        measured = win_rate(predictions, references, tie_margin=tie_margin, confidence=confidence, seed=seed)
        return {"win_rate" if name == "rate" else name: value for name, value in measured._asdict().items()}
