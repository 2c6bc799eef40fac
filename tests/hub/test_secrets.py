# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tokens stay on this machine: found wherever they were planted, never said, never sent."""

import json
import logging
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.numpy import save_file

import hf_cong
from hf_cong.hub.collection import Item, gather
from hf_cong.hub.files import select_files
from hf_cong.hub.publication import describe, publish
from hf_cong.hub.secrets import check_secrets, find_secret, redact
from hf_cong.hub.sources import source_of
from tests.hub.publishing import CARD, contents, publication, write_model

# Put together here, so that no scanner of repositories takes them for real.
TOKEN = "hf_" + "aB3dE6gH9" * 4
KINDS = {
    "a Hugging Face token": [TOKEN, "hf_" + "a" * 34, "api_org_" + "xYz1" * 8, "hf_oauth_" + "eyJhbGciOiJF" * 3],
    "a GitHub token": ["ghp_" + "a1B2" * 9, "github_pat_" + "11ABC_def" * 6, "ghs_" + "9zZ8" * 9],
    "a GitLab token": ["glpat-" + "aB3dE6gH9-" * 2],
    "an AWS key": ["AKIA" + "IOSFODNN7ABCDEFG", "ASIA" + "IOSFODNN7ABCDEFG"],
    "an OpenAI or Anthropic key": [
        "sk-" + "aB3d" * 12,
        "sk-proj-" + "aB3d" * 12,
        "sk-ant-api03-" + "aB3d_" * 12,
        "sk-proj-" + "a_B-3" * 12,
    ],
    "a Google key": ["AIza" + "SyB3dE6" * 5, "GOCSPX-" + "aB3dE6-" * 4],
    "a Slack token": ["xoxb-" + "123456789012-abcdef", "xapp-" + "1-A0123456789-abcdef"],
    "a key of a service": [
        *(
            "gsk_" + "aB3d" * 13,
            "xai-" + "aB3d" * 20,
            "npm_" + "aB3d" * 9,
            "r8_" + "aB3d" * 9,
            "sk_live_" + "aB3d" * 6,
        ),
        *("nvapi-" + "aB3d_-" * 10, "pypi-AgE" + "IcHlwaS5_" * 10, "wandb_v1_" + "aB3d_" * 16),
    ],
    "a key in a setting": [
        *("AWS_SECRET_ACCESS_KEY=" + "aB3/" * 10, "aws_secret_access_key = " + "aB3/" * 10, "api-key: '" + "0aF1" * 8),
        *('SecretAccessKey": "' + "aB3/" * 10, 'WANDB_API_KEY\\": \\"' + "0af1" * 10, "HF_HUB_TOKEN=" + "aB3d" * 9),
    ],
    "a Weights & Biases key": [
        *("wandb login " + "0af1" * 10, 'wandb": {"key": "' + "0af1" * 10),
        "machine api.wandb.ai\n  login user\n  password " + "0af1" * 10,
    ],
    "a private key": [
        "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEpAIBAAKCAQEA7\n",
        "-----BEGIN PRIVATE " + "KEY-----\\nMIIEpAIBAAKCAQEA7\\n",
        "-----BEGIN PRIVATE " + "KEY-----\\\\u000aMIIEpAIBAAKCAQEA7\\\\u000a",
        "-----BEGIN OPENSSH PRIVATE " + "KEY-----\r\nb3BlbnNzaC1rZXktdjEAAAAA",
        "-----BEGIN RSA PRIVATE " + "KEY-----\nProc-Type: 4,ENCRYPTED\n",
        "-----BEGIN PGP PRIVATE " + "KEY BLOCK-----\n\nlQOYBF5mxQ0BCAC",
    ],
}


@pytest.mark.parametrize("kind, secret", [(kind, secret) for kind, secrets in KINDS.items() for secret in secrets])
def test_each_kind_is_known(kind, secret):
    for text in (secret, f"token={secret} ", f'{{"key": "{secret}"}}', f"https://user:{secret}@host/x"):
        assert find_secret(text) == kind
        assert secret not in redact(text) and "***" in redact(text)


@pytest.mark.parametrize(
    "start",
    [
        *("sk-", "sk-a-", "hf_", "-----BEGIN PRIVATE KEY", "-----BEGIN " + " " * 50, "xox", "wandb", "wandb0af1"),
        *("-----BEGIN PRIVATE KEY-----" + "\\" * 20, "api_key=", "secret_key = a", "apitoken" + "=a" * 30),
    ],
)
def test_no_text_takes_for_ever(start):
    begin = time.process_time()
    find_secret(start * 200_000 + "!")
    assert time.process_time() - begin < 10  # a quadratic pattern needs hours


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hf_cong hf_hub_download hf_raise_for_status hf_internal_testing_tiny_random_model",
        "`hf_...`, `ghp_`, `AKIA`, sk-, ghp_short, task-oriented-dialogue-with-language-models",
        "sk-estimator-doc-link sk-toggleable__content sk-SK",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0B\n-----END PUBLIC KEY-----",
        "a file that begins with -----BEGIN RSA PRIVATE KEY----- is a key",
        "AKIAIOSFODNN7ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "0123456789abcdef" * 4,
        "data:image/png;base64,iVBORw0KGgoAIza" + "SyB3dE6" * 9,
        "npm_config_legacy_peer_deps gsk_ r8_ npm_install_everything_that_is_there",
        'api_key=os.environ["OPENAI_API_KEY"] api_key: "your-api-key" pad_token="<|endoftext|>"',
        'secret_key = generate_another_secret_key_every_time_1() {"key": "' + "0af1" * 10 + '"}',
        "wandb==0.17.0, commit " + "0af1" * 10 + " wandb @ git+https://github.com/wandb/wandb@" + "0af1" * 10,
        "wandb of a sha256 " + "0af1" * 16,
    ],
)
def test_ordinary_text_holds_none(text):
    assert find_secret(text) is None and redact(text) == text


def test_the_package_itself_holds_none():
    for path in Path(hf_cong.__file__).parent.rglob("*.py"):
        assert find_secret(path.read_text(encoding="utf-8")) is None, path


def test_the_secrets_of_this_session_are_known_whatever_they_look_like(monkeypatch):
    assert find_secret("the token is alice-writes.") == "a token of this session"
    with pytest.raises(ValueError, match="line 2 holds a token of this session; b") as error:
        check_secrets({"a": b"x\ntoken: alice-writes", "b": b"alice-writes"})
    assert "alice-writes" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert find_secret(f"x {TOKEN} y") == "a token of this session"
    with pytest.raises(ValueError, match="^Nothing was uploaded: a, line 1 holds a token of this session. Take"):
        check_secrets({"a": TOKEN.encode()})  # one secret, named once
    monkeypatch.setenv("HF_TOKEN", "another")
    assert find_secret("the token is alice-writes.") is None
    for name in ("OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "GIT_TOKEN", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, f"mine-of-{name}")
        assert redact(f"key: mine-of-{name}") == "key: ***"
    monkeypatch.setenv("DATABASE_PASSWORD", "postgres")
    assert find_secret("a table of postgres") is None
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "no-secret-at-all")
    assert find_secret("no-secret-at-all") is None


def write_weights(path, metadata, name="weight"):
    save_file({name: np.zeros(2, dtype=np.float32)}, path, metadata=metadata)
    return path


def write_table(path, rows, metadata=None):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata), path)
    return path


def planted(folder):
    """Twelve files, each with a token in another place."""
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": f"it is {TOKEN}"}]
    texts = {
        f"additional_chat_templates/{TOKEN}.jinja": "{{ messages }}",
        "config.json": json.dumps({"model_type": "llama", "auth": TOKEN}),
        "tokenizer_config.json": json.dumps({"extra": {"deep": [1, {"token": TOKEN}]}}),
        "chat_template.jinja": "{# first #}\n{{ '" + TOKEN + "' }}",
        "generation_config.json": json.dumps({TOKEN: 1}),
        "special_tokens_map.json": json.dumps({"use_auth_token": TOKEN}),
        ".eval_results/gsm8k.yaml": f"- source:\n    url: https://me:{TOKEN}@host\n",
        "tokenizer.json": json.dumps({"vocab": {f"<{TOKEN}>": 0}}),
        "LICENSE": f"A licence\n{TOKEN}".encode("utf-16"),
    }
    files = {}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        files[name] = path
    files["model.safetensors"] = write_weights(folder / "model.safetensors", {"run": f"by {TOKEN}"})
    files["sft/train.parquet"] = write_table(folder / "t.parquet", [{"id": n, "messages": chat[:n]} for n in range(3)])
    return files


def test_a_token_in_twelve_places_is_found_in_twelve_and_sent_from_none(hub, tmp_path, caplog):
    files, card = planted(tmp_path), CARD + f"\nexport HF_TOKEN={TOKEN}\n"
    before = len(hub.requests)
    with caplog.at_level(logging.DEBUG), pytest.raises(ValueError, match="^Nothing was uploaded") as error:
        check_secrets({**files, "README.md": card.encode()})
    assert str(error.value).count("a Hugging Face token") == 12
    places = ["additional_chat_templates/***.jinja' holds", "config.json, line 1 holds", "chat_template.jinja, line 2"]
    places += ["model.safetensors, the metadata holds", "sft/train.parquet, row 2 holds", "README.md, line 6 holds"]
    assert all(place in str(error.value) for place in places)
    for name, path in files.items():  # and each alone, at the door
        kind = "dataset" if name.endswith(".parquet") else "model"
        clean = {} if kind == "dataset" else write_model(tmp_path / "clean" / name.replace("/", "-"))
        repo_type = "dataset" if kind == "dataset" else "model"
        for door in (publish, describe):
            with pytest.raises(ValueError, match="Nothing was uploaded|not published") as error:
                door(publication("alice/planted", {**clean, name: path}, kind=kind, repo_type=repo_type))
            assert TOKEN not in str(error.value) and error.value.__context__ is None
    with pytest.raises(ValueError, match="README.md, line 6"):
        publish(publication("alice/planted", {}, card=card))
    with pytest.raises(ValueError, match="the name 'alice/\\*\\*\\*' holds"):
        publish(publication(f"alice/{TOKEN}", {}))
    with pytest.raises(ValueError, match="'checkpoint-\\*\\*\\*.bin', which is not published") as error:
        publish(publication("alice/planted", {f"checkpoint-{TOKEN}.bin": b""}))
    assert TOKEN not in str(error.value)
    with pytest.raises(ValueError, match="the commit's title, line 1") as error:
        publish(publication("alice/planted", {}), message=f"by {TOKEN}")
    assert TOKEN not in str(error.value)
    for texts in ((TOKEN, "", ""), ("title", TOKEN, ""), ("title", "", TOKEN)):
        with pytest.raises(ValueError, match="the collection's text") as error:
            gather(texts[0], [Item("alice/x", "model", texts[2])], namespace="alice", description=texts[1])
        assert TOKEN not in str(error.value)
    assert len(hub.requests) == before and TOKEN not in caplog.text
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("alice/planted")


def test_the_hub_is_not_asked_for_a_name_that_holds_a_token(hub, tmp_path, caplog):
    before = len(hub.requests)
    assert source_of(f"org/{TOKEN}")["name"] == "org/***" and source_of(f"/home/{TOKEN}/x")["name"] == "x"
    assert source_of("org/base", revision=TOKEN)["commit"] is None
    write_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": f"{TOKEN}.X"}}))
    select_files(tmp_path, "model")
    assert "needs ***.py" in caplog.text and TOKEN not in caplog.text and len(hub.requests) == before


def test_the_same_files_without_the_token_are_published(tmp_path):
    files = {"model.safetensors": write_weights(tmp_path / "clean.safetensors", {"run": "by me"})}
    for name, path in planted(tmp_path).items():
        if TOKEN not in name and path.suffix not in (".safetensors", ".parquet"):
            data = path.read_bytes().replace(TOKEN.encode("utf-16-le"), b"")
            files[name] = data.replace(TOKEN.encode(), b"x")
    publish(publication("alice/clean", files))
    assert {*files} < {*contents("alice/clean")} and len(files) == 9


@pytest.mark.parametrize("nth", [0, 999, 1000, 2500])
def test_the_row_is_told(tmp_path, nth):
    rows = [{"prompt": "hello", "score": 0.5, "tags": ["a"], "raw": b"b"} for _ in range(2501)]
    for column, value in (("prompt", f"see {TOKEN}"), ("tags", ["a", TOKEN]), ("raw", TOKEN.encode())):
        planted = [*rows]
        planted[nth] = {**rows[nth], column: value}
        path = write_table(tmp_path / "rows.parquet", planted)
        for content in (path, path.read_bytes()):
            with pytest.raises(
                ValueError, match=f"train.parquet, row {nth} holds a Hugging Face token. Take"
            ) as error:
                check_secrets({"sft/train.parquet": content})
            assert TOKEN not in str(error.value)
    check_secrets({"sft/train.parquet": write_table(tmp_path / "rows.parquet", rows)})


def test_of_many_rows_twenty_are_named(tmp_path):
    path = write_table(tmp_path / "rows.parquet", [{"prompt": TOKEN}] * 50)
    with pytest.raises(ValueError, match="row 19 holds .*; and perhaps more of train.parquet") as error:
        check_secrets({"train.parquet": path})
    assert "row 20" not in str(error.value)


def test_headers_are_read(tmp_path):
    with pytest.raises(ValueError, match="train.parquet, the header holds"):
        check_secrets({"train.parquet": write_table(tmp_path / "a.parquet", [{"a": "b"}], {"by": TOKEN})})
    with pytest.raises(ValueError, match="train.parquet, the header holds"):
        check_secrets({"train.parquet": write_table(tmp_path / "a.parquet", [{TOKEN: 1}])})
    text = pyarrow.field("role", pyarrow.string())
    for inner in (text.with_name(TOKEN), text.with_metadata({"note": "x" * 500 + TOKEN})):
        schema = pyarrow.schema([pyarrow.field("chosen", pyarrow.list_(pyarrow.struct([inner])))])
        pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match="train.parquet, the header holds"):
            check_secrets({"train.parquet": tmp_path / "a.parquet"})
    with pytest.raises(ValueError, match="the name of a tensor holds"):
        check_secrets({"model.safetensors": write_weights(tmp_path / "m.safetensors", None, TOKEN)})


def test_what_cannot_be_looked_through_is_refused(tmp_path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"no weights, no table")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        check_secrets({"model.safetensors": broken})
    whole = write_weights(tmp_path / "whole.safetensors", None)
    broken.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        check_secrets({"model.safetensors": broken})
    for content in (broken, b"no table"):
        with pytest.raises(ValueError, match="train.parquet is no whole Parquet file"):
            check_secrets({"train.parquet": content})
    with pytest.raises(TypeError, match="path of a file"):
        check_secrets({"model.safetensors": b""})
