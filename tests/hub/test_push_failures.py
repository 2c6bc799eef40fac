# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run that publishes: refused before the work if it cannot, and never ended by a push that fails in its middle."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import HfApi, get_token
from transformers import TrainerCallback

from hf_cong import ConGConfig
from hf_cong.hub.publication import Publication, publish
from hf_cong.hub.run import publish_run, run_publications
from tests.distributed.run_cong import chosen_rows, lora, pairs, prompts, strong_model, trainer
from tests.hub.run_pushes import STEPS
from tests.hub.test_stage_pushes import commits, contents, make, manifest_of, sources, writes  # noqa: F401
from tests.tiny import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("sources")


# Refused at construction.


def refused(tmp_path, hub, error, text, repo_id, **kwargs):
    """Whether a run is refused before anything is loaded, written or sent."""
    seen = len(hub.requests)
    with pytest.raises(error, match=text):
        make(tmp_path / "out", repo_id, train_dataset=prompts(4), **kwargs)
    assert not (tmp_path / "out" / "_cong").exists()
    assert not [address for method, address, _ in hub.requests[seen:] if method == "POST"]
    return seen


def loaded(hub, seen):
    """What was asked of the strong model since, but for whether it is an adapter, which says what would be pushed."""
    asked = [address for _, address, _ in hub.requests[seen:] if "steady-strong" in address]
    return [address for address in asked if not address.endswith("/adapter_config.json")]


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("read_token", "may only read|may not write"),
        ("other_token", "bob may not make"),
        (None, "Nobody is logged in"),
    ],
)
def test_who_may_not_write_is_told_before_the_work(tmp_path, hub, monkeypatch, token, text):
    monkeypatch.setenv("HF_TOKEN", getattr(hub, token) if token else "")
    assert get_token() == (getattr(hub, token) if token else None)
    seen = refused(tmp_path, hub, PermissionError, text, "org/refused")
    assert not loaded(hub, seen)


def test_a_name_that_is_taken_is_told_before_the_work(tmp_path, hub):
    hub.add("org/taken-data", {"README.md": "mine"}, kind="datasets")
    seen = refused(tmp_path, hub, ValueError, "org/taken-data has files of its own", "org/taken")
    assert not loaded(hub, seen)
    make(tmp_path / "out", "org/taken", stages=False, train_dataset=prompts(4))  # the model's is free


def test_a_name_of_another_run_is_told_before_the_work(tmp_path, hub):
    marked = Publication("org/foreign-S", "model", "model", "0123456789abcdef", {"LICENSE": b"x"}, "---\n---\n")
    publish(marked)
    with pytest.raises(ValueError, match="org/foreign-S belongs to the run '0123456789abcdef'.*`hub_model_id`"):
        make(tmp_path / "out", "org/foreign", train_dataset=prompts(4))
    assert not (tmp_path / "out" / "_cong").exists()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hub_token": "hf_secret"}, "hf auth login"),
        ({"hub_strategy": "checkpoint"}, "optimizer states"),
        ({"hub_strategy": "all_checkpoints"}, "optimizer states"),
        ({"hub_revision": "dev"}, "main branch"),
        ({"push_to_hub": False, "push_stages_to_hub": True}, "needs `push_to_hub=True`"),
    ],
)
def test_settings_that_would_push_something_else(tmp_path, settings, text):
    with pytest.raises(ValueError, match=text) as refusal:
        ConGConfig(output_dir=tmp_path, **{"push_to_hub": True, **settings})
    assert "hf_secret" not in str(refusal.value)
    assert ConGConfig(output_dir=tmp_path, push_to_hub=True, hub_private_repo=None).hub_private_repo is True


def test_an_adapter_on_a_local_base_is_told_before_the_work(tmp_path, hub):
    strong_model().save_pretrained(tmp_path / "strong")
    tiny_tokenizer().save_pretrained(tmp_path / "strong")
    local = {"model": str(tmp_path / "strong"), "with_lora": True}
    refused(tmp_path, hub, ValueError, "base of this one, 'strong', was not loaded by one", "org/local", **local)
    made = make(tmp_path / "out", None, stages=False, train_dataset=pairs(4), settings={"push_to_hub": False}, **local)
    made.train()
    with pytest.raises(ValueError, match="--base_model ID"):
        made.push_to_hub()
    (publication,) = run_publications(
        tmp_path / "out", repo_id="org/local", stages=["model"], base_model="alice/steady-strong"
    )
    assert json.loads(publication.files["adapter_config.json"])["base_model_name_or_path"] == "alice/steady-strong"
    card, commit = publication.card, HfApi().model_info("alice/steady-strong").sha
    assert "base_model: alice/steady-strong" in card and str(tmp_path) not in card
    assert f"https://huggingface.co/alice/steady-strong) | `{commit}`" in card


# The Hub fails in the middle.


class Spoilt:
    """Answers every change of one repository with a status, while `on`."""

    def __init__(self, hub, name, status=501):
        self.hub, self.name, self.status, self.on = hub, name, status, True
        hub.misbehave = self

    def __call__(self, method, address):
        return self.status if self.on and self.name in address and "/commit/" in address else None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.hub.misbehave = lambda method, address: None


class At(TrainerCallback):
    """Does something when a log line of this name arrives."""

    def __init__(self, name, act):
        self.name, self.act = name, act

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.name in logs:
            self.act()


def test_a_push_that_fails_is_made_up_for_by_the_next(tmp_path, hub, caplog):
    with Spoilt(hub, "back-S") as spoilt:
        back = At("dpo/train/kept", lambda: setattr(spoilt, "on", False))
        made = make(tmp_path, "org/back", callbacks=[back], train_dataset=prompts(8))
        made.train()
    assert "org/back-S is not published yet; the run goes on. The Hub answers with status 501" in caplog.text
    assert len(commits("org/back-S")) == len(commits("org/back")) == 1


def test_a_hub_that_stays_away_costs_no_work(tmp_path, hub):
    with Spoilt(hub, "org/away"):
        made = make(tmp_path, "org/away", train_dataset=prompts(8))
        with pytest.raises(RuntimeError, match=r"Not everything is on the Hub\. .*hf-cong publish run --source"):
            made.train()
    assert manifest_of(tmp_path)["stages"]["dpo"] == "finished" and (tmp_path / "model.safetensors").exists()
    assert commits("org/away-S") == []
    published = publish_run(tmp_path, run_publications(tmp_path, repo_id="org/away"), repo_id="org/away")
    assert [one.changed for one in published] == [True, True, True]
    made.push_to_hub()  # the same run: nothing is left to do
    assert len(commits("org/away")) == len(commits("org/away-S")) == len(commits("org/away-data", "dataset")) == 1


@pytest.mark.parametrize(
    "where",
    [
        "dpo/train/kept",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("sft/train/kept", "sft/loss", "rewards/margins")),
    ],
)
def test_killed_and_resumed_pushes_nothing_twice(tmp_path, hub, where):
    def stop():
        raise KeyboardInterrupt

    repo_id = f"org/killed-{where.replace('/', '-')}"
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "out", repo_id, callbacks=[At(where, stop)], train_dataset=prompts(8)).train()
    before = manifest_of(tmp_path / "out")
    assert "dpo" not in before["stages"]
    made = make(tmp_path / "out", repo_id, train_dataset=prompts(8))
    made.train()
    assert len(commits(repo_id)) == len(commits(f"{repo_id}-S")) == 1
    assert len(commits(f"{repo_id}-data", "dataset")) <= 2
    after = manifest_of(tmp_path / "out")
    assert before["stages"].items() <= after["stages"].items() and before["sources"] == after["sources"]
    whole = make(tmp_path / "whole", None, stages=False, settings={"push_to_hub": False}, train_dataset=prompts(8))
    whole.train()
    assert manifest_of(tmp_path / "whole") == after


@pytest.mark.slow
def test_the_run_may_go_on_elsewhere(tmp_path, hub):
    """The same run in a new directory is the same run to the Hub."""
    for place in ("here", "there"):
        make(tmp_path / place, "org/moved", train_dataset=prompts(8)).train()
    assert len(commits("org/moved")) == len(commits("org/moved-S")) == 1
    with pytest.raises(ValueError, match="belongs to the run"):
        make(tmp_path / "other", "org/moved", train_dataset=prompts(8), settings={"alpha": 0.7})


# Without stages.


def test_checkpoints_are_pushed_without_what_resumes_them(tmp_path, hub):
    settings = {"hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
    made = make(tmp_path, "alice/every-save", stages=False, train_dataset=pairs(8), settings=settings)
    made.train()
    assert commits("alice/every-save") == ["Training in progress, step 1", "Training in progress, step 2"]
    assert (tmp_path / "checkpoint-2" / "optimizer.pt").exists()
    made.push_to_hub("The end", dataset_name="alice/steady-prompts")
    assert commits("alice/every-save")[2:] == ["The end"]
    made.save_model()
    assert len(commits("alice/every-save")) == 3
    for commit in hub.repositories["models", "alice/every-save"].commits.values():
        assert not [path for path in commit.files if path.endswith((".bin", ".pt", ".pth")) or "/" in path]
    card = contents(hub, "alice/every-save")["README.md"]
    assert b"datasets:\n- alice/steady-prompts\n" in card
    assert HfApi().model_info("alice/every-save").private
    assert contents(hub, "alice/every-save")["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()


def test_a_save_that_is_not_pushed_ends_nothing(tmp_path, hub, caplog):
    settings = {"hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
    with Spoilt(hub, "alice/no-save"):
        made = make(tmp_path, "alice/no-save", stages=False, train_dataset=pairs(8), settings=settings)
        made.train()
    assert caplog.text.count("alice/no-save is not published yet") == 2
    made.push_to_hub()
    assert commits("alice/no-save") == ["End of training"]


def test_push_to_hub_of_a_run_that_was_not_to_be_pushed(tmp_path, hub):
    made = trainer(tmp_path / "bare-name", pairs(4), model="alice/steady-strong", weak=False)
    made.train()
    seen = len(hub.requests)
    for wrong in ({"token": "hf_x"}, {"revision": "dev"}, {"blocking": False}):
        with pytest.raises(ValueError, match="`"):
            made.push_to_hub(**wrong)
    assert writes(hub, seen) == []
    published = made.push_to_hub(private=False)
    assert published.url.endswith("/alice/bare-name") and not HfApi().model_info("alice/bare-name").private


def test_what_has_not_been_trained_is_not_published_as_trained(tmp_path, hub):
    about = {"stages": False, "train_dataset": pairs(8)}
    made = make(tmp_path, "org/again", **about)
    made.train()
    made.push_to_hub()
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="has not trained, .*hf-cong publish run --source"):
        make(tmp_path, "org/again", **about).push_to_hub()
    assert (tmp_path / "model.safetensors").read_bytes() == weights and len(commits("org/again")) == 1
    settings = {"hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
    make(tmp_path, "org/again", settings=settings, **about).train()
    history = hub.repositories["models", "org/again"].branches["main"].history()
    cards = {commit.title: commit.files["README.md"].content for commit in history if "README.md" in commit.files}
    assert b"trained with DPO" in cards["End of training"]
    assert b"The run had not ended" in cards["Training in progress, step 1"]
    assert b"| DPO |" in cards["End of training"] and b"| DPO |" not in cards["Training in progress, step 1"]


def test_what_is_measured_after_training_is_in_the_card(tmp_path, hub):
    made = make(tmp_path, "org/measured-in-training", stages=False, train_dataset=pairs(8), eval_dataset=pairs(4))
    made.train()
    made.push_to_hub()
    assert b"eval_loss" not in contents(hub, "org/measured-in-training")["README.md"]
    made.evaluate()
    made.push_to_hub()
    assert b"| DPO | `eval_loss` |" in contents(hub, "org/measured-in-training")["README.md"]


def test_a_token_among_the_words_of_a_card_is_kept_nowhere(tmp_path, hub, caplog):
    planted = "hf_" + "abcdefghij" * 4
    made = make(tmp_path, "org/words", stages=False, train_dataset=pairs(4))
    made.train()
    for words in ({"tags": [planted]}, {"dataset_name": f"org/{planted}"}, {"model_name": planted}):
        with pytest.raises(ValueError, match="the card's words, line . holds a Hugging Face token") as refusal:
            made.push_to_hub(**words)
        assert planted not in str(refusal.value) + caplog.text
    with pytest.raises(RuntimeError, match="the commit's title, line 1 holds"):
        made.push_to_hub(planted)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and planted.encode() in path.read_bytes()]
    made.push_to_hub(tags="harmless")
    assert b"- harmless" in contents(hub, "org/words")["README.md"]


def test_a_token_that_is_set_later_is_not_written(tmp_path, hub):
    made = make(tmp_path, "org/later", stages=False, train_dataset=pairs(4))
    made.args.hub_token = "hf_secret"  # noqa: S105
    with pytest.raises(ValueError, match="`hub_token` holds a token"):
        made.train()
    assert not (tmp_path / "_cong" / "run.json").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]


def test_a_folder_that_is_no_name_needs_one(tmp_path, hub):
    with pytest.raises(ValueError, match="'Ein Läuf'. Choose another .*`hub_model_id`"):
        make(tmp_path / "Ein Läuf", None, stages=False, train_dataset=pairs(4))


# Without the Hub.


@pytest.mark.parametrize("peft_config", [None, lora()], ids=["full", "lora"])
def test_a_card_without_the_hub(tmp_path, hub, peft_config):
    seen = len(hub.requests)
    made = trainer(tmp_path / "Ein Lauf", chosen_rows(8), weak=False, peft_config=peft_config)
    made.create_model_card()
    assert "The run had not ended" in (tmp_path / "Ein Lauf" / "README.md").read_text()
    assert not (tmp_path / "Ein Lauf" / "_cong").exists()
    made.train()
    card = (tmp_path / "Ein Lauf" / "README.md").read_text()
    assert "# Ein-Lauf" in card and "fine-tuned on given completions" in card and "2510.07884" in card
    assert str(tmp_path) not in card
    assert ("lora_alpha" in card) == (peft_config is not None)
    made.create_model_card(model_name="other", dataset_name=str(tmp_path / "prompts.jsonl"), tags="mine")
    card = (tmp_path / "Ein Lauf" / "README.md").read_text()
    assert "# other" in card and "prompts.jsonl" in card and "- mine" in card and str(tmp_path) not in card
    assert hub.requests[seen:] == []


def test_a_read_only_run_is_published(tmp_path, hub):
    made = make(tmp_path / "out", None, stages=False, settings={"push_to_hub": False}, train_dataset=prompts(8))
    made.train()
    shutil.copytree(tmp_path / "out", tmp_path / "Kopie mit Leerzeichen")
    for path in [*(tmp_path / "Kopie mit Leerzeichen").rglob("*"), tmp_path / "Kopie mit Leerzeichen"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder = tmp_path / "Kopie mit Leerzeichen"
    publish_run(folder, run_publications(folder, repo_id="org/copied"), repo_id="org/copied")
    assert len(commits("org/copied")) == len(commits("org/copied-data", "dataset")) == 1


# In processes of their own.


def start(output_dir, repo_id, *launcher, **environment):
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.hub.run_pushes", str(output_dir), repo_id],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def launch(*args, **environment):
    process = start(*args, **environment)
    _, stderr = process.communicate(timeout=300)
    return process.returncode, stderr


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory):
    """What the run of `run_pushes` comes to by itself, without the Hub."""
    output_dir = tmp_path_factory.mktemp("never_killed")
    trainer(output_dir, prompts(8), settings=STEPS).train()
    return output_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "arrives"),
    [
        ("POST /api/datasets/org/{}-data/commit", False),
        ("POST /api/datasets/org/{}-data/commit", True),
        ("POST /org/{}-S.git/info/lfs", True),
        ("POST /api/models/org/{}-S/commit", True),
        ("POST /api/collections", True),
        ("sample-*/*.jsonl", True),
        ("POST /api/models/org/{}/commit", True),
        ("second POST /api/models/org/{}/commit", False),
    ],
)
def test_killed_at_any_moment(tmp_path, hub, monkeypatch, never_killed, moment, arrives):
    """SIGKILL when the Hub gets a request, which it grants or not, or when a file appears; then the command again."""
    name = f"killed-{sha256(f'{moment}{arrives}'.encode()).hexdigest()[:8]}"
    out, seen = tmp_path / "out", []

    def watch(method, address):
        if moment.removeprefix("second ").format(name) in f"{method} {address}":
            seen.append(address)
            if len(seen) == (2 if moment.startswith("second") else 1):
                process.kill()
                return None if arrives else 500
        return None

    monkeypatch.setattr(hub, "misbehave", watch)
    process = start(out, f"org/{name}")
    while moment.startswith("sample") and process.poll() is None and not [*out.glob(f"_cong/{moment}")]:
        time.sleep(0.01)
    if moment.startswith("sample"):
        process.kill()
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, stderr[-3000:]
    monkeypatch.setattr(hub, "misbehave", lambda method, address: None)
    code, stderr = launch(out, f"org/{name}")
    assert code == 0, stderr[-3000:]
    assert commits(f"org/{name}") == ["Training in progress, step 2", "End of training"]
    assert len(commits(f"org/{name}-S")) == 1 and len(commits(f"org/{name}-data", "dataset")) == 2
    for repo_id, place in ((f"org/{name}", ""), (f"org/{name}-S", f"_cong/{manifest_of(out)['stages']['sft']}")):
        weights = contents(hub, repo_id)["model.safetensors"]
        assert weights == (never_killed / place / "model.safetensors").read_bytes()
    assert manifest_of(out) == manifest_of(never_killed)
    (collection,) = [found for found in hub.collections.values() if found["title"] == name]
    assert len(collection["items"]) == 3


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
def test_one_process_of_two_talks_to_the_hub(tmp_path, hub):
    code, stderr = launch(tmp_path / "out", "alice/two", *TWO)
    assert code == 0, stderr[-3000:]
    assert commits("alice/two") == ["Training in progress, step 2", "End of training"]
    assert len(commits("alice/two-S")) == 1 and len(commits("alice/two-data", "dataset")) == 2
    weights = contents(hub, "alice/two")["model.safetensors"]
    assert weights == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert manifest_of(tmp_path / "out")["settings"]["effective_batch_size"] == 4
    code, stderr = launch(tmp_path / "refused", "alice/two-refused", *TWO, HF_TOKEN=hub.read_token)
    assert code != 0 and "PermissionError: The token of alice may not" in stderr
    assert not (tmp_path / "refused" / "_cong").exists()
