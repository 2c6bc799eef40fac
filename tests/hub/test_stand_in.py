# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The stand-in answers the unchanged client of the Hub as the Hub does."""

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    HfFileSystem,
    ModelCard,
    ModelCardData,
    get_collection,
    hf_hub_download,
    metadata_update,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.git import File
from tests.hub.wire import Account


@pytest.fixture
def api(hub):
    return HfApi()


def refused(status: int):
    return pytest.raises(HfHubHTTPError, check=lambda error: error.response.status_code == status)


def files_of(folder: str | Path) -> dict[str, bytes]:
    folder = Path(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_byte_by_byte(api, tmp_path):
    contents = {"a.txt": b"text\n", "sub/deep/b.bin": bytes(range(256)), "empty": b"", "ü ?#%.json": b"{}"}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    api.create_repo("alice/folder")
    api.upload_folder(repo_id="alice/folder", folder_path=tmp_path)
    found = files_of(snapshot_download("alice/folder"))
    assert found.pop(".gitattributes") and found == contents
    entries = {entry.path: entry for entry in api.list_repo_tree("alice/folder", recursive=True)}
    assert {"sub", "sub/deep"} == {*entries} - {*contents, ".gitattributes"}
    assert entries["sub/deep/b.bin"].lfs.size == 256 and entries["a.txt"].lfs is None
    assert [entry.path for entry in api.list_repo_tree("alice/folder", "sub")] == ["sub/deep"]
    assert {entry.path for entry in api.get_paths_info("alice/folder", ["a.txt", "sub", "none"])} == {"a.txt", "sub"}
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("alice/folder", "none.txt")


def test_hashes_are_those_of_git():
    assert File(b"", lfs=False).oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null
    assert File.of("x.safetensors", b"weights").etag != File(b"weights", lfs=False).etag


def test_what_is_there_is_not_sent_again(hub, api):
    api.create_repo("alice/again")
    additions = lambda: [CommitOperationAdd("w.safetensors", b"once"), CommitOperationAdd("t.txt", b"one")]  # noqa: E731
    first = api.create_commit("alice/again", additions(), commit_message="first")
    before = len(hub.requests)
    second = api.create_commit("alice/again", additions(), commit_message="second")
    assert second.oid == first.oid
    assert not any(method == "PUT" for method, _, _ in hub.requests[before:])
    third = api.upload_file(path_or_fileobj=b"twice", path_in_repo="w.safetensors", repo_id="alice/again")
    assert third.oid != first.oid and hub.requests[-3][0] == "PUT"
    assert [commit.title for commit in api.list_repo_commits("alice/again")][1:] == ["first", "initial commit"]


def test_files_are_copied_and_deleted(api):
    api.create_repo("alice/moved")
    names = ("x/1.txt", "x/2.safetensors", "y.txt")
    api.create_commit("alice/moved", [CommitOperationAdd(name, name.encode()) for name in names], commit_message="add")
    copies = [CommitOperationCopy("x/1.txt", "z/1.txt"), CommitOperationCopy("x/2.safetensors", "z/2.safetensors")]
    api.create_commit("alice/moved", copies, commit_message="copy")
    operations = [CommitOperationDelete("x/", is_folder=True), CommitOperationDelete("y.txt")]
    api.create_commit("alice/moved", operations, commit_message="delete")
    assert sorted(api.list_repo_files("alice/moved")) == [".gitattributes", "z/1.txt", "z/2.safetensors"]
    assert Path(hf_hub_download("alice/moved", "z/2.safetensors")).read_bytes() == b"x/2.safetensors"
    with pytest.raises(EntryNotFoundError):
        api.delete_file("y.txt", "alice/moved")


def test_branches_and_tags(api):
    api.create_repo("alice/refs")
    upload = lambda text, **where: api.upload_file(  # noqa: E731
        path_or_fileobj=text, path_in_repo="a.txt", repo_id="alice/refs", **where
    )
    first = upload(b"one")
    api.create_tag("alice/refs", tag="v1", tag_message="the first")
    api.create_branch("alice/refs", branch="try/out", revision="v1")
    with refused(409):
        api.create_branch("alice/refs", branch="try/out")
    api.create_tag("alice/refs", tag="v1", exist_ok=True)
    upload(b"two")
    upload(b"three", revision="try/out")
    read = lambda revision: Path(hf_hub_download("alice/refs", "a.txt", revision=revision)).read_bytes()  # noqa: E731
    assert [read(name) for name in ("v1", first.oid, "main", "try/out")] == [b"one", b"one", b"two", b"three"]
    refs = api.list_repo_refs("alice/refs")
    assert {ref.name for ref in refs.branches} == {"main", "try/out"} and refs.tags[0].target_commit == first.oid
    api.delete_branch("alice/refs", branch="try/out")
    api.delete_tag("alice/refs", tag="v1")
    for gone in ("try/out", "v1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("alice/refs", revision=gone)
    with refused(403):
        api.delete_branch("alice/refs", branch="main")
    with pytest.raises(RevisionNotFoundError):
        upload(b"four", revision="nowhere")


def test_a_commit_on_an_old_parent_is_refused(api):
    api.create_repo("alice/race")
    head = api.model_info("alice/race").sha
    upload = lambda text: api.upload_file(  # noqa: E731
        path_or_fileobj=text, path_in_repo="a.txt", repo_id="alice/race", parent_commit=head
    )
    upload(b"first")
    with refused(412):
        upload(b"second")
    assert Path(hf_hub_download("alice/race", "a.txt")).read_bytes() == b"first"


def test_what_a_token_may_do(hub, api):
    api.create_repo("alice/mine")
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    for token, status in ((hub.read_token, 403), ("unknown", 401), (False, 401), (hub.other_token, 403)):
        stranger = HfApi(token=token)
        with refused(status):
            stranger.create_repo("alice/yours")
        with refused(status):
            stranger.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="alice/mine")
        with refused(status):
            stranger.auth_check("alice/mine", write=True)
        with refused(status):
            stranger.delete_repo("alice/mine")
    HfApi(token=hub.other_token).create_repo("bob/his")
    api.create_repo("org/ours")  # alice is a member
    with refused(409):
        api.create_repo("alice/mine")
    assert api.create_repo("alice/mine", exist_ok=True).repo_id == "alice/mine"
    # A trap of the client: it reports success where it cannot write.
    assert HfApi(token=hub.read_token).create_repo("alice/mine", exist_ok=True).repo_id == "alice/mine"


def test_a_token_for_some_namespaces(hub):
    hub.accounts["for-org"] = Account("alice", "fineGrained", ("org",))
    api = HfApi(token="for-org")
    token = api.whoami()["auth"]["accessToken"]
    assert token["role"] == "fineGrained" and token["fineGrained"]["scoped"][0]["entity"]["name"] == "org"
    api.create_repo("org/some-namespaces")
    with refused(403):
        api.create_repo("alice/some-namespaces")


def test_a_private_repository_is_not_there_for_others(hub, api):
    api.create_repo("alice/secret", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="alice/secret")
    assert HfApi(token=hub.read_token).model_info("alice/secret").private
    for token in (hub.other_token, False):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).model_info("alice/secret")
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("alice/secret", "x", token=token)
        assert "alice/secret" not in {model.id for model in HfApi(token=token).list_models(author="alice")}
    assert "alice/secret" in {model.id for model in api.list_models(author="alice")}
    api.update_repo_settings("alice/secret", private=False)
    assert Path(hf_hub_download("alice/secret", "x", token=False)).read_bytes() == b"x"


def test_a_gated_repository_shows_itself_and_not_its_files(hub, api):
    api.create_repo("alice/gated")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="alice/gated")
    api.update_repo_settings("alice/gated", gated="manual")
    for token in (hub.other_token, False):
        assert HfApi(token=token).model_info("alice/gated").gated == "manual"
        with pytest.raises(GatedRepoError):
            hf_hub_download("alice/gated", "x", token=token)
        with pytest.raises(GatedRepoError):
            HfApi(token=token).auth_check("alice/gated")
    api.grant_access("alice/gated", "bob")
    assert Path(hf_hub_download("alice/gated", "x", token=hub.other_token)).read_bytes() == b"x"


def test_a_deleted_repository_is_gone(api):
    api.create_repo("alice/gone", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("alice/gone")  # the kinds do not mix
    api.delete_repo("alice/gone", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.dataset_info("alice/gone")
    api.delete_repo("alice/gone", repo_type="dataset", missing_ok=True)


def test_a_part_of_a_file_is_read(api):
    api.create_repo("alice/parts", repo_type="dataset")
    content = bytes(range(256)) * 40
    api.upload_file(path_or_fileobj=content, path_in_repo="x.bin", repo_id="alice/parts", repo_type="dataset")
    with HfFileSystem().open("datasets/alice/parts/x.bin", block_size=64) as file:
        file.seek(1000)
        assert file.read(10) == content[1000:1010]


def test_a_failure_on_the_way_is_tried_again(hub, api, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    api.create_repo("alice/flaky")
    statuses = iter([503, 500])
    monkeypatch.setattr(hub, "misbehave", lambda method, address: next(statuses, None) if method == "PUT" else None)
    api.upload_file(path_or_fileobj=b"weights", path_in_repo="w.safetensors", repo_id="alice/flaky")
    assert [status for method, _, status in hub.requests if method == "PUT"][-3:] == [503, 500, 200]
    assert Path(hf_hub_download("alice/flaky", "w.safetensors")).read_bytes() == b"weights"


def test_what_the_stand_in_does_not_know_it_says(api):
    with refused(501):
        list(api.list_repo_likers("alice/x"))


def test_cards(api):
    api.create_repo("alice/card")
    data = ModelCardData(license="apache-2.0", tags=["a-card"], base_model="org/strong", library_name="transformers")
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n# A card\n")
    card.validate()
    card.push_to_hub("alice/card")
    assert ModelCard.load("alice/card").data.base_model == "org/strong"
    info = api.model_info("alice/card")
    assert {"a-card", "transformers", "license:apache-2.0", "base_model:org/strong"} <= {*info.tags}
    assert [model.id for model in api.list_models(filter=["a-card"], author="alice")] == ["alice/card"]
    metadata_update("alice/card", {"tags": ["a-card", "more"]}, overwrite=True)
    assert "more" in api.model_info("alice/card").tags
    wrong = {
        "base_model: ./weak\n": "base_model",  # what trainers write of a local directory
        "license: my-own\n": "license",
        "tags: cong\n": "tags",
        "model-index:\n- name: x\n  results:\n  - task: {type: text-generation}\n": "dataset.name",
        "a: [\n": "YAML",
        "- list\n": "mapping",
    }
    for metadata, reason in wrong.items():
        with pytest.raises(ValueError, match=reason):
            api._validate_yaml(f"---\n{metadata}---\n")
    with pytest.warns(UserWarning, match="license"):
        api._validate_yaml("---\ntags: [cong]\n---\n")


def test_collections(hub, api):
    for name in ("first", "second"):
        api.create_repo(f"alice/in-{name}", exist_ok=True)
    made = api.create_collection("Weak to strong", description="pairs")
    assert api.create_collection("Weak to strong", exists_ok=True).slug == made.slug
    for name in ("first", "second", "first"):
        api.add_collection_item(made.slug, f"alice/in-{name}", "model", note=name, exists_ok=True)
    api.add_collection_item(made.slug, "2510.07884", "paper")
    with pytest.raises(RepositoryNotFoundError):
        api.add_collection_item(made.slug, "alice/in-none", "model")
    items = get_collection(made.slug).items
    assert [(item.item_id, item.note) for item in items] == [
        ("alice/in-first", "first"),
        ("alice/in-second", "second"),
        ("2510.07884", None),
    ]
    api.update_collection_item(made.slug, items[1].item_object_id, note="best", position=0)
    api.delete_collection_item(made.slug, items[0].item_object_id)
    assert [item.item_id for item in get_collection(made.slug).items] == ["alice/in-second", "2510.07884"]
    api.update_collection_metadata(made.slug, private=True, title="Pairs", description="x" * 150)
    with refused(400):
        api.update_collection_metadata(made.slug, description="x" * 151)
    with refused(400):
        api.add_collection_item(made.slug, "alice/in-first", "model", note="x" * 501)
    assert "Pairs" in [collection.title for collection in api.list_collections(owner="alice")]
    stranger = HfApi(token=hub.other_token)
    with refused(404):
        stranger.get_collection(made.slug)
    api.delete_collection(made.slug)
    with refused(404):
        api.get_collection(made.slug)


def test_the_command_line_client(hub, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    hf = str(Path(sys.executable).parent / "hf")
    run = lambda *command: subprocess.run([hf, *command], capture_output=True, text=True, check=True).stdout  # noqa: E731
    assert "alice" in run("auth", "whoami")
    run("upload", "alice/by-command", str(tmp_path), ".", "--repo-type", "dataset", "--private")
    assert HfApi().dataset_info("alice/by-command").private
    run("download", "alice/by-command", "--repo-type", "dataset", "--local-dir", str(tmp_path / "back"))
    assert (tmp_path / "back" / "a.txt").read_text() == "text"


def test_a_card_of_a_dataset_is_its_own_kind(api):
    api.create_repo("alice/card", repo_type="dataset")
    DatasetCard("---\nlicense: mit\nsize_categories: [n<1K]\n---\n").push_to_hub("alice/card")
    assert api.dataset_info("alice/card").card_data.license == "mit"
