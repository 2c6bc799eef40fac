# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import logging

import pytest
import torch

from hf_cong import ImplicitReward
from hf_cong.rewards.reward_accuracy import reward_accuracy
from tests.tiny import tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = [
    f"{first} {second} {third}"
    for first in ("the", "a")
    for second in ("cat", "dog", "fox", "owl")
    for third in ("sat", "ran", "on")
]


@pytest.fixture(scope="module")
def reward():
    return ImplicitReward(*tiny_pair("llama", vocab_size=len(TOKENIZER)), TOKENIZER)


@pytest.fixture(scope="module")
def ranked(reward):
    """Completions of one prompt from the best to the worst by the reward, with the end-of-sequence token."""
    scores = reward.score(["tell me"] * len(TEXTS), TEXTS, finish_reasons=["stop"] * len(TEXTS))
    return [text for _, text in sorted(zip(scores, TEXTS, strict=True), reverse=True)]


def test_a_reward_that_agrees(reward, ranked, caplog):
    with caplog.at_level(logging.WARNING):
        measured = reward_accuracy(reward, ["tell me"] * 12, ranked[:12], ranked[12:])
    assert (measured.accuracy, measured.n, measured.ties) == (1.0, 12, 0)
    assert measured.low == pytest.approx(12 / (12 + 1.959964**2))  # Wilson's interval in closed form
    assert measured.high == pytest.approx(1.0)
    assert measured.above_chance
    assert not caplog.records


@pytest.mark.parametrize("agreeing", [0, 7])
def test_a_reward_that_is_not_above_chance_is_warned_of(reward, ranked, caplog, agreeing):
    chosen = ranked[:agreeing] + ranked[12 + agreeing :]
    rejected = ranked[12 : 12 + agreeing] + ranked[agreeing:12]
    with caplog.at_level(logging.WARNING):
        measured = reward_accuracy(reward, ["tell me"] * 12, chosen, rejected)
    assert measured.accuracy == pytest.approx(agreeing / 12)
    assert measured.low < measured.accuracy < measured.high or agreeing == 0
    assert not measured.above_chance
    assert "not above chance" in caplog.text


def test_ties_say_nothing(reward, ranked, caplog):
    same = ranked[:4]
    measured = reward_accuracy(reward, ["tell me"] * 16, same + ranked[:12], same + ranked[12:])
    assert (measured.accuracy, measured.n, measured.ties) == (1.0, 16, 4)
    with caplog.at_level(logging.WARNING):
        undecided = reward_accuracy(reward, ["tell me"] * 4, same, same)
    assert (undecided.accuracy, undecided.low, undecided.high, undecided.ties) == (0.5, 0.0, 1.0, 4)
    assert "4 ties" in caplog.text


def test_one_completion_twice_is_a_tie_in_any_batch(reward):
    prompts, long = ["tell me"] * 12, " ".join(TEXTS[:12])
    measured = reward_accuracy(reward, prompts, [*TEXTS[:11], long], [*TEXTS[:11], "a"], batch_size=12)
    assert (measured.n, measured.ties) == (12, 11)
    ends = ["stop"] * 12
    apart = [reward.score(prompts, [*TEXTS[:11], last], finish_reasons=ends, batch_size=12) for last in (long, "a")]
    assert apart[0][:11] != apart[1][:11]  # their batches differ


def test_messages_of_the_assistant_are_completions(reward, ranked):
    turns = [[[{"role": "assistant", "content": text}] for text in texts] for texts in (ranked[:12], ranked[12:])]
    measured = reward_accuracy(reward, ["tell me"] * 12, *turns)
    assert measured == reward_accuracy(reward, ["tell me"] * 12, ranked[:12], ranked[12:])
    for wrong in ([{"role": "user", "content": "a"}], [*turns[0][0], *turns[0][0]]):
        with pytest.raises(ValueError, match="Row 1 of `rejected` is .*one message of the assistant"):
            reward_accuracy(reward, ["tell me"] * 2, turns[0][:2], [turns[1][0], wrong])


def test_the_interval_narrows_and_a_swapped_pair_shows(reward, ranked, caplog):
    few = reward_accuracy(reward, ["tell me"] * 6, ranked[:6], ranked[-6:])
    many = reward_accuracy(reward, ["tell me"] * 12, ranked[:12], ranked[12:], confidence=0.8)
    assert few.low < many.low
    policy, reference = (scorer.model for scorer in reward.scorers)
    swapped = ImplicitReward(reference, policy, TOKENIZER)
    assert reward_accuracy(swapped, ["tell me"] * 12, ranked[:12], ranked[12:]).high < 0.5


def test_refusals(reward):
    with pytest.raises(ValueError, match="`prompts` is empty"):
        reward_accuracy(reward, [], [], [])
    with pytest.raises(ValueError, match="Got 1 `prompts`, 1 `chosen`, 2 `rejected`"):
        reward_accuracy(reward, ["a"], ["b"], ["c", "d"])
    for missing in (None, ["c", None]):
        with pytest.raises(ValueError, match="`chosen` is None, or a row of it is"):
            reward_accuracy(reward, ["a", "b"], missing, ["c", "d"])
    with pytest.raises(ValueError, match="`prompts` is None, or a row of it is"):
        reward.score(["a", None], ["c", "d"])
    policy, reference = tiny_pair("llama", vocab_size=len(TOKENIZER))
    with torch.no_grad():
        policy.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="Row 0 has the reward nan"):
        reward_accuracy(ImplicitReward(policy, reference, TOKENIZER), ["a"], ["b"], ["c"])
