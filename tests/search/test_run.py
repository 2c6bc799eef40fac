# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Searches over a dataset: all is kept, a killed run ends with the bytes of one that was not, a table by method."""

import json
import logging
import multiprocessing
import os
import signal
from dataclasses import asdict, fields

import pytest

from hf_cong import (
    ContrastivePairForCausalLM,
    EmulatedFineTuningForCausalLM,
    ImplicitReward,
    best_of_n,
    run_search,
    weak_to_strong_search,
)
from hf_cong.cli import main
from hf_cong.journal import Journal
from hf_cong.search import endpoint_sampler
from hf_cong.search.beam import SearchResult
from hf_cong.search.report import rewards_by_chunk, summarise
from tests.search.served import letters_model, letters_tokenizer
from tests.tiny import tiny_lora, tiny_pair, tiny_tokenizer

TOKENIZER = letters_tokenizer()
PROMPTS = ["the cat ", "a dog. ", "why? ", "hello, my name is ", "no!"]
METHODS = ["base", "best_of_n", "chunk_beam_search"]
SEARCH = {"chunk_length": 3, "max_new_tokens": 9, "temperature": 1.0, "top_k": 0, "seed": 7}
SETTINGS = {"beam_width": 2, "successors_per_beam": 2, "batch_size": 2, "methods": METHODS, **SEARCH}
FILES = ("journal.jsonl", "results.jsonl", "search.md", "search.png")


def run(path, reward, model=None, **overrides):
    settings = {**SETTINGS, "tokenizer": TOKENIZER, **overrides}
    return run_search(PROMPTS, model or letters_model(), reward, output_dir=path, **settings)


def files(path):
    return {name: (path / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, reward):
    """The folder of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    run(path, reward)
    return path


def test_the_results_are_those_of_the_calls_one_by_one(whole, reward):
    results = [json.loads(line) for line in (whole / "results.jsonl").read_text().splitlines()]
    assert [(r["method"], r["prompt"]) for r in results] == [(m, p) for m in METHODS for p in PROMPTS]
    assert set(results[0]) == {"method", *(field.name for field in fields(SearchResult))}
    model = letters_model()
    expected = {
        "base": best_of_n(model, TOKENIZER, PROMPTS, reward, n=1, **without_chunks()),
        "best_of_n": best_of_n(model, TOKENIZER, PROMPTS, reward, n=4, **without_chunks()),
        "chunk_beam_search": weak_to_strong_search(
            model, TOKENIZER, PROMPTS, reward, beam_width=2, successors_per_beam=2, **SEARCH
        ),
    }
    for method, found in expected.items():
        kept = [result for result in results if result["method"] == method]
        for one, other in zip(kept, found, strict=True):
            other = {"method": method, **json.loads(json.dumps(asdict(other)))}
            assert strip_rewards(one) == strip_rewards(other)
            assert one["implicit_reward"] == pytest.approx(other["implicit_reward"], abs=1e-4)
    assert {result["finish_reason"] for result in results} == {"stop", "length"}
    # the negative control
    other = best_of_n(model, TOKENIZER, PROMPTS, reward, n=4, **{**without_chunks(), "seed": 8})
    assert [r.completion for r in other] != [r.completion for r in expected["best_of_n"]]


def without_chunks():
    return {name: value for name, value in SEARCH.items() if name != "chunk_length"}


def strip_rewards(value):
    """Without the numbers, which another batch rounds otherwise."""
    if isinstance(value, dict):
        return {key: strip_rewards(inner) for key, inner in value.items() if "reward" not in key}
    return [strip_rewards(inner) for inner in value] if isinstance(value, list) else value


def test_the_table_and_the_manifest_hold_the_means(whole):
    results = [json.loads(line) for line in (whole / "results.jsonl").read_text().splitlines()]
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["counts"] == {"rows_in": 5, "kept": 5, "dropped": {}}
    assert set(manifest["files"]) == {"results.jsonl", "search.md", "search.png"}
    table = (whole / "search.md").read_text()
    rewards = []
    for row, method in zip(manifest["summary"], METHODS, strict=True):
        found = [result for result in results if result["method"] == method]
        assert row["method"] == method and row["prompts"] == 5
        assert row["implicit_reward"] == pytest.approx(sum(r["implicit_reward"] for r in found) / 5)
        assert row["tokens"] == pytest.approx(sum(len(r["completion_ids"]) for r in found) / 5)
        assert row["finished"] == pytest.approx(sum(r["finish_reason"] == "stop" for r in found) / 5)
        assert row["kl"] == pytest.approx(sum(r["kl"] for r in found) / 5)
        assert row["cost"] is None
        (line,) = (line for line in table.splitlines() if line.startswith(f"| {method}"))
        assert f" {row['implicit_reward']:.2f} ± " in line and f" {row['finished']:.0%} " in line
        rewards.append(row["implicit_reward"])
    assert rewards[0] < min(rewards[1:])
    widths = [(row["beam_width"], row["successors_per_beam"], row["chunk_length"]) for row in manifest["summary"]]
    assert widths == [(1, 1, None), (1, 4, None), (2, 2, 3)]
    assert (whole / "search.png").read_bytes().startswith(b"\x89PNG")


def test_a_prompt_that_has_ended_counts_with_its_last_reward():
    traces = {"a": [1.0, 2.0, 4.0], "b": [5.0]}
    records = [{"method": "x", "trace": [{"best_reward": reward} for reward in trace]} for trace in traces.values()]
    assert rewards_by_chunk([*records, {"method": "y", "trace": []}], "x") == [[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]]


def test_one_prompt_has_no_interval_and_text_no_tokens(tmp_path, reward):
    run_search(PROMPTS[:1], letters_model(), reward, tokenizer=TOKENIZER, output_dir=tmp_path, **SETTINGS)
    summary = json.loads((tmp_path / "manifest.json").read_text())["summary"]
    assert {row["interval"] for row in summary} == {None}
    assert "±" not in (tmp_path / "search.md").read_text()
    record = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    widths = {"base": {"beam_width": 1, "successors_per_beam": 1, "chunk_length": None}}
    (row,) = summarise([{**record, "completion_ids": None}], widths, {"base": None})
    assert row["tokens"] is None and row["characters"] == len(record["completion"])


def test_a_finished_run_is_returned_without_its_models(whole, reward, tmp_path):
    def never():
        raise AssertionError("loaded although no work was left")

    named = {"model_id": "m", "reward_id": "r"}
    first = run(tmp_path, reward, **named)
    assert run(tmp_path, never, never, **named) == first
    assert run(whole, reward) == [json.loads(line) for line in (whole / "results.jsonl").read_text().splitlines()]


def test_another_run_is_refused(whole, reward):
    other_pair = ImplicitReward(*tiny_pair("llama", 9, vocab_size=len(TOKENIZER)), TOKENIZER)
    before = files(whole)
    for difference, changes in (
        ("`seed` 7 there, 8 here", {"seed": 8}),
        ("`chunk_length` 3 there, 4 here", {"chunk_length": 4}),
        ("`methods` ", {"methods": ["base"]}),
        ("`model.model` ", {"model": letters_model(seed=1)}),
        ("`reward", {"reward": other_pair}),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {difference}"):
            run(whole, **{"reward": reward, **changes})
    with pytest.raises(ValueError, match="belongs to another run: `prompts` "):
        run_search(PROMPTS[::-1], letters_model(), reward, tokenizer=TOKENIZER, output_dir=whole, **SETTINGS)
    assert files(whole) == before


def _killed_after(appends, path, reward):
    """As a process of its own: dies in the middle of writing a batch."""
    append = Journal.append

    def counted(self, records):
        nonlocal appends
        appends -= 1
        if appends < 0:
            os.write(self._file, json.dumps(records[0]).encode()[: len(json.dumps(records[0])) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, records)

    Journal.append = counted
    run(path, reward)


@pytest.mark.parametrize("appends", [0, 1, 4, 8])
def test_killed_half_way_the_rerun_ends_with_the_same_bytes(whole, reward, tmp_path, appends):
    process = multiprocessing.get_context("fork").Process(target=_killed_after, args=(appends, tmp_path, reward))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]
    assert (tmp_path / "journal.jsonl").read_bytes() not in (b"", (whole / "journal.jsonl").read_bytes())
    if appends:
        with pytest.raises(ValueError, match="another run: `batch_size` 2 there, 3 here"):
            run(tmp_path, reward, batch_size=3)
    run(tmp_path, reward)
    assert files(tmp_path) == files(whole)


def test_bad_rows_are_dropped_and_counted(tmp_path, reward):
    rows = [*PROMPTS, "", PROMPTS[0], 7]
    with pytest.raises(ValueError, match="Row 5 of the prompts is empty"):
        run_search(rows, letters_model(), reward, tokenizer=TOKENIZER, output_dir=tmp_path, **SETTINGS)
    settings = {**SETTINGS, "methods": ["base"], "invalid_prompts": "drop"}
    results = run_search(rows, letters_model(), reward, tokenizer=TOKENIZER, output_dir=tmp_path, **settings)
    assert [result["prompt"] for result in results] == PROMPTS
    counts = json.loads((tmp_path / "manifest.json").read_text())["counts"]
    assert counts == {"rows_in": 8, "kept": 5, "dropped": {"empty": 1, "duplicate": 1, "not_a_prompt": 1}}


REFUSED = {
    "`beam_width` must be at least 1, got 0": {"beam_width": 0},
    "`successors_per_beam` must be at least 1, got -1": {"successors_per_beam": -1},
    "`chunk_length` must be at least 1, got 0": {"chunk_length": 0},
    "`methods` must be some of base, best_of_n, chunk_beam_search, each once, got \\['beam'\\]": {"methods": ["beam"]},
    "`methods` must be some of .*, got \\[\\]": {"methods": []},
    "each once, got \\['base', 'base'\\]": {"methods": ["base", "base"]},
    "`batch_size` must be .* at least 1, got 0": {"batch_size": 0},
    "Prompt 3 has 18 tokens; with `max_new_tokens=500` the context of `model` leaves 12": {"max_new_tokens": 500},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_out_of_range_are_refused(tmp_path, reward, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, reward, **REFUSED[message])
    assert not (tmp_path / "results.jsonl").exists()


def test_what_is_no_model_and_no_reward_is_refused(tmp_path, reward):
    with pytest.raises(ValueError, match="`model` is a function, so it takes `model_id`"):
        run(tmp_path, reward, letters_model)
    with pytest.raises(ValueError, match="`reward` is a function, so it takes `reward_id`"):
        run(tmp_path, lambda: reward)
    with pytest.raises(TypeError, match="`reward` must be an ImplicitReward, got list"):
        run(tmp_path, [reward])
    with pytest.raises(TypeError, match="`model` is 'gpt2' .* must be a loaded model, or the URL"):
        run(tmp_path, reward, "gpt2")
    assert list(tmp_path.iterdir()) == []


def preferences(reward, *, swapped=False):
    """What the pair itself prefers, in TRL's two formats."""
    texts = ["cat. dog. ", "why? no! "]
    rows = []
    for number in range(12):
        prompt = f"{'abcdefghijkl'[number]} "
        better, worse = sorted(texts, key=lambda text: -reward.score([prompt], [text], finish_reasons=["stop"])[0])
        sides = {"chosen": worse, "rejected": better} if swapped else {"chosen": better, "rejected": worse}
        rows.append({"prompt": prompt, **sides})
    return rows


def test_the_pairs_accuracy_is_measured_first(tmp_path, reward, caplog):
    right = preferences(reward)
    right[0]["chosen"] = [{"role": "assistant", "content": right[0]["chosen"]}]
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "right", reward, methods=["base"], preferences=right)
    assert "not above chance" not in caplog.text
    accuracy = json.loads((tmp_path / "right" / "manifest.json").read_text())["reward_accuracy"]
    assert (accuracy["accuracy"], accuracy["n"]) == (1.0, 12)
    assert (
        "The pair prefers the chosen completion of 12 preferences in 100.0%"
        in (tmp_path / "right" / "search.md").read_text()
    )
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(reward, swapped=True)))
    with caplog.at_level(logging.WARNING):
        run(tmp_path / "wrong", reward, methods=["base"], preferences=tmp_path / "wrong.jsonl")
    assert "agrees with 0.0% of 12 preferences" in caplog.text and "not above chance" in caplog.text


@pytest.mark.parametrize("row", [{"chosen": "a"}, {"chosen": "a", "rejected": 3}, {"chosen": [], "rejected": "b"}])
def test_rows_that_are_no_preferences_are_named(tmp_path, reward, row):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", **row}]
    with pytest.raises(ValueError, match="Row 1 of `preferences` has the `(chosen|rejected)` "):
        run(tmp_path, reward, preferences=rows)


# A server: here the answers are journaled too.

SERVED = {"methods": ["base", "chunk_beam_search"], "tokenizer": None, "concurrency": 1}


@pytest.fixture(scope="module")
def whole_served(tmp_path_factory, served, reward):
    served.reset()
    path = tmp_path_factory.mktemp("served")
    run(path, reward, served.url, **SERVED)
    return path, len(served.requests), dict(served.usage)


def test_a_server_costs_what_it_says(whole_served):
    path, _, usage = whole_served
    summary = json.loads((path / "manifest.json").read_text())["summary"]
    for name, value in usage.items():
        assert sum(row["cost"][name] for row in summary) == value
    assert 0 < summary[0]["cost"]["completion_tokens"] < summary[1]["cost"]["completion_tokens"]
    assert [row["tokens"] for row in summary] == [None, None]
    table = (path / "search.md").read_text()
    assert f"| chunk_beam_search | {summary[1]['cost']['requests']:8} |" in table


def _killed_by_answers(answers, path, url, reward):
    """As a process of its own: dies once it has had so many answers."""
    count = endpoint_sampler.EndpointSampler._count

    def counted(self, record):
        nonlocal answers
        answers -= 1
        if answers < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        count(self, record)

    endpoint_sampler.EndpointSampler._count = counted
    run(path, reward, url, **SERVED)


@pytest.mark.parametrize("answers", [0, 9, 30])
def test_a_killed_run_asks_for_nothing_twice(whole_served, relay, reward, tmp_path, answers):
    path, requests, usage = whole_served
    arguments = (answers, tmp_path, relay.url, reward)
    process = multiprocessing.get_context("fork").Process(target=_killed_by_answers, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    run(tmp_path, reward, relay.url, **SERVED)
    assert files(tmp_path) == files(path)
    # each method asks once whether the server takes what the protocol lacks, and so does a second start
    asked = [body for body in relay.requests if "top_k" not in body]
    assert len(asked) == requests - len(SERVED["methods"])
    assert relay.usage == usage


def test_a_server_that_goes_down_loses_nothing(whole_served, relay, reward, tmp_path):
    path, requests, usage = whole_served
    relay.misbehave = lambda number, body: 400 if number >= 20 else None
    with pytest.raises(ConnectionError, match="failed: Error code: 400 .*Every answer is kept; repeat the command"):
        run(tmp_path, reward, relay.url, **SERVED)
    relay.misbehave = lambda number, body: None
    run(tmp_path, reward, relay.url, **SERVED)
    assert files(tmp_path) == files(path)
    assert relay.usage == usage


def test_another_model_at_the_server_is_another_run(whole_served, relay, reward):
    with pytest.raises(ValueError, match="belongs to another run: `model.served_model` "):
        run(whole_served[0], reward, relay.url + "x", **SERVED)


# The command.


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    size = {"vocab_size": len(tiny_tokenizer())}
    policy, reference = tiny_pair("qwen2", 4, **size)
    adapted, _, base = tiny_lora("qwen2", 4, **size)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    base.save_pretrained(root / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(root / "base")
    for name, model in {"policy": policy, "reference": reference, "pair": pair, "adapter": adapted}.items():
        model.save_pretrained(root / name)
    for name in ("policy", "reference", "pair", "base"):
        tiny_tokenizer().save_pretrained(root / name)
    letters_model().save_pretrained(root / "model")
    TOKENIZER.save_pretrained(root / "model")
    (root / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return root


def command(root, path, *more, model="model", policy="policy", reference="reference"):
    named = {"prompts": root / "prompts.jsonl", "policy": root / policy, "output_dir": path}
    named["model"] = model if "://" in model else root / model
    if reference is not None:
        named["reference"] = root / reference
    settings = {**SETTINGS, "methods": None, "dtype": "float32"}
    words = [
        word for name, value in {**named, **settings}.items() if value is not None for word in (f"--{name}", value)
    ]
    return main(["search", *map(str, words), *map(str, more)])


def test_the_command_does_what_the_call_does(root, tmp_path, other_reward, capsys):
    assert command(root, tmp_path / "command", "--methods", *METHODS) == 0
    table = capsys.readouterr().out
    assert all(f"\n| {method} " in table for method in METHODS)
    run(tmp_path / "call", other_reward)
    for name in ("results.jsonl", "search.png"):
        assert (tmp_path / "command" / name).read_bytes() == (tmp_path / "call" / name).read_bytes()
    # again, from what is there; and another search does not take its place
    assert command(root, tmp_path / "command", "--methods", *METHODS) == 0
    assert capsys.readouterr().out == table
    assert command(root, tmp_path / "command") == 2
    assert "belongs to another run: `methods` " in capsys.readouterr().err


def test_a_saved_pair_and_an_adapter_are_pairs(root, tmp_path):
    assert command(root, tmp_path / "two", "--methods", "base") == 0
    assert command(root, tmp_path / "pair", "--methods", "base", policy="pair", reference=None) == 0
    assert command(root, tmp_path / "adapter", "--methods", "base", policy="adapter", reference=None) == 0
    two, pair, adapter = ((tmp_path / name / "results.jsonl").read_bytes() for name in ("two", "pair", "adapter"))
    assert two == pair != adapter


def test_what_is_no_pair_has_no_reward(root, tmp_path, capsys):
    names = (str(root / name) for name in ("base", "policy", "reference"))
    EmulatedFineTuningForCausalLM.from_pair(*names).save_pretrained(tmp_path / "steered")
    for policy in (root / "policy", tmp_path / "steered"):
        assert command(root, tmp_path / "no", policy=policy, reference=None) == 2
        assert " is no pair, so it has no implicit reward" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_command_asks_a_server_that_the_hand_names(root, relay, tmp_path, capsys):
    assert command(root, tmp_path / "served", "--concurrency", 1, "--methods", "base", model=relay.url) == 0
    assert "## Cost, as the server counted it" in capsys.readouterr().out
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {relay.url}\n")
    before = len(relay.requests)
    assert main(["search", "--config", str(recipe), "--output_dir", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert "sets `model` to a URL: a server gets your prompts and your `OPENAI_API_KEY`: pass `--model URL`" in error
    assert len(relay.requests) == before and not (tmp_path / "no").exists()
    assert command(root, tmp_path / "no", "--tokenizer", root / "model") == 2
    assert "`tokenizer` is for a model behind a URL" in capsys.readouterr().err


def test_the_command_warns_of_a_pair_that_is_no_better_than_chance(root, tmp_path, other_reward, caplog):
    rows = preferences(other_reward, swapped=True)
    (tmp_path / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--methods", "base", "--preferences", tmp_path / "preferences.jsonl"]
    with caplog.at_level(logging.WARNING):
        assert command(root, tmp_path / "run", *given) == 0
    assert "agrees with 0.0% of 12 preferences" in caplog.text and "not above chance" in caplog.text
