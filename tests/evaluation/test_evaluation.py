# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Systems on tasks and prompts: lm-eval's numbers, differences by document, killed and resumed by system and task."""

import json
import math
import multiprocessing
import os
import signal
import weakref
from pathlib import Path
from unittest import mock

import datasets
import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config

from hf_cong import ContrastivePairForCausalLM, ImplicitReward, weak_to_strong_search
from hf_cong.arguments import EvaluateArguments
from hf_cong.cli import main
from hf_cong.evaluation.comparison import systems as systems_module
from hf_cong.evaluation.comparison.run import run_evaluation
from hf_cong.evaluation.comparison.systems import check_systems, read_systems
from hf_cong.evaluation.comparison.tasks import PROTOCOLS, Protocol, load_tasks, read_tasks
from hf_cong.evaluation.judges import RewardModelJudge
from hf_cong.journal import Journal
from hf_cong.recipes import parse
from hf_cong.report.statistics import paired_difference
from hf_cong.sandbox.world import FACTS, request
from hf_cong.sandbox.world import prompts as world_prompts
from tests.evaluation.judges.reward_models import save_gated
from tests.evaluation.lm_tasks import write_systems, write_tasks
from tests.tiny import tiny_model

TASKS = {"choice": {"num_fewshot": 2}, "writing": None, "rolling": None, "by_size": {"num_fewshot": 1}}
FILES = ("evaluation.json", "evaluation.md", "evaluation.png")


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return write_systems(tmp_path_factory.mktemp("systems"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks") / "own")


@pytest.fixture(scope="module")
def systems(names):
    return {
        "strong": {"model": names["strong"]},
        "pair, α = 0.4": {"policy": names["policy"], "reference": names["reference"], "alpha": 0.4},
        "adapted": {"model": names["adapter"]},
        "search": {
            "model": names["strong"],
            "policy": names["policy"],
            "reference": names["reference"],
            "beam_width": 1,
            "successors_per_beam": 2,
            "chunk_length": 3,
        },
    }


def run(path, systems, folder, **overrides):
    settings = {"baseline": "strong", "tasks": TASKS, "include_path": folder, "dtype": "float32", **overrides}
    return run_evaluation(systems, output_dir=path, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, systems, folder):
    """The folder of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    run(path, systems, folder)
    return path


def content(path):
    return json.loads((path / "evaluation.json").read_text())


def row(rows, task, system):
    (found,) = [one for one in rows if (one["task"], one["system"]) == (task, system)]
    return found


def stock(model, names, folder, tasks, num_fewshot=None):
    """lm-eval's own call on a loaded model, without its report on the machine, which takes a second."""
    lm = HFLM(model, tokenizer=AutoTokenizer.from_pretrained(names["strong"]), batch_size=8)
    manager = TaskManager(include_path=folder, include_defaults=False)
    with mock.patch("lm_eval.evaluator.add_env_info"):
        return lm_eval.simple_evaluate(lm, tasks=tasks, num_fewshot=num_fewshot, task_manager=manager)


def pair_of(names, alpha=0.4, plausibility_threshold=0.1):
    loaded = (AutoModelForCausalLM.from_pretrained(names[name], dtype="float32") for name in ("policy", "reference"))
    return ContrastivePairForCausalLM.from_pair(*loaded, alpha=alpha, plausibility_threshold=plausibility_threshold)


@pytest.fixture(scope="module")
def expected(names, folder):
    """What lm-eval's own call says."""
    models = {
        "strong": AutoModelForCausalLM.from_pretrained(names["strong"], dtype="float32"),
        "pair, α = 0.4": pair_of(names),
        "adapted": AutoModelForCausalLM.from_pretrained(names["adapter"], dtype="float32"),
    }
    return {name: stock(model, names, folder, ["writing", "rolling"]) for name, model in models.items()}


def test_scores_are_those_of_lm_evals_own_call(whole, expected, names, folder):
    rows, results = content(whole)["rows"], content(whole)["results"]
    for system, found in expected.items():
        for task, metric in {"writing": "has_vowel,none", "rolling": "word_perplexity,none"}.items():
            assert len(results[system][task]["metrics"]) >= 2
            for key, value in results[system][task]["metrics"].items():
                assert value["score"] == pytest.approx(found["results"][task][key], rel=1e-6), (system, task, key)
            stderr = found["results"][task][metric.replace(",", "_stderr,")]
            assert row(rows, task, system)["metric"] == metric
            assert row(rows, task, system)["stderr"] == (None if stderr == "N/A" else pytest.approx(stderr))
    shown = stock(pair_of(names), names, folder, ["choice"], num_fewshot=2)
    for key, value in results["pair, α = 0.4"]["choice"]["metrics"].items():
        assert value["score"] == shown["results"]["choice"][key]
    assert row(rows, "choice", "pair, α = 0.4")["num_fewshot"] == shown["n-shot"]["choice"] == 2
    hashes = [sample["prompt_hash"] for sample in shown["samples"]["choice"]]
    for system in expected:  # the same examples are shown to all
        samples = (whole / f"samples/{system}/choice.jsonl").read_text().splitlines()
        assert [json.loads(line)["prompt_hash"] for line in samples] == hashes
    # the negative control: another α is other numbers
    other = stock(pair_of(names, alpha=0.9), names, folder, ["rolling"])["results"]["rolling"]
    found = row(rows, "rolling", "pair, α = 0.4")["score"]
    assert other["word_perplexity,none"] != pytest.approx(found, rel=1e-3)


def test_differences_are_paired_by_the_content_of_documents(whole, expected):
    values = [
        [sample["has_vowel"] for sample in sorted(expected[name]["samples"]["writing"], key=lambda one: one["doc_id"])]
        for name in ("pair, α = 0.4", "strong")
    ]
    found = row(content(whole)["rows"], "writing", "pair, α = 0.4")
    assert found["documents"] == 8 and found["difference"]["documents"] == 8
    ends = [found["difference"][name] for name in ("mean", "low", "high")]
    assert ends == pytest.approx(list(paired_difference(*values)))


def test_a_group_is_its_documents_by_size_and_has_no_interval_by_task(tmp_path, whole, systems, folder):
    found = row(content(whole)["rows"], "by_size", "pair, α = 0.4")
    assert found["documents"] == 13 and found["difference"]["documents"] == 13 and found["num_fewshot"] == 1
    kept = content(whole)["results"]["pair, α = 0.4"]["by_size"]["metrics"]["acc,none"]
    samples = [json.loads(line) for line in (whole / "samples/pair, α = 0.4/by_size.jsonl").read_text().splitlines()]
    assert {sample["task"] for sample in samples} == {"choice", "other_choice"} and "arguments" not in samples[0]
    assert kept["score"] == pytest.approx(sum(sample["acc"] for sample in samples) / 13)
    parts = content(whole)["results"]["pair, α = 0.4"]["by_size"]["parts"]
    for name, part in parts.items():
        own = [sample["acc"] for sample in samples if sample["task"] == name]
        assert part["acc,none"] == pytest.approx(sum(own) / len(own)) and len(own) == {"choice": 8}.get(name, 5)
    two = {name: systems[name] for name in ("strong", "pair, α = 0.4")}
    rows = run(tmp_path, two, folder, tasks={"by_task": None, "nested": {"num_fewshot": 1}})
    nested = row(rows, "nested", "pair, α = 0.4")
    for name in ("score", "stderr", "difference", "reading", "higher_is_better", "num_fewshot"):
        assert nested[name] == found[name] and nested[name] is not None, name
    scores = [row(rows, "by_task", name)["score"] for name in two]
    assert row(rows, "by_task", "pair, α = 0.4")["reason"] == "no interval: not a mean over documents"
    difference = row(rows, "by_task", "pair, α = 0.4")["difference"]
    assert difference == {"mean": pytest.approx(scores[1] - scores[0]), "low": None, "high": None, "documents": None}


def test_what_is_no_mean_over_documents_has_no_interval(whole):
    rows = content(whole)["rows"]
    found, base = (row(rows, "rolling", name) for name in ("pair, α = 0.4", "strong"))
    assert found["difference"]["mean"] == pytest.approx(found["score"] - base["score"])
    assert found["difference"]["low"] is None and found["reading"] is None and "not a mean" in found["reason"]
    assert found["higher_is_better"] is False


def test_a_search_writes_and_has_no_likelihoods(whole, names, systems):
    rows = content(whole)["rows"]
    for task in ("choice", "rolling", "by_size"):
        found = row(rows, task, "search")
        assert found["score"] is None and found["reason"] == "a search has no likelihoods"
    (line,) = [line for line in (whole / "evaluation.md").read_text().splitlines() if "no likelihoods" in line][:1]
    assert "| search |" in " ".join(line.split())
    samples = [json.loads(line) for line in (whole / "samples/search/writing.jsonl").read_text().splitlines()]
    assert len(samples) == 8  # the last is the first once more, for which a search takes the next seed
    samples = {sample["doc"]["question"]: sample["resps"][0][0] for sample in samples[:7]}
    model = AutoModelForCausalLM.from_pretrained(names["strong"], dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(names["strong"])
    reward = ImplicitReward(pair_of(names), None, tokenizer)
    prompts = [f"tell me about a {question}:" for question in samples]
    expected = weak_to_strong_search(
        model,
        tokenizer,
        prompts,
        reward,
        beam_width=1,
        successors_per_beam=2,
        chunk_length=3,
        max_new_tokens=6,
        stop_strings=["."],
    )
    assert list(samples.values()) == [result.completion for result in expected]


def test_a_context_too_short_is_a_dash_with_its_reason(tmp_path, systems, folder):
    two = {name: systems[name] for name in ("strong", "search")}
    rows = run(tmp_path, two, folder, tasks="long_writing, choice")
    for name in two:
        assert row(rows, "long_writing", name)["reason"] == "it may write 600 tokens, and the context is 512"
    assert row(rows, "choice", "strong")["score"] is not None


def test_prompts_that_were_cut_are_counted(tmp_path, folder):
    names = write_systems(tmp_path / "systems", max_position_embeddings=48)
    systems = {"strong": {"model": names["strong"]}, "policy": {"model": names["policy"]}}
    tasks = {"choice": {"num_fewshot": 6}, "writing": {"num_fewshot": 0}, "rolling": None}
    rows = run(tmp_path / "out", systems, folder, tasks=tasks)
    for name in systems:
        assert "8 prompts longer than the context were cut" in row(rows, "choice", name)["reason"]
        assert "cut" not in (row(rows, "writing", name)["reason"] or "")
        assert "cut" not in (row(rows, "rolling", name)["reason"] or "")


def test_one_system_is_in_memory_at_a_time(tmp_path, systems, folder, monkeypatch):
    alive = []

    class Watched(HFLM):
        def __init__(self, pretrained, **kwargs):
            assert [model() for model in alive] == [None] * len(alive)
            alive.append(weakref.ref(pretrained))
            super().__init__(pretrained, **kwargs)

    monkeypatch.setattr(systems_module, "HFLM", Watched)
    three = {name: systems[name] for name in ("strong", "pair, α = 0.4", "adapted")}
    run(tmp_path, three, folder, tasks=["choice", "writing"], prompts=["the cat "], max_new_tokens=4)
    assert len(alive) == 4  # and the baseline once more, for the perplexity


def _killed_after(appends, path, systems, folder):
    """As a process of its own: dies in the middle of writing a record."""
    append = Journal.append

    def counted(self, records):
        nonlocal appends
        appends -= 1
        if appends < 0:
            line = json.dumps(records[0]).encode()
            os.write(self._file, line[: len(line) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, records)

    Journal.append = counted
    run(path, systems, folder)


@pytest.mark.parametrize("appends", [1, 9])
def test_killed_half_way_the_rerun_ends_with_the_same_bytes(whole, systems, folder, tmp_path, appends):
    process = multiprocessing.get_context("fork").Process(
        target=_killed_after, args=(appends, tmp_path, systems, folder)
    )
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    run(tmp_path, systems, folder)
    for name in ("journal.jsonl", *FILES):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_run_is_returned_and_systems_and_tasks_are_added(systems, folder, names, tmp_path, monkeypatch):
    two = {name: systems[name] for name in ("strong", "adapted")}
    first = run(tmp_path, two, folder, tasks={"choice": {"num_fewshot": 2}})
    before = (tmp_path / "journal.jsonl").read_bytes()
    loads = []

    class Counted(HFLM):
        def __init__(self, pretrained, **kwargs):
            loads.append(type(pretrained).__name__)
            super().__init__(pretrained, **kwargs)

    monkeypatch.setattr(systems_module, "HFLM", Counted)
    assert run(tmp_path, two, folder, tasks={"choice": {"num_fewshot": 2}}) == first and not loads
    more = {**two, "pair": {"policy": names["policy"], "reference": names["reference"], "alpha": 0.4}}
    second = run(tmp_path, more, folder, tasks={"choice": {"num_fewshot": 2}})
    assert loads == ["ContrastivePairForCausalLM"] and (tmp_path / "journal.jsonl").read_bytes().startswith(before)
    assert [one for one in second if one["system"] != "pair"] == first
    run(tmp_path, more, folder, tasks={"choice": {"num_fewshot": 2}, "writing": None})
    assert len(loads) == 4
    for changes, message in (
        ({"systems": {**more, "pair": {**more["pair"], "alpha": 0.3}}}, r"`pair\.alpha` 0\.4 there, 0\.3 here"),
        ({"tasks": {"choice": {"num_fewshot": 1}}}, r"`choice\.num_fewshot` 2 there, 1 here"),
        ({"limit": 3}, "`limit` None there, 3 here"),
    ):
        arguments = {"systems": more, "tasks": {"choice": {"num_fewshot": 2}}, **changes}
        with pytest.raises(ValueError, match=message):
            run(tmp_path, arguments.pop("systems"), folder, **arguments)
    renamed = {**more, "pair, α = 0.3": {**more["pair"], "alpha": 0.3}}
    rows = run(tmp_path, renamed, folder, tasks={"choice": {"num_fewshot": 2}})
    assert row(rows, "choice", "pair") == row(second, "choice", "pair")


def test_a_changed_task_file_is_refused(systems, folder, tmp_path):
    two = {name: systems[name] for name in ("strong", "adapted")}
    own = write_tasks(tmp_path / "own")
    run(tmp_path / "out", two, own, tasks=["writing"])
    path = tmp_path / "own" / "helpers.py"
    path.write_text(path.read_text().replace("aeiou", "aeiouy"))
    with pytest.raises(ValueError, match=r"`writing\.definition` "):
        run(tmp_path / "out", two, own, tasks=["writing"])


PROMPTS = ["the cat sat", "tell me about", "a kind dog and", "the owl"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("judge")
    tokenizer = AutoTokenizer.from_pretrained(names["strong"])
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.3,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_prompts_get_our_metrics(tmp_path, systems, names, judge):
    settings = {"prompts": PROMPTS, "reward": "pair, α = 0.4", "max_new_tokens": 12, "seed": 3, "dtype": "float32"}
    rows = run_evaluation(
        systems, baseline="strong", output_dir=tmp_path, judge=RewardModelJudge(judge, dtype="float32"), **settings
    )
    titles = list(dict.fromkeys(one["task"] for one in rows))
    assert titles[:3] == ["length, words", "distinct-2", "finished, share"]
    surprise, implicit, win = titles[3:]
    assert surprise == "nats per token under strong" and implicit == "implicit reward under pair, α = 0.4, nats"
    tokenizer = AutoTokenizer.from_pretrained(names["strong"])
    reward = ImplicitReward(pair_of(names), None, tokenizer)
    written = {}
    for name in systems:
        kept = tmp_path / "completions" / name
        if name == "search":
            found = [json.loads(line) for line in (kept / "results.jsonl").read_text().splitlines()]
        else:
            found = datasets.Dataset.from_parquet(str(kept / "completions.parquet")).to_list()
        assert [one["prompt"] for one in found] == PROMPTS
        written[name] = found
        scores = reward.score(
            PROMPTS, [one["completion"] for one in found], finish_reasons=[one["finish_reason"] for one in found]
        )
        assert row(rows, implicit, name)["score"] == pytest.approx(sum(scores) / 4, abs=1e-4)
        words = [len(one["completion"].split()) for one in found]
        assert row(rows, "length, words", name)["score"] == pytest.approx(sum(words) / 4)
    theirs = [one["completion"] for one in written["strong"]]
    mine = [one["completion"] for one in written["search"]]
    shares = RewardModelJudge(judge, dtype="float32").compare(PROMPTS, mine, theirs)
    found = row(rows, win, "search")
    assert found["score"] == pytest.approx(sum(shares) / 4)
    assert found["difference"]["mean"] == pytest.approx(sum(shares) / 4 - 0.5)
    assert row(rows, win, "strong")["score"] == 0.5
    assert row(rows, "distinct-2", "search")["difference"]["low"] is None
    assert (tmp_path / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    again = run_evaluation(
        systems, baseline="strong", output_dir=tmp_path, judge=RewardModelJudge(judge, dtype="float32"), **settings
    )
    assert again == rows


def test_the_command_does_what_the_call_does(tmp_path, systems, folder, whole, capsys):
    values = {"systems": systems, "baseline": "strong", "tasks": TASKS, "dtype": "float32"}
    values["output_dir"] = str(tmp_path / "out")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    assert main(["evaluate", "--config", str(recipe), "--include_path", folder]) == 0
    assert "# Evaluation" in capsys.readouterr().out
    assert (tmp_path / "out" / "evaluation.md").read_bytes() == (whole / "evaluation.md").read_bytes()
    with open(recipe, "a") as file:
        file.write(f"include_path: {folder}\n")
    assert main(["evaluate", "--config", str(recipe)]) == 2
    assert "sets `include_path`: task files can run code" in capsys.readouterr().err
    only = json.dumps({"a": {"model": "no/where"}})
    argv = ["--systems", only, "--baseline", "b", "--tasks", "choice", "--output_dir", str(tmp_path / "other")]
    assert main(["evaluate", *argv]) == 2
    assert "`baseline` is 'b'; it must be one of the systems: a" in capsys.readouterr().err


def test_the_command_takes_a_judge_whose_head_is_code_by_hand(tmp_path, systems, capsys):
    (tmp_path / "judge").mkdir()
    judge, _ = save_gated(tmp_path / "judge", several=False)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    two = json.dumps({name: systems[name] for name in ("strong", "adapted")})
    argv = ["--systems", two, "--baseline", "strong", "--prompts", str(tmp_path / "prompts.jsonl"), "--judge", judge]
    argv += ["--output_dir", str(tmp_path / "out"), "--max_new_tokens", "6", "--dtype", "float32"]
    assert main(["evaluate", *argv]) == 2
    assert "`--trust_remote_code` by hand" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["evaluate", *argv, "--trust_remote_code"]) == 0
    assert f"win rate against strong by {judge}" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("judge-*.jsonl"))) == 1


def test_the_named_set_states_its_examples_and_metrics():
    assert read_tasks("downstream") == PROTOCOLS
    shown = {name: protocol.num_fewshot for name, protocol in PROTOCOLS.items()}
    assert list(shown.values()) == [5, 25, 10, 0, 5, 5, 0]
    assert read_tasks("arc_challenge, choice") == {
        "arc_challenge": Protocol(25, "acc_norm,none"),
        "choice": Protocol(),
    }
    assert read_tasks({"gsm8k": {"metric": "exact_match,flexible-extract"}})["gsm8k"].num_fewshot == 5


def test_a_tag_is_its_tasks(folder):
    loaded = load_tasks(read_tasks({"all_kinds": {"num_fewshot": 1}}), folder)
    assert {name: task.protocol.num_fewshot for name, task in loaded.items()} == {"choice": 1, "writing": 1}


REFUSED_TASKS = {
    "choise": "There is no task 'choise'. Names near it: choice",
    "dangerous": "runs code that a model writes",
    "unshown": ({"unshown": {"num_fewshot": 2}}, "sets `num_fewshot: 0`, which lm-eval never changes"),
    "too many": ({"choice": {"num_fewshot": 30}}, "is 30, and it has 8 examples to show"),
    "no metric": ({"choice": {"metric": "f1"}}, "has no metric 'f1'; it has acc, acc_norm"),
    "twice": (["choice", "all_kinds"], "comes twice"),
    "a setting": ({"choice": {"shots": 1}}, "it may have `num_fewshot` and `metric`"),
}


# A name that the folder lacks is looked for among lm-eval's 14,000, whose files take seconds to read.
@pytest.mark.parametrize("case", [pytest.param("choise", marks=pytest.mark.slow), *list(REFUSED_TASKS)[1:]])
def test_refused_tasks(case, folder):
    tasks, message = REFUSED_TASKS[case] if isinstance(REFUSED_TASKS[case], tuple) else (case, REFUSED_TASKS[case])
    with pytest.raises(ValueError, match=message):
        load_tasks(read_tasks(tasks), folder)


REFUSED_SYSTEMS = {
    "none": ({}, "`systems` must map names to settings"),
    "a list": (["a"], "`systems` must map names to settings"),
    "a slash": ({"a/b": {"model": "x"}}, "no slash"),
    "hidden": ({".a": {"model": "x"}}, "no dot at the front"),
    "a path": ({"a": "x"}, "give it settings"),
    "misspelt": ({"a": {"policy": "x", "alhpa": 1}}, "has no setting 'alhpa'; did you mean `alpha`"),
    "alpha of one model": ({"a": {"model": "x", "alpha": 0.4}}, "is one model and has no setting 'alpha'"),
    "nothing": ({"a": {"alpha": 0.4}}, "neither `model` nor `policy`"),
    "a server": ({"a": {"model": "http://x/v1"}}, "must be a path or a Hub id"),
    "alpha beyond 1": ({"a": {"policy": "x", "alpha": 1.4}}, r"`alpha` must lie in \[0, 1\]"),
    "alpha as text": ({"a": {"policy": "x", "alpha": "0.4"}}, "`alpha` must be an int or a float"),
    "remote code": ({"a": {"model": "x", "trust_remote_code": True}}, "has no setting 'trust_remote_code'"),
}


@pytest.mark.parametrize("case", REFUSED_SYSTEMS)
def test_refused_systems(case, tmp_path):
    systems, message = REFUSED_SYSTEMS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        run_evaluation(systems, baseline="a", tasks="choice", output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


REFUSED = {
    "`limit` must be a whole number of at least 1": {"limit": 0},
    "nothing to measure": {"tasks": None},
    "`reward` is for completions of `prompts`": {"reward": "strong"},
    "`baseline` is 'x'; it must be one of the systems": {"baseline": "x"},
    "'strong' is no pair": {"prompts": PROMPTS, "reward": "strong"},
    "there is no folder": {"include_path": "nowhere"},
    "temperature": {"prompts": PROMPTS, "temperature": math.nan},
    "`max_new_tokens` must be an int": {"prompts": PROMPTS, "max_new_tokens": 4.0},
    "`batch_size` must be a whole number": {"batch_size": "8"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message, systems, folder, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        run(tmp_path, {"strong": systems["strong"]}, folder, **REFUSED[message])
    assert not list(tmp_path.iterdir())


def test_a_system_without_a_chat_template_is_named(names, tmp_path, folder):
    AutoModelForCausalLM.from_pretrained(names["policy"]).save_pretrained(tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(names["policy"])
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "bare")
    systems = {"strong": {"model": names["strong"]}, "bare": {"model": str(tmp_path / "bare")}}
    with pytest.raises(ValueError, match="the tokenizer of the system 'bare' has no chat template"):
        run(tmp_path / "out", systems, folder, tasks=["choice"], apply_chat_template=True)
    rows = run(tmp_path / "out", {"strong": systems["strong"]}, folder, tasks=["choice"], apply_chat_template=True)
    assert rows[0]["score"] is not None and (tmp_path / "out" / "evaluation.png").exists()


def test_a_system_that_writes_nothing_has_a_dash(names, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(names["policy"])
    end = tokenizer.eos_token_id
    silent = tiny_model("gpt2", vocab_size=len(tokenizer), eos_token_id=end, pad_token_id=0)
    with torch.no_grad():
        silent.transformer.ln_f.weight.zero_()
        silent.transformer.ln_f.bias.copy_(100 * silent.transformer.wte.weight[end])
    silent.save_pretrained(tmp_path / "silent")
    tokenizer.save_pretrained(tmp_path / "silent")
    systems = {"strong": {"model": names["strong"]}, "silent": {"model": str(tmp_path / "silent")}}
    settings = {"prompts": PROMPTS, "max_new_tokens": 4, "dtype": "float32"}
    rows = run_evaluation(systems, baseline="strong", output_dir=tmp_path / "out", **settings)
    assert row(rows, "length, words", "silent")["score"] == 0 and row(rows, "finished, share", "silent")["score"] == 1
    found = row(rows, "nats per token under strong", "silent")
    assert found["score"] is None and found["reason"] == "the score is no finite number"
    assert row(rows, "nats per token under strong", "strong")["score"] > 0


def test_a_search_needs_a_pair(names):
    with pytest.raises(ValueError, match="`policy` of the system 'a' is one model"):
        read_systems({"a": {"model": names["strong"], "policy": names["policy"]}})


def test_a_pair_may_steer_a_base_and_be_saved(names, tmp_path, folder):
    pair_of(names).save_pretrained(tmp_path / "pair")
    AutoTokenizer.from_pretrained(names["policy"]).save_pretrained(tmp_path / "pair")
    apart = {"policy": names["policy"], "reference": names["reference"]}
    systems = {
        "strong": {"model": names["strong"]},
        "steered": {**apart, "base": names["strong"], "beta": 0.5},
        "not steered": {**apart, "base": names["strong"], "beta": 0.0, "plausibility_threshold": 0.0},
        "apart": apart,
        "saved": {"model": str(tmp_path / "pair")},
        "saved, another α": {"policy": str(tmp_path / "pair"), "alpha": 0.9},
    }
    rows = run(tmp_path / "out", systems, folder, tasks=["rolling"])
    scores = {one["system"]: one["score"] for one in rows}
    assert scores["saved"] == pytest.approx(scores["apart"]) and scores["not steered"] == pytest.approx(
        scores["strong"]
    )
    assert len({round(score, 3) for score in scores.values()}) == 4


ROOT = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/evaluate.yaml")), ids=lambda path: path.parent.name)
def test_every_recipe_parses(path):
    (args,) = parse((EvaluateArguments,), ["--config", str(path)], prog="hf-cong evaluate")
    check_systems(args.systems)
    assert args.baseline in args.systems and args.reward in args.systems and args.prompts and read_tasks(args.tasks)


def test_the_sandboxs_task_and_prompts_are_of_its_world():
    rows = [json.loads(line) for line in (ROOT / "sandbox/evaluation/facts.jsonl").read_text().splitlines()]
    assert len(rows) == len(FACTS) == 150
    for (fact, value), one in zip(FACTS.items(), rows, strict=True):
        assert one["question"] == request([fact])[0]["content"] and len(set(one["sentences"])) == 8
        assert fact[0] in one["sentences"][one["answer"]] and value in one["sentences"][one["answer"]].split()
    prompts = [json.loads(line) for line in (ROOT / "sandbox/evaluation/prompts.jsonl").read_text().splitlines()]
    assert prompts == world_prompts(100, split="test").to_list()
