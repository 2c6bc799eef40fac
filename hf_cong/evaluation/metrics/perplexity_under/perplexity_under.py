# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How surprised a model is by completions."""

import datasets
import evaluate

from hf_cong.evaluation.metrics import module
from hf_cong.evaluation.text_metrics import perplexity_under

_DESCRIPTION = "Perplexity of completions, given their prompts, under a model."
_INPUTS = """
Args:
    prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
    completions (`list[str]`): What follows them.
    model (`PreTrainedModel`): The model that scores.
    tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
    batch_size (`int`, *optional*, defaults to `16`): Most rows per forward.

Returns:
    `dict`: `perplexity` over all tokens; the `perplexities` of the completions, `None` for one without a token; the
    number of `tokens`, and of `empty` completions.
"""


class PerplexityUnder(module.Module, evaluate.Measurement):
    """[`~evaluation.text_metrics.perplexity_under`] as a measurement."""

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"prompts": kind, "completions": module.TEXT})
                for kind in (module.TEXT, module.MESSAGES)
            ],
        )

    def _compute(self, prompts, completions, model, tokenizer, batch_size=16):
        return perplexity_under(model, tokenizer, prompts, completions, batch_size=batch_size)._asdict()
