# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import math

import numpy as np
import pytest
from PIL import Image

from hf_cong.evaluation.text_metrics import distinct_n
from hf_cong.report.comparisons import plot_differences, plot_win_matrix
from hf_cong.report.plots import plot_bands, plot_curves, plot_front, plot_scatter, plot_stages, plot_sweep
from hf_cong.report.statistics import Interval, mean_interval, spearman
from hf_cong.report.tables import render_table


def test_interval_matches_the_textbook():
    # mean 5, sample s.d. 2, n 4: half-width = t(0.975, 3) * 2 / sqrt(4) = 3.182446 * 1
    interval = mean_interval([5 - math.sqrt(6), 5 + math.sqrt(6), 5, 5])
    assert interval == pytest.approx((5, 5 - 3.182446, 5 + 3.182446), abs=1e-6)
    assert mean_interval([1, 2, 3], confidence=0.5).high < mean_interval([1, 2, 3]).high


def test_interval_covers_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(3, 2, size=(2000, 8))
    covered = [interval.low <= 3 <= interval.high for interval in map(mean_interval, draws)]
    assert 0.935 < np.mean(covered) < 0.965


def test_interval_is_written_with_its_half_width():
    assert f"{Interval(0.5, 0.45, 0.55):.2f}" == "0.50 ± 0.05"


def test_one_value_says_nothing_about_the_spread():
    assert mean_interval([0.5]) == Interval(0.5, -math.inf, math.inf)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_interval_refuses_what_has_no_mean(values):
    with pytest.raises(ValueError, match="`values` must be finite"):
        mean_interval(values)


def test_rank_correlation_by_hand():
    # ranks 1 2 3 4 against 2 1 4 3: 1 - 6 · (1 + 1 + 1 + 1) / (4 · 15)
    assert spearman([1, 2, 3, 40], [20, 1, 4e9, 30]) == pytest.approx(0.6)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) is None


ROWS = [{"system": "a|b", "to a|b": 0.12345, "n": 3}, {"system": "longer name", "to a|b": None, "n": 12}]


def test_table_is_aligned():
    lines = render_table(ROWS).splitlines()
    assert lines[0].split() == ["system", "to", "a\\|b", "n"]
    assert lines[3] == "longer name        -  12"
    assert len({len(line) for line in lines}) == 1


def test_markdown_table_has_one_cell_per_column():
    lines = render_table(ROWS, markdown=True).splitlines()
    assert lines[1].replace("-", "") == "|  | : | : |"
    assert [len(line.replace("\\|", "").split("|")) for line in lines] == [5] * 4
    narrow = render_table([{"a": "x", "n": 3}], markdown=True).splitlines()
    assert narrow == ["| a  |  n |", "| -- | -: |", "| x  |  3 |"]


def test_table_refuses_rows_that_do_not_fit():
    with pytest.raises(ValueError, match="`rows` is empty"):
        render_table([])
    with pytest.raises(ValueError, match="Row 1 has the columns"):
        render_table([{"a": 1}, {"b": 1}])


def test_distinct_n_by_hand():
    # bigrams: a b, b a, a b | c d, and none across the texts
    assert distinct_n(["a b a b", "c d"]) == 3 / 4
    assert distinct_n(["a b a b", "c d"], 1) == 4 / 6
    assert distinct_n(["a", ""]) == 0.0
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        distinct_n(["a"], 0)


LONG = "a stage with a name that does not fit on one line of a picture"


def _stages(path):
    interval = mean_interval([0.2, 0.4, 0.3])
    plot_stages(path, {"base": interval, LONG: interval}, seeds={"base": [0.2], LONG: [0.4]}, title="t", xlabel=LONG)


def _scatter(path):
    x = list(range(30))
    groups = {"rising": (x, x), "falling": (x, x[::-1]), LONG: (x, x), "fourth": (x, x)}
    plot_scatter(path, groups, title=LONG, xlabel=LONG, ylabel=LONG)


def _sweep(path):
    points = {1.0: mean_interval([0.1, 0.2]), 0.3: mean_interval([0.2, 0.3])}
    plot_sweep(
        path, points, seeds={1.0: [0.1], 0.3: [0.2]}, references={LONG: 0.4}, title="t", xlabel=LONG, ylabel=LONG
    )


def _front(path):
    interval = mean_interval([0.1, 0.2])
    plot_front(path, {f"{LONG} {i}": (interval, interval) for i in range(12)}, title=LONG, xlabel=LONG, ylabel=LONG)


def _curves(path):
    curves = {f"{LONG} {i}": {1: (1.0 + i, 0.5 + i, 2.0 + i), 256: (30.0 + i, 25.0, 60.0)} for i in range(12)}
    plot_curves(path, {LONG: curves, "right": {LONG: {1: (2.0, 2.0, 2.0)}, **curves}}, title=LONG, xlabel=LONG)


def _bands(path):
    alone = mean_interval([0.3])
    curves = {LONG: {1: mean_interval([0.1, 0.2]), 2: mean_interval([0.2, 0.5])}, "one": {1: alone}}
    plot_bands(path, curves, {f"{LONG} {i}": alone for i in range(7)}, title=LONG, xlabel=LONG, ylabel=LONG)


def _matrix(path, size=11):
    rates = [[None if i == j or i + j == 2 else 0.5 + (i - j) / 25 for j in range(size)] for i in range(size)]
    ties = [[0.1] * size for _ in range(size)]
    plot_win_matrix([f"{LONG} {i}"[-24:] for i in range(size)], rates, ties, path, title=LONG)


def _two_in_a_matrix(path):
    plot_win_matrix([LONG, "b"], [[None, 1.0], [0.0, None]], [[0.0] * 2] * 2, path, title="t")


def _differences(path):
    interval = mean_interval([-0.1, 0.2, 0.5])
    panels = {f"{LONG} {i}": {LONG: interval, "b": None, "c": Interval(0.5, -math.inf, math.inf)} for i in range(7)}
    plot_differences(path, {**panels, "last": {"d": Interval(0, 0, 0)}}, baseline=LONG, title=LONG)


def _one_difference(path):
    plot_differences(path, {"task": {"a": Interval(3e4, 2e4, 4e4)}}, baseline="b", title="t")


def _one_group(path):
    plot_scatter(path, {LONG: ([1, 2, 3], [1, 3, 2])}, title=LONG, xlabel=LONG, ylabel=LONG)


@pytest.mark.parametrize(
    "draw",
    [
        _stages,
        _scatter,
        _one_group,
        _sweep,
        _front,
        _curves,
        _bands,
        _matrix,
        _two_in_a_matrix,
        _differences,
        _one_difference,
    ],
)
def test_nothing_is_cut_at_the_edge_of_a_picture(draw, tmp_path):
    draw(tmp_path / "picture.png")
    picture = np.asarray(Image.open(tmp_path / "picture.png").convert("L"))
    assert picture.shape[1] == 1200
    assert (picture < 128).any()
    edge = np.concatenate([picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()])
    assert edge.min() == 255


def test_a_matrix_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`ties` must have 2 rows of 2, one for each name, got rows of \[2, 1\]"):
        plot_win_matrix(["a", "b"], [[None, 1.0], [0.0, None]], [[0.0, 0.0], [0.0]], tmp_path / "p.png", title="t")


def test_a_single_prompt_can_be_drawn(tmp_path):
    plot_stages(tmp_path / "p.png", {"a": mean_interval([0.5])}, seeds={"a": [0.5]}, title="t", xlabel="x")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_a_name_with_dollars_is_no_formula(tmp_path):
    name, interval = "$^{$", mean_interval([0.1, 0.2])
    plot_front(tmp_path / "p.png", {name: (interval, interval)}, title=name, xlabel=name, ylabel=name)
    plot_win_matrix([name, "b"], [[None, 1.0], [0.0, None]], [[0.0] * 2] * 2, tmp_path / "q.png", title=name)
