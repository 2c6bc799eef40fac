# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The rule of the sweep: what is recommended, and when it says that the evidence is too thin to."""

import numpy as np
import pytest

from hf_cong.evaluation.sweep.recommendation import RECOMMENDED, TOO_THIN, difference, recommend
from hf_cong.evaluation.sweep.settings import all_settings, labels, policy_alone, sweep_settings

SERIES = sweep_settings((0.3, 0.5, 1.0), (0.1,), (0.8,), ())
N = 60


def made(gold: dict, *, series=SERIES, n=N, noise=0.05, nll=None, nll_noise=0.005, implicit=None):
    """Records with means by α; a prompt is as hard for all settings, and every number has noise of its own."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, n)
    return {
        setting: [
            {
                "prompt_id": f"{place:04}",
                "gold": gold[setting.alpha] + hard[place] + rng.normal(0, noise),
                "implicit_reward_per_token": (implicit or {}).get(setting.alpha, 0.0) + rng.normal(0, noise),
                "nll": (nll or {}).get(setting.alpha, 2.0) + rng.normal(0, nll_noise),
                "kl_sampled": 1 - setting.alpha,
            }
            for place in range(n)
        ]
        for setting in all_settings(series)
    }


def test_a_clear_best_is_recommended():
    found = recommend(made({0.3: 0.0, 0.5: 0.3, 1.0: 0.1}), SERIES, ["gold"])
    assert (found["verdict"], found["alpha"], found["basis"]) == (RECOMMENDED, 0.5, "gold")
    assert found["setting"] == {"alpha": 0.5, "plausibility_threshold": 0.1, "temperature": 0.8}
    assert found["candidates"] == [found["setting"]]
    assert "Its lead over the policy alone is 0.2" in found["reason"] and "smaller α" not in found["reason"]
    lowest = recommend(made({0.3: 0.5, 0.5: 0.3, 1.0: 0.1}), SERIES, ["gold"])
    assert lowest["alpha"] == 0.3 and "No smaller α than 0.3 was measured" in lowest["reason"]


def test_a_tie_between_neighbours_is_too_thin_and_says_how_many_prompts_it_takes():
    found = recommend(made({0.3: 0.299, 0.5: 0.3, 1.0: 0.1}, noise=0.1), SERIES, ["gold"])
    assert (found["verdict"], found["alpha"], found["setting"]) == (TOO_THIN, None, None)
    assert {candidate["alpha"] for candidate in found["candidates"]} == {0.3, 0.5}
    assert "cannot be told apart from α = 0." in found["reason"]
    assert "the careful choice is α = 0.5, T = 0.8, the nearest of these to the policy" in found["reason"]
    # more prompts tell the same difference
    settled = recommend(made({0.3: 0.25, 0.5: 0.3, 1.0: 0.1}, noise=0.1, n=400), SERIES, ["gold"])
    assert (settled["verdict"], settled["alpha"]) == (RECOMMENDED, 0.5)


def test_a_tie_with_the_policy_alone_is_too_thin():
    found = recommend(made({0.3: -1.0, 0.5: 0.101, 1.0: 0.1}), SERIES, ["gold"])
    assert found["verdict"] == TOO_THIN
    assert {candidate["alpha"] for candidate in found["candidates"]} == {0.5, 1.0}
    assert "the careful choice is α = 1, T = 0.8" in found["reason"]
    many = sweep_settings([number / 10 for number in range(1, 11)], (0.1,), (0.8,), ())
    found = recommend(made({number / 10: 0.0 for number in range(1, 11)}, series=many), many, ["gold"])
    assert "9 others, with α = 0.1, 0.2, " in found["reason"]


def test_the_policy_alone_may_be_the_best():
    found = recommend(made({0.3: 0.0, 0.5: 0.1, 1.0: 0.5}), SERIES, ["gold"])
    assert (found["verdict"], found["alpha"]) == (RECOMMENDED, 1.0)
    assert "no contrast is shown to help" in found["reason"]


def test_settings_of_one_alpha_may_tie():
    series = sweep_settings((0.3, 1.0), (0.1,), (0.8, 0.7), ())
    found = recommend(made({0.3: 0.5, 1.0: 0.0}, series=series), series, ["gold"])
    assert (found["verdict"], found["alpha"], len(found["candidates"])) == (RECOMMENDED, 0.3, 2)


@pytest.mark.parametrize("n", [1, 2, 19])
def test_few_prompts_are_too_thin_however_clear_they_look(n):
    records = made({0.3: 0.0, 0.5: 9.0, 1.0: 1.0}, n=n, noise=0.0)
    found = recommend(records, SERIES, ["gold"])
    assert found["verdict"] == TOO_THIN and f"at least 20 prompts, not {n}." in found["reason"]
    assert recommend(made({0.3: 0.0, 0.5: 9.0, 1.0: 1.0}, n=20, noise=0.0), SERIES, ["gold"])["alpha"] == 0.5


def test_one_alpha_and_a_constant_reward_tell_nothing():
    series = sweep_settings((0.5,), (0.1,), (0.8, 1.0), ())
    found = recommend(made({0.5: 1.0}, series=series), series, ["gold"])
    assert found["verdict"] == TOO_THIN and "Only α = 0.5 was measured" in found["reason"]
    constant = {
        s: [{**row, "gold": 0.25} for row in rows] for s, rows in made(dict.fromkeys((0.3, 0.5, 1), 0)).items()
    }
    found = recommend(constant, SERIES, ["gold"])
    assert found["verdict"] == TOO_THIN and "`gold` is 0.25 for every completion" in found["reason"]


def test_without_the_policy_alone_the_report_says_so():
    series = sweep_settings((0.3, 0.5), (0.1,), (0.8,), ())
    found = recommend(made({0.3: 0.0, 0.5: 0.3}, series=series), series, ["gold"])
    assert found["alpha"] == 0.5 and "α = 1 was not measured" in found["reason"]
    found = recommend(made({0.3: 0.0, 0.5: 0.3}, series=series), series, [])
    assert found["verdict"] == TOO_THIN and "nothing to compare fluency with" in found["reason"]


def test_the_implicit_reward_alone_never_recommends_what_costs_fluency():
    rising = {0.3: 2.0, 0.5: 1.0, 1.0: 0.0}
    gold = dict.fromkeys((0.3, 0.5, 1.0), 0.0)
    found = recommend(made(gold, implicit=rising, nll={0.3: 2.5, 0.5: 2.2, 1.0: 2.0}), SERIES, [])
    assert (found["verdict"], found["basis"]) == (TOO_THIN, "implicit_reward_per_token")
    assert "No setting is shown to gain implicit reward" in found["reason"]
    free = recommend(made(gold, implicit=rising, nll={0.3: 2.5, 0.5: 2.01, 1.0: 2.0}), SERIES, [])
    assert (free["verdict"], free["alpha"]) == (RECOMMENDED, 0.5)
    assert "only an explicit reward can tell" in free["reason"]
    # without a gain there is nothing to recommend, and a cost that may be too large is one
    assert recommend(made(gold, implicit={}), SERIES, [])["verdict"] == TOO_THIN
    noisy = made(gold, implicit=rising, nll={0.3: 2.03, 0.5: 2.03, 1.0: 2.0}, nll_noise=0.3)
    found = recommend(noisy, SERIES, [])
    assert found["verdict"] == TOO_THIN and "The one of least cost, α = 0." in found["reason"]


def test_empty_completions_have_no_fluency():
    records = made(dict.fromkeys((0.3, 0.5, 1.0), 0.0), implicit={0.3: 2.0, 0.5: 1.0})
    assert recommend(records, SERIES, [])["alpha"] == 0.3
    for left in (0, 19, 20):  # texts of which the perplexity is known
        cut = {
            setting: [{**row, "nll": row["nll"] if place < left else None} for place, row in enumerate(rows)]
            for setting, rows in records.items()
        }
        assert recommend(cut, SERIES, [])["verdict"] == (RECOMMENDED if left == 20 else TOO_THIN)


def test_differences_are_paired_by_prompt_not_by_place():
    records = made({0.3: 0.0, 0.5: 0.1, 1.0: 0.0})
    low, middle, _ = all_settings(SERIES)
    expected = difference(records, "gold", middle, low)
    assert expected.low > 0.05  # although a prompt varies ten times as much
    shuffled = {**records, low: records[low][::-1]}
    assert difference(shuffled, "gold", middle, low) == expected
    # the negative control: joined by place
    renamed = {
        **records,
        low: [{**a, "gold": b["gold"]} for a, b in zip(*[records[low], records[low][::-1]], strict=True)],
    }
    assert difference(renamed, "gold", middle, low).low < 0
    # several that hold together are wider
    assert difference(records, "gold", middle, low, comparisons=20).low < expected.low


def test_curves_meet_at_the_policy_alone():
    series = sweep_settings(np.array([1, 0.0, 0.4]), iter((0.1, 0)), (0.8,), (0.8, 1.0))
    assert list(series) == [f"T = {t}, τ = {tau}" for tau in ("0.1", "0") for t in ("0.8", "0.8·α", "1·α")]
    assert list(series["T = 0.8, τ = 0.1"]) == [0.0, 0.4, 1.0] and list(series["T = 0.8·α, τ = 0"]) == [0.4, 1.0]
    settings = all_settings(series)
    assert len(settings) == 2 * (3 + 1 + 2) == len(set(settings))
    cooled = series["T = 0.8·α, τ = 0.1"][0.4]
    assert cooled.temperature == 0.32
    assert policy_alone(series)[cooled] == series["T = 0.8, τ = 0.1"][1.0]
    assert labels(series)[cooled] == "α = 0.4, T = 0.32, τ = 0.1"
    assert len({setting.name for setting in settings}) == len(settings)


REFUSED = {
    "`alphas` must hold each number once": {"alphas": (0.4, 0.4)},
    "`alphas` must hold each number once, got \\[1, 1.0\\]": {"alphas": (1, 1.0)},
    "`temperatures` must hold each number once": {"temperatures": (1.0, 1)},
    "`plausibility_thresholds` must hold each number once": {"plausibility_thresholds": (0.1, 0.1)},
    "`alpha` must lie in \\[0, 1\\], got 1.1": {"alphas": (0.4, 1.1)},
    "`alpha` must lie in \\[0, 1\\], got -0.1": {"alphas": (-0.1,)},
    "`alpha` must lie in \\[0, 1\\], got nan": {"alphas": (float("nan"),)},
    "`plausibility_threshold` must lie in \\[0, 1\\)": {"plausibility_thresholds": (1.0,)},
    "A temperature must be a number above 0 and finite, got 0": {"temperatures": (0,)},
    "A temperature must be a number above 0 and finite, got -1": {"temperatures_times_alpha": (-1,)},
    "A temperature must be a number above 0 and finite, got 'a'": {"temperatures": ("a",)},
    "A sweep needs at least one of `alphas`": {"alphas": ()},
    "A sweep needs at least one of `alphas`, one threshold and one temp": {"temperatures": ()},
    "`alphas` must hold each number once, got \\[0.4, 0.40000001\\]": {"alphas": (0.4, 0.40000001)},
    "`temperatures_times_alpha` must hold": {"temperatures_times_alpha": (0.8, 0.80000001)},
    "`alphas` holds 0, .* Add `temperatures`": {
        "alphas": (0, 0.5, 1),
        "temperatures": (),
        "temperatures_times_alpha": (1.0,),
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_out_of_range_are_refused(message):
    grid = {"alphas": (0.4, 1.0), "plausibility_thresholds": (0.1,), "temperatures": (0.8,)}
    grid["temperatures_times_alpha"] = ()
    with pytest.raises(ValueError, match=message):
        sweep_settings(**{**grid, **REFUSED[message]})
