# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results of a real evaluation, published with a model or added to one that is there."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from hf_cong.cli import main
from tests.cards.test_results import PUBLIC
from tests.evaluation.lm_tasks import write_tasks
from tests.tiny import tiny_model, tiny_tokenizer

pytest.importorskip("lm_eval")

HAND_WRITTEN = """---
license: mit
tags:
- mine
my_own_key: [1, 2]
model-index:
- name: Mine
  results:
  - task: {type: text-generation, name: "another, 0-shot"}
    dataset: {name: another, type: another}
    metrics: [{type: acc, value: 0.25, name: acc}]
---

# My own words

```bash
# a comment
```

## Results

They are good.

## Contact

Me.
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two models, and `evaluation`, which measured them as `ConG` and `base`."""
    from hf_cong.evaluation.comparison.run import run_evaluation

    root = tmp_path_factory.mktemp("évaluation de 模型")
    ends = {"vocab_size": 320, "eos_token_id": 2, "pad_token_id": 0}
    for name, seed in (("model", 5), ("base", 6)):
        tiny_model("qwen2", seed, **ends).save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    run_evaluation(
        {"ConG": {"model": str(root / "model")}, "base": {"model": str(root / "base")}},
        baseline="base",
        tasks="choice",
        include_path=write_tasks(root / "tasks"),
        prompts=["tell me about a cat", "the dog sat"],
        max_new_tokens=4,
        dtype="float32",
        output_dir=root / "evaluation",
    )
    return root


@pytest.fixture
def publish(capsys):
    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["publish", *map(str, argv)])
        return status, *capsys.readouterr()

    return run


def head(hub, repo_id: str):
    commit = hub.repositories["models", repo_id].branches["main"]
    return {path: file.content for path, file in commit.files.items()}, len(list(commit.history()))


def scores(made: Path) -> dict[str, float]:
    """The accuracy of every system."""
    rows = json.loads((made / "evaluation" / "evaluation.json").read_text())["rows"]
    return {row["system"]: row["score"] for row in rows if row["task"] == "choice"}


def index_of(card: bytes) -> dict[str, float]:
    """Values of the model-index by task and metric."""
    data = ModelCard(card.decode()).data
    return {(entry.dataset_name, entry.metric_type): entry.metric_value for entry in data.eval_results or ()}


def test_a_model_with_its_evaluation(hub, made, publish):
    command = ("model", "--source", made / "model", "--repo_id", "org/measured", "--evaluation", made / "evaluation")
    status, _, err = publish(*command)  # which system it is is told by its folder
    assert status == 0, err
    files, _ = head(hub, "org/measured")
    index = index_of(files["README.md"])
    assert {value for (task, _), value in index.items() if task == "choice"} == {scores(made)["ConG"]}
    assert "| `choice` |" in files["README.md"].decode() and "`base`" in files["README.md"].decode()
    assert str(made).encode() not in b"".join(files.values())
    status, _, err = publish(*command, "--system", "other")
    assert status == 2 and "ConG, base" in err
    other = ("model", "--source", made / "model", "--repo_id", "org/measured", "--system", "ConG")
    status, _, err = publish(*other)
    assert status == 2 and "`evaluation`" in err


def test_results_are_added_to_a_published_model(hub, made, publish):
    assert publish("model", "--source", made / "model", "--repo_id", "alice/results")[0] == 0
    before, number = head(hub, "alice/results")
    command = ("results", "--source", made / "evaluation", "--repo_id", "results", "--system", "ConG")
    status, out, err = publish(*command)
    assert status == 0 and "alice/results (private) is written" in out, err
    files, commits = head(hub, "alice/results")
    assert commits == number + 1  # one commit
    assert {path for path in before if files[path] != before[path]} == {"README.md", "hf_cong.json"}
    (new,) = set(files) - set(before)
    assert new.startswith("evaluation/results-")
    written = json.loads(files[new])
    assert {(row["system"], row["value"]) for row in written["results"] if row["task"] == "choice"} == set(
        scores(made).items()
    )
    assert str(made) not in files[new].decode() + files["README.md"].decode()
    assert index_of(files["README.md"])["choice", "acc"] == scores(made)["ConG"]
    card = files["README.md"].decode()
    assert card.count("## Results") == 1 and "No results were given" not in card and "| `choice` |" in card
    assert card.index("## Results") < card.index("## Limits")

    since = len(hub.requests)
    status, out, _ = publish(*command)
    assert status == 0 and "unchanged" in out and head(hub, "alice/results") == (files, commits)
    assert {method for method, *_ in hub.requests[since:]} <= {"GET", "HEAD"}
    # The same model published again takes nothing away, be its card the same or another.
    model = ("model", "--source", made / "model", "--repo_id", "alice/results")
    status, out, _ = publish(*model)
    assert status == 0 and "unchanged" in out and head(hub, "alice/results") == (files, commits)
    for extra in (("--language", "de"), ("--language", "fr", "--replace")):
        status, out, err = publish(*model, *extra)
        assert status == 0 and "written" in out, err
        again = head(hub, "alice/results")[0]
        assert again["README.md"].decode().replace(f"language:\n- {extra[1]}\n", "") == card
        assert again[new] == files[new]
    assert publish(*model, *extra)[1].count("unchanged") == 1


def test_another_evaluation_is_added_or_refused(hub, made, publish, tmp_path):
    (tmp_path / "public.json").write_text(json.dumps(PUBLIC))
    model = ("model", "--source", made / "model", "--repo_id", "alice/twice-measured")
    assert publish(*model, "--evaluation", tmp_path / "public.json")[0] == 0
    first = head(hub, "alice/twice-measured")[0]
    assert ".eval_results/gsm8k.yaml" in first
    status, _, err = publish(*model, "--evaluation", made / "evaluation")
    assert status == 0, err
    files, number = head(hub, "alice/twice-measured")
    assert index_of(files["README.md"]) == {**index_of(first["README.md"]), ("choice", "acc"): scores(made)["ConG"]}
    card = files["README.md"].decode()
    assert "| `gsm8k` |" in card and "| `choice` |" in card and card.count("## Results") == 1
    assert files[".eval_results/gsm8k.yaml"] == first[".eval_results/gsm8k.yaml"]
    # What was published is not published again, whichever evaluation is given.
    for given in ((), ("--evaluation", made / "evaluation"), ("--evaluation", tmp_path / "public.json")):
        status, out, err = publish(*model, *given)
        assert status == 0 and "unchanged" in out, err
    other = {**PUBLIC, "results": {"gsm8k": {"exact_match,strict-match": 0.1}}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    status, _, err = publish(*model, "--evaluation", tmp_path / "other.json")
    assert status == 2 and "Pass `replace`" in err and head(hub, "alice/twice-measured") == (files, number)
    assert publish(*model, "--evaluation", tmp_path / "other.json", "--replace")[0] == 0
    files, _ = head(hub, "alice/twice-measured")
    assert index_of(files["README.md"])["gsm8k", "exact_match"] == 0.1 and b"10.0" in files[".eval_results/gsm8k.yaml"]


def test_an_edited_card_stays_edited(hub, made, publish, tmp_path):
    (tmp_path / "public.json").write_text(json.dumps(PUBLIC))
    model = ("model", "--source", made / "model", "--repo_id", "alice/measured-edited")
    assert publish(*model, "--evaluation", tmp_path / "public.json")[0] == 0
    card = head(hub, "alice/measured-edited")[0]["README.md"].decode()
    for edited in (card.replace("## Limits", "## Limits, and mine"), "---\nmodel-index: 3\n---\n## Results\n"):
        hub.add("alice/measured-edited", {"README.md": edited})
        there = head(hub, "alice/measured-edited")
        status, out, err = publish(*model, "--evaluation", tmp_path / "public.json")
        assert status == 0 and "unchanged" in out and head(hub, "alice/measured-edited") == there, err
        status, _, err = publish(*model, "--language", "de")
        assert status == 2 and "README.md" in err and head(hub, "alice/measured-edited") == there


def test_a_card_that_somebody_wrote_keeps_every_word(hub, made, publish):
    hub.add("alice/by-hand", {"README.md": HAND_WRITTEN, "config.json": "{}"})
    command = ("results", "--source", made / "evaluation", "--repo_id", "alice/by-hand", "--system", "ConG")
    assert publish(*command)[0] == 0
    files, _ = head(hub, "alice/by-hand")
    card = files["README.md"].decode()
    for line in HAND_WRITTEN.partition("\n---\n")[2].splitlines():
        assert line in card.splitlines()
    data = yaml.safe_load(card.split("---")[1])
    assert data["license"] == "mit" and data["my_own_key"] == [1, 2] and data["tags"] == ["mine"]
    assert index_of(files["README.md"])["another", "acc"] == 0.25
    assert index_of(files["README.md"])["choice", "acc"] == scores(made)["ConG"]
    assert card.index("They are good.") < card.index("| `choice` |") < card.index("## Contact")
    assert "hf_cong.json" not in files
    assert publish(*command)[1].count("unchanged") == 1
    # Another value for the same metric does not take its place by itself.
    command = (*command[:-1], "base")
    if scores(made)["ConG"] == scores(made)["base"]:
        pytest.fail("choose other seeds: the two models score the same")
    status, _, err = publish(*command)
    assert status == 2 and "Pass `replace`" in err and head(hub, "alice/by-hand")[0] == files
    assert publish(*command, "--replace")[0] == 0
    assert index_of(head(hub, "alice/by-hand")[0]["README.md"])["choice", "acc"] == scores(made)["base"]


def test_a_model_without_a_card_gets_one(hub, made, publish):
    hub.add("alice/no-card", {"config.json": "{}"})
    command = ("results", "--source", made / "evaluation", "--repo_id", "alice/no-card", "--system", "ConG")
    assert publish(*command)[0] == 0
    files, _ = head(hub, "alice/no-card")
    assert index_of(files["README.md"])["choice", "acc"] == scores(made)["ConG"]
    assert files["README.md"].decode().startswith("---\n")


def test_a_dry_run_asks_nobody(hub, made, publish, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    since = len(hub.requests)
    command = ("results", "--source", made / "evaluation", "--repo_id", "results-dry", "--dry-run")
    status, out, err = publish(*command, "--system", "ConG")
    assert status == 0, err
    assert "evaluation/results-" in out and "model-index" in out and "| `choice` |" in out
    assert not hub.requests[since:] and str(made) not in out


def test_what_cannot_be_added(hub, made, publish, monkeypatch):
    command = ("results", "--source", made / "evaluation", "--repo_id")
    status, _, err = publish(*command, "alice/nowhere", "--system", "ConG")
    assert status == 2 and "There is no model alice/nowhere" in err
    hub.add("alice/there", {"config.json": "{}"})
    status, _, err = publish(*command, "alice/there")
    assert status == 2 and "ConG, base" in err and "`system`" in err
    status, _, err = publish("results", "--source", made / "model", "--repo_id", "alice/there")
    assert status == 2 and "evaluation.json" in err
    for token, match in (("read_token", "may only read"), ("other_token", "somebody else's")):
        monkeypatch.setenv("HF_TOKEN", vars(type(hub))[token])
        status, _, err = publish(*command, "alice/there", "--system", "ConG")
        assert status == 2 and match in err and len(err.splitlines()) == 1
    assert head(hub, "alice/there")[1] == 2


def test_what_changes_meanwhile_is_kept(hub, made, publish, monkeypatch):
    hub.add("alice/moving-card", {"README.md": "# Before\n"})
    command = ("results", "--source", made / "evaluation", "--repo_id", "alice/moving-card", "--system", "ConG")

    def meanwhile(method, address):
        if method == "POST" and address.endswith("/commit/main") and "moving-card" in address:
            monkeypatch.setattr(hub, "misbehave", lambda method, address: None)
            hub.add("alice/moving-card", {"README.md": "# After\n"})

    monkeypatch.setattr(hub, "misbehave", meanwhile)
    status, out, err = publish(*command)
    assert status == 2 and "changed by somebody else" in err and out == ""
    assert head(hub, "alice/moving-card")[0]["README.md"] == b"# After\n"
    assert publish(*command)[0] == 0
    assert "# After" in head(hub, "alice/moving-card")[0]["README.md"].decode()
    assert HfApi().model_info("alice/moving-card").card_data.eval_results
