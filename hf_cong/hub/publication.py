# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One repository of the Hub, written by one run: checked before the work, in one commit, and read again after it.

Every repository holds `hf_cong.json`, which says which run wrote it and the sha256 of every file. By it a push knows
what it may overwrite or delete, and what somebody else has changed since. Retries are those of huggingface_hub; after
a failure the same command finishes.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..cards import keep_results
from .account import explained, full_repo_id
from .files import check_clashes, check_path, why_it_stays
from .repository import MARKER, Repository, find_repository, marker_file
from .secrets import check_secrets, redact

logger = logging.getLogger(__name__)

CARD = "README.md"
_HUBS_OWN = ".gitattributes"
_LEADERBOARDS = ".eval_results/"


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
        _find(repo_id, repo_type, run, replace)


def publish(publication: Publication, *, replace: bool = False, message: str | None = None) -> Published:
    """
    Makes the repository hold the publication: one commit, or none if it does already.

    Files that the run published before and that are gone now are deleted in the same commit. What others added stays,
    and so does a card that they edited, unless this one is new too: then nothing is overwritten. Results that were
    published of the same weights stay in a new card. Afterwards the Hub is asked for every file's sha256.

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
    message = message or f"Publish {publication.kind} of run {publication.run}"
    check_secrets({"the commit's title": message.encode()})
    repo_id, repo_type = full_repo_id(publication.repo_id), publication.repo_type
    with explained(repo_id):
        there = _find(repo_id, repo_type, publication.run, replace)
        if there is None:
            HfApi().create_repo(repo_id, repo_type=repo_type, private=publication.private, exist_ok=True)
            there = _find(repo_id, repo_type, publication.run, replace)
            if there is None:
                raise RuntimeError(f"The Hub made {repo_id} and does not show it yet. Repeat the same command.")
        elif there.private != publication.private:
            logger.warning("%s is %s and stays so.", repo_id, "private" if there.private else "public")
        commit, hashes = _commit(publication, additions, there, replace, message)
        _verify(there.at(commit), hashes)
    return Published(there.url, commit, commit != there.commit, hashes, there.private)


def describe(publication: Publication) -> str:
    """What [`publish`] would write, in words: visibility, files with sizes, what stays, the card. Asks nobody."""
    additions = _additions(publication)
    visibility = "private" if publication.private else "public"
    lines = [
        f"{publication.repo_id}: {visibility} {publication.repo_type} ({publication.kind} of run {publication.run})",
        *(f"{addition.upload_info.size:>15,}  {path}" for path, addition in sorted(additions.items())),
        f"{sum(addition.upload_info.size for addition in additions.values()):>15,}  bytes, and {MARKER}",
        *(f"     stays here  {_shown(path)}: {why_it_stays(path)}" for path in publication.left),
        f"{CARD}:",
        publication.card,
    ]
    return "\n".join(lines)


def _shown(path: str) -> str:
    """A name that anyone may have given, without what a terminal would obey and without tokens."""
    return redact(path if path.isprintable() else repr(path))


def _additions(publication: Publication) -> dict[str, CommitOperationAdd]:
    """Every file to be, once all are found fit to leave this machine."""
    for path in publication.files:
        check_path(path, publication.kind)
    files = {**publication.files, CARD: publication.card.encode()}
    check_clashes([*files, MARKER])
    check_secrets({publication.repo_id: b"", **files})
    return {
        path: CommitOperationAdd(path, content if isinstance(content, bytes) else content.resolve(strict=True))
        for path, content in files.items()
    }


def _find(repo_id: str, repo_type: str, run: str | None, replace: bool) -> Repository | None:
    """The repository, `None` if there is none, once it is clear that this run may write it."""
    found = find_repository(repo_id, repo_type)
    others = [] if found is None else sorted(path for path in found.files if path != _HUBS_OWN)
    if not others or replace or (found.run is not None and run in (None, found.run)):
        return found
    owner = f"belongs to the run {found.run!r:.80}"
    if found.run is None:
        owner = f"has files of its own, such as {others[0]!r:.80}"
    raise ValueError(
        f"The {repo_type} {repo_id} {owner}; this is {'a new run' if run is None else f'the run {run!r}'}. Choose "
        "another `repo_id`, of a trainer its `hub_model_id`. Or pass `replace`, which `hf-cong publish` takes, to "
        "have this run's files instead of all that is there; the history keeps it."
    )


def _commit(
    publication: Publication, additions: dict[str, CommitOperationAdd], there: Repository, replace: bool, message: str
) -> tuple[str, dict[str, str]]:
    """Commits what differs, if anything does; the commit that holds the publication, and the sha256 of its files."""
    written = _sha256(additions[CARD])  # without the results that are there
    changed = [path for path, addition in additions.items() if not there.holds(path, addition)]
    additions, measured = _with_results(publication, additions, there, changed, replace)
    if there.holds(CARD, additions[CARD]):
        changed = [path for path in changed if path != CARD]
    hashes = {path: _sha256(addition) for path, addition in additions.items()}
    hashes |= {path: there.known[path] for path in measured}
    if there.run == publication.run:
        gone = [path for path in there.known if path in there.files and path not in hashes]
    else:  # another's, to be replaced: what stayed of it could be taken for a part of this
        gone = [path for path in there.files if path not in (*additions, MARKER, _HUBS_OWN)]
    kept = {path: there.sha256(path) for path in measured}
    if not replace:
        if CARD in changed and CARD in there.files and there.known.get(CARD) in (written, hashes[CARD]):
            logger.warning("%s of %s was edited on the Hub and stays so.", CARD, there.repo_id)
            changed.remove(CARD)
            hashes[CARD], kept[CARD] = there.known[CARD], there.sha256(CARD)
        _refuse_edited(there, [path for path in [*changed, *gone] if path in there.files])
    if not changed and not gone and (there.run, there.known) == (publication.run, hashes):
        return there.commit, {**hashes, **kept}
    operations = [
        *(additions[path] for path in changed),
        marker_file(publication.kind, publication.run, hashes),
        *map(CommitOperationDelete, gone),
    ]
    made = HfApi().create_commit(
        there.repo_id, operations, commit_message=message, repo_type=there.repo_type, parent_commit=there.commit
    )
    return made.oid, {**hashes, **kept}


def _with_results(
    publication: Publication,
    additions: dict[str, CommitOperationAdd],
    there: Repository,
    changed: list[str],
    replace: bool,
) -> tuple[dict[str, CommitOperationAdd], list[str]]:
    """Adds to the card what was measured of these weights before; and which files for leaderboards stay for them."""
    if CARD not in changed or CARD not in there.files or there.run != publication.run:
        return additions, []
    other_weights = any(path.endswith(".safetensors") for path in changed)
    earlier = there.content(CARD).decode(errors="replace")
    card = keep_results(publication.card, earlier, replace=replace or other_weights)
    if other_weights:
        if card != publication.card:
            logger.warning("The results in %s of %s are of other weights: the history has them.", CARD, there.repo_id)
        return additions, []
    files = [path for path in there.known if path.startswith(_LEADERBOARDS) and path in there.files]
    return {**additions, CARD: CommitOperationAdd(CARD, card.encode())}, [one for one in files if one not in additions]


def _sha256(addition: CommitOperationAdd) -> str:
    return addition.upload_info.sha256.hex()


def _refuse_edited(there: Repository, paths: list[str]) -> None:
    """What would be overwritten or deleted must be what the run wrote last."""
    edited = [path for path in paths if there.sha256(path) != there.known.get(path)]
    if edited:
        raise ValueError(
            f"Changed on the Hub since the last push to {there.repo_id}: {', '.join(edited)}. Nothing was "
            "overwritten. Bring the changes into what you publish, or pass `replace`; the history keeps them."
        )


def _verify(there: Repository, hashes: dict[str, str]) -> None:
    wrong = [path for path, sha256 in hashes.items() if path not in there.files or there.sha256(path) != sha256]
    if wrong:
        raise RuntimeError(
            f"{there.repo_id} does not hold what was sent to it (commit {there.commit}): {', '.join(wrong)}. Do not "
            "use that commit. Repeat the command with `replace`."
        )
