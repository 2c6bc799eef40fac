# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The recipe on a world of a few training steps: what is measured, and that nothing is done twice."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong.compatibility import differing_tokens, eos_token_ids
from hf_cong.prompts import encode_prompt
from hf_cong.rewards import completion_logps
from recipes.compare.worlds import Sandbox
from recipes.steered.run import PAPER, STAGE_ONE, STAGE_TWO, SYSTEMS, SteeredTrial, run
from recipes.steered.summary import draw, render, summarise
from recipes.steered.vocabulary import renumbered

EFFORT = 0.02


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return Sandbox.make(tmp_path_factory.mktemp("world"), effort=EFFORT, num_workers=1)


def test_the_table_and_the_pictures(tmp_path):
    records = [
        {"system": label, "seed": seed, "completion": f"a b {place} {seed}"}
        | {"gold": place / 100 + seed / 10, "nll": 1.0 + place / 10, "tokens": 4, "implicit": 2.0, "finished": 1.0}
        for place, label in enumerate(SYSTEMS)
        for seed in (0, 1, 2)
        for _ in range(2)
    ]
    systems = summarise(records, SYSTEMS)
    second = systems[SYSTEMS[1]]
    assert second["gold"]["by_seed"] == pytest.approx([0.01, 0.11, 0.21])
    assert (second["gold"]["mean"], second["nll"]["mean"]) == pytest.approx((0.11, 1.1))
    # Student's t of two degrees of freedom, 4.303, times the standard error.
    assert second["gold"]["high"] - second["gold"]["mean"] == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)
    assert second["distinct_1"]["mean"] == pytest.approx(11 / 24)  # "a b 1 0" twice, "a b 1 1", ...
    written = {
        label: [{"prompts": 2, "finished": 1, "tokens": 500, "weak": 2, "strong": 1}] * 3 for label in STAGE_ONE
    }
    settings = {"world": "sandbox", "seeds": [0, 1, 2], "num_test_prompts": 2}
    results = {"settings": settings, "systems": systems, "written": written}
    said = render(results)
    assert all(label in said for label in SYSTEMS) and "0.5k" in said and "1 strong, 2 weak" in said
    draw(results, tmp_path, stage_one=(PAPER, [*STAGE_ONE][2]), stage_two=tuple(STAGE_TWO))
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_under_another_vocabulary_a_model_says_the_same_of_a_text(world, tmp_path):
    directories = world.weak_policy, renumbered(world.weak_policy, tmp_path / "renumbered")
    models = [AutoModelForCausalLM.from_pretrained(directory).eval() for directory in directories]
    tokenizers = [AutoTokenizer.from_pretrained(directory) for directory in directories]
    assert len(differing_tokens(*tokenizers)) == len(tokenizers[0])
    prompt = [{"role": "user", "content": "what does the fox eat ?"}]
    ids = [encode_prompt(tokenizer, prompt) for tokenizer in tokenizers]
    assert not any(own == other for own, other in zip(*ids, strict=True))
    assert tokenizers[0].decode(ids[0]) == tokenizers[1].decode(ids[1])
    own, other = (tokenizers[index].convert_ids_to_tokens(eos_token_ids(models[index])) for index in (0, 1))
    assert own == other
    logps = [
        completion_logps(model, tokenizer, [prompt], ["the fox eats moss ."])[0]
        for model, tokenizer in zip(models, tokenizers, strict=True)
    ]
    torch.testing.assert_close(*logps)
    (crossed,) = completion_logps(models[1], tokenizers[0], [prompt], ["the fox eats moss ."])
    assert (crossed - logps[0]).abs().max() > 0.1
    times = (directories[1] / "model.safetensors").stat().st_mtime_ns
    renumbered(world.weak_policy, directories[1])
    assert (directories[1] / "model.safetensors").stat().st_mtime_ns == times


def test_forms_differ_in_who_writes_alone(world, tmp_path):
    trial = SteeredTrial(world, tmp_path, 0, num_prompts=4, num_test_prompts=2)
    alike = {}
    for label, form in STAGE_TWO.items():
        settings = trial.config(form).to_dict()
        own = {name: settings.pop(name) for name in ("chosen_from", "steering_beta", "rejected_from")}
        assert own == {"steering_beta": 2.0, **{name: form[name] for name in own if name in form}}, label
        settings.pop("output_dir"), settings.pop("logging_dir", None)
        alike.setdefault((settings.pop("learning_rate"), settings.pop("beta")), []).append(settings)
    assert len(alike) == 3
    assert all(settings == alike[6e-5, 0.5][0] for each in alike.values() for settings in each)


@pytest.mark.slow
def test_one_command_compares_everything_and_goes_on_where_it_stopped(world, tmp_path, capsys):
    def again():
        sizes = {"num_prompts": 40, "num_test_prompts": 6, "effort": EFFORT}
        world_dir = world.strong.parent
        return run("sandbox", tmp_path, world_dir=world_dir, seeds=(0, 1), num_workers=1, **sizes)

    results = again()
    printed = capsys.readouterr().out
    assert list(results["systems"]) == list(SYSTEMS) and all(label in printed for label in SYSTEMS)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == results
    models = tmp_path / "seed-0" / "models"
    contents = {path: (path / "model.safetensors").read_bytes() for path in models.iterdir()}
    assert len(contents) == len(STAGE_ONE) + len(STAGE_TWO) == len(set(contents.values()))
    first, *_, last = contents
    written = (first / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(last)
    assert again() == results
    assert (last / "model.safetensors").read_bytes() == contents[last]
    assert (first / "model.safetensors").stat().st_mtime_ns == written
