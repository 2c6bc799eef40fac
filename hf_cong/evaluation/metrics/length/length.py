# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How long texts are, in words or in tokens."""

import datasets
import evaluate

from hf_cong.evaluation.metrics import module
from hf_cong.evaluation.text_metrics import lengths
from hf_cong.report.statistics import mean_interval

_DESCRIPTION = "How long texts are, in words or in tokens."
_INPUTS = """
Args:
    data (`list[str]`): Texts.
    tokenizer (`PreTrainedTokenizerBase`, *optional*): Counts its tokens; without one, words are counted.
    confidence (`float`, *optional*, defaults to `0.95`): Probability that the interval covers the true mean.

Returns:
    `dict`: `mean_length`, the ends of its interval `low` and `high`, and the `lengths`.
"""


class Length(module.Module, evaluate.Measurement):
    """[`~evaluation.text_metrics.lengths`] as a measurement."""

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"data": module.TEXT}),
        )

    def _compute(self, data, tokenizer=None, confidence=0.95):
        counted = lengths(data, tokenizer)
        mean, low, high = mean_interval(counted, confidence=confidence)
        return {"mean_length": mean, "low": low, "high": high, "lengths": counted}
