# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One repository, written by one run, in one commit: over real HTTP, with the unchanged client."""

import dataclasses
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, hf_hub_download
from safetensors.numpy import save_file

from hf_cong.hub.account import full_repo_id
from hf_cong.hub.publication import MARKER, describe, preflight, publish
from tests.hub.publishing import CARD, RUN, commits, contents, publication, sent, write_model


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path)


def test_a_first_push_is_one_private_commit(hub, model):
    done = publish(publication("alice/first", model))
    found = contents("alice/first")
    marker = json.loads(found.pop(MARKER))
    assert found == {**{name: path.read_bytes() for name, path in model.items()}, "README.md": CARD.encode()}
    assert done.files == marker["files"] == {name: sha256(data).hexdigest() for name, data in found.items()}
    assert (marker["kind"], marker["run"]) == ("model", RUN)
    info = HfApi().model_info("alice/first")
    assert info.private and info.sha == done.commit and done.changed and done.url == f"{hub.url}/alice/first"
    assert commits("alice/first") == ["initial commit", f"Publish model of run {RUN}"]


def test_what_is_there_is_not_pushed_again(hub, model):
    first = publish(publication("alice/unchanged", model))
    before = len(hub.requests)
    again = [publish(publication("alice/unchanged", model)) for _ in range(3)]
    assert all(done == first._replace(changed=False) for done in again)
    assert len(commits("alice/unchanged")) == 2
    assert {verb for verb, _, _ in hub.requests[before:]} == {"GET"}


def test_what_changed_is_one_commit(hub, model):
    publish(publication("alice/changed", model))
    before = len(hub.requests)
    model["config.json"].write_text('{"model_type": "qwen2"}')
    done = publish(publication("alice/changed", model, card=CARD + "More.\n"))
    assert done.changed and len(commits("alice/changed")) == 3
    found = contents("alice/changed")
    assert found["config.json"] == b'{"model_type": "qwen2"}' and found["README.md"].endswith(b"More.\n")
    assert json.loads(found[MARKER])["files"] == done.files
    assert not sent(hub, before, "PUT")  # the weights were not sent again


def test_what_is_gone_is_deleted_and_what_others_added_stays(model):
    publish(publication("alice/gone-files", {**model, "LICENSE": b"a licence"}))
    HfApi().upload_file(path_or_fileobj=b"seen", path_in_repo="curve.png", repo_id="alice/gone-files")
    done = publish(publication("alice/gone-files", model))
    assert done.changed and {*contents("alice/gone-files")} == {*model, "README.md", MARKER, "curve.png"}
    assert len(commits("alice/gone-files")) == 4
    assert not publish(publication("alice/gone-files", model)).changed


def test_visibility_is_asked_for_once(model, caplog):
    publish(publication("alice/seen", model, private=False))
    assert not HfApi().model_info("alice/seen").private
    publish(publication("alice/seen", model))
    assert not HfApi().model_info("alice/seen").private and "alice/seen is public and stays so" in caplog.text
    publish(publication("alice/unseen", model))
    publish(publication("alice/unseen", model, private=False))
    assert HfApi().model_info("alice/unseen").private and "alice/unseen is private and stays so" in caplog.text


def test_a_dataset_has_its_own_place(hub, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = {}
    for config in ("sft", "preferences"):
        for split in ("train", "eval"):
            path = tmp_path / "größe и 大小" / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict({"prompt": [f"{config} {split} ü"] * 3}).to_parquet(path)
            files[f"{config}/{path.name}"] = path
    files["données/日本語 1.parquet"] = files["sft/train-00000-of-00001.parquet"].read_bytes()
    card = (
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {config}\n  data_files:\n"
            + "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in ("train", "eval"))
            for config in ("sft", "preferences")
        )
        + "---\n"
    )
    done = publish(publication("alice/data", files, repo_type="dataset", kind="dataset", card=card))
    assert done.url == f"{hub.url}/datasets/alice/data"
    assert {*contents("alice/data", "dataset")} == {*files, "README.md", MARKER}
    assert not publish(publication("alice/data", files, repo_type="dataset", kind="dataset", card=card)).changed
    loaded = datasets.load_dataset("alice/data", "preferences", revision=done.commit)
    assert loaded["eval"][0] == {"prompt": "preferences eval ü"}


def test_large_files_come_back_as_they_were(tmp_path):
    generator = np.random.default_rng(0)
    for number in (1, 2):
        weights = generator.standard_normal((1024, 3072)).astype(np.float32)  # 12 MiB
        save_file({f"layer{number}": weights}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    (tmp_path / "tokenizer.json").write_text(json.dumps({str(number): "ü" for number in range(800_000)}))  # in LFS too
    files = {path.name: path for path in tmp_path.iterdir()}
    done = publish(publication("alice/large", files))
    for name, path in files.items():
        back = Path(hf_hub_download("alice/large", name, revision=done.commit)).read_bytes()
        assert back == path.read_bytes() and done.files[name] == sha256(back).hexdigest()
    assert not publish(publication("alice/large", files)).changed


def test_an_organisation_and_a_bare_name(hub, model):
    assert full_repo_id("a-bare-name") == "alice/a-bare-name" and full_repo_id("org/bare") == "org/bare"
    preflight("org/of-ours", repo_type="model", run=RUN)
    publish(publication("org/of-ours", model))
    preflight("org/of-ours", repo_type="model", run=RUN)
    publish(publication("a-bare-name", model))
    assert HfApi().model_info("alice/a-bare-name").private and HfApi().model_info("org/of-ours").private


def test_a_read_only_folder_is_published(model, tmp_path):
    for path in model.values():
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert publish(publication("alice/read-only-folder", model)).changed
    finally:
        tmp_path.chmod(0o755)


def test_a_dry_run_asks_nobody_and_shows_all(hub, model):
    before = len(hub.requests)
    described = describe(publication("alice/dry", model, left=("training_args.bin", "checkpoint-5/")))
    assert len(hub.requests) == before
    lines = described.splitlines()
    assert lines[0] == f"alice/dry: private model (model of run {RUN})"
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines[1:5]}
    assert listed == {**{name: path.stat().st_size for name, path in model.items()}, "README.md": len(CARD)}
    assert "     stays here  training_args.bin: loading it can run code" in lines
    assert "     stays here  checkpoint-5/: for a restart" in lines and described.endswith(CARD)
    assert "public" in describe(publication("alice/dry", model, private=False)).splitlines()[0]
    publish(publication("alice/dry", model))
    assert {*listed, MARKER} == {*contents("alice/dry")}  # it said what came


def test_a_publication_cannot_be_changed_afterwards(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        publication("alice/frozen", model).private = False
