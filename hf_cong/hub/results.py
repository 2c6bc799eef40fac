# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results of an evaluation in a model repository that exists already: in its card, for leaderboards, and as a file.

What was asked and answered stays on this machine: questions of benchmarks do not belong where models learn from.
"""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from ..cards import Result, add_results, eval_results_files
from ..checkpoints import content_key
from .account import explained, full_repo_id
from .folders import results_of
from .publication import CARD, Published
from .repository import Repository, find_repository, marker_file
from .secrets import check_secrets


def publish_results(
    evaluation: str | Path, *, repo_id: str, system: str | None = None, replace: bool = False
) -> Published:
    """
    Adds what was measured to a model on the Hub, in one commit, or none if it is there already.

    `evaluation/results-<key>.json` has every score of every system; the card gets a table of them and, of this model,
    the `model-index`; `.eval_results` is for benchmarks with a leaderboard. Everything else stays as it is.

    Args:
        evaluation (`str` or `Path`):
            What `hf-cong evaluate` or lm-eval wrote: see [`read_results`].
        repo_id (`str`):
            The model, whoever published it.
        system (`str`, *optional*):
            Which of the systems it is; by default the one that was measured under this id, or the only one.
        replace (`bool`, *optional*, defaults to `False`):
            Whether another value of the same metric gives way.

    Returns:
        [`Published`]: where it is.

    Raises:
        FileNotFoundError: if there is no such model, or nothing was measured.
        PermissionError: if nobody is logged in, or the token may not write there.
        ValueError: if it is not clear which system it is, or the card has other values.
        RuntimeError: if somebody else changes the repository meanwhile.
        ConnectionError: if the Hub cannot be reached, is busy or fails.
    """
    repo_id = full_repo_id(repo_id)
    results, system = results_of(evaluation, system, repo_id)
    files = _files(results, system, repo_id)
    with explained(repo_id):
        there = find_repository(repo_id, "model")
        if there is None:
            raise FileNotFoundError(
                f"There is no model {repo_id}, or it is not for you to see. Publish it first: `hf-cong publish model`."
            )
        before = {path: there.content(path) for path in (CARD, *files) if path in there.files}
        card = add_results(
            before.get(CARD, b"").decode(), results, system=system, name=repo_id.split("/")[1], replace=replace
        )
        files[CARD] = card.encode()
        check_secrets(files)
        changed = [path for path, content in files.items() if content != before.get(path)]
        _refuse_other_scores(repo_id, [path for path in changed if path != CARD and path in before], replace)
        additions = {path: CommitOperationAdd(path, content) for path, content in files.items()}
        hashes = {path: addition.upload_info.sha256.hex() for path, addition in additions.items()}
        commit = there.commit
        if changed:
            operations = [*(additions[path] for path in changed), *_marked(there, before, hashes)]
            message = f"Add results of {system}"
            commit = HfApi().create_commit(repo_id, operations, commit_message=message, parent_commit=commit).oid
            after = there._replace(commit=commit)
            if wrong := [path for path in changed if after.content(path) != files[path]]:
                raise RuntimeError(
                    f"{repo_id} does not hold what was sent to it (commit {commit}): {', '.join(wrong)}. Do not use "
                    "that commit. Repeat the command."
                )
    return Published(there.url, commit, commit != there.commit, hashes, there.private)


def describe_results(evaluation: str | Path, *, repo_id: str, system: str | None = None) -> str:
    """What [`publish_results`] would add, in words. Asks nobody, so it knows nothing of the card that is there."""
    results, system = results_of(evaluation, system, repo_id)
    files = _files(results, system, repo_id)
    card = add_results("", results, system=system, name=repo_id.split("/")[-1])
    check_secrets({**files, CARD: card.encode()})
    lines = [
        f"{repo_id}: the model that the evaluation calls {system!r}",
        *(f"{len(content):>15,}  {path}" for path, content in files.items()),
        "Stays here: what was asked and answered, journals and pictures.",
        f"Added to {CARD}:",
        card,
    ]
    return "\n".join(lines)


def _files(results: list[Result], system: str, repo_id: str) -> dict[str, bytes]:
    scores = [
        {name: value for name, value in asdict(result).items() if value is not None and name != "model"}
        for result in results
    ]
    content = json.dumps({"published": system, "results": scores}, indent=1, ensure_ascii=False) + "\n"
    own = [result for result in results if result.system == system]
    name = f"evaluation/results-{content_key(scores)}.json"
    return {name: content.encode(), **eval_results_files(own, repo_id=repo_id)}


def _marked(there: Repository, before: dict[str, bytes], hashes: dict[str, str]) -> list[CommitOperationAdd]:
    """
    The marker of a repository that hf_cong wrote, with what changes now: else the next push of the run takes that for
    an edit of somebody's. A card that was edited stays so.
    """
    if there.run is None:
        return []
    edited = CARD in before and sha256(before[CARD]).hexdigest() != there.known.get(CARD)
    new = {
        path: one for path, one in hashes.items() if not ((path == CARD and edited) or path.startswith("evaluation/"))
    }
    return [marker_file(there.kind, there.run, {**there.known, **new})]


def _refuse_other_scores(repo_id: str, paths: list[str], replace: bool) -> None:
    if paths and not replace:
        raise ValueError(
            f"{repo_id} has other scores in {', '.join(paths)}. Pass `replace` to have these; the history keeps them."
        )
