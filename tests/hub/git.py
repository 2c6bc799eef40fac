# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Repositories of the stand-in Hub, in memory: files, commits, branches and tags, with the hashes that git gives."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from functools import cached_property

_LFS_SUFFIXES = (".arrow", ".bin", ".gz", ".jpg", ".npz", ".parquet", ".pdf", ".png", ".pt", ".safetensors", ".zip")
_LFS_SIZE = 10 * 2**20  # larger files are never kept in git itself
_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS_SUFFIXES)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub keeps a file outside git."""
    return path.endswith(_LFS_SUFFIXES) or size > _LFS_SIZE or b"\0" in sample


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @classmethod
    def of(cls, path: str, content: bytes) -> "File":
        return cls(content, is_lfs(path, len(content), content[:512]))

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git itself keeps of a file in LFS."""
        version = "https://git-lfs.github.com/spec/v1"
        return f"version {version}\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The hash of git's blob."""
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()  # noqa: S324 - git's own

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: "Commit | None"
    files: dict[str, File]
    title: str
    message: str
    author: str
    date: str = field(default_factory=now)

    def history(self) -> list["Commit"]:
        """This commit and those before it, the latest first."""
        commit, found = self, []
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found

    def folders(self) -> set[str]:
        parts = [path.split("/")[:-1] for path in self.files]
        return {"/".join(names[: depth + 1]) for names in parts for depth in range(len(names))}


class Repository:
    """
    One repository.

    Args:
        kind (`str`): `"models"`, `"datasets"` or `"spaces"`, as in the addresses of the Hub's API.
        repo_id (`str`): Namespace and name.
        author (`str`): Who made it.
        private (`bool`, *optional*, defaults to `False`): Whether only its namespace sees it.
    """

    def __init__(self, kind: str, repo_id: str, author: str, private: bool = False):
        self.kind, self.id, self.private = kind, repo_id, private
        self.gated, self.granted = False, set()  # False, "auto" or "manual"; users let in
        self.created = now()
        self.branches: dict[str, Commit] = {}
        self.tags: dict[str, Commit] = {}
        self.commits: dict[str, Commit] = {}
        attributes = {".gitattributes": File(_ATTRIBUTES.encode(), lfs=False)}
        self.commit("main", attributes, title="initial commit", author=author)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def path(self) -> str:
        """Where its pages are: a model has no prefix."""
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or a full hash."""
        return self.branches.get(revision) or self.tags.get(revision) or self.commits.get(revision)

    def commit(
        self, branch: str, added: dict[str, File], removed=(), *, title: str, message: str = "", author: str
    ) -> Commit:
        parent = self.branches.get(branch)
        files = {} if parent is None else {path: file for path, file in parent.files.items() if path not in removed}
        files |= added
        listed = sorted((path, file.oid) for path, file in files.items())
        content = [self.kind, self.id, len(self.commits), title, listed]
        sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()  # noqa: S324 - as long as git's
        commit = Commit(sha, parent, files, title, message, author)
        self.commits[sha] = self.branches[branch] = commit
        return commit
