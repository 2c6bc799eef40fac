# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One repository of the Hub, written by one run: checked before the work, in one commit, and read again after it.

Every repository holds `hf_cong.json`, which says which run wrote it and the sha256 of every file. By it a push knows
what it may overwrite or delete, and what somebody else has changed since. Retries are those of huggingface_hub; after
a failure the same command finishes.
"""

import json
import logging
from dataclasses import dataclass
from hashlib import sha1, sha256
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_url
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

from .. import __version__
from .account import check_may_create, explained, full_repo_id, require_token
from .files import check_path
from .secrets import check_secrets

logger = logging.getLogger(__name__)

CARD, MARKER = "README.md", "hf_cong.json"
_HUBS_OWN = ".gitattributes"


@dataclass(frozen=True)
class Publication:
    """
    What a repository is to hold.

    Args:
        repo_id (`str`):
            `"namespace/name"`; a bare name is of the user who is logged in.
        repo_type (`str`):
            `"model"` or `"dataset"`.
        kind (`str`):
            `"model"`, `"adapter"`, `"pair"`, `"dataset"` or `"decoding"`.
        run (`str`):
            Names the run that made it. The same run may write again, another is refused.
        files (`dict[str, Path | bytes]`):
            A local file, or its content, by its path in the repository; without the card.
        card (`str`):
            The whole `README.md`.
        private (`bool`, *optional*, defaults to `True`):
            Whether a new repository is seen by its namespace only. One that exists stays as it is.
        left (`tuple[str, ...]`, *optional*, defaults to `()`):
            Names of files that are not published, for [`describe`].
    """

    repo_id: str
    repo_type: str
    kind: str
    run: str
    files: dict[str, Path | bytes]
    card: str
    private: bool = True
    left: tuple[str, ...] = ()


class Published(NamedTuple):
    """Where a publication is: its page, its commit, whether that is new, the sha256 of every file, and who sees it."""

    url: str
    commit: str
    changed: bool
    files: dict[str, str]
    private: bool


def preflight(repo_id: str, *, repo_type: str, run: str | None, replace: bool = False) -> None:
    """
    Finds out before long work whether its result can be published: who is logged in may write, and the name is free or
    holds what the same run wrote.

    Args:
        repo_id (`str`):
            The repository.
        repo_type (`str`):
            `"model"` or `"dataset"`.
        run (`str` or `None`):
            Names the run; `None` before that is known, when a repository of any run passes.
        replace (`bool`, *optional*, defaults to `False`):
            Whether a repository of something else may be written over.

    Raises:
        PermissionError: if nobody is logged in, the token is not valid or may only read, or the namespace is somebody
            else's.
        ValueError: if the repository holds something else.
        ConnectionError: if the Hub cannot be reached, is busy or fails.
    """
    repo_id = full_repo_id(repo_id)
    with explained(repo_id):
        _inspect(repo_id, repo_type, run, replace)


def publish(publication: Publication, *, replace: bool = False, message: str | None = None) -> Published:
    """
    Makes the repository hold the publication: one commit, or none if it does already.

    Files that the run published before and that are gone now are deleted in the same commit; what others added stays.
    Afterwards the Hub is asked for every file's sha256.

    Args:
        publication ([`Publication`]):
            What to publish.
        replace (`bool`, *optional*, defaults to `False`):
            Whether files that were changed on the Hub may be overwritten, and a repository of another run or of
            something else may be emptied for this one. The history of the repository keeps them.
        message (`str`, *optional*):
            Title of the commit. By default the kind and the run.

    Returns:
        [`Published`]: where it is.

    Raises:
        PermissionError, ConnectionError: as in [`preflight`].
        ValueError: if something must not be published (see [`check_path`] and [`check_secrets`]), or the repository
            holds what this run did not write.
        RuntimeError: if somebody else changes the repository meanwhile, or it does not hold what was sent.
    """
    additions = _additions(publication)
    hashes = {path: addition.upload_info.sha256.hex() for path, addition in additions.items()}
    repo_id = full_repo_id(publication.repo_id)
    with explained(repo_id):
        state = _inspect(repo_id, publication.repo_type, publication.run, replace)
        if state is None:
            HfApi().create_repo(repo_id, repo_type=publication.repo_type, private=publication.private, exist_ok=True)
            state = _inspect(repo_id, publication.repo_type, publication.run, replace)
        elif state.private != publication.private:
            logger.warning("%s is %s and stays so.", repo_id, "private" if state.private else "public")
        commit = _commit(publication, additions, hashes, state, replace, message)
        _verify(state, commit, hashes)
    return Published(state.url, commit, commit != state.commit, hashes, state.private)


def describe(publication: Publication) -> str:
    """What [`publish`] would write, in words: visibility, files with sizes, what stays, the card. Asks nobody."""
    additions = _additions(publication)
    visibility = "private" if publication.private else "public"
    lines = [
        f"{publication.repo_id}: {visibility} {publication.repo_type} ({publication.kind} of run {publication.run})",
        *(f"{addition.upload_info.size:>15,}  {path}" for path, addition in sorted(additions.items())),
        f"{sum(addition.upload_info.size for addition in additions.values()):>15,}  bytes, and {MARKER}",
        *(["Not published: " + ", ".join(publication.left)] if publication.left else []),
        f"{CARD}:",
        publication.card,
    ]
    return "\n".join(lines)


class _State(NamedTuple):
    """A repository as it is at a commit."""

    repo_id: str
    repo_type: str
    commit: str
    private: bool
    files: dict[str, RepoSibling]
    run: str | None
    known: dict[str, str]  # what the run wrote last, with its sha256

    @property
    def url(self) -> str:
        prefix = "datasets/" if self.repo_type == "dataset" else ""
        return f"{HfApi().endpoint}/{prefix}{self.repo_id}"

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


def _additions(publication: Publication) -> dict[str, CommitOperationAdd]:
    """Every file to be, once all are found fit to leave this machine."""
    for path in publication.files:
        check_path(path, publication.kind)
    files = {**publication.files, CARD: publication.card.encode()}
    check_secrets({publication.repo_id: b"", **files})
    return {
        path: CommitOperationAdd(path, content if isinstance(content, bytes) else content.resolve(strict=True))
        for path, content in files.items()
    }


def _inspect(repo_id: str, repo_type: str, run: str | None, replace: bool) -> _State | None:
    """The state of the repository, `None` if there is none, once it is clear that this run may write it."""
    require_token()
    try:
        info = HfApi().repo_info(repo_id, repo_type=repo_type, files_metadata=True)
    except RepositoryNotFoundError:
        check_may_create(repo_id)
        return None
    HfApi().auth_check(repo_id, repo_type=repo_type, write=True)
    files = {file.rfilename: file for file in info.siblings}
    state = _State(repo_id, repo_type, info.sha, info.private, files, None, {})
    marker = _parse_marker(state.content(MARKER)) if MARKER in files else {}
    state = state._replace(run=marker.get("run"), known=marker.get("files", {}))
    others = sorted(path for path in files if path != _HUBS_OWN)
    same = bool(marker) if run is None else state.run == run
    this = "a new run" if run is None else f"the run {run!r}"
    if others and not same and not replace:
        owner = f"belongs to the run {state.run!r:.80}"
        if not marker:
            owner = f"has files of its own, such as {others[0]!r:.80}"
        raise ValueError(
            f"The {repo_type} {repo_id} {owner}; this is {this}. Choose another `repo_id`, or pass `replace` "
            "to have this run's files instead of all that is there; the history keeps it."
        )
    return state


def _parse_marker(content: bytes) -> dict:
    """The marker, `{}` if it is none of ours."""
    try:
        marker = json.loads(content)
    except ValueError:
        return {}
    ours = isinstance(marker, dict) and isinstance(marker.get("run"), str) and isinstance(marker.get("files"), dict)
    return marker if ours else {}


def _commit(
    publication: Publication,
    additions: dict[str, CommitOperationAdd],
    hashes: dict[str, str],
    state: _State,
    replace: bool,
    message: str | None,
) -> str:
    """Commits what differs, if anything does; the commit that holds the publication."""
    changed = [path for path, addition in additions.items() if not state.holds(path, addition)]
    if state.run == publication.run:
        gone = [path for path in state.known if path in state.files and path not in additions]
    else:  # another's, to be replaced: what stayed of it could be taken for a part of this
        gone = [path for path in state.files if path not in (*additions, MARKER, _HUBS_OWN)]
    if not (changed or gone or hashes != state.known):
        return state.commit
    if not replace:
        _refuse_edited(state, [path for path in [*changed, *gone] if path in state.files])
    marker = {"kind": publication.kind, "run": publication.run, "files": hashes, "version": __version__}
    operations = [
        *(additions[path] for path in changed),
        CommitOperationAdd(MARKER, (json.dumps(marker, indent=2, sort_keys=True) + "\n").encode()),
        *map(CommitOperationDelete, gone),
    ]
    made = HfApi().create_commit(
        state.repo_id,
        operations,
        commit_message=message or f"Publish {publication.kind} of run {publication.run}",
        repo_type=state.repo_type,
        parent_commit=state.commit,
    )
    return made.oid


def _refuse_edited(state: _State, paths: list[str]) -> None:
    """What would be overwritten or deleted must be what the run wrote last."""
    edited = [path for path in paths if state.sha256(path) != state.known.get(path)]
    if edited:
        raise ValueError(
            f"Changed on the Hub since the last push to {state.repo_id}: {', '.join(edited)}. Nothing was "
            "overwritten. Bring the changes into what you publish, or pass `replace`; the history keeps them."
        )


def _verify(state: _State, commit: str, hashes: dict[str, str]) -> None:
    info = HfApi().repo_info(state.repo_id, repo_type=state.repo_type, revision=commit, files_metadata=True)
    now = state._replace(commit=commit, files={file.rfilename: file for file in info.siblings})
    wrong = [path for path, expected in hashes.items() if path not in now.files or now.sha256(path) != expected]
    if wrong:
        raise RuntimeError(
            f"{state.repo_id} does not hold what was sent to it (commit {commit}): {', '.join(wrong)}. Do not use "
            "that commit. Repeat the command with `replace`."
        )
