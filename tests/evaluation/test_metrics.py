# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The modules of `evaluate`: their answers are those of our functions, and they refuse what it lets through."""

import doctest
import math
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import torch

import hf_cong
from hf_cong.evaluation import metrics
from hf_cong.evaluation.text_metrics import perplexity_under
from hf_cong.rewards.reward_accuracy import reward_accuracy
from tests.tiny import tiny_lora, tiny_pair, tiny_tokenizer

ROOT = Path(__file__).parents[2]
FOLDER = Path(metrics.__file__).parent
CLASSES = {
    "distinct_n": metrics.DistinctN,
    "implicit_reward": metrics.ImplicitReward,
    "length": metrics.Length,
    "perplexity_under": metrics.PerplexityUnder,
    "reward_accuracy": metrics.RewardAccuracy,
    "win_rate": metrics.WinRate,
}
TOKENIZER = tiny_tokenizer()
PROMPTS = ["tell me", "a dog", "the"]
GOOD, BAD = [" the cat", " ran on a mat", " owl"], [" a", " rude fox", " dog sat"]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
PREFERENCES = {"prompts": PROMPTS, "chosen": GOOD, "rejected": BAD}


@pytest.fixture(scope="module")
def members():
    return tiny_pair("llama", vocab_size=len(TOKENIZER))


@pytest.fixture(scope="module")
def inputs(members):
    """For every module its columns, and its other arguments."""
    pair = {"policy": members[0], "reference": members[1], "tokenizer": TOKENIZER}
    texts = {"prompts": PROMPTS, "completions": GOOD}
    return {
        "distinct_n": ({"data": ["a b a b", "c d"]}, {"n": 2}),
        "implicit_reward": (texts, {**pair, "beta": 0.5}),
        "length": ({"data": ["one two three", "four", "five six"]}, {}),
        "perplexity_under": (texts, {"model": members[1], "tokenizer": TOKENIZER}),
        "reward_accuracy": (PREFERENCES, pair),
        "win_rate": ({"predictions": [3, 0.5, 2], "references": [1, 0.5, 4]}, {"seed": 1}),
    }


@pytest.fixture(params=sorted(CLASSES))
def name(request):
    return request.param


def test_every_folder_is_a_module():
    assert {path.parent.name for path in FOLDER.glob("*/README.md")} == set(CLASSES)
    assert metrics.__all__ == [*sorted(kind.__name__ for kind in CLASSES.values()), "load"]


def test_loaded_and_as_a_class(name, inputs):
    columns, options = inputs[name]
    by_class = CLASSES[name]().compute(**columns, **options)
    assert metrics.load(name).compute(**columns, **options) == by_class
    assert evaluate.load(str(FOLDER / name)).compute(**columns, **options) == by_class
    module = metrics.load(name)
    for index in range(len(next(iter(columns.values())))):
        row = {column: values[index] for column, values in columns.items()}
        module.add(**({key[:-1]: value for key, value in row.items()} if name == "win_rate" else row))
    assert module.compute(**options) == by_class
    module.add_batch(**{column: values[:1] for column, values in columns.items()})
    module.add_batch(**{column: values[1:] for column, values in columns.items()})
    assert module.compute(**options) == by_class


def test_numbers_by_hand(inputs):
    columns, options = inputs["win_rate"]
    result = metrics.WinRate().compute(**columns, **options)
    assert {key: result[key] for key in ("win_rate", "n", "wins", "ties", "losses")} == {
        "win_rate": 0.5,
        "n": 3,
        "wins": 1,
        "ties": 1,
        "losses": 1,
    }
    assert result["stderr"] == pytest.approx(math.sqrt(0.5 / 2 / 3))
    assert metrics.WinRate().compute(**columns, tie_margin=2)["ties"] == 3
    assert metrics.DistinctN().compute(data=["a b a b", "c d"]) == {"distinct_2": 0.75}
    assert metrics.DistinctN().compute(data=["a b a b", "c d"], n=1) == {"distinct_1": 4 / 6}
    length = metrics.Length().compute(data=["one two three", "four", "five six"])
    assert (length["mean_length"], length["lengths"]) == (2, [3, 1, 2])
    assert length["high"] - 2 == pytest.approx(4.302653 / math.sqrt(3))
    tokens = metrics.Length().compute(data=GOOD, tokenizer=TOKENIZER)["lengths"]
    assert tokens == [len(TOKENIZER(text)["input_ids"]) for text in GOOD]


@pytest.mark.parametrize("prompts", [PROMPTS, CHATS], ids=["text", "messages"])
def test_models_score_as_without_evaluate(prompts, members):
    policy, reference = members
    reward = hf_cong.ImplicitReward(policy, reference, TOKENIZER, beta=0.5)
    options = {"policy": policy, "reference": reference, "tokenizer": TOKENIZER}
    ends = ["stop", "length", "stop"]
    measured = metrics.ImplicitReward().compute(
        prompts=prompts, completions=GOOD, **options, beta=0.5, finish_reasons=ends, normalize="tokens"
    )
    expected = reward.score(prompts, GOOD, finish_reasons=ends, normalize="tokens")
    assert measured["implicit_rewards"] == expected
    assert measured["mean_implicit_reward"] == pytest.approx(sum(expected) / 3)
    assert measured["low"] < measured["mean_implicit_reward"] < measured["high"]
    plain = metrics.ImplicitReward().compute(prompts=prompts, completions=GOOD, **options)
    assert plain["implicit_rewards"] == pytest.approx([2 * value for value in reward.score(prompts, GOOD)])

    perplexity = metrics.PerplexityUnder().compute(
        prompts=prompts, completions=GOOD, model=reference, tokenizer=TOKENIZER
    )
    assert perplexity == perplexity_under(reference, TOKENIZER, prompts, GOOD)._asdict()
    # the reward of a policy over a reference is what their surprises differ by
    other = metrics.PerplexityUnder().compute(prompts=prompts, completions=GOOD, model=policy, tokenizer=TOKENIZER)
    for total, row, under_reference, under_policy in zip(
        plain["implicit_rewards"], GOOD, perplexity["perplexities"], other["perplexities"], strict=True
    ):
        tokens = len(TOKENIZER(row)["input_ids"])
        assert total == pytest.approx(tokens * math.log(under_reference / under_policy), rel=1e-4)

    accuracy = metrics.RewardAccuracy().compute(prompts=prompts, chosen=GOOD, rejected=BAD, **options)
    agreed = reward_accuracy(reward, prompts, GOOD, BAD)
    assert accuracy == {key: getattr(agreed, key) for key in ("accuracy", "low", "high", "n", "ties")}
    swapped = metrics.RewardAccuracy().compute(prompts=prompts, chosen=BAD, rejected=GOOD, **options)
    assert swapped["accuracy"] == pytest.approx(1 - accuracy["accuracy"])


def test_a_preference_dataset_of_messages(members):
    options = {"policy": members[0], "reference": members[1], "tokenizer": TOKENIZER}
    answers = {
        side: [[{"role": "assistant", "content": text}] for text in texts]
        for side, texts in (("chosen", GOOD), ("rejected", BAD))
    }
    measured = metrics.RewardAccuracy().compute(prompts=CHATS, **answers, **options)
    assert measured == metrics.RewardAccuracy().compute(prompts=CHATS, chosen=GOOD, rejected=BAD, **options)
    whole = {**answers, "rejected": [[*CHATS[0], *answer] for answer in answers["rejected"]]}
    with pytest.raises(ValueError, match=r"Row 0 of `rejected` is \[\{'role': 'user'.*trl.extract_prompt"):
        metrics.RewardAccuracy().compute(prompts=CHATS, **whole, **options)


def test_an_adapter_is_a_pair(members):
    adapted, policy, reference = tiny_lora("llama", vocab_size=len(TOKENIZER))
    columns = {"prompts": PROMPTS, "completions": GOOD}
    merged = {"policy": policy, "reference": reference}
    rewards = [
        metrics.ImplicitReward().compute(**columns, **pair, tokenizer=TOKENIZER)["implicit_rewards"]
        for pair in ({"policy": adapted}, merged)
    ]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)


def test_messages_keep_every_key(members):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.name }}: {{ message.content }} {% endfor %}"
    named = [[{"role": "user", "content": "tell me", "name": name}] for name in ("fox", "owl")]
    model = {"model": members[0], "tokenizer": tokenizer}
    measured = metrics.PerplexityUnder().compute(prompts=named, completions=[" a", " a"], **model)
    assert measured == perplexity_under(members[0], tokenizer, named, [" a", " a"])._asdict()
    assert measured["perplexities"][0] != measured["perplexities"][1]


def test_missing_and_empty_input_is_refused(name, inputs):
    columns, options = inputs[name]
    with pytest.raises(ValueError, match="There is nothing to compute"):
        CLASSES[name]().compute(**options)
    with pytest.raises(ValueError, match="There is nothing to compute"):
        CLASSES[name]().compute(**dict.fromkeys(columns), **options)
    with pytest.raises(ValueError, match="must be a list of at least one row, got \\[\\]"):
        CLASSES[name]().compute(**{column: [] for column in columns}, **options)
    for column, values in columns.items():
        module = CLASSES[name]()
        for bad, message in (
            (None, f"`{column}` must be a list of at least one row, got None"),
            ([], f"`{column}` must be a list of at least one row"),
            ("abc", f"`{column}` must be a list of at least one row, got 'abc'"),
            ([None, *values[1:]], f"Row 0 of `{column}` is None"),
            ([*values[:-1], None], f"Row {len(values) - 1} of `{column}` is None"),
        ):
            if not (bad is None and len(columns) == 1):
                with pytest.raises(ValueError, match=re.escape(message)):
                    module.compute(**{**columns, column: bad}, **options)
            with pytest.raises(ValueError, match=re.escape(message)):
                module.add_batch(**{**columns, column: bad})
        with pytest.raises(ValueError, match=f"Row 0 of `{column}` is None"):
            row = {other: None if other == column else rows[0] for other, rows in columns.items()}
            module.add(**({key[:-1]: value for key, value in row.items()} if name == "win_rate" else row))
        if len(columns) > 1:
            with pytest.raises(ValueError, match="Mismatch|Got"):
                CLASSES[name]().compute(**{**columns, column: values[:-1]}, **options)
        # what was refused left nothing behind
        assert module.compute(**columns, **options) == CLASSES[name]().compute(**columns, **options)


def test_unknown_columns_are_refused(name, inputs):
    columns, options = inputs[name]
    if name == "win_rate":
        with pytest.raises(ValueError, match="There is no column `data`; this module has predictions, references"):
            metrics.WinRate().add_batch(**columns, data=["a"] * 3)
        return
    module = CLASSES[name]()
    message = f"There is no column `references`; this module has {', '.join(columns)}. Rename it."
    for take in (module.compute, module.add_batch):
        with pytest.raises(ValueError, match=message):
            take(**columns, references=[1, 2, 3])
    with pytest.raises(ValueError, match=message):
        module.add(**{column: rows[0] for column, rows in columns.items()}, reference=1)
    assert module.compute(**columns, **options, references=None) == module.compute(**columns, **options)


@pytest.mark.parametrize("bad", [[" a", 3, " b"], [" a", [1, 2], " b"], [3, " a", " b"], [[1], [2], [3]]])
def test_nothing_is_turned_into_text(bad, inputs):
    with pytest.raises(ValueError, match="of `data` is"):
        metrics.DistinctN().compute(data=bad)
    columns, options = inputs["implicit_reward"]
    with pytest.raises(ValueError, match="of `completions` is"):
        metrics.ImplicitReward().compute(**{**columns, "completions": bad}, **options)


def test_prompts_of_two_kinds_are_refused(inputs):
    columns, options = inputs["implicit_reward"]
    for mixed, wanted in (
        ([CHATS[0], *PROMPTS[1:]], "a list of messages"),
        ([CHATS[0], PROMPTS[1:], CHATS[2]], "a list of messages"),
        ([PROMPTS[0], *CHATS[1:]], "text"),
    ):
        with pytest.raises(ValueError, match=f"Row 1 of `prompts` is .*must be {wanted}"):
            metrics.ImplicitReward().compute(**{**columns, "prompts": mixed}, **options)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        metrics.WinRate().compute(predictions=[1, math.nan], references=[1, 2])
    for bad in (["x", "y"], [[1], [2]]):
        with pytest.raises(ValueError):
            metrics.WinRate().compute(predictions=bad, references=[1, 2])
    result = metrics.WinRate().compute(predictions=torch.tensor([1.0, 2.0]), references=torch.tensor([0.0, 3.0]))
    assert (result["wins"], result["losses"]) == (1, 1)


def test_columns_of_any_kind():
    texts = ["a b a b", "c d"]
    for data in (tuple(texts), iter(texts), np.array(texts), datasets.Dataset.from_dict({"data": texts})["data"]):
        assert metrics.DistinctN().compute(data=data) == {"distinct_2": 0.75}


def test_columns_stay_in_memory(tmp_path):
    scores = {"predictions": [1, 2], "references": [2, 1]}
    for in_memory in (True, False):
        module = metrics.WinRate(cache_dir=str(tmp_path), keep_in_memory=in_memory)
        module.add_batch(**scores)
        assert bool(list(tmp_path.rglob("*.arrow"))) is not in_memory
    assert metrics.WinRate(cache_dir=str(tmp_path)).keep_in_memory
    assert metrics.load("win_rate").keep_in_memory


def test_measurements_combine():
    both = evaluate.combine([metrics.DistinctN(), metrics.Length()])
    result = both.compute(data=["a b a b", "c d"])
    assert (result["distinct_2"], result["mean_length"]) == (0.75, 3)


def test_an_unknown_name_is_refused():
    for name in ("accuracy", "../metrics/win_rate", "module"):
        with pytest.raises(ValueError, match="There is no module .* Choose one of distinct_n, implicit_reward"):
            metrics.load(name)


@pytest.mark.slow
def test_all_load_without_network_or_cache(tmp_path):
    script = (
        "import evaluate, sys\n"
        "for path in sys.argv[1:]:\n"
        "    print(evaluate.load(path).name)\n"
        "print(evaluate.load(path).compute(predictions=[1.0], references=[0.0])['win_rate'])"
    )
    unreachable = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    paths = [str(FOLDER / name) for name in sorted(CLASSES)]
    run = subprocess.run(
        [sys.executable, "-c", script, *paths],
        env=environment | unreachable,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [*sorted(CLASSES), "1.0"]


def test_examples_of_the_readmes(name, members):
    text = (FOLDER / name / "README.md").read_text()
    examples = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names = {"policy": members[0], "reference": members[1], "model": members[1], "tokenizer": TOKENIZER}
    test = doctest.DocTestParser().get_doctest(examples, names, name, None, 0)
    assert len(test.examples) >= 3
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


def test_the_wheel_holds_the_modules(tmp_path, monkeypatch):
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    wheel = zipfile.ZipFile(tmp_path / build.build_wheel(str(tmp_path)))
    for name in CLASSES:
        for suffix in (f"{name}.py", "README.md"):
            path = f"hf_cong/evaluation/metrics/{name}/{suffix}"
            assert wheel.read(path) == (ROOT / path).read_bytes()
