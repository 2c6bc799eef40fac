# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tables of paired differences, from records made by hand."""

import pytest

from hf_cong.evaluation.comparison.table import compare, plot_comparison, render_comparison
from hf_cong.report.statistics import paired_difference


def record(values, score=None, *, names=None, metric="acc,none", better=True, **more):
    known = [value for value in values if value is not None]
    score = sum(known) / len(known) if score is None else score
    return {
        "metrics": {metric: {"score": score, "stderr": 0.1, "higher_is_better": better}},
        "num_fewshot": 5,
        "documents": {"names": names or [f"d{i}" for i in range(len(values))], "values": {metric: values}},
        **more,
    }


def one(mine, theirs, **metrics):
    rows = compare({("a", "t"): mine, ("b", "t"): theirs}, ["b", "a"], metrics or {"t": None}, "b")
    assert [row["system"] for row in rows] == ["b", "a"]
    assert rows[0]["difference"] is None and rows[0]["reading"] is None
    return rows[1]


BASE = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
MINE = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]


def test_documents_are_joined_by_name_and_never_by_position():
    straight = one(record(MINE), record(BASE))
    names = [f"d{i}" for i in range(8)]
    turned = one(record(MINE[::-1], names=names[::-1]), record(BASE))
    assert {n: straight["difference"][n] for n in ("mean", "documents")} == {"mean": 0.375, "documents": 8}
    ends = [straight["difference"][name] for name in ("low", "high")]
    assert ends == list(paired_difference(MINE, BASE)[1:])
    assert [turned["difference"][name] for name in ("low", "high")] == pytest.approx(ends, abs=0.02)
    # the negative control: by position the interval is another
    by_position = paired_difference(MINE[::-1], BASE)
    assert by_position.low < ends[0] - 0.1


def test_readings():
    assert one(record(MINE * 4), record(BASE * 4, names=[f"d{i}" for i in range(32)]))["reading"] == "better"
    assert one(record(BASE * 4), record(MINE * 4))["reading"] == "worse"
    assert one(record(BASE * 4, better=False), record(MINE * 4, better=False))["reading"] == "better"
    assert one(record(BASE * 4, better=None), record(MINE * 4, better=None))["reading"] == "lower"
    assert one(record([0.0, 1.0, 0.0]), record([1.0, 0.0, 0.0]))["reading"] == "undecided"
    assert one(record(BASE), record(BASE))["reading"] == "equal"
    for documents, reading in ((2, "undecided"), (5, "undecided"), (6, "better")):
        assert one(record([1.0] * documents), record([0.0] * documents))["reading"] == reading


def test_documents_that_only_one_has_are_left_out_and_said():
    row = one(record(MINE), record(BASE[:6]))
    assert row["difference"]["documents"] == 6 and row["reason"] == "the difference is over 6 of 8 documents"
    row = one(record([None, *MINE[1:]]), record(BASE))
    assert row["difference"]["documents"] == 7 and row["reason"] == "the difference is over 7 of 8 documents"
    row = one(record(MINE, names=[f"e{i}" for i in range(8)]), record(BASE))
    assert row["difference"] is None and row["reason"] == "no document in common with the baseline"


def test_a_score_that_is_no_mean_has_no_interval():
    row = one(record([-3.0, -4.0], 33.1), record([-2.0, -5.0], 30.1))
    assert row["difference"] == {"mean": pytest.approx(3.0), "low": None, "high": None, "documents": None}
    assert row["reading"] is None and row["reason"] == "no interval: not a mean over documents"


def test_one_document_has_no_interval():
    row = one(record([1.0]), record([0.0]))
    assert row["difference"] == {"mean": 1.0, "low": None, "high": None, "documents": 1} and row["reading"] is None


def test_what_is_missing_has_its_reason():
    assert one({"reason": "it cannot"}, record(BASE))["reason"] == "it cannot"
    row = compare({("a", "t"): record(MINE), ("b", "t"): {"reason": "no"}}, ["a"], {"t": None}, "b")[0]
    assert row["score"] == 0.75 and row["difference"] is None and row["reason"] == "the baseline has no score"
    endless = record(MINE)
    endless["metrics"]["acc,none"]["score"] = None
    assert one(endless, record(BASE))["reason"] == "the score is no finite number"
    assert compare({("a", "t"): record(MINE)}, ["a", "b"], {"t": None}, "b")[0]["system"] == "a"


def test_defects_are_said():
    row = one(record(MINE, cut=3, unread=2), record(BASE))
    assert row["reason"] == "3 prompts longer than the context were cut; 2 verdicts could not be read"
    assert row["difference"]["documents"] == 8


def test_the_metric_is_the_one_that_is_asked_for():
    two = record(MINE)
    for key in ("em,strict", "em,loose"):
        two["metrics"][key] = {"score": 0.5, "stderr": None, "higher_is_better": True}
        two["documents"]["values"][key] = BASE
    for wanted, metric in (
        (None, "acc,none"),
        ("em", "em,strict"),
        ("em,loose", "em,loose"),
        ("acc,none", "acc,none"),
    ):
        assert one(two, two, t=wanted)["metric"] == metric
    with pytest.raises(ValueError, match="has no metric 'f1'; it has acc,none, em,strict, em,loose"):
        one(two, two, t="f1")


def test_the_page_and_the_picture_have_every_row(tmp_path):
    rows = compare(
        {
            ("b", "t"): record(BASE),
            ("a | x", "t"): record(MINE),
            ("c", "t"): {"reason": "it cannot"},
            ("b", "u"): record(BASE),
            ("a | x", "u"): {"reason": "it cannot"},
            ("c", "u"): {"reason": "it cannot"},
        },
        ["b", "a | x", "c"],
        {"t": None, "u": None},
        "b",
    )
    facts = {"systems": {"a | x": {"policy": "p", "alpha": 0.4}}, "settings": {"limit": 3, "baseline": "b"}}
    page = render_comparison(rows, "b", facts)
    assert "- a | x: policy p, alpha 0.4" in page
    assert "| t, acc, 5-shot |" in page and "0.750 ± 0.100" in page and "+0.375 [" in page
    assert page.count("it cannot") == 3 and "only the first 3 documents" in page and "Of 1 comparisons, 0.1 " in page
    assert len({line.count("|") - line.count("\\|") for line in page.splitlines() if line.startswith("|")}) == 1
    plot_comparison(tmp_path / "a.png", rows, "b")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    plot_comparison(tmp_path / "b.png", rows[:1], "b")  # nothing to compare with
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
