# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Share of different n-grams: how varied texts are."""

import datasets
import evaluate

from hf_cong.evaluation.metrics import module
from hf_cong.evaluation.text_metrics import distinct_n

_DESCRIPTION = "Share of different n-grams among all n-grams of the texts."
_INPUTS = """
Args:
    data (`list[str]`): Texts; words are what white space separates.
    n (`int`, *optional*, defaults to `2`): Words per n-gram.

Returns:
    `dict`: `distinct_2`, or of another `n`, in [0, 1].
"""
_CITATION = """
@inproceedings{li2016diversity,
  title={A Diversity-Promoting Objective Function for Neural Conversation Models},
  author={Li, Jiwei and Galley, Michel and Brockett, Chris and Gao, Jianfeng and Dolan, Bill},
  booktitle={NAACL-HLT},
  year={2016}
}
"""


class DistinctN(module.Module, evaluate.Measurement):
    """[`~evaluation.text_metrics.distinct_n`] as a measurement."""

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"data": module.TEXT}),
            reference_urls=["https://huggingface.co/papers/1510.03055"],
        )

    def _compute(self, data, n=2):
        return {f"distinct_{n}": distinct_n(data, n)}
