# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import shutil

import numpy
import pytest
from datasets import Dataset

from hf_cong import ImplicitReward
from hf_cong.ranking import agreeing, best_and_worst, equal_length_penalty, keep_share, score_completions
from tests.tiny import tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
WORDS = "the a cat dog fox owl sat ran on mat log".split()


def completions(number=12, seed=0, longest=9):
    draw = numpy.random.default_rng(seed)
    rows = [
        {
            "prompt_id": f"p{index}",
            "prompt": [{"role": "user", "content": f"tell me of the {index % 7}"}],
            "completion": " ".join(draw.choice(WORDS, draw.integers(1, longest + 1))),
            "finish_reason": str(draw.choice(["stop", "length"])),
        }
        for index in range(number)
    ]
    return Dataset.from_list(rows)


def scored(rewards, texts, reasons=None):
    names = [f"p{index}" for index in range(len(rewards))]
    reasons = reasons or ["stop"] * len(rewards)
    return Dataset.from_dict({"prompt_id": names, "completion": texts, "finish_reason": reasons, "reward": rewards})


@pytest.fixture(scope="module")
def reward():
    return ImplicitReward(*tiny_pair("llama", vocab_size=len(TOKENIZER)), TOKENIZER)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_scores_are_those_of_the_reward(reward, tmp_path, batch_size):
    rows = completions()
    found = score_completions(rows, lambda: reward, reward_id="r", output_dir=tmp_path, batch_size=batch_size)
    wanted = reward.score(rows["prompt"][:], rows["completion"][:], finish_reasons=rows["finish_reason"][:])
    assert found["prompt_id"][:] == rows["prompt_id"][:]
    assert found["reward"][:] == pytest.approx(wanted, abs=1e-5)
    without_ends = reward.score(rows["prompt"][:], rows["completion"][:])
    assert found["reward"][:] != pytest.approx(without_ends, abs=1e-5)  # the ends count


def test_a_killed_scoring_goes_on_and_a_finished_one_needs_no_reward(reward, tmp_path):
    rows = completions()
    whole = score_completions(rows, lambda: reward, reward_id="r", output_dir=tmp_path / "whole", batch_size=4)

    class Killed(Exception):
        pass

    class Dying(ImplicitReward):
        calls = 0

        def score(self, *args, **kwargs):
            Dying.calls += 1
            if Dying.calls == 3:
                raise Killed
            return super().score(*args, **kwargs)

    dying = Dying(*tiny_pair("llama", vocab_size=len(TOKENIZER)), TOKENIZER)
    with pytest.raises(Killed):
        score_completions(rows, lambda: dying, reward_id="r", output_dir=tmp_path / "killed", batch_size=4)
    found = score_completions(rows, lambda: reward, reward_id="r", output_dir=tmp_path / "killed", batch_size=4)
    assert found["reward"][:] == whole["reward"][:]
    path = "rewards-00000.jsonl"
    assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()

    def never():
        raise AssertionError("called")

    again = score_completions(rows, never, reward_id="r", output_dir=tmp_path / "whole")
    assert again["reward"][:] == whole["reward"][:]
    for change in ({"reward_id": "s"}, {"completions": completions(seed=1)}):
        with pytest.raises(ValueError, match="Repeat the command that wrote it"):
            score_completions(
                **{"completions": rows, "reward": never, "reward_id": "r", **change, "output_dir": tmp_path / "whole"}
            )
    shutil.rmtree(tmp_path / "whole")
    with pytest.raises(AssertionError, match="called"):
        score_completions(rows, never, reward_id="r", output_dir=tmp_path / "whole")


def test_what_does_not_fit_the_pair_has_no_reward(tmp_path):
    small = ImplicitReward(*tiny_pair("llama", vocab_size=len(TOKENIZER), max_position_embeddings=48), TOKENIZER)
    rows = completions(longest=40)
    found = score_completions(rows, lambda: small, reward_id="r", output_dir=tmp_path)
    lengths = [
        len(TOKENIZER.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        + len(TOKENIZER(text, add_special_tokens=False)["input_ids"])
        for prompt, text in zip(found["prompt"], found["completion"], strict=True)
    ]
    assert [score is None for score in found["reward"]] == [length >= 48 for length in lengths]
    assert None in found["reward"][:] and any(found["reward"])


def test_the_penalty_makes_best_and_worst_equally_long():
    draw = numpy.random.default_rng(0)
    lengths = [[int(draw.integers(1, 200)) for _ in range(8)] for _ in range(400)]
    true = 0.05
    rewards = [[draw.normal() + true * length for length in group] for group in lengths]

    def gap(penalty):
        differences = []
        for group in zip(rewards, lengths, strict=True):
            rows = sorted((reward - penalty * length, length) for reward, length in zip(*group, strict=True))
            differences.append(rows[-1][1] - rows[0][1])
        return sum(differences) / len(differences)

    found = equal_length_penalty(rewards, lengths)
    assert found == pytest.approx(true, abs=0.002)
    assert abs(gap(found)) < 1
    assert gap(0.0) > 100  # without it, the best are the long ones
    mirrored = [[-reward for reward in group] for group in rewards]
    assert equal_length_penalty(mirrored, lengths) == pytest.approx(-found, abs=1e-6)
    shifted = [[reward + 100 * index for reward in group] for index, group in enumerate(rewards)]
    assert equal_length_penalty(shifted, lengths) == pytest.approx(found, abs=1e-3)  # prompts differ, nothing follows
    assert equal_length_penalty([[1.0, 2.0], [3.0]], [[5, 5], [7]]) == 0
    # As many short as long ones win by the rewards alone: none of them becomes a tie.
    assert equal_length_penalty([[5.0, 1.0], [5.0, 1.0]], [[10, 20], [20, 10]]) == 0


def test_best_and_worst_are_joined_by_prompt_and_every_drop_is_counted():
    first = scored(
        [1.0, 2.0, None, 1.0, 5.0], ["aa", "bb", "cc", " ", "ee"], ["stop", "stop", "stop", "stop", "length"]
    )
    second = scored([3.0, 1.0, 4.0], ["xx", "yy", "zz"]).select([2, 0, 1])  # another order
    best, worst, facts = best_and_worst([first, second])
    assert dict(zip(best["prompt_id"], best["completion"], strict=True)) == {"p0": "xx", "p1": "bb", "p2": "zz"}
    assert dict(zip(worst["prompt_id"], worst["completion"], strict=True)) == {"p0": "aa", "p1": "yy", "p2": "zz"}
    assert best["prompt_id"][:] == worst["prompt_id"][:]
    assert best["controlled_reward"][:] == best["reward"][:]  # all are of one length
    counts = {"length_penalty": 0.0, "prompts": 5, "kept": 3, "dropped": {"empty": 1, "truncated": 1, "unscored": 1}}
    assert facts == counts
    best, _, _ = best_and_worst([first, second], drop_truncated=False)
    assert "p4" in best["prompt_id"][:]
    best, _, _ = best_and_worst([scored([1.0], ["long one"]), scored([0.5], ["short"])], length_penalty=0.5)
    assert best["completion"][:] == ["short"] and best["controlled_reward"][:] == [0.5 - 0.5 * 5]
    with pytest.raises(ValueError, match="No candidate is left of 1: dropped {'empty': 1}"):
        best_and_worst([scored([1.0], [""])])
    with pytest.raises(ValueError, match=r"\['reward'\] are missing"):
        best_and_worst([first.remove_columns("reward")])


def test_the_kept_share_is_the_best_and_no_longer_than_the_rest():
    draw = numpy.random.default_rng(1)
    lengths = [int(draw.integers(1, 300)) for _ in range(2000)]
    merit = [draw.normal() for _ in lengths]
    rewards = [value + 0.1 * length for value, length in zip(merit, lengths, strict=True)]
    rows = scored(rewards, ["x" * length for length in lengths])
    kept = keep_share(rows, 0.25)
    names = set(kept["prompt_id"])
    chosen = [index for index in range(2000) if f"p{index}" in names]
    assert len(chosen) == 500 and kept["prompt_id"][:] == [f"p{index}" for index in chosen]
    mean = sum(lengths) / 2000
    assert sum(lengths[i] for i in chosen) / 500 == pytest.approx(mean, rel=0.01)
    assert sum(merit[i] for i in chosen) / 500 > 1.2  # of the best quarter it is 1.27
    longest = sorted(range(2000), key=lambda i: -rewards[i])[:500]
    assert sum(lengths[i] for i in longest) / 500 > 1.5 * mean  # what the sum alone would keep
    assert keep_share(rows, 1)["prompt_id"][:] == rows["prompt_id"][:]
    assert len(keep_share(scored([None, 1.0, 2.0], ["a", "b", "c"]), 1.0)) == 2
    for share, number, count in ((0.07, 100, 7), (0.55, 100, 55), (0.3, 7, 3), (1e-9, 4, 1), (0.999, 4, 4)):
        assert len(keep_share(rows.select(range(number)), share)) == count
    for share in (0, -1, 1.5):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            keep_share(rows, share)


def test_labels_that_the_reward_contradicts_are_found():
    chosen = scored([3.0, 1.0, 2.0, None], ["a", "b", "c", "d"])
    rejected = scored([1.0, 2.0, 2.0, 0.0], ["e", "f", "g", "h"]).select([3, 2, 1, 0])
    kept, facts = agreeing(chosen, rejected)
    assert kept == ["p0"]  # a tie does not agree
    assert facts == {"length_penalty": 0.0, "pairs": 4, "contradicted": 2, "unscored": 1}
    kept, _ = agreeing(scored([3.0], ["a long one"]), scored([2.0], ["b"]), length_penalty=0.2)
    assert kept == []  # only its length was in favour
