# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The stories recipe: its gold reward and its splits, and (slow) the whole job on the real model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vaderSentiment")

RECIPE = Path(__file__).parents[1] / "recipes" / "stories"
DATA = os.environ.get("HF_CONG_REAL_DATA")


@pytest.fixture(scope="module")
def world():
    sys.path.insert(0, str(RECIPE))
    try:
        import prepare
    finally:
        sys.path.remove(str(RECIPE))
    return prepare


def test_gold_reward_orders_texts_by_sentiment_and_refuses_short_ones(world):
    happy = "They laughed and hugged. It was a wonderful, lovely day, and all of the happy friends were very glad."
    plain = "They walked on the road. It was near the house, and then the man put the box on the table by the door."
    sad = "They cried and fought. It was a terrible, horrible day, and all of the angry people were very sad and hurt."
    assert 1 > world.gold_reward(happy) > 0.6 > world.gold_reward(plain) > 0.4 > world.gold_reward(sad) > 0
    assert world.gold_reward("A wonderful, lovely day!") == 0.0
    assert world.gold_reward("") == 0.0


def test_gold_reward_averages_over_sentences(world):
    happy, plain = "What a wonderful and happy day it was.", "They put the box on the table by the door."
    both = world.gold_reward(f"{happy} {plain}")
    assert both == pytest.approx((world.sentiment(happy) + world.sentiment(plain)) / 2)
    assert world.sentiment(happy) - both > 0.1


def test_an_opening_is_in_exactly_one_split(world):
    paragraphs = [f"Once upon a time there was a number {n} that " + "went on and on " * 6 for n in range(400)]
    splits = {name: world.openings(paragraphs, name) for name in world.SPLITS}
    assert sum(map(len, splits.values())) == 400
    assert set().union(*splits.values()) == {world.opening(paragraph) for paragraph in paragraphs}
    assert all(len(prompts) > 40 for prompts in splits.values())


def test_paragraphs_are_read_once_and_only_if_long_enough(world, tmp_path):
    long = "Once upon a time " + "there was a word " * 6
    folder = tmp_path / "corpora" / "tinystories"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text(f"{long}\n\ntoo short\n{long}\n", encoding="utf-8")
    (folder / "b.txt").write_text(f"{long}\n", encoding="utf-8")
    assert world.read_paragraphs(tmp_path) == [long.strip()]
    with pytest.raises(FileNotFoundError, match="corpora/tinystories"):
        world.read_paragraphs(tmp_path / "corpora")


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="HF_CONG_REAL_DATA is not set")
def test_the_whole_job_on_the_real_model(tmp_path):
    command = [sys.executable, str(RECIPE / "run.py"), "--output_dir", str(tmp_path), "--seeds", "0"]
    command += ["--num_prompts", "128", "--num_test_prompts", "64", "--effort", "0.5", "--num_workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580)
    assert run.returncode == 0, run.stderr[-2000:]

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    systems = results["systems"]
    labels = [
        "weak, before alignment",
        "weak, after alignment",
        "strong base",
        "strong base, T = 1, top-p 1",
        "WeakSFT",
    ]
    labels += ["ConG-S (stage I)", "ConG (stages I + II)", "ConG, stage II at 5x lr"]
    labels += [f"CD of the pair, α = {alpha}" for alpha in (0.3, 0.4, 0.5, 0.7, 1)]
    assert set(labels) < set(systems)
    for label, row in systems.items():
        assert label in run.stdout
        assert {"gold", "long_enough", "sentiment", "implicit", "nll", "tokens", "finished"} < set(row)
        assert 0 <= row["gold"]["low"] <= row["gold"]["high"] <= 1
        assert 0 < row["distinct_2"] < 1
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == 64 * len(systems)
    for picture in ("gold_by_stage", "alpha_sweep", "implicit_against_gold", "reward_against_fluency"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")

    train, test = (
        {json.loads(line)["prompt"] for line in (tmp_path / "world" / name).read_text().splitlines()}
        for name in ("train.jsonl", "test.jsonl")
    )
    assert len(test) == 64
    assert not train & test

    counts = results["stage_counts"]["0"]
    assert counts["sft/train"]["rows_in"] == 128
    for stage in counts.values():
        assert stage["rows_in"] == stage["kept"] + sum(stage["dropped"].values())
        assert stage["kept"] > 0

    # The strong model is the fluent one, alignment worked, the contrast adds to it. Nothing says that ConG wins.
    assert systems["strong base"]["nll"]["high"] < systems["weak, after alignment"]["nll"]["low"]
    assert systems["weak, after alignment"]["gold"]["low"] > systems["weak, before alignment"]["gold"]["high"]
    contrast = {row["system"]: row for row in results["comparisons"] if row["baseline"] == "weak, after alignment"}
    assert len(contrast) > 1
    assert all(row["gold"]["mean"] > 0 for row in contrast.values())
    assert max(row["gold"]["low"] for row in contrast.values()) > 0
