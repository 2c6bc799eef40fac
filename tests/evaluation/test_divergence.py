# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Divergence of a contrast from its policy: against sums written out, and over completions against the oracle."""

import math

import pytest
import torch

from hf_cong import ContrastivePairForCausalLM, ImplicitReward
from hf_cong.evaluation.divergence import kl_divergence, measure_completions, token_divergences
from hf_cong.prompts import encode_prompt
from hf_cong.rewards import completion_logps
from tests.oracle import oracle_logps
from tests.tiny import tiny_lora, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = [[{"role": "user", "content": text}] for text in ("tell me", "a cat sat on the mat", "owl", "the fox ran")]
COMPLETIONS = [[5, 9, 200, 31, 7], [77], [], [40, 41, 42, 43, 44, 45, 46, 47]]
REASONS = ["length", "stop", "stop", "stop"]
FORMULAS = [
    {"alpha": 0.4, "plausibility_threshold": 0.1, "temperature": 1.0},
    {"alpha": 0.3, "plausibility_threshold": 0.1, "temperature": 0.24},
    {"alpha": 0.0, "plausibility_threshold": 0.3, "temperature": 1.7},
    {"alpha": 0.7, "plausibility_threshold": 0.0, "temperature": 0.8},
]


def by_hand(logps: list[float], policy_logps: list[float], temperature: float) -> dict[str, float]:
    """From log p_α, `-inf` where it is implausible, and log π, in Python's own numbers."""

    def at_temperature(values):
        weights = [math.exp(value / temperature) for value in values]
        return [weight / sum(weights) for weight in weights]

    def kl(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    p, q = at_temperature(logps), at_temperature(policy_logps)
    policy = [math.exp(value) for value in policy_logps]
    return {
        "kl": kl([math.exp(value) for value in logps], policy),
        "kl_sampled": kl(p, policy),
        "same_argmax": float(logps.index(max(logps)) == policy_logps.index(max(policy_logps))),
        # a token that the policy drafts, kept with probability min(1, p / q)
        "acceptance": sum(b * min(1, a / b) for a, b in zip(p, q, strict=True) if b > 0),
    }


def random_logits(seed: int, width: int = 30):
    return torch.randn(6, width, generator=torch.Generator().manual_seed(seed)) * 2


def contrast_by_hand(policy: torch.Tensor, reference: torch.Tensor, alpha: float, threshold: float) -> torch.Tensor:
    policy, reference = policy.double().log_softmax(-1), reference.double().log_softmax(-1)
    scores = policy - (1 - alpha) * reference
    if threshold:
        scores[policy < policy.max(-1, keepdim=True).values + math.log(threshold)] = -math.inf
    return scores.log_softmax(-1)


@pytest.mark.parametrize("formula", FORMULAS)
def test_tokens_by_hand(formula):
    policy, reference = random_logits(0), random_logits(1)
    found = token_divergences(policy, reference, **formula)
    expected = contrast_by_hand(policy, reference, formula["alpha"], formula["plausibility_threshold"])
    rows = [
        by_hand(contrast, own, formula["temperature"])
        for contrast, own in zip(expected.tolist(), policy.double().log_softmax(-1).tolist(), strict=True)
    ]
    for name, values in found.items():
        torch.testing.assert_close(
            values.double(), torch.tensor([row[name] for row in rows]).double(), atol=2e-5, rtol=2e-5
        )
    # the negative controls: the pair swapped, another α, the other direction of the divergence
    for other in (
        token_divergences(reference, policy, **formula),
        token_divergences(policy, reference, **{**formula, "alpha": formula["alpha"] + 0.2}),
    ):
        for name in ("kl", "kl_sampled", "acceptance"):
            assert not torch.allclose(other[name], found[name], atol=1e-3), name
    own, other = policy.log_softmax(-1), reference.log_softmax(-1)
    assert not torch.allclose(kl_divergence(own, other), kl_divergence(other, own), atol=1e-3)


def test_the_policy_itself_is_no_distance_away():
    policy, reference = random_logits(0), random_logits(1)
    found = token_divergences(policy, reference, alpha=1.0, plausibility_threshold=0.0, temperature=1.0)
    torch.testing.assert_close(found["kl"], torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["kl_sampled"], torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["acceptance"], torch.ones(6), atol=1e-6, rtol=0)
    assert found["same_argmax"].all()
    # on its plausible tokens, the mass of the others
    found = token_divergences(policy, reference, alpha=1.0, plausibility_threshold=0.3)
    mass = policy.softmax(-1).where(policy >= policy.amax(-1, keepdim=True) + math.log(0.3), 0.0).sum(-1)
    torch.testing.assert_close(found["kl"], -mass.log())
    torch.testing.assert_close(found["acceptance"], mass)
    assert (mass < 0.99).any()


def test_forbidden_tokens_and_padded_heads_stay_finite():
    policy, reference = random_logits(0), random_logits(1, width=32)
    policy[:, 3] = -torch.inf
    reference[:, 4] = -torch.inf
    found = token_divergences(policy, reference, alpha=0.4, temperature=0.1)
    assert all(values.double().isfinite().all() for values in found.values())
    found = kl_divergence(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log())
    assert found == math.inf


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral"])
def test_completions_against_the_oracle(family):
    policy, reference = tiny_pair(family, vocab_size=len(TOKENIZER))
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    reward = ImplicitReward(pair, None, TOKENIZER)
    formula = FORMULAS[1]
    found = measure_completions(reward, PROMPTS, COMPLETIONS, REASONS, **formula)
    contrast = {name: formula[name] for name in ("alpha", "plausibility_threshold")}
    for prompt, completion, reason, values in zip(PROMPTS, COMPLETIONS, REASONS, found, strict=True):
        ids = encode_prompt(TOKENIZER, prompt)
        whole = completion + ([TOKENIZER.eos_token_id] if reason == "stop" else [])
        expected, rewards, nll = [], [], []
        for place, token in enumerate(whole):
            before = ids + whole[:place]
            own = oracle_logps(policy, policy, before, alpha=1.0, mask=False)
            other = oracle_logps(reference, reference, before, alpha=1.0, mask=False)
            logps = oracle_logps(policy, reference, before, **contrast)
            expected.append(by_hand(logps.tolist(), own.tolist(), formula["temperature"]))
            rewards.append((own - other)[token].item())
            nll.append(-other[token].item())
        assert values["positions"] == len(whole)
        assert values["implicit_reward"] == pytest.approx(sum(rewards), abs=1e-3)
        assert values["implicit_reward_per_token"] == pytest.approx(sum(rewards) / len(whole), abs=1e-3)
        for name in ("kl", "kl_sampled", "same_argmax", "acceptance"):
            mean = sum(row[name] for row in expected) / len(whole)
            assert values[name] == pytest.approx(mean, abs=2e-3), name
        assert values["nll_tokens"] == len(completion)
        if completion:
            assert values["nll"] == pytest.approx(sum(nll[: len(completion)]) / len(completion), abs=1e-3)
        else:
            assert values["nll"] is None
    other = measure_completions(reward, PROMPTS, COMPLETIONS, REASONS, **{**formula, "alpha": 0.7})
    for mine, yours in zip(found, other, strict=True):  # the negative control
        assert mine["implicit_reward"] == yours["implicit_reward"]
        assert mine["kl"] != pytest.approx(yours["kl"], abs=1e-3)


def test_the_batch_plays_no_part_and_the_rewards_are_the_scores():
    policy, reference = tiny_pair("llama", vocab_size=len(TOKENIZER))
    reward = ImplicitReward(ContrastivePairForCausalLM.from_pair(policy, reference), None, TOKENIZER, beta=0.5)
    whole, *others = (
        measure_completions(reward, PROMPTS, COMPLETIONS, REASONS, **FORMULAS[0], batch_size=size) for size in (8, 1)
    )
    for mine, yours in zip(whole, others[0], strict=True):
        assert mine == pytest.approx(yours, abs=1e-4)
    scores = reward.score(PROMPTS, COMPLETIONS, finish_reasons=REASONS)
    assert [row["implicit_reward"] for row in whole] == pytest.approx(scores, abs=1e-4)
    assert scores != pytest.approx(reward.score(PROMPTS, COMPLETIONS), abs=1e-2)  # without the end of sequence
    logps = completion_logps(reference, TOKENIZER, PROMPTS, COMPLETIONS)
    expected = [-row.mean().item() if len(row) else None for row in logps]
    assert [row["nll"] for row in whole] == [None if nll is None else pytest.approx(nll, abs=1e-4) for nll in expected]


def test_a_lora_pair_measures_as_its_merged_models():
    adapted, policy, reference = tiny_lora("llama", vocab_size=len(TOKENIZER))
    pairs = ContrastivePairForCausalLM.from_pair(adapted), ContrastivePairForCausalLM.from_pair(policy, reference)
    one, other = (
        measure_completions(ImplicitReward(pair, None, TOKENIZER), PROMPTS, COMPLETIONS, REASONS, **FORMULAS[0])
        for pair in pairs
    )
    for mine, yours in zip(one, other, strict=True):
        assert mine == pytest.approx(yours, abs=1e-3)
    assert max(row["kl"] for row in one) > 0.01
