# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The search recipe: its measures on tiny random models, its worlds on the real data, and (slow) the whole job."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch
from datasets import Dataset

from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

pytest.importorskip("vaderSentiment")
pytest.importorskip("sklearn")

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from recipes.search_sentiment import measure, reviews, summary, worlds
from recipes.search_sentiment.run import TITLES, check, run
from recipes.stories.prepare import split_of

ROOT = Path(__file__).parents[1]
DATA = os.environ.get("HF_CONG_REAL_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="HF_CONG_REAL_DATA is not set")
PROMPTS = ["tell me about a cat", "the dog sat on a", "fox"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def models(tokenizer):
    """`(strong, policy, reference)`, that end a text now and then."""
    special = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return tiny_model("llama", seed=7, **special), *tiny_pair("llama", **special)


@pytest.fixture(scope="module")
def world(models, tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    for model, name in zip(models, ("strong", "weak_policy", "weak_reference"), strict=True):
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    Dataset.from_dict({"prompt": PROMPTS}).to_json(root / "test.jsonl")
    rows = {"prompt": PROMPTS, "chosen": [" ran on", " mat", " sat"], "rejected": [" old", " rude me", " is"]}
    Dataset.from_dict(rows).to_json(root / "held-out.jsonl")
    return worlds.World(worlds.REVIEWS, root)


# The divergence along a sample


def stepwise(writer, base, tokenizer, row, temperature):
    """The same sum, one unpadded prefix at a time."""
    ids, total = tokenizer(row["prompt"])["input_ids"], 0.0
    tokens = row["completion_ids"] + [None] * (row["finish_reason"] == "stop")
    for token in tokens:
        inputs = torch.tensor([ids])
        masked = {} if writer is base else {"plausible_only": True}
        p, q = (
            (model(inputs, **options).logits[0, -1].double() / temperature).softmax(-1)
            for model, options in ((writer, masked), (base, {}))
        )
        inside = p > 0
        total += (p[inside] * (p[inside] / q[inside]).log()).sum().item()
        ids = [*ids, token]
    return total


ROWS = [
    {"prompt": PROMPTS[0], "completion_ids": [5, 80, 81, 9, 200], "finish_reason": "length"},
    {"prompt": PROMPTS[1], "completion_ids": [7, 8], "finish_reason": "stop"},
    {"prompt": PROMPTS[2], "completion_ids": [], "finish_reason": "stop"},
]


@pytest.mark.parametrize("name", ["eft", "pair"])
@torch.no_grad()
def test_divergences_are_the_sums_of_the_steps(models, tokenizer, name):
    strong, policy, reference = models
    if name == "eft":
        writer = EmulatedFineTuningForCausalLM.from_pair(strong, policy, reference, beta=2.0)
    else:
        writer = ContrastivePairForCausalLM.from_pair(policy, reference)
    found = measure.divergences(writer, strong, tokenizer, ROWS, 0.7, batch_size=2)
    expected = [stepwise(writer, strong, tokenizer, row, 0.7) for row in ROWS]
    assert min(expected) > 0.01
    assert found == pytest.approx(expected, rel=1e-4)
    # The last step of a text that the limit cut was never taken; and another temperature is another sampler.
    longer = [{**row, "finish_reason": "stop"} for row in ROWS]
    assert measure.divergences(writer, strong, tokenizer, longer, 0.7)[0] > found[0] + 1e-3
    assert measure.divergences(writer, strong, tokenizer, ROWS, 1.0) != pytest.approx(found, rel=1e-2)


def test_a_model_does_not_diverge_from_itself(models, tokenizer):
    strong = models[0]
    assert measure.divergences(strong, strong, tokenizer, ROWS, 0.7) == pytest.approx([0.0] * 3, abs=1e-5)


# One method and one seed


@pytest.mark.parametrize("method", measure.METHODS)
def test_every_method_writes_a_row_for_every_prompt_and_resumes(world, method):
    measure.sample(world, worlds.FULL, method, 0)
    path = measure.samples_path(world, worlds.FULL, method, 0)
    rows = measure.read_samples(world, worlds.FULL, method, 0)
    assert len({row["prompt_id"] for row in rows}) == len(PROMPTS)
    for row in rows:
        assert row["method"] == method
        assert row["seed"] == 0
        assert row["finish_reason"] == "stop" or row["tokens"] == world.max_new_tokens
        assert row["nll"] > 0
        assert (abs(row["kl"]) < 1e-4) == (method == measure.BASE)
    assert (rows[0]["kl_method"] == measure.EXACT) == (method not in {**measure.BEST_OF, **measure.CBS})

    content = path.read_bytes()
    path.write_bytes(b"")
    measure.sample(world, worlds.FULL, method, 0)
    assert path.read_bytes() == b""  # a file that is there is finished work
    path.unlink()
    measure.sample(world, worlds.FULL, method, 0)
    assert path.read_bytes() == content


def test_search_follows_the_reward_of_the_pair_it_is_given(world):
    method = measure.GUIDED[0]
    means = {}
    for pair in (worlds.FULL, worlds.SWAPPED):
        measure.sample(world, pair, method, 1)
        means[pair] = fmean(row["implicit"] for row in measure.read_samples(world, pair, method, 1))
    # Each with its own reward; the swapped one's is the negative of the other's.
    assert means[worlds.FULL] > 0 > -means[worlds.SWAPPED]


def test_the_swapped_pair_is_right_where_the_pair_is_wrong(world):
    full, swapped = (check(world, pair)["accuracy"] for pair in (worlds.FULL, worlds.SWAPPED))
    assert full + swapped == pytest.approx(1)


def test_flipping_exchanges_that_share_of_the_labels():
    rows = Dataset.from_list([{"prompt": f"{n}", "chosen": "a", "rejected": "b"} for n in range(1000)])
    for probability in (0.0, 0.25, 0.5):
        flipped = worlds.flip(rows, probability)
        assert flipped["prompt"][:] == rows["prompt"][:]
        assert all({row["chosen"], row["rejected"]} == {"a", "b"} for row in flipped)
        assert fmean(row["chosen"] == "b" for row in flipped) == pytest.approx(probability, abs=0.05)


# Means, tables and pictures


def test_the_interval_is_of_prompts_and_covers_the_mean():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, generator=generator).add(3).tolist()
    found = summary.interval(values)
    assert found.low < 3 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert summary.interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


def records():
    """Gold reward 0.1 per place of the method, over seed and prompt; the pair that is swapped has none."""
    jobs = [(worlds.FULL, method) for method in measure.METHODS]
    jobs += [(pair, method) for pair in worlds.PAIRS[1:] for method in measure.GUIDED]
    return [
        {
            "pair": pair,
            "method": method,
            "seed": seed,
            "prompt_id": f"p{prompt}",
            "completion": f"some words {prompt} of {method}",
            "finish_reason": "stop",
            "kl": 3.0,
            "kl_method": measure.EXACT if method in measure.EFT else "a bound",
            "nll": 1.0 + prompt / 10,
            "implicit": 1.0,
            "tokens": 4,
            "gold": 0.0 if pair == worlds.SWAPPED else measure.METHODS.index(method) / 20 + prompt / 100 + seed / 1000,
        }
        for pair, method in jobs
        for seed in (0, 1)
        for prompt in range(5)
    ]


def test_summary_pairs_differences_by_prompt(tmp_path):
    accuracy = {"accuracy": 0.7, "low": 0.6, "high": 0.8}
    results = summary.summarise(records(), dict.fromkeys(worlds.PAIRS, accuracy))
    base = results["methods"][measure.BASE]["gold"]
    assert base["mean"] == pytest.approx(0.0205)
    assert base["low"] < base["mean"] < base["high"]
    first = results["differences"][0]["gold"]
    assert first["mean"] == pytest.approx(0.05)
    assert first["high"] - first["low"] == pytest.approx(0, abs=1e-9)  # the prompts differ, their differences do not
    swapped = results["robustness"]["pairs"][-1]["minus_base"][measure.GUIDED[0]]
    assert swapped["mean"] == pytest.approx(-0.02)  # of the first seed

    text = summary.tables(results, markdown=True)
    assert all(f"| {method} " in text for method in measure.METHODS)
    assert "≤ 3.0" in text
    summary.draw_front(results, tmp_path / "front.png", "a")
    summary.draw_robustness(results, tmp_path / "robustness.png", "b")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


# The real data


@needs_data
def test_no_test_prompt_begins_a_text_that_is_trained_on(tmp_path):
    reviews.prepare(DATA, tmp_path, effort=0.02, num_test_prompts=250)
    prompts = {
        name: Dataset.from_json(str(tmp_path / f"{name}.jsonl"))["prompt"][:]
        for name in ("test", "align-prompts", "held-out-prompts")
    }
    assert len(set(prompts["test"])) == 250
    assert not set(prompts["test"]) & {*prompts["align-prompts"], *prompts["held-out-prompts"]}
    assert not set(prompts["align-prompts"]) & set(prompts["held-out-prompts"])
    passages = Dataset.from_json(str(tmp_path / "passages.jsonl"))["text"][:]
    assert len(passages) > 300
    assert not any(passage.startswith(tuple(prompts["test"])) for passage in passages)
    assert all(split_of(prompt) == "test" for prompt in prompts["test"])


@needs_data
def test_the_classifier_holds_on_sentences_it_has_not_seen():
    sentences, labels = reviews.read_labelled_sentences(DATA)
    assert len(sentences) == len(labels) == 10_662
    fitted = reviews.classifier().fit(sentences[::2], labels[::2])
    assert fitted.score(sentences[1::2], labels[1::2]) > 0.72


@needs_data
def test_gold_reward_orders_reviews_and_refuses_short_ones():
    gold = reviews.GoldReward(DATA)
    good = "a wonderful , moving film with superb performances and a script that is funny , warm and smart ."
    bad = "a dull , stupid mess of a film with awful performances and a script that is boring and lame ."
    assert gold(good) > 0.8 > 0.2 > gold(bad) > 0
    assert gold("a wonderful , moving film .") == 0.0
    assert gold("") == 0.0


@needs_data
def test_another_run_is_refused_where_one_is(tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"effort": 0.5}), encoding="utf-8")
    with pytest.raises(ValueError, match="`effort` 0.5 there, 1.0 here"):
        run(DATA, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@needs_data
def test_the_whole_job_on_real_data(tmp_path):
    command = [sys.executable, "-m", "recipes.search_sentiment.run", "--output_dir", str(tmp_path), "--seeds", "0"]
    command += ["--num_test_prompts", "16", "--effort", "0.25"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1490, cwd=ROOT)
    assert job.returncode == 0, job.stderr[-2000:]

    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    for name, title in TITLES.items():
        assert title in job.stdout
        methods = results[name]["methods"]
        assert list(methods) == list(measure.METHODS)
        for row in methods.values():
            assert 0 <= row["gold"]["low"] <= row["gold"]["mean"] <= row["gold"]["high"] <= 1
            assert 0 < row["distinct_2"] < 1
        # What every method here maximises more of, the more candidates it looks at.
        implicit = [methods[method]["implicit"]["mean"] for method in (measure.BASE, *measure.BEST_OF)]
        assert implicit == sorted(implicit)
        # The large model finds its own text the likeliest; the pair learned something; swapped, it unlearned it.
        assert methods[measure.BASE]["nll"]["mean"] < methods[measure.WEAK_POST]["nll"]["mean"]
        accuracy = {row["pair"]: row["accuracy"] for row in results[name]["robustness"]["pairs"]}
        assert accuracy[worlds.FULL]["accuracy"] > 0.5 > accuracy[worlds.SWAPPED]["accuracy"]
        for picture in ("front", "robustness"):
            assert (tmp_path / f"{name}_{picture}.png").read_bytes().startswith(b"\x89PNG")
