# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A repository of the Hub as it is at a commit: its files, what they hash to, and which run wrote them."""

import json
from hashlib import sha1, sha256
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_url
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from .. import __version__
from .account import check_may_create, require_token

MARKER = "hf_cong.json"


class Repository(NamedTuple):
    """
    What the Hub says of a repository.

    Attributes:
        repo_id (`str`): Its name.
        repo_type (`str`): `"model"` or `"dataset"`.
        commit (`str`): The commit it is seen at.
        private (`bool`): Whether only its namespace sees it.
        files (`dict[str, RepoSibling]`): Its files by path.
        run (`str` or `None`): The run that wrote it, if hf_cong did.
        known (`dict[str, str]`): What that run wrote last, with its sha256.
        kind (`str` or `None`): What that is: see [`Publication`].
    """

    repo_id: str
    repo_type: str
    commit: str
    private: bool
    files: dict[str, RepoSibling]
    run: str | None = None
    known: dict[str, str] = {}  # noqa: RUF012 - never written to
    kind: str | None = None

    @property
    def url(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        return f"{HfApi().endpoint}/{prefix}{self.repo_id}"

    def at(self, commit: str) -> "Repository":
        """The same repository at another commit."""
        info = HfApi().repo_info(self.repo_id, repo_type=self.repo_type, revision=commit, files_metadata=True)
        return self._replace(commit=info.sha, files={file.rfilename: file for file in info.siblings})

    def content(self, path: str) -> bytes:
        """What the Hub sends for a file, past every cache."""
        url = hf_hub_url(self.repo_id, path, repo_type=self.repo_type, revision=self.commit)
        response = http_backoff("GET", url, headers=build_hf_headers())
        hf_raise_for_status(response)
        return response.content

    def sha256(self, path: str) -> str:
        """Of a large file what the Hub says, which has checked it; of another what it sends."""
        lfs = self.files[path].lfs
        return sha256(self.content(path)).hexdigest() if lfs is None else lfs.sha256

    def holds(self, path: str, addition: CommitOperationAdd) -> bool:
        """Whether a file is there as it is here, as far as the list of files says."""
        file = self.files.get(path)
        if file is None or file.size != addition.upload_info.size:
            return False
        if file.lfs is not None:
            return file.lfs.sha256 == addition.upload_info.sha256.hex()
        with addition.as_file() as local:
            return file.blob_id == sha1(b"blob %d\0" % file.size + local.read()).hexdigest()  # noqa: S324 - git's own


def find_repository(repo_id: str, repo_type: str) -> Repository | None:
    """
    The repository, or `None` where none is and whoever is logged in may make one.

    Raises:
        PermissionError: if nobody is logged in, or they may not make it.
        HfHubHTTPError: if they may not write to it, or the Hub fails; see [`explained`].
    """
    require_token()
    try:
        info = HfApi().repo_info(repo_id, repo_type=repo_type, files_metadata=True)
    except RepositoryNotFoundError:
        check_may_create(repo_id)
        return None
    HfApi().auth_check(repo_id, repo_type=repo_type, write=True)
    files = {file.rfilename: file for file in info.siblings}
    found = Repository(repo_id, repo_type, info.sha, info.private, files)
    marker = _parse_marker(found.content(MARKER)) if MARKER in files else {}
    return found._replace(run=marker.get("run"), known=marker.get("files", {}), kind=marker.get("kind"))


def marker_file(kind: str, run: str, files: dict[str, str]) -> CommitOperationAdd:
    """The marker, to be committed: which run wrote the repository, and the sha256 of what it wrote."""
    marker = {"kind": kind, "run": run, "files": files, "version": __version__}
    return CommitOperationAdd(MARKER, (json.dumps(marker, indent=2, sort_keys=True) + "\n").encode())


def _parse_marker(content: bytes) -> dict:
    """The marker, `{}` if it is none of ours."""
    try:
        marker = json.loads(content)
    except ValueError:
        return {}
    ours = isinstance(marker, dict) and isinstance(marker.get("run"), str) and isinstance(marker.get("files"), dict)
    return marker if ours else {}
