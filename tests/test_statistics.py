# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Paired comparisons against numbers worked out by hand."""

import math

import numpy as np
import pytest

from hf_cong.report.statistics import Interval, mean_interval, paired_difference, win_rate

SCORES, BASELINE = [0.9, 0.4, 0.7, 0.2, 0.8], [0.1, 0.3, 0.7, 0.6, 0.5]


def test_win_rate_by_hand():
    measured = win_rate(SCORES, BASELINE)
    # outcomes 1, 1, 1/2, 0, 1: mean 0.7, squared deviations 0.09 + 0.09 + 0.04 + 0.49 + 0.09 = 0.8
    assert measured.rate == pytest.approx(0.7)
    assert measured.stderr == pytest.approx(math.sqrt(0.8 / 4 / 5))
    assert (measured.n, measured.wins, measured.ties, measured.losses) == (5, 3, 1, 1)
    assert 0 <= measured.low < 0.7 < measured.high <= 1
    assert all(isinstance(value, int) for value in measured[4:])


def test_a_difference_up_to_the_margin_is_a_tie():
    counts = [win_rate([1, 2, 3, 4], [1.5, 1.5, 4, 2], tie_margin=margin)[4:] for margin in (0, 0.5, 1, 2)]
    assert counts == [(4, 2, 0, 2), (4, 1, 2, 1), (4, 1, 3, 0), (4, 0, 4, 0)]


def test_the_other_way_around():
    there, back = win_rate(SCORES, BASELINE), win_rate(BASELINE, SCORES)
    assert there.rate == pytest.approx(1 - back.rate)
    assert (there.low, there.high) == pytest.approx((1 - back.high, 1 - back.low), abs=0.02)
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)


@pytest.mark.parametrize("n", [1, 5, 200])
def test_one_outcome_has_its_exact_interval(n):
    # an event that was not seen in n trials has at most the probability 1 - 0.025^(1/n)
    unseen = 1 - 0.025 ** (1 / n)
    better, worse = [1.0] * n, [0.0] * n
    assert win_rate(better, worse)[2:4] == pytest.approx((1 - unseen, 1))
    assert win_rate(worse, better)[2:4] == pytest.approx((0, unseen))
    assert win_rate(worse, worse)[2:4] == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))
    assert win_rate(worse, worse)[4:] == (n, 0, n, 0)
    assert win_rate(better, worse).stderr == (math.inf if n == 1 else 0)


def test_a_tie_instead_of_a_win_is_no_better_evidence():
    lows = [win_rate([1.0] * (12 - ties) + [0.0] * ties, [0.0] * 12).low for ties in range(5)]
    assert lows == sorted(lows, reverse=True)
    highs = [win_rate([0.0] * 12, [1.0] * (12 - ties) + [0.0] * ties).high for ties in range(5)]
    assert highs == pytest.approx([1 - low for low in lows], abs=1e-6)
    # 5 wins and a tie: rate 11/12, and losses may have the probability 1 - 0.025^(1/6)
    assert win_rate([1] * 5 + [0], [0] * 6).low == pytest.approx(11 / 12 * 0.025 ** (1 / 6))


def test_a_bootstrap_of_three_prompts_reaches_all_that_is_possible():
    # the tails of three values are 7e-8 wide, so the ends are the least and the largest mean of any resample
    assert win_rate([1, 1, 0], [0, 0, 1])[2:4] == (0, 1)


def test_the_interval_covers_the_true_rate_as_often_as_it_says():
    outcomes = np.random.default_rng(0).choice([-1, 0, 1], p=[0.2, 0.2, 0.6], size=(200, 25))
    measured = [win_rate(row, np.zeros(25)) for row in outcomes]
    assert 0.92 <= np.mean([row.low <= 0.7 <= row.high for row in measured]) <= 0.98
    values = np.random.default_rng(0).normal(0.2, 1, size=(200, 6))
    for confidence, share in ((0.95, 0.95), (0.5, 0.5)):
        ends = [paired_difference(row, np.zeros(6), confidence=confidence) for row in values]
        assert abs(np.mean([row.low <= 0.2 <= row.high for row in ends]) - share) < 0.06
    # no real difference, in scores of yes or no, and in few of many documents: better or worse by chance alone
    for n, share in ((3, 0.5), (5, 0.3), (60, 0.03)):
        outcomes = np.random.default_rng(0).choice([-1, 0, 1], p=[share, 1 - 2 * share, share], size=(100, n))
        ends = [paired_difference(row, np.zeros(n)) for row in outcomes]
        assert np.mean([row.low > 0 or row.high < 0 for row in ends]) <= 0.06


def test_many_items_give_the_interval_of_the_textbook():
    generator = np.random.default_rng(0)
    values, baseline = generator.normal(1, 2, 3000), generator.normal(0, 1, 3000)
    ends = mean_interval(values - baseline)
    assert paired_difference(values, baseline) == pytest.approx(ends, abs=0.03 * (ends.high - ends.low))


def test_what_makes_an_item_hard_cancels():
    generator = np.random.default_rng(0)
    hard, gain = generator.normal(0, 10, 50), generator.normal(0.5, 0.1, 50)
    paired = paired_difference(hard + gain, hard)
    assert 0 < paired.low < 0.5 < paired.high < 0.6
    apart = paired_difference(hard + gain, np.roll(hard, 1))
    assert apart.low < 0 < apart.high


def test_the_seed_decides_the_interval():
    for measure in (win_rate, paired_difference):
        first, again, other = (measure(SCORES, BASELINE, seed=seed) for seed in (0, 0, 1))
        assert first == again
        assert first[0] == other[0]
    values = np.random.default_rng(0).normal(size=30)
    assert paired_difference(values, values**2, seed=0) != paired_difference(values, values**2, seed=1)


def test_differences_without_a_spread():
    assert paired_difference([0.5], [0.2]) == Interval(pytest.approx(0.3), -math.inf, math.inf)
    assert paired_difference([1, 2, 3], [1, 2, 3]) == Interval(0, 0, 0)


@pytest.mark.parametrize("gains", [[1.0], [0.3], [0.2, 0.3], [4.0, 0.0], [4.0, 5.0, 6.0, 7.0, -0.01]], ids=str)
def test_few_items_that_agree_are_no_evidence(gains):
    # five of five to one side happen by chance once in 16 times, six of six once in 32
    for n in range(2, 6):
        values = (gains * n)[:n]
        assert paired_difference(values, [0] * n).low < 0 < paired_difference([0] * n, values).high
    for n in (12, 40):
        values = (gains * n)[:n]
        assert paired_difference(values, [0] * n).low > 0 > paired_difference([0] * n, values).high


def test_one_difference_has_the_exact_interval_of_its_sign():
    for n, excluded in ((5, False), (6, True), (60, True)):
        mean, low, high = paired_difference([2.0] * n, [0.0] * n)
        # Clopper and Pearson: with 97.5% confidence at least 0.025^(1/n) of all items differ by +2, the rest by -2
        assert (mean, low, high) == pytest.approx((2, 2 * (2 * 0.025 ** (1 / n) - 1), 2))
        assert (low > 0) == excluded


@pytest.mark.parametrize("measure", [win_rate, paired_difference])
@pytest.mark.parametrize("bad", [[], None, [1.0, None], [math.nan, 1.0], [math.inf, 1.0], 3.0, [[1.0], [2.0]]])
def test_values_that_are_none_are_refused(measure, bad):
    with pytest.raises(ValueError, match="must be finite numbers"):
        measure(bad, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"`baseline_\w+` must be finite numbers"):
        measure([1.0, 2.0], bad)


def test_refusals():
    with pytest.raises(ValueError, match="Got 2 `scores` and 1 `baseline_scores`.*Join them by `prompt_id`"):
        win_rate([1, 2], [1])
    for margin in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="`tie_margin` must be at least 0"):
            win_rate([1, 2], [1, 2], tie_margin=margin)
    for confidence in (0, 1, 95, math.nan):
        for measure in (win_rate, paired_difference):
            with pytest.raises(ValueError, match="`confidence` must be a probability"):
                measure([1, 2], [1, 2], confidence=confidence)
        with pytest.raises(ValueError, match="`confidence` must be a probability"):
            mean_interval([1, 2], confidence=confidence)
