# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The comparison's parts on a world of a few training steps: what is chosen, what is counted, what is done again."""

import json
import shutil

import pytest
from trl.trainer.utils import hash_module

from hf_cong import ConGTrainer
from hf_cong.sandbox import gold_reward
from recipes.compare import methods, summary
from recipes.compare.methods import BEST, CONG, CONG_S, DPO, STRONG, TRAINED, UNTRAINED, WEAK_SFT, WSPO, Trial
from recipes.compare.run import run
from recipes.compare.worlds import Sandbox

EFFORT = 0.02  # a handful of training steps


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Sandbox.make(tmp_path_factory.mktemp("world"), effort=EFFORT, num_workers=1)


@pytest.fixture(scope="module")
def trial(world, tmp_path_factory):
    return Trial(world, tmp_path_factory.mktemp("seed"), 0, num_prompts=12, num_test_prompts=6)


def test_the_extremes_are_those_of_the_implicit_reward(trial):
    samples = [trial.write(f"{STRONG} {number}", trial.strong, 1000 * number) for number in range(3)]
    assert len({tuple(rows["completion"]) for rows in samples}) == 3
    best, worst = trial.extremes(samples)
    finished_best = 0
    for place in range(12):
        prompt = best[place]["prompt"]
        rows = [next(row for row in each if row["prompt"] == prompt) for each in samples]
        scores = {}
        for row in rows:
            (scores[row["completion"]],) = trial.reward.score(
                [prompt], [row["completion_ids"]], finish_reasons=[row["finish_reason"]]
            )
        finished = [row["completion"] for row in rows if row["finish_reason"] == "stop"]
        finished_best += bool(finished)
        assert best[place]["completion"] == max(finished or scores, key=scores.get)
        assert worst[place]["prompt"] == prompt
        assert worst[place]["completion"] == min(scores, key=scores.get)
    assert finished_best > 0


def test_a_model_is_trained_once_and_again_if_damaged(trial):
    completions = trial.write(WEAK_SFT, trial.weak)
    budget = trial.sft(WEAK_SFT, completions)
    kept = [row for row in completions if row["finish_reason"] == "stop" and row["completion"].strip()]
    # Two epochs of what each completion has, and of the token that ends it.
    assert budget.trained == 2 * sum(len(row["completion_ids"]) + 1 for row in kept)
    weights = trial.folder(WEAK_SFT) / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert trial.sft(WEAK_SFT, completions) == budget
    assert weights.stat().st_mtime_ns == written
    content = weights.read_bytes()
    weights.write_bytes(content[:-8])
    assert trial.sft(WEAK_SFT, completions) == budget
    assert weights.read_bytes() == content


def compare(output_dir, world, num_prompts=40):
    return run(
        "sandbox",
        output_dir,
        world_dir=world.strong.parent,
        seeds=(0, 1),
        num_prompts=num_prompts,
        num_test_prompts=6,
        effort=EFFORT,
        num_workers=1,
    )


@pytest.mark.slow
def test_one_command_compares_everything_and_goes_on_where_it_stopped(world, tmp_path, capsys):
    results = compare(tmp_path, world)
    printed = capsys.readouterr().out
    systems = results["systems"]
    assert list(systems) == [*UNTRAINED, *TRAINED]
    assert all(label in printed for label in systems)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(samples) == len(systems) * 2 * 6
    for name in ("gold", "gold_against_nll", "gold_against_diversity"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")

    # What is written and trained on.
    budgets = {label: systems[label]["budget"] for label in TRAINED}
    assert all(budgets[WEAK_SFT] == budgets[label] for label in WSPO)
    assert budgets[BEST]["written_strong"] == budgets[DPO]["written_strong"] > 0 == budgets[BEST]["written_weak"]
    for stage_one, both in zip(CONG_S, CONG, strict=True):
        assert budgets[both]["written_weak"] == budgets[stage_one]["written_weak"] > budgets[WEAK_SFT]["written_weak"]
        assert budgets[both]["trained"] > budgets[stage_one]["trained"]

    # No two methods end with the same weights, and none with the strong model's.
    folders = [tmp_path / "seed-0" / "models" / methods._slug(label) for label in TRAINED]
    contents = {(folder / "model.safetensors").read_bytes() for folder in folders}
    contents.add((world.strong / "model.safetensors").read_bytes())
    assert len(contents) == len(TRAINED) + 1

    # A killed run: some models and samples are missing, one file is torn. The rest is not made again.
    shutil.rmtree(folders[-1])
    shutil.rmtree(tmp_path / "seed-1" / "test" / methods._slug(next(iter(CONG))))
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    untouched = (folders[0] / "model.safetensors").stat().st_mtime_ns
    assert compare(tmp_path, world) == results
    assert (folders[0] / "model.safetensors").stat().st_mtime_ns == untouched
    with pytest.raises(ValueError, match="num_prompts"):
        compare(tmp_path, world, num_prompts=11)


@pytest.mark.slow
def test_cong_in_parts_is_cong_trainer(world, tmp_path):
    trial = Trial(world, tmp_path / "parts", 3, num_prompts=40, num_test_prompts=6)
    trial.run()
    args = trial.settings(tmp_path / "whole", **methods.SFT, **methods.STAGE_TWO)
    trainer = ConGTrainer(
        str(world.strong),
        args=args,
        train_dataset=trial.prompts,
        processing_class=trial.tokenizer,
        weak_model=str(world.weak_policy),
        weak_reference_model=str(world.weak_reference),
    )
    trainer.train()
    ours, stage_one = (hash_module(trial.model(next(iter(labels)))()) for labels in (CONG, CONG_S))
    assert hash_module(trainer.model) == ours != stage_one


def test_intervals_are_over_seeds():
    records = [
        {"system": label, "seed": seed, "prompt_id": f"{number}", "completion": f"a b {number}", **metrics}
        for place, label in enumerate((*UNTRAINED, *TRAINED))
        for seed in (4, 7, 9)
        for number in range(2)
        for metrics in [
            dict.fromkeys(("nll", "tokens", "implicit", "finished"), 1.0) | {"gold": 0.1 * number + seed + place}
        ]
    ]
    budgets = [
        {label: {"written_weak": n, "written_strong": 0, "trained": 2 * n} for label in TRAINED} for n in (1, 2, 6)
    ]
    systems = summary.summarise(records, budgets)
    assert systems[STRONG]["gold"]["by_seed"] == pytest.approx([4.05, 7.05, 9.05])
    # Student's t with two degrees of freedom: 4.303 standard errors, of 4, 7 and 9.
    interval = summary.interval(systems[STRONG], "gold")
    assert interval.mean == pytest.approx(6.71667, abs=1e-4)
    assert interval.high - interval.mean == pytest.approx(4.3027 * 2.51661 / 3**0.5, rel=1e-4)
    # Seeds are paired: a constant distance has no width.
    assert summary.interval(systems[DPO], "gain") == pytest.approx([TRAINED.index(DPO)] * 3)
    assert systems[WEAK_SFT]["gain"] is None
    assert systems[WEAK_SFT]["budget"] == {"written_weak": 3, "written_strong": 0, "trained": 6}


def test_the_world_grades_and_one_seed_is_refused(world, tmp_path):
    row = world.test_prompts()[0]["prompt"]
    assert world.gold(row, "the fox eats moss .") == gold_reward(row, "the fox eats moss .")
    assert not {r[-1]["content"] for r in world.test_prompts()["prompt"]} & {
        r[-1]["content"] for r in world.training_prompts(0)["prompt"]
    }
    with pytest.raises(ValueError, match="at least two different numbers"):
        run("sandbox", tmp_path, seeds=(1,))
