# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results of `hf-cong evaluate` and of lm-eval itself, to the card, the model-index and the leaderboards."""

import dataclasses
import json
import logging
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from hf_cong.cards import Result, add_results, eval_results_files, measured_as, model_card, read_results
from tests.cards.examples import MANIFEST, RESULTS


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    pytest.importorskip("lm_eval")
    from tests.evaluation.lm_tasks import write_systems

    return write_systems(tmp_path_factory.mktemp("systems"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    from tests.evaluation.lm_tasks import write_tasks

    return write_tasks(tmp_path_factory.mktemp("tasks") / "own")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, names, tasks):
    """What `hf-cong evaluate` writes: the strong model, the adapted one, and the pair, on two tasks and on prompts."""
    from hf_cong.evaluation.comparison import run_evaluation

    folder = tmp_path_factory.mktemp("evaluated") / "out"
    systems = {
        "strong": {"model": names["strong"]},
        "adapted | <b>": {"model": names["adapter"]},
        "pair": {"policy": names["policy"], "reference": names["reference"], "alpha": 0.4},
    }
    settings = {"tasks": {"choice": {"num_fewshot": 2}, "rolling": None}, "include_path": tasks, "dtype": "float32"}
    prompts = ["the cat", "a dog", "an owl", "the mat", "kind", "old"]
    rows = run_evaluation(systems, baseline="strong", output_dir=folder, prompts=prompts, max_new_tokens=4, **settings)
    return SimpleNamespace(folder=folder, rows=rows)


def test_what_evaluate_wrote(evaluated, names):
    found = read_results(evaluated.folder)
    assert found == read_results(evaluated.folder / "evaluation.json")
    finite = [row for row in evaluated.rows if row["score"] is not None]
    assert len(found) == len(finite) > 10
    for row, result in zip(finite, found, strict=True):
        assert (result.task, result.system, result.value) == (row["task"], row["system"], row["score"])
        assert (result.stderr, result.documents) == (row["stderr"], row["documents"])
        assert (result.difference, result.reading) == (row["difference"], row["reading"])
        assert result.baseline == "strong" and result.is_benchmark == (row["task"] in ("choice", "rolling"))
    choice = next(result for result in found if result.task == "choice")
    assert (choice.metric, choice.filter, choice.num_fewshot) == ("acc", None, 2)
    assert measured_as(found, names["strong"]) == "strong" and measured_as(found, names["adapter"]) == "adapted | <b>"
    assert measured_as(found, "elsewhere", names["adapter"]) == "adapted | <b>"
    # a pair is not its policy
    assert measured_as(found, names["policy"]) is None


def test_a_card_of_what_evaluate_wrote(hub, evaluated, names):
    found = read_results(evaluated.folder)
    system = measured_as(found, names["adapter"])
    card = ModelCard(model_card(MANIFEST, repo_id="org/x", results=found, system=system))
    card.validate()
    own = [result for result in found if result.system == system and result.is_benchmark]
    assert [entry.metric_value for entry in card.data.eval_results] == [result.value for result in own]
    assert {entry.dataset_name for entry in card.data.eval_results} == {"choice", "rolling"}
    assert "`adapted \\| <b>`" in card.text and names["adapter"] not in card.content
    for result in found:
        assert f"`{result.value:.4g}" in card.text
    assert "Differences are to `strong`" in card.text and "no benchmark was run" not in card.text
    texts = [result for result in found if not result.is_benchmark]
    card = ModelCard(model_card(MANIFEST, repo_id="org/x", results=texts, system=system))
    assert "no benchmark was run" in card.text and card.data.eval_results is None


@pytest.fixture(scope="module")
def harness(tmp_path_factory, names, tasks):
    """What lm-eval itself writes: a group, a task with two metrics, and perplexities."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("harness")
    tracker = EvaluationTracker(output_path=str(folder))
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": names["strong"], "dtype": "float32"},
        tasks=["by_size", "writing", "rolling"],
        task_manager=TaskManager(include_path=tasks, include_defaults=False),
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,  # then standard errors are the text "N/A"
        evaluation_tracker=tracker,
    )
    tracker.save_results_aggregated(results=found, samples=None)
    return SimpleNamespace(folder=folder, found=found["results"])


def test_what_lm_eval_wrote(harness, names):
    found = read_results(harness.folder)
    assert found == read_results(next(harness.folder.rglob("results_*.json")))
    by_name = {(result.task, result.metric): result for result in found}
    # a group stands for its members, and every metric is there
    assert set(by_name) == {
        ("by_size", "acc"),
        ("writing", "has_vowel"),
        ("writing", "characters"),
        ("rolling", "word_perplexity"),
        ("rolling", "bits_per_byte"),
    }
    for (task, metric), result in by_name.items():
        assert result.value == harness.found[task][f"{metric},none"] and result.stderr is None
        assert result.system == "strong" and result.model == names["strong"] and result.dataset is None
    assert by_name["writing", "characters"].higher_is_better is False
    assert by_name["writing", "characters"].documents == 8
    assert measured_as(found, names["strong"]) == "strong"


# As lm-eval writes it for public tasks, with made-up numbers.
PUBLIC = {
    "results": {
        "mmlu": {"alias": "mmlu", "acc,none": 0.61, "acc_stderr,none": 0.0039},
        "mmlu_stem": {"alias": " - stem", "acc,none": 0.5, "acc_stderr,none": 0.008},
        "mmlu_anatomy": {"alias": "  - anatomy", "acc,none": 0.55, "acc_stderr,none": 0.04},
        "leaderboard": {" ": " ", "alias": "leaderboard"},
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,flexible-extract": 0.712,
            "exact_match_stderr,flexible-extract": 0.0125,
            "exact_match,strict-match": 0.7,
            "exact_match_stderr,strict-match": "N/A",
        },
        "wikitext": {
            "word_perplexity,none": 12.5,
            "word_perplexity_stderr,none": "N/A",
            "bits_per_byte,none": float("nan"),
        },
        "logged": {"bypass,none": 999, "bypass_stderr,none": "N/A"},
    },
    "groups": {"mmlu": {}, "mmlu_stem": {}},
    "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": ["mmlu_anatomy"], "leaderboard": ["gsm8k"], "wikitext": []},
    "configs": {
        "gsm8k": {"dataset_path": "openai/gsm8k", "dataset_name": "main", "test_split": "test"},
        "wikitext": {"dataset_path": "/home/me/wiki", "dataset_name": "x"},
    },
    "n-shot": {"gsm8k": 5, "mmlu": 5, "wikitext": "N/A"},
    "n-samples": {"gsm8k": {"original": 1319, "effective": 1319}},
    "higher_is_better": {"gsm8k": {"exact_match": True}},
    "config": {"model": "hf", "model_args": {"pretrained": "/home/me/strong-cong"}, "limit": None},
    "model_name": "/home/me/strong-cong",
}


def written(folder, content: dict, name: str = "results_2026-01-01T00-00-00.0.json"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_public_tasks(hub, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = read_results(written(tmp_path, PUBLIC))
    assert "bits_per_byte of wikitext is no finite number" in caplog.text
    assert [(result.task, result.metric, result.filter, result.value, result.stderr) for result in found] == [
        ("mmlu", "acc", None, 0.61, 0.0039),
        ("gsm8k", "exact_match", "flexible-extract", 0.712, 0.0125),
        ("gsm8k", "exact_match", "strict-match", 0.7, None),
        ("wikitext", "word_perplexity", None, 12.5, None),
    ]
    content = model_card(MANIFEST, repo_id="org/x", results=found, system="strong-cong")
    card = ModelCard(content)
    card.validate()
    index = {(entry.dataset_name, entry.metric_name): entry for entry in card.data.eval_results}
    gsm8k = index["gsm8k", "exact_match, strict-match"]
    assert (gsm8k.dataset_type, gsm8k.dataset_config, gsm8k.dataset_split) == ("openai/gsm8k", "main", "test")
    assert gsm8k.dataset_args == {"num_fewshot": 5} and gsm8k.metric_value == 0.7
    assert index["wikitext", "word_perplexity"].dataset_type == "wikitext" and "/home/me" not in content
    assert "| `wikitext` | `word_perplexity` | - | `strong-cong` | - | `12.5` |" in card.text


def test_files_for_leaderboards(tmp_path):
    files = eval_results_files(read_results(written(tmp_path, PUBLIC)), repo_id="org/x")
    assert list(files) == [".eval_results/gsm8k.yaml"]  # mmlu and wikitext have none
    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/gsm8k.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 70.0)  # strict, in percent
    assert entry.source_url == "https://huggingface.co/org/x" and "5-shot" in entry.notes
    pro = Result("x", "mmlu_pro", "exact_match", 0.4567891, filter="custom-extract", num_fewshot=5)
    (content,) = eval_results_files([pro], repo_id="org/x").values()
    (entry,) = yaml.safe_load(content)
    assert entry["dataset"] == {"id": "TIGER-Lab/MMLU-Pro", "task_id": "mmlu_pro"} and entry["value"] == 45.6789


@pytest.mark.parametrize(("limit", "words"), [(2.0, "first 2 documents"), (0.1, "first 10 percent of the documents")])
def test_a_trial_is_no_benchmark_result(tmp_path, limit, words):
    content = {**PUBLIC, "config": {**PUBLIC["config"], "limit": limit}}
    found = read_results(written(tmp_path, content))
    card = ModelCard(model_card(MANIFEST, repo_id="org/x", results=found, system="strong-cong"))
    assert card.data.eval_results is None and eval_results_files(found, repo_id="org/x") == {}
    assert f"a trial on the {words}" in card.text


def test_of_several_files_the_latest_counts(tmp_path):
    later = {**PUBLIC, "results": {"gsm8k": {"exact_match,strict-match": 0.8}}}
    written(tmp_path / "z", PUBLIC, "results_2026-01-01T00-00-00.0.json")
    written(tmp_path / "a", later, "results_2026-02-01T00-00-00.0.json")
    other = {**later, "model_name": "org/other"}
    written(tmp_path / "b", other, "results_2026-01-03T00-00-00.0.json")
    found = {(result.system, result.task, result.filter): result.value for result in read_results(tmp_path)}
    assert found["strong-cong", "gsm8k", "strict-match"] == 0.8 and found["strong-cong", "mmlu", None] == 0.61
    assert found["org/other", "gsm8k", "strict-match"] == 0.8


@pytest.mark.parametrize(
    ("arguments", "system", "model"),
    [
        ({"pretrained": "org/m"}, "org/m", "org/m"),
        ({"pretrained": "org/m", "peft": "/home/me/lora"}, "lora", "/home/me/lora"),
        ({"pretrained": "org/m", "reference": "/a/weak", "alpha": 0.4}, "org/m, alpha 0.4, reference weak", None),
        ("pretrained=org/m", "org/m", "org/m"),
    ],
)
def test_who_was_measured(tmp_path, arguments, system, model):
    content = {**PUBLIC, "model_name": "org/m", "config": {"model_args": arguments}}
    found = read_results(written(tmp_path, content))
    assert {(result.system, result.model) for result in found} == {(system, model)}


WRONG = {
    "nothing": None,
    "no JSON": "{",
    "not UTF-8": b"\xff\xfe{}",
    "a list": "[]",
    "no results": "{}",
    "numbers": '{"results": {"a": 1}}',
    "half an evaluation": '{"results": {}, "rows": []}',
    "rows of nothing": '{"results": {}, "rows": [1], "systems": {}, "settings": {}}',
    "rows without names": '{"results": {}, "rows": [{"score": 1}], "systems": {}, "settings": {}}',
}


def test_a_system_that_a_task_cannot_measure(tmp_path, caplog):
    """As in the comparison of a search: it has no likelihoods, so its row has neither metric nor score."""
    scored = {"system": "ConG", "task": "facts", "metric": "acc,none", "score": 0.5}
    unscored = {"system": "search", "task": "facts", "metric": None, "score": None, "reason": "no likelihoods"}
    systems = {"ConG": {"model": "a"}, "search": {"model": "b", "beam_width": 2}}
    content = {"results": {}, "rows": [scored, unscored], "systems": systems, "settings": {}}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    assert [(result.system, result.value) for result in read_results(tmp_path)] == [("ConG", 0.5)]
    assert "search has no score on facts" in caplog.text


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_evaluation_is_refused(tmp_path, name):
    content = WRONG[name]
    if content is None:
        with pytest.raises(FileNotFoundError, match="holds neither"):
            read_results(tmp_path)
        with pytest.raises(FileNotFoundError, match="holds neither"):
            read_results(tmp_path / "results_1.json")
        return
    (tmp_path / "evaluation.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"evaluation\.json"):
        read_results(tmp_path)


@pytest.mark.parametrize("part", sorted(PUBLIC.keys() - {"results"}))
@pytest.mark.parametrize("junk", [None, [], "x", 3, {"a": "b"}, {"gsm8k": None}, {"limit": "x", "model_args": []}])
def test_other_parts_of_a_file_may_be_anything(tmp_path, part, junk):
    found = read_results(written(tmp_path, {**PUBLIC, part: junk}))
    assert ("gsm8k", 0.7) in {(result.task, result.value) for result in found}
    model_card(MANIFEST, repo_id="org/x", results=found, system=found[0].system)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_results_stay_within_their_section(newline):
    """In a card by someone else: what comes before and after, and the same words in code, are not of the section."""
    before = "# x\n\n```md\n## Results\nof code\n```\n\n## Results\n\n```bash\n## old\n```\nold\n\n"
    after = "# Appendix\n\nKept.\n\n## License\n\nKept too.\n"
    card = (before + after).replace("\n", newline)
    found = add_results(card, RESULTS, system="ConG", name="x", replace=True).replace("\r\n", "\n")
    assert "## Results\nof code" in found and found.endswith(after) and "old" not in found
    assert found.count("## Results\n") == 2 and "`0.7123 ± 0.013`" in found


def test_a_judge_is_named_as_such():
    judged = [dataclasses.replace(RESULTS[0], task="win rate against strong base by rm", is_benchmark=False)]
    text = model_card(MANIFEST, repo_id="org/x", results=judged, system="ConG")
    assert "A win rate is the taste of its judge." in text and "no benchmark was run" in text
    assert "win rate" not in model_card(MANIFEST, repo_id="org/x", results=RESULTS, system="ConG")
