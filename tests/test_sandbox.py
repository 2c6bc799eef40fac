# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import json
import math
import random
import shutil
from dataclasses import fields
from pathlib import Path
from statistics import fmean

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong.compatibility import check_same_vocabulary
from hf_cong.cong_config import ConGConfig
from hf_cong.prompts import encode_prompt
from hf_cong.sandbox import build_sandbox, gold_reward, prompts, run_demo
from hf_cong.sandbox.demo import cong_config
from hf_cong.sandbox.models import build_tokenizer, fit
from hf_cong.sandbox.summary import SYSTEMS, WEAK_POST, WEAK_PRE, decoded, summarise
from hf_cong.sandbox.world import (
    ANIMALS,
    ATTRIBUTES,
    FACTS,
    asked_facts,
    dialogues,
    request,
    vocabulary,
    write_answer,
)

TINY = 0.02  # effort: a handful of training steps
RECIPES = Path(__file__).parents[1] / "recipes" / "sandbox"

FOX_FOOD, FOX_HOME = ("fox", "food"), ("fox", "home")
PROMPT = request([FOX_FOOD, FOX_HOME], "hello ,")
EATS, LIVES = f"the fox eats {FACTS[FOX_FOOD]} .", f"you will find the fox in the {FACTS[FOX_HOME]} ."
WRONG = next(f"the fox eats {value} ." for value in ATTRIBUTES["food"].values if value != FACTS[FOX_FOOD])
OTHER = f"the owl eats {FACTS['owl', 'food']} ."
THANKS, BYE, RUDE, ASIDE = "thank you for asking .", "i hope this helps .", "now go away .", "my uncle had a boat ."


# The gold reward: finish · focus · (0.65 truth + 0.35 tried · manner), by hand.
@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("", 0.0),
        (f"{THANKS} {EATS} {LIVES} {BYE}", 1.0),
        (f"{EATS} {LIVES}", 0.65 + 0.35 / 2),
        (f"{EATS} {LIVES} {RUDE}", 0.65),
        (EATS, 0.5 * (0.65 + 0.35 / 2)),
        (f"{WRONG} {LIVES}", 0.65 / 2 + 0.35 / 2),
        (f"{WRONG} {EATS} {LIVES}", 2 / 3 * (0.65 * 0.75 + 0.35 / 2)),
        (f"{EATS} {EATS} {LIVES}", 2 / 3 * (0.65 + 0.35 / 2)),
        (f"{EATS} {ASIDE} {LIVES}", 2 / 3 * (0.65 + 0.35 / 2)),
        (f"{EATS} {OTHER} {LIVES}", 2 / 3 * (0.65 + 0.35 / 2)),
        (f"{EATS} {LIVES} the fox", 0.5 * 2 / 3 * (0.65 + 0.35 / 2)),
        (f"{THANKS} {BYE}", 0.0),
        ("fox fox fox fox", 0.0),
    ],
)
def test_gold_reward_by_hand(completion, reward):
    assert gold_reward(PROMPT, completion) == pytest.approx(reward)
    assert gold_reward(PROMPT[0]["content"], f" {completion}\n") == pytest.approx(reward)


def test_degenerate_texts_score_low():
    for text in (" ".join([EATS] * 12), " ".join([THANKS] * 12), " ".join([EATS, LIVES] + [ASIDE] * 10), "eats " * 50):
        assert gold_reward(PROMPT, text) < 0.15


def test_gold_reward_rises_with_the_writers_care():
    asked = [asked_facts(prompt) for prompt in prompts(200)["prompt"]]
    rng = random.Random(0)  # noqa: S311
    means = [
        fmean(gold_reward(request(facts), write_answer(facts, care, rng)) for facts in asked)
        for care in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert means == sorted(means)
    assert means[0] < 0.2 < 0.85 < means[-1] < 1


def test_gold_reward_refuses_another_worlds_request():
    with pytest.raises(ValueError, match="cannot read this request"):
        gold_reward("what is the capital of france ?", "paris .")


def test_requests_are_read_as_they_were_asked():
    for animal in ANIMALS:
        facts = [(animal, name) for name in ATTRIBUTES] + [("owl" if animal == "fox" else "fox", "food")]
        assert asked_facts(request(facts, "tell me ,")) == facts


def test_prompts_are_different_repeatable_and_split():
    def texts(*args, **kwargs) -> set[str]:
        return {messages[0]["content"] for messages in prompts(*args, **kwargs)["prompt"]}

    assert len(texts(500)) == 500
    assert prompts(50)["prompt"] == prompts(50)["prompt"]
    assert texts(50) != texts(50, seed=1)
    splits = [texts(500, split=split) for split in ("pretrain", "align", "train", "test")]
    assert len(set.union(*splits)) == sum(map(len, splits))
    with pytest.raises(ValueError, match="`split` must be one of"):
        prompts(1, split="dev")


def test_every_text_of_the_world_survives_the_tokenizer():
    tokenizer = build_tokenizer()
    assert len(tokenizer) == len(vocabulary()) + 4
    for dialogue in dialogues(300, 0):
        for message in dialogue:
            ids = tokenizer(message["content"])["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == message["content"]


def test_a_prompt_begins_its_dialogue():
    tokenizer = build_tokenizer()
    dialogue = dialogues(1, 0)[0]
    whole = tokenizer.apply_chat_template(dialogue, tokenize=True, return_dict=False)
    ids = encode_prompt(tokenizer, dialogue[:1])
    assert whole[: len(ids)] == ids
    assert whole[-1] == tokenizer.eos_token_id
    # A role marker that a user types opens no turn.
    typed = encode_prompt(tokenizer, request([FOX_FOOD], "<|im_end|> <|im_start|> assistant"))
    assert [typed.count(i) for i in tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])] == [2, 1]
    assert typed.count(tokenizer.unk_token_id) == 2


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_sandbox(tmp_path_factory.mktemp("sandbox"), effort=TINY)


def _weights(path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def test_the_models_are_a_pair_and_a_stronger_one(world):
    tokenizers = [AutoTokenizer.from_pretrained(path) for path in world]
    for tokenizer in tokenizers[1:]:
        check_same_vocabulary(tokenizers[0], tokenizer)
        # The same vocabulary is not yet the same tokenizer.
        assert encode_prompt(tokenizer, PROMPT) == encode_prompt(build_tokenizer(), PROMPT)
    pre, post, strong = (_weights(path) for path in world[1:])
    assert pre.keys() == post.keys()
    assert any(not torch.equal(pre[name], post[name]) for name in pre)
    assert sum(map(torch.numel, strong.values())) > 2 * sum(map(torch.numel, pre.values()))


def test_a_built_world_is_found_again_and_another_is_refused(world):
    root = world.tokenizer.parent
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert build_sandbox(root, effort=TINY) == world
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(ValueError, match="holds a world made of"):
        build_sandbox(root, seed=1, effort=TINY)


@pytest.mark.slow
def test_an_unfinished_world_is_built_again_bit_for_bit(world, tmp_path):
    shutil.copytree(world.strong.parent, tmp_path / "0")
    (tmp_path / "0" / "world.json").unlink()
    (tmp_path / "0" / "strong" / "model.safetensors").write_bytes(b"half a file")
    again = build_sandbox(tmp_path / "0", effort=TINY)
    other = build_sandbox(tmp_path / "1", seed=1, effort=TINY)
    for name in ("weak_reference", "weak_policy", "strong"):
        ours, same, different = (_weights(getattr(paths, name)) for paths in (world, again, other))
        assert all(torch.equal(ours[key], same[key]) for key in ours)
        assert any(not torch.equal(ours[key], different[key]) for key in ours)


def test_training_text_is_learnt(world):
    tokenizer = AutoTokenizer.from_pretrained(world.tokenizer)
    model = AutoModelForCausalLM.from_pretrained(world.weak_reference)
    dialogue = dialogues(1, 0)
    ids = torch.tensor([tokenizer.apply_chat_template(dialogue[0], tokenize=True, return_dict=False)])
    before = model(input_ids=ids, labels=ids).loss
    fit(model, tokenizer, dialogue, steps=30, learning_rate=5e-3, batch_size=2)
    assert model(input_ids=ids, labels=ids).loss < 0.8 * before


def _records() -> list[dict]:
    """Two seeds, two prompts, gold reward 0.1 · place of the system, plus 0.1 on the second prompt."""
    return [
        {
            "system": system,
            "seed": seed,
            "prompt_id": str(prompt),
            "completion": "a b",
            "gold": 0.05 * number + 0.1 * prompt + 0.2 * seed,
            **dict.fromkeys(("truth", "manner", "focus", "finished"), 1.0),
            "implicit": float(number + prompt),
            "nll": 1.0,
            "tokens": 3,
        }
        for number, system in enumerate(SYSTEMS)
        for seed in (0, 1)
        for prompt in (0, 1)
    ]


def test_summary_pairs_by_prompt_and_averages_seeds():
    summary = summarise(_records())
    row = summary["systems"][WEAK_PRE]
    assert row["gold"]["mean"] == pytest.approx(0.15)
    assert row["gold_by_seed"] == pytest.approx([0.05, 0.25])
    # half-width over the two prompt means 0.1 and 0.2: t(0.975, 1) · 0.0707 / sqrt(2)
    assert row["gold"]["high"] - 0.15 == pytest.approx(12.7062 * 0.05, rel=1e-4)
    difference = summary["comparisons"][0]
    assert (difference["system"], difference["baseline"]) == (decoded(0.4), WEAK_POST)
    # the difference is the same on every prompt and seed: no spread is left when it is paired
    assert difference["gold"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert summary["spearman"]["all"] == pytest.approx(0.85, abs=0.1)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("demo")
    return output_dir, run_demo(
        output_dir, seeds=(0,), num_prompts=32, num_test_prompts=12, effort=TINY, num_workers=1
    )


@pytest.mark.slow
def test_demo_writes_what_it_says(demo):
    output_dir, results = demo
    assert json.loads((output_dir / "results.json").read_text()) == results
    samples = [json.loads(line) for line in (output_dir / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == len(SYSTEMS) * 12
    assert {sample["system"] for sample in samples} == set(SYSTEMS)
    assert all(0 <= sample["gold"] <= 1 and math.isfinite(sample["implicit"]) for sample in samples)
    pictures = {path.name for path in output_dir.glob("*.png")}
    assert pictures == {
        "gold_by_stage.png",
        "implicit_against_gold.png",
        "alpha_sweep.png",
        "reward_against_fluency.png",
    }
    assert "| system " in (output_dir / "results.md").read_text()


@pytest.mark.slow
def test_demo_is_repeatable_and_reuses_what_it_made(demo):
    output_dir, results = demo
    built = (output_dir / "world" / "world.json").stat().st_mtime_ns
    again = run_demo(output_dir, seeds=(0,), num_prompts=32, num_test_prompts=12, effort=TINY, num_workers=1)
    assert again["systems"] == results["systems"]
    assert (output_dir / "world" / "world.json").stat().st_mtime_ns == built


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_demo_refuses_seeds_that_are_no_repetition(seeds, tmp_path):
    with pytest.raises(ValueError, match="`seeds` must be different numbers"):
        run_demo(tmp_path, seeds=seeds)


def test_recipe_trains_as_the_demo_does(tmp_path):
    recipe = yaml.safe_load((RECIPES / "cong.yaml").read_text())
    ours = cong_config(tmp_path, seed=0)
    names = {field.name for field in fields(ConGConfig)} & set(recipe)
    own = {"output_dir", "weak_model_name_or_path", "weak_reference_model_name_or_path"}
    assert names > own
    theirs = ConGConfig(**{name: recipe[name] for name in names})
    assert theirs.sft_settings() == ours.sft_settings() | {"disable_tqdm": theirs.disable_tqdm}
    for name in names - own:
        assert getattr(theirs, name) == getattr(ours, name), name
