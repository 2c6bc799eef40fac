# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How often the reward that a pair implies agrees with given preferences."""

from dataclasses import asdict

import datasets
import evaluate

import hf_cong
from hf_cong.evaluation.metrics import module
from hf_cong.rewards.reward_accuracy import reward_accuracy

_DESCRIPTION = "How often the implicit reward of a pair prefers the chosen completion of a preference."
_INPUTS = """
Args:
    prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
    chosen (`list[str]` or `list[list[dict]]`): The preferred completions, or one message of the assistant each.
    rejected (`list[str]` or `list[list[dict]]`): The others.
    policy (`PreTrainedModel` or `PeftModel`): The model after alignment; without a reference a pair, or an adapter.
    tokenizer (`PreTrainedTokenizerBase`): The tokenizer of both.
    reference (`PreTrainedModel`, *optional*): The model before alignment.
    normalize (`str` or `float`, *optional*): `"tokens"` compares rewards per token.
    confidence (`float`, *optional*, defaults to `0.95`): Probability that the interval covers the true accuracy.
    batch_size (`int`, *optional*, defaults to `16`): Most rows per forward.

Returns:
    `dict`: `accuracy` among preferences without a tie, its Wilson interval `low` and `high`, `n` preferences, of which
    `ties`.
"""


class RewardAccuracy(module.Module, evaluate.Measurement):
    """[`~rewards.reward_accuracy`] as a measurement."""

    def _info(self):
        kinds = (module.TEXT, module.MESSAGES)
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"prompts": kind, "chosen": answer, "rejected": answer})
                for kind in kinds
                for answer in kinds
            ],
        )

    def _compute(
        self,
        prompts,
        chosen,
        rejected,
        policy,
        tokenizer,
        reference=None,
        normalize=None,
        confidence=0.95,
        batch_size=16,
    ):
        reward = hf_cong.ImplicitReward(policy, reference, tokenizer)
        measured = reward_accuracy(
            reward, prompts, chosen, rejected, normalize=normalize, confidence=confidence, batch_size=batch_size
        )
        return asdict(measured)
