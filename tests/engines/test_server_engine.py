# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A server writes what the model in this process writes, and nothing that it answered is lost."""

import json
import logging
import multiprocessing
import os
import signal
import socket

import pytest

from hf_cong import generate_completions
from hf_cong.engines.server_engine import ServerEngine
from hf_cong.prompts import prompt_id
from hf_cong.sampling import row_seed
from tests.engines.stand_in import stand_in
from tests.test_generation import EOS, PROMPTS, SETTINGS, TOKENIZER, make_model, make_pair, tokens, written


@pytest.fixture
def server():
    with stand_in(make_model(), TOKENIZER) as server:
        yield server


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The same model in this process."""
    return generate_completions(PROMPTS, make_model(), output_dir=tmp_path_factory.mktemp("here"), **SETTINGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run against a server that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    with stand_in(make_model(), TOKENIZER) as server:
        generate_completions(PROMPTS, server.url, output_dir=path, **SETTINGS)
    return path


def completions(path):
    return (path / "completions.parquet").read_bytes()


def run(engine, path, **overrides):
    return generate_completions(PROMPTS, engine, output_dir=path, **{**SETTINGS, **overrides})


def hasty(server):
    """An engine that neither waits nor repeats."""
    return ServerEngine(server.url, timeout=5, max_retries=0)


@pytest.mark.parametrize("make", [make_model, make_pair])
@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": False}, {"repetition_penalty": 1.3, "temperature": 1.2, "top_k": 20, "top_p": 0.9}]
)
def test_a_server_writes_what_the_model_writes(tmp_path, make, settings):
    model = make()
    expected = run(model, tmp_path / "here", **settings)
    with stand_in(model, TOKENIZER) as server:
        answered = run(server.url, tmp_path / "there", **settings)
    same = [name for name in expected.column_names if name not in ("alpha", "plausibility_threshold", "model")]
    for name in same:
        assert answered[name][:] == expected[name][:], name
    assert set(answered["finish_reason"]) == {"stop", "length"}
    assert set(answered["model"]) == {"org/tiny"}
    assert set(answered["alpha"]) == {None}
    manifest = json.loads((tmp_path / "there" / "manifest.json").read_text())
    assert manifest["identity"]["engine"] == {"served_model": "tiny", "root": "org/tiny"}
    assert manifest["generation"]["completion_ids"] == "of the model"


def test_without_the_seeds_or_the_settings_it_does_not(server, here, tmp_path):
    """The negative control of the test above."""
    honest = server.complete
    for name, value in (("seed", 1), ("temperature", 1.5), ("stop_token_ids", [5, 6, 7, *range(30, 90)])):
        server.complete = lambda body, name=name, value=value: honest({**body, name: value})
        assert tokens(run(server.url, tmp_path / name)) != tokens(here), name


def test_what_is_sent(server, tmp_path):
    run(server.url, tmp_path)
    probe, *sent = server.requests
    assert probe["max_tokens"] == 1
    assert {body["seed"] for body in sent} == {row_seed(3, prompt_id(prompt)) for prompt in PROMPTS}
    for body in sent:
        assert (body["temperature"], body["top_p"], body["top_k"], body["max_tokens"]) == (0.8, 0.95, 0, 12)
        # also what is off: a server fills in what is not said
        assert (body["min_p"], body["repetition_penalty"]) == (0, 1)
        assert (body["presence_penalty"], body["frequency_penalty"]) == (0, 0)
    assert 1 < server.most_under_way <= 4


@pytest.mark.parametrize("rejoin", [4, 7])
@pytest.mark.parametrize("trouble", [500, 400, "die", b"not JSON"], ids=str)
def test_errors_half_way_lose_nothing(server, whole, tmp_path, trouble, rejoin):
    spoilt = []
    server.misbehave = lambda number, body: spoilt.append(number) or trouble if number in (6, 7) else None
    with pytest.raises(ConnectionError, match=rf"{server.url} failed after \d+ of 12 prompts: .*repeat the command"):
        run(hasty(server), tmp_path)
    kept = (tmp_path / "journal-00000.jsonl").read_bytes().count(b"\n") - 1
    assert 4 < kept == len(server.requests) - 1 - len(spoilt) < 12  # all but the probe and what failed
    server.misbehave = lambda number, body: None
    before = len(server.requests)
    run(server.url, tmp_path, batch_size=rejoin)
    assert len(server.requests) - before == 1 + 12 - kept  # the probe, and only what is owed
    assert completions(tmp_path) == completions(whole)


def test_passing_errors_are_ridden_out(server, whole, tmp_path):
    server.misbehave = lambda number, body: 503 if number in (3, 8) else "die" if number == 5 else None
    run(server.url, tmp_path)
    assert len(server.requests) == 1 + 12 + 3
    assert written(tmp_path) == written(whole)


def test_a_slow_server_times_out(server, whole, tmp_path):
    server.misbehave = lambda number, body: 1.5 if number == 9 else None
    with pytest.raises(ConnectionError, match="failed after .* of 12 prompts: Request timed out"):
        run(ServerEngine(server.url, timeout=0.5, max_retries=0), tmp_path)
    run(server.url, tmp_path)  # which waits for longer
    assert completions(tmp_path) == completions(whole)


def test_a_server_that_is_down(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(ConnectionError, match=f"{url} does not say which models.*refused.*Start the server"):
            run(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_needs_no_server_if_it_is_named(server, tmp_path):
    first = run(server.url, tmp_path, engine_id="pair 0.5")
    server.shutdown()
    server.server_close()
    assert run(server.url, tmp_path, engine_id="pair 0.5")[:] == first[:]


NONSENSE = {
    "no list": (b"[1]", "which is no completion"),
    "no choice": (b'{"choices": []}', "which is no completion"),
    "a page": (b"<html>hello</html>", "answered '<html>hello</html>', which is no completion"),
    "a filter": (b'{"choices": [{"text": "", "finish_reason": "content_filter"}]}', "by 'content_filter', neither"),
    "large ids": (
        b'{"choices": [{"text": "", "finish_reason": "stop", "token_ids": [9, 999999]}]}',
        r"it wrote \[9, 999999\], which are no ids of a tokenizer with 320 tokens",
    ),
    "no ids": (b'{"choices": [{"text": "a", "finish_reason": "stop"}]}', "it wrote None, which are no ids"),
    "text for ids": (b'{"choices": [{"finish_reason": "stop", "token_ids": ["a"]}]}', r"it wrote \['a'\]"),
    "another prompt": (
        b'{"choices": [{"finish_reason": "stop", "token_ids": [9], "prompt_token_ids": [8]}]}',
        "other ids than those of the prompt",
    ),
}


@pytest.mark.parametrize("answer, reason", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_and_the_rest_kept(server, tmp_path, answer, reason):
    server.misbehave = lambda number, body: answer if number == 5 else None
    with pytest.raises(ConnectionError, match=f"failed after .* of 12 prompts: .*{reason}"):
        run(server.url, tmp_path)
    assert (tmp_path / "journal-00000.jsonl").read_bytes().count(b"\n") - 1 >= 4
    assert not (tmp_path / "manifest.json").exists()


def test_a_server_that_completes_no_ids_is_refused_before_the_run(server, tmp_path):
    server.misbehave = lambda number, body: 404
    with pytest.raises(ConnectionError, match="does not complete a prompt: .*404.*spoilt on purpose"):
        run(server.url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_text_is_tokenized_again_and_that_is_said(server, here, tmp_path, caplog):
    server.gives_ids = False
    with caplog.at_level(logging.WARNING):
        answered = run(server.url, tmp_path)
    assert sum("answers with text only" in record.message for record in caplog.records) == 1
    assert json.loads((tmp_path / "manifest.json").read_text())["generation"]["completion_ids"] == "of its text"
    assert answered["finish_reason"][:] == here["finish_reason"][:]
    for row, ids in zip(answered, here["completion_ids"], strict=True):
        assert row["completion_ids"] == TOKENIZER(TOKENIZER.decode(ids))["input_ids"]
        assert not set(row["completion_ids"]) & {2}


EXTENSIONS = {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "return_token_ids"}


def strict(number, body):
    """As OpenAI's own server: 400 for what its protocol lacks."""
    return 400 if EXTENSIONS & set(body) else None


def plain(server):
    """The server is strict, and has its own values for what it is not told."""
    honest, unsaid = server.complete, {"top_k": 0, "repetition_penalty": 1.0, "stop_token_ids": []}
    server.misbehave, server.gives_ids = strict, False
    server.complete = lambda body: honest({**unsaid, **body})
    return server


@pytest.mark.parametrize("settings", [{}, {"do_sample": False, "top_k": 5}], ids=str)
def test_a_server_without_extensions_is_asked_without_them(server, tmp_path, caplog, settings):
    here = run(make_model(), tmp_path / "here", **settings)
    with caplog.at_level(logging.WARNING):
        answered = run(plain(server).url, tmp_path / "there", **settings)
    assert sum("refuses what OpenAI's protocol lacks" in record.message for record in caplog.records) == 1
    assert [bool(EXTENSIONS & set(body)) for body in server.requests] == [True] + [False] * 13
    assert [body["temperature"] for body in server.requests] == [0.8 if not settings else 0.0] * 14
    for row, expected in zip(answered, here, strict=True):
        assert row["finish_reason"] == expected["finish_reason"]
        assert row["completion"] == TOKENIZER.decode(expected["completion_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("name, value, off", [("top_k", 5, "0"), ("repetition_penalty", 1.2, "1.0")])
def test_an_extension_that_is_needed_is_named(server, tmp_path, name, value, off):
    with pytest.raises(ConnectionError, match=f"`{name}={value}` is not in OpenAI's protocol; pass `{name}={off}`"):
        run(plain(server).url, tmp_path, **{name: value})
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_for_another_reason_is_told(server, tmp_path):
    server.misbehave = lambda number, body: 400
    with pytest.raises(ConnectionError, match="does not complete a prompt: .*spoilt on purpose.*/completions"):
        run(server.url, tmp_path)
    assert len(server.requests) == 2


def test_ids_that_are_null_are_none(server, tmp_path):
    honest = server.complete

    def complete(body):
        answer = honest(body)
        answer["choices"][0].update(token_ids=None, prompt_token_ids=None)
        return answer

    server.complete = complete
    run(server.url, tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["generation"]["completion_ids"] == "of its text"


def test_of_several_models_one_is_named(server, tmp_path):
    server.models = [{"id": "a"}, {"id": "org/b", "root": "elsewhere"}]
    with pytest.raises(ValueError, match=f"serves a, org/b; name one of them behind a #, like '{server.url}#a'"):
        run(server.url, tmp_path)
    with pytest.raises(ValueError, match="serves a, org/b; name one"):
        run(f"{server.url}#c", tmp_path)
    assert run(f"{server.url}#org/b", tmp_path)["model"][0] == "elsewhere"
    assert {body["model"] for body in server.requests} == {"org/b"}


def test_another_model_is_another_run(server, whole, tmp_path):
    server.models[0]["id"] = "another"
    with pytest.raises(ValueError, match=r"another run: `engine.served_model` 'tiny' there, 'another' here"):
        run(server.url, whole)


@pytest.mark.parametrize("key", ["sk-secret", None])
def test_the_key_comes_from_the_environment_and_stays_there(server, tmp_path, monkeypatch, key, caplog):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    server.misbehave = lambda number, body: 401 if number == 9 else None
    with caplog.at_level(logging.INFO), pytest.raises(ConnectionError) as refusal:
        run(server.url, tmp_path)
    run(server.url, tmp_path)
    assert set(server.keys) == {f"Bearer {key or 'none'}"}
    everything = str(refusal.value) + caplog.text + "".join(file.read_text("latin-1") for file in tmp_path.iterdir())
    assert "sk-secret" not in everything


def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\nsecret")
    with pytest.raises(ValueError, match="`OPENAI_API_KEY` holds characters") as refusal:
        run(server.url, tmp_path)
    assert "secret" not in str(refusal.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")  # as a file holds it
    run(server.url, tmp_path)
    assert set(server.keys) == {"Bearer sk-secret"}


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "https://secret@host/v1", "http://host/v1?key=secret"])
def test_a_url_with_a_secret_is_refused_without_repeating_it(tmp_path, url):
    with pytest.raises(ValueError, match="`OPENAI_API_KEY`") as refusal:
        run(url, tmp_path)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["ftp://host/v1", "http:///v1", "host://8000", "http://host:8o/v1", "http://host/v 1"])
def test_what_is_no_address_is_refused(tmp_path, url):
    with pytest.raises(ValueError, match=f"`engine` is '{url}'; the URL of a server must be like"):
        run(url, tmp_path)


@pytest.mark.parametrize("url", ["http://[::1]:8000/v1", "https://a.b-c/x/v1/#org/m", "http://host", "http://host#m"])
def test_what_is_an_address_is_taken(url):
    assert ServerEngine(url).url == url.partition("#")[0]


def test_the_context_of_the_server_counts(server, tmp_path):
    server.models[0]["max_model_len"] = 20
    with pytest.raises(ValueError, match="the engine's context leaves 8"):
        run(server.url, tmp_path)
    short = generate_completions(["a", "x" * 9], server.url, output_dir=tmp_path, invalid_prompts="drop", **SETTINGS)
    assert short["prompt"][:] == ["a"]


def _killed_after(answers, url, path):
    """As a process of its own: dies once it has had so many answers."""
    read = ServerEngine._read

    def counted(self, *arguments):
        nonlocal answers
        answers -= 1
        if answers < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, *arguments)

    ServerEngine._read = counted
    run(url, path)


@pytest.mark.parametrize("answers", [0, 7, 12])
def test_killed_half_way_the_rerun_ends_with_the_same_bytes(server, whole, tmp_path, answers):
    process = multiprocessing.get_context("fork").Process(target=_killed_after, args=(answers, server.url, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    run(server.url, tmp_path)
    assert written(tmp_path) == written(whole)


def test_the_eos_of_the_model_ends_a_completion(whole):
    """The tokenizer knows one of them, the server's model twenty."""
    records = [json.loads(line) for line in (whole / "journal-00000.jsonl").read_text().splitlines()[1:]]
    assert sum(record["finish_reason"] == "stop" for record in records) > 2
    assert not any(set(record["completion_ids"]) & set(EOS) for record in records)
