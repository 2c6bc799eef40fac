# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The reward that a pair of models implies."""

import datasets
import evaluate

import hf_cong
from hf_cong.evaluation.metrics import module
from hf_cong.report.statistics import mean_interval

_DESCRIPTION = "The reward that a policy implies over its reference: β·(log π(y|x) − log π_ref(y|x)), in nats times β."
_INPUTS = """
Args:
    prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
    completions (`list[str]`): What follows them.
    policy (`PreTrainedModel` or `PeftModel`): The model after alignment; without a reference a pair, or an adapter.
    tokenizer (`PreTrainedTokenizerBase`): The tokenizer of both.
    reference (`PreTrainedModel`, *optional*): The model before alignment.
    finish_reasons (`list[str]`, *optional*): `"stop"` adds the reward of the end-of-sequence token.
    beta (`float`, *optional*, defaults to `1.0`): Scale of the reward.
    normalize (`str` or `float`, *optional*): `"tokens"` divides by the number of tokens.
    confidence (`float`, *optional*, defaults to `0.95`): Probability that the interval covers the true mean.
    batch_size (`int`, *optional*, defaults to `16`): Most rows per forward.

Returns:
    `dict`: `mean_implicit_reward`, the ends of its interval `low` and `high`, and the `implicit_rewards`.
"""
_CITATION = """
@inproceedings{rafailov2023direct,
  title={Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author={Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and Ermon, Stefano and Manning, Christopher D. and
    Finn, Chelsea},
  booktitle={NeurIPS},
  year={2023}
}
"""


class ImplicitReward(module.Module, evaluate.Measurement):
    """[`~hf_cong.ImplicitReward`] as a measurement."""

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"prompts": kind, "completions": module.TEXT})
                for kind in (module.TEXT, module.MESSAGES)
            ],
            reference_urls=["https://huggingface.co/papers/2305.18290"],
        )

    def _compute(
        self,
        prompts,
        completions,
        policy,
        tokenizer,
        reference=None,
        finish_reasons=None,
        beta=1.0,
        normalize=None,
        confidence=0.95,
        batch_size=16,
    ):
        reward = hf_cong.ImplicitReward(policy, reference, tokenizer, beta=beta)
        rewards = reward.score(
            prompts, completions, finish_reasons=finish_reasons, normalize=normalize, batch_size=batch_size
        )
        mean, low, high = mean_interval(rewards, confidence=confidence)
        return {"mean_implicit_reward": mean, "low": low, "high": high, "implicit_rewards": rewards}
