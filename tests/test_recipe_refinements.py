# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The ablation on a world of a few training steps: what differs, what is measured, and that nothing is done twice."""

import json
import shutil

import pytest

from recipes.compare.worlds import Sandbox
from recipes.refinements.run import BASE, FORMS, REFINEMENTS, ROUNDS, STAGE_ONE, STRONG, SYSTEMS, RefinedTrial, run
from recipes.refinements.summary import draw, render, summarise

from .tiny import tiny_tokenizer

EFFORT = 0.1  # with less, what three rounds train writes no end any more


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Sandbox.make(tmp_path_factory.mktemp("world"), effort=EFFORT, num_workers=1)


def test_differences_are_to_the_same_form_and_seed(tmp_path):
    labels = [STRONG, *(f"{form}, {STAGE_ONE}" for form in FORMS), *SYSTEMS]
    records = [
        {"system": label, "seed": seed, "completion": f"a b {place} {seed}"}
        | {"gold": place / 100 + seed / 10, "nll": 1.0 + place * seed, "tokens": 4, "implicit": 2.0, "finished": 1.0}
        for place, label in enumerate(labels)
        for seed in (0, 1, 2)
        for _ in range(2)
    ]
    kept = [{label: {"sft": 10 + seed, "dpo": 8} for label in SYSTEMS} for seed in (0, 1, 2)]
    systems = summarise(records, kept=kept, base=BASE)
    assert list(systems) == labels
    for form in FORMS:
        base, other = (labels.index(f"{form}, {name}") for name in (BASE, "RPO"))
        found = systems[labels[other]]
        assert found["gold_difference"]["by_seed"] == pytest.approx([(other - base) / 100] * 3)
        assert found["gold_difference"]["low"] == pytest.approx((other - base) / 100)  # seeds are paired
        assert found["nll_difference"]["by_seed"] == pytest.approx([0.0, other - base, 2.0 * (other - base)])
        assert found["kept"] == {"sft": 11.0, "dpo": 8.0}
        assert systems[labels[base]]["gold_difference"] is None
        assert systems[f"{form}, {STAGE_ONE}"]["kept"] is None
    assert systems[STRONG]["gold_difference"] is None
    results = {"settings": {"world": "sandbox", "seeds": [0, 1, 2], "num_test_prompts": 2}, "systems": systems}
    said = render(results)
    assert all(label in said for label in labels) and "+0.020 ± 0.000" in said
    draw(results, tmp_path, forms=tuple(FORMS), base=BASE)
    assert len(list(tmp_path.glob("*.png"))) == 1 + len(FORMS)


def test_a_refinement_is_what_it_says_and_nothing_else(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "strong")
    names = (tmp_path / name for name in ("strong", "policy", "reference"))
    trial = RefinedTrial(Sandbox(*names), tmp_path, 0, num_prompts=4, num_test_prompts=2)
    for label, form in SYSTEMS.items():
        refinement = label.partition(", ")[2]
        base, refined = (
            trial.config(each).to_dict() for each in (SYSTEMS[f"{label.partition(', ')[0]}, {BASE}"], form)
        )
        changed = {name for name in base if base[name] != refined[name]} - {"output_dir", "logging_dir"}
        assert changed == set(REFINEMENTS[refinement]) - set(ROUNDS), label
    homes = {label: trial.home(form) for label, form in SYSTEMS.items()}
    shared = [label for label in SYSTEMS if homes[label] == homes[f"ConG, {BASE}"]]
    # What differs in stage II alone, or in which pairs it takes.
    assert shared == [
        f"ConG, {name}"
        for name, changed in REFINEMENTS.items()
        if not {*ROUNDS, "num_chosen_samples", "chosen_share"} & set(changed)
    ]


@pytest.mark.slow
def test_one_command_ablates_everything_and_goes_on_where_it_stopped(world, tmp_path, capsys):
    def again():
        sizes = {"num_prompts": 40, "num_test_prompts": 6, "effort": EFFORT}
        return run("sandbox", tmp_path, world_dir=world.strong.parent, seeds=(0, 1), num_workers=1, **sizes)

    results = again()
    printed = capsys.readouterr().out
    assert set(results["systems"]) == {STRONG, *(f"{form}, {STAGE_ONE}" for form in FORMS), *SYSTEMS}
    assert all(label in printed for label in results["systems"])
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    half, full = (results["systems"][f"ConG, {name}"]["kept"]["sft"] for name in ("better half", BASE))
    assert half == pytest.approx(full / 2, abs=1)
    models = tmp_path / "seed-0" / "models"
    contents = {path: (path / "model.safetensors").read_bytes() for path in models.iterdir()}
    assert len(contents) == len(FORMS) + len(SYSTEMS)
    first, *_, last = contents
    written = (first / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(last)
    assert again() == results
    assert (last / "model.safetensors").read_bytes() == contents[last]
    assert (first / "model.safetensors").stat().st_mtime_ns == written
