# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What goes wrong on the way to the Hub loses nothing, and the same command finishes."""

import json
import multiprocessing
import os
import signal
import threading

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import get_session

from hf_cong.hub.publication import MARKER, preflight, publish
from tests.hub.git import File
from tests.hub.publishing import OTHER_RUN, RUN, commits, contents, publication, sent, write_model
from tests.hub.wire import Refusal


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's retries
    return write_model(tmp_path / "model")


def came_whole(name, model):
    found = contents(name)
    assert {*found} == {*model, "README.md", MARKER}
    assert all(found[path] == file.read_bytes() for path, file in model.items())
    assert len(commits(name)) == 2


def answers(hub, monkeypatch, method, part, statuses):
    """Spoils the next answers to requests of this method whose address holds `part`."""
    statuses = iter(statuses)
    matches = lambda verb, address: verb == method and part in address  # noqa: E731
    monkeypatch.setattr(hub, "misbehave", lambda *request: next(statuses, None) if matches(*request) else None)


@pytest.mark.parametrize(
    "method, part", [("POST", "/preupload/"), ("POST", "/lfs/objects/batch"), ("PUT", "/lfs/"), ("GET", "/resolve/")]
)
@pytest.mark.parametrize("statuses", [[429, 500], [503, 502, 504]])
def test_the_client_tries_again(hub, model, monkeypatch, method, part, statuses):
    name = f"alice/flaky-{len(statuses)}-{method}-{part.strip('/').split('/')[-1]}"
    answers(hub, monkeypatch, method, part, statuses)
    before = len(hub.requests)
    assert publish(publication(name, model)).changed
    assert [status for _, _, status in hub.requests[before:] if status >= 429] == statuses
    came_whole(name, model)


@pytest.mark.parametrize(
    "method, part",
    [
        ("GET", "/api/whoami"),
        ("GET", "/api/models/alice"),
        ("POST", "/api/repos/create"),
        ("POST", "/api/validate-yaml"),
        ("POST", "/preupload/"),
        ("POST", "/lfs/objects/batch"),
        ("PUT", "/lfs/"),
        ("POST", "/commit/main"),
        ("GET", "/revision/"),
        ("GET", "/resolve/"),
    ],
)
@pytest.mark.parametrize("status", [500, 429])
def test_a_hub_that_stays_down_is_said_and_the_same_command_finishes(hub, model, monkeypatch, method, part, status):
    name = f"alice/down-{status}-{method}-{part.split('/')[-1] or part.split('/')[1]}"
    with monkeypatch.context() as down:
        answers(hub, down, method, part, [status] * 100)
        with pytest.raises(ConnectionError, match=rf"status {status}.* repeat the same command"):
            publish(publication(name, model))
    publish(publication(name, model))
    came_whole(name, model)


def test_an_answer_that_is_lost_is_no_second_commit(hub, model, monkeypatch):
    HfApi().create_repo("alice/lost")
    repository = hub.repositories["models", "alice/lost"]
    commit = repository.commit

    def commit_in_silence(*args, **kwargs):
        commit(*args, **kwargs)
        raise Refusal(504, "Gateway Timeout")

    with monkeypatch.context() as silence:
        silence.setattr(repository, "commit", commit_in_silence)
        with pytest.raises(ConnectionError, match="status 504"):
            publish(publication("alice/lost", model))
    assert not publish(publication("alice/lost", model)).changed
    came_whole("alice/lost", model)


@pytest.mark.parametrize("part", ["/auth-check/write", "/preupload/", "/commit/main", "/revision/", "/resolve/"])
def test_a_repository_that_is_deleted_meanwhile_is_made_again(hub, model, monkeypatch, part):
    name = f"alice/deleted-{part.strip('/').split('/')[0]}"

    def somebody_deletes(method, address):
        if part in address:
            hub.repositories.pop(("models", name), None)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(hub, "misbehave", somebody_deletes)
        with pytest.raises(RuntimeError, match=f"does not find {name}.* repeat the same command"):
            publish(publication(name, model))
    publish(publication(name, model))
    came_whole(name, model)


def test_a_connection_that_breaks_is_a_hub_that_cannot_be_reached(hub, model, monkeypatch):
    def hangs_up(method, address):
        if "/commit/" in address:
            raise ConnectionResetError

    with monkeypatch.context() as down:
        down.setattr(hub, "misbehave", hangs_up)
        down.setattr(hub, "handle_error", lambda *request: None)
        with pytest.raises(ConnectionError, match="cannot be reached .* repeat the same command"):
            publish(publication("alice/hangs-up", model))
    publish(publication("alice/hangs-up", model))
    came_whole("alice/hangs-up", model)


def test_a_hub_that_falls_silent_is_not_waited_for_for_ever(hub, model, monkeypatch):
    goes_on = threading.Event()

    def falls_silent(method, address):
        if "/commit/" in address:
            goes_on.wait(60)

    with monkeypatch.context() as silence:
        silence.setattr(hub, "misbehave", falls_silent)
        silence.setattr("hf_cong.hub.account._PATIENCE", 2.0)
        with pytest.raises(ConnectionError, match="cannot be reached .*timed out.* repeat the same command"):
            publish(publication("alice/silent", model))
    goes_on.set()
    assert get_session().timeout.read is None  # others wait as long as they like
    assert not publish(publication("alice/silent", model)).changed  # it had only not answered
    came_whole("alice/silent", model)


@pytest.mark.parametrize("second", [RUN, OTHER_RUN])
def test_of_two_pushes_at_once_one_wins(hub, model, second):
    name, fork = f"alice/race-{second}", multiprocessing.get_context("fork")
    together, said = fork.Barrier(2), fork.Queue()
    preupload = HfApi.preupload_lfs_files

    def when_both_are_there(*args, **kwargs):
        together.wait(60)
        return preupload(*args, **kwargs)

    def push(run):
        HfApi.preupload_lfs_files = when_both_are_there  # in this process only
        try:
            said.put(publish(publication(name, model, run=run)).commit)
        except RuntimeError as error:
            said.put(error)

    pushes = [fork.Process(target=push, args=[run]) for run in (RUN, second)]
    for process in pushes:
        process.start()
    won, lost = sorted([said.get(timeout=60) for _ in pushes], key=lambda one: isinstance(one, RuntimeError))
    assert "changed by somebody else meanwhile. Nothing was written" in str(lost)
    assert HfApi().model_info(name).sha == won
    came_whole(name, model)
    if second == RUN:
        assert not publish(publication(name, model)).changed
    else:
        winner = json.loads(contents(name)[MARKER])["run"]
        with pytest.raises(ValueError, match=f"belongs to the run '{winner}'"):
            publish(publication(name, model, run=RUN if winner == OTHER_RUN else OTHER_RUN))


def test_there_is_no_way_to_the_hub(model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        publish(publication("alice/far", model))
    with pytest.raises(ConnectionError, match="cannot be reached"):
        preflight("alice/far", repo_type="model", run=RUN)


def test_a_repository_that_changes_meanwhile_is_left_alone(hub, model, monkeypatch):
    publish(publication("alice/meanwhile", model))

    def somebody_commits(method, address):
        if "/preupload/" in address:
            hub.add("alice/meanwhile", {"config.json": "theirs"})

    model["config.json"].write_text("ours")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(hub, "misbehave", somebody_commits)
        with pytest.raises(RuntimeError, match="changed by somebody else meanwhile"):
            publish(publication("alice/meanwhile", model))
    assert contents("alice/meanwhile")["config.json"] == b"theirs"
    with pytest.raises(ValueError, match="config.json"):
        publish(publication("alice/meanwhile", model))
    publish(publication("alice/meanwhile", model), replace=True)
    assert contents("alice/meanwhile")["config.json"] == b"ours"


def test_a_push_that_is_killed_while_it_uploads_is_repeated(hub, model, tmp_path):
    shard = tmp_path / "model" / "model-00002-of-00002.safetensors"
    model[shard.name] = write_model(tmp_path / "second")["model.safetensors"].rename(shard)

    def kill(method, address):
        if method == "PUT":
            uploads.append(address)
            if len(uploads) == 2:
                os.kill(process.pid, signal.SIGKILL)
                return 500

    uploads = []
    hub.misbehave = kill
    process = multiprocessing.get_context("fork").Process(target=publish, args=[publication("alice/killed", model)])
    try:
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    finally:
        hub.misbehave = lambda *request: None
    assert len(commits("alice/killed")) == 1  # the repository is there, and nothing in it
    before = len(hub.requests)
    publish(publication("alice/killed", model))
    assert sent(hub, before, "PUT") == [uploads[1]]  # what had arrived is not sent again
    came_whole("alice/killed", model)


@pytest.mark.parametrize("path", ["config.json", "model.safetensors", "README.md"])
def test_other_bytes_than_were_sent_are_found(hub, model, monkeypatch, path):
    name = f"alice/spoilt-{path[:5]}"
    publish(publication(name, model))
    repository = hub.repositories["models", name]
    commit = repository.commit

    def spoil(branch, added, *args, **kwargs):
        spoilt = {path: File(b"other", lfs=path.endswith(".safetensors"))}
        return commit(branch, {**added, **spoilt}, *args, **kwargs)

    model["chat_template.jinja"].write_text("another template")
    monkeypatch.setattr(repository, "commit", spoil)
    with pytest.raises(RuntimeError, match=f"does not hold what was sent to it .*{path}.*`replace`"):
        publish(publication(name, model))
    monkeypatch.undo()
    publish(publication(name, model), replace=True)
    assert contents(name)["chat_template.jinja"] == b"another template"


def test_a_file_that_the_hub_drops_is_missed(hub, model, monkeypatch):
    publish(publication("alice/dropped", {"config.json": b"{}"}))
    repository = hub.repositories["models", "alice/dropped"]
    commit = repository.commit
    drop = lambda branch, added, *args, **kwargs: commit(branch, {MARKER: added[MARKER]}, *args, **kwargs)  # noqa: E731
    monkeypatch.setattr(repository, "commit", drop)
    with pytest.raises(RuntimeError, match="model.safetensors"):
        publish(publication("alice/dropped", model))
