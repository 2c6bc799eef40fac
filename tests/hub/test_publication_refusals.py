# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Who may not publish where, and what is not overwritten."""

import json
from hashlib import sha256

import pytest
from huggingface_hub import HfApi

from hf_cong.hub.publication import MARKER, preflight, publish
from tests.hub.publishing import CARD, OTHER_RUN, RUN, commits, contents, publication, sent, write_model
from tests.hub.wire import Account


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path)


def refused(hub, what, match, error=PermissionError):
    """The check before the work and the push say no in the same words, and nothing is sent."""
    before = len(hub.requests)
    with pytest.raises(error, match=match) as early:
        preflight(what.repo_id, repo_type=what.repo_type, run=what.run)
    with pytest.raises(error, match=match) as late:
        publish(what)
    assert str(early.value) == str(late.value)
    assert not sent(hub, before, "POST") and not sent(hub, before, "PUT")


def test_nobody_is_logged_in(hub, model, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    before = len(hub.requests)
    for name in ("alice/no-token", "no-token"):
        refused(hub, publication(name, model), "hf auth login")
    assert len(hub.requests) == before


@pytest.mark.parametrize("there", [True, False])
def test_a_token_that_is_not_valid(hub, model, monkeypatch, there):
    if there:
        publish(publication(f"alice/bad-token-{there}", model))
    monkeypatch.setenv("HF_TOKEN", "mistyped-token")
    for name in (f"alice/bad-token-{there}", "bad-token"):
        refused(hub, publication(name, model), "mistyped, expired or revoked")


@pytest.mark.parametrize("there", [True, False])
def test_a_token_that_may_only_read(hub, model, monkeypatch, there):
    if there:  # the client would report that it made the repository
        publish(publication(f"alice/reads-{there}", model))
    monkeypatch.setenv("HF_TOKEN", hub.read_token)
    refused(hub, publication(f"alice/reads-{there}", model), "may not write|may only read")


def test_a_token_for_some_namespaces(hub, model, monkeypatch):
    hub.accounts["alice-finely"] = Account("alice", "fineGrained", ("org",))
    monkeypatch.setenv("HF_TOKEN", "alice-finely")
    refused(hub, publication("alice/finely", model), "may not write alice/finely")
    preflight("org/finely", repo_type="model", run=RUN)
    assert publish(publication("org/finely", model)).changed and not publish(publication("org/finely", model)).changed


@pytest.mark.parametrize("private", [True, False])
def test_a_name_of_another_user(hub, model, monkeypatch, private):
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    publish(publication(f"bob/his-{private}", {"config.json": b"{}"}, private=private))
    before = contents(f"bob/his-{private}")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for name in (f"bob/his-{private}", "bob/not-there"):
        refused(hub, publication(name, model), "bob/")
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    assert contents(f"bob/his-{private}") == before


def test_an_organisation_one_is_no_member_of(hub, model):
    hub.members["strangers"] = {"bob"}
    refused(hub, publication("strangers/model", model), "strangers/model: it is another user's, or of an organisation")


def test_a_repository_of_another_run(hub, model):
    publish(publication("alice/of-a-run", {**model, "LICENSE": b"theirs"}, run=OTHER_RUN))
    edit("alice/of-a-run", "adapter_config.json", b"{}")
    refused(hub, publication("alice/of-a-run", model), f"belongs to the run '{OTHER_RUN}'.*`replace`", ValueError)
    preflight("alice/of-a-run", repo_type="model", run=RUN, replace=True)
    publish(publication("alice/of-a-run", model), replace=True)
    # `from_pretrained` would take what is left of theirs for a part of this.
    assert {*contents("alice/of-a-run")} == {*model, "README.md", MARKER}
    assert len(commits("alice/of-a-run")) == 4
    with pytest.raises(ValueError, match=f"belongs to the run '{RUN}'"):
        preflight("alice/of-a-run", repo_type="model", run=OTHER_RUN)


@pytest.mark.parametrize("marker", [None, b"no json", b"[]", b'{"run": 1, "files": {}}', b'{"run": "x", "files": []}'])
def test_a_repository_that_hf_cong_did_not_write(hub, model, marker):
    files = {"pytorch_model.bin": b"theirs", "README.md": "# Theirs", **({} if marker is None else {MARKER: marker})}
    name = f"alice/theirs-{marker and len(marker)}"
    hub.add(name, files)
    refused(hub, publication(name, model), "has files of its own, such as 'README.md'.*`replace`", ValueError)
    assert contents(name)["README.md"] == b"# Theirs"
    publish(publication(name, model), replace=True)
    assert {*contents(name)} == {*model, "README.md", MARKER}


def test_an_empty_repository_is_free(hub, model):
    HfApi().create_repo("alice/empty")
    preflight("alice/empty", repo_type="model", run=RUN)
    assert publish(publication("alice/empty", model)).changed


def test_the_kinds_of_repositories_do_not_mix(hub, model):
    hub.add("alice/both", {"train.csv": "a"}, kind="datasets")
    preflight("alice/both", repo_type="model", run=RUN)
    with pytest.raises(ValueError, match="train.csv"):
        preflight("alice/both", repo_type="dataset", run=RUN)


def edit(name, path, content=b"by hand"):
    HfApi().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name)


@pytest.mark.parametrize("path", ["README.md", "config.json", "model.safetensors"])
def test_what_was_edited_by_hand_is_not_overwritten(model, path):
    name = f"alice/edited-{path[:5]}"
    publish(publication(name, model))
    edit(name, path)
    changed = publication(name, {**model, "LICENSE": b"new"}, card=CARD + "\nNew.")
    with pytest.raises(ValueError, match=f"Changed on the Hub .*{path}.*`replace`"):
        publish(changed)
    assert contents(name)[path] == b"by hand" and len(commits(name)) == 3
    publish(changed, replace=True)
    assert contents(name)[path] == (changed.card.encode() if path == "README.md" else model[path].read_bytes())


@pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
def test_a_model_edited_by_hand_is_not_the_model_of_the_run(model, path):
    name = f"alice/other-{path[:5]}"
    publish(publication(name, model))
    edit(name, path)
    with pytest.raises(ValueError, match=f"Changed on the Hub .*{path}.*`replace`"):
        publish(publication(name, model))


def test_a_card_edited_by_hand_stays_while_ours_is_the_same(model, caplog):
    publish(publication("alice/edited-card", model))
    edit("alice/edited-card", "README.md")
    for changed, files in ((False, model), (True, {**model, "LICENSE": b"new"})):
        done = publish(publication("alice/edited-card", files))
        assert done.changed == changed and done.files["README.md"] == sha256(b"by hand").hexdigest()
        assert "README.md of alice/edited-card was edited on the Hub and stays so" in caplog.text
        caplog.clear()
    found = contents("alice/edited-card")
    assert found["README.md"] == b"by hand" and found["LICENSE"] == b"new"
    publish(publication("alice/edited-card", files), replace=True)
    assert contents("alice/edited-card")["README.md"] == CARD.encode()


def test_another_run_with_the_same_files_takes_the_repository_over(model):
    publish(publication("alice/same-files", model, run=OTHER_RUN))
    assert publish(publication("alice/same-files", model), replace=True).changed
    assert not publish(publication("alice/same-files", model)).changed


def test_a_file_edited_by_hand_is_not_deleted(model):
    publish(publication("alice/edited-gone", {**model, "LICENSE": b"a licence"}))
    edit("alice/edited-gone", "LICENSE", b"a better one")
    with pytest.raises(ValueError, match="LICENSE"):
        publish(publication("alice/edited-gone", model))
    assert contents("alice/edited-gone")["LICENSE"] == b"a better one"


def test_a_file_added_by_hand_is_not_overwritten(model):
    publish(publication("alice/added", model))
    edit("alice/added", "LICENSE", b"mine")
    with pytest.raises(ValueError, match="LICENSE"):
        publish(publication("alice/added", {**model, "LICENSE": b"another"}))
    publish(publication("alice/added", {**model, "LICENSE": b"mine"}))  # no quarrel


def test_a_change_by_hand_that_is_taken_over_is_no_conflict(model):
    publish(publication("alice/taken", model))
    edit("alice/taken", "README.md", b"# Better")
    done = publish(publication("alice/taken", model, card="# Better"))
    assert json.loads(contents("alice/taken")[MARKER])["files"] == done.files
    assert publish(publication("alice/taken", model, card="# Best")).changed


def test_what_was_deleted_by_hand_comes_back(model):
    publish(publication("alice/deleted", model))
    HfApi().delete_file("config.json", "alice/deleted")
    assert publish(publication("alice/deleted", model)).changed
    assert contents("alice/deleted")["config.json"] == model["config.json"].read_bytes()


def test_a_card_that_the_hub_refuses_commits_nothing(model):
    with pytest.raises(ValueError, match="license"):
        publish(publication("alice/bad-card", model, card="---\nlicense: my-own\n---\n"))
    assert contents("alice/bad-card") == {}
    assert publish(publication("alice/bad-card", model)).changed
