# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Endpoints of the stand-in Hub about files: uploading, committing, listing and downloading them."""

import base64
import hashlib
import json
import re
from urllib.parse import parse_qs

from .git import Commit, File, Repository, is_lfs
from .repositories import at
from .wire import Refusal, Reply, Request


def preupload(request: Request, kind: str, repo_id: str, branch: str) -> Reply:
    """How each file is to be sent. A client leaves out a file whose `oid` is its own."""
    present = _head(request.hub.writable(request.account, kind, repo_id), branch).files
    answers = []
    for file in request.json()["files"]:
        path = file["path"]
        lfs = is_lfs(path, file["size"], base64.b64decode(file["sample"]))
        oid = present[path].etag if path in present else None
        mode = "lfs" if lfs else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Reply({"files": answers})


def lfs_batch(request: Request, repo_id: str, kind: str = "models") -> Reply:
    """Where to send each object; an object that is there already has no `actions`."""
    request.hub.writable(request.account, kind, repo_id)
    answers = []
    for item in request.json()["objects"]:
        answers.append({"oid": item["oid"], "size": item["size"], "authenticated": True})
        if item["oid"] not in request.hub.objects:
            address = {"href": f"{request.hub.url}/lfs/{item['oid']}"}
            answers[-1]["actions"] = {"upload": address, "verify": address}
    return Reply({"transfer": "basic", "objects": answers}, headers={"Content-Type": "application/vnd.git-lfs+json"})


def lfs_upload(request: Request, oid: str) -> Reply:
    """The address is the permission, as those of a cloud's storage are: no token comes with it."""
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "The content does not have the hash that was announced")
    request.hub.objects[oid] = request.body
    return Reply({})


def lfs_verify(request: Request, oid: str) -> Reply:
    if oid not in request.hub.objects:
        raise Refusal(404, "Object not found")
    return Reply({})


def commit(request: Request, kind: str, repo_id: str, branch: str) -> Reply:
    """One commit, as lines of JSON: a header, then what to add and what to delete."""
    repository = request.hub.writable(request.account, kind, repo_id)
    head = _head(repository, branch)
    if request.asks("create_pr"):
        raise Refusal(501, "The stand-in Hub knows no pull requests")
    header, added, removed = {}, {}, set()
    for line in request.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            header = value
        elif key == "file":
            added[value["path"]] = File(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in request.hub.objects:
                raise Refusal(400, f"LFS pointer of {value['path']} points to an object that is not there")
            added[value["path"]] = File(request.hub.objects[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            removed |= _below(head, value["path"])
        else:
            raise Refusal(501, f"The stand-in Hub does not know {key!r} in a commit")
    if header.get("parentCommit", head.sha) != head.sha:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    done = repository.commit(
        branch,
        added,
        removed,
        title=header["summary"],
        message=header.get("description", ""),
        author=request.account.user,
    )
    url = f"{request.hub.url}/{repository.path}/commit/{done.sha}"
    return Reply({"success": True, "commitOid": done.sha, "commitUrl": url, "hookOutput": ""})


def tree(request: Request, kind: str, repo_id: str, revision: str, path: str = "") -> Reply:
    """Files and folders in a folder, or everything below it."""
    commit = at(request.hub.readable(request.account, kind, repo_id), revision)
    if path and path not in commit.folders():
        raise Refusal(404, f'{path} does not exist on "{revision}"', "EntryNotFound")
    start = f"{path}/" if path else ""
    return Reply(
        [
            _entry(commit, name)
            for name in sorted({*commit.folders(), *commit.files})
            if name.startswith(start) and (request.asks("recursive") or "/" not in name[len(start) :])
        ]
    )


def paths_info(request: Request, kind: str, repo_id: str, revision: str) -> Reply:
    commit = at(request.hub.readable(request.account, kind, repo_id), revision)
    form = "json" not in request.headers.get("Content-Type", "")
    paths = parse_qs(request.body.decode())["paths"] if form else request.json()["paths"]
    return Reply([_entry(commit, path) for path in paths if path in commit.files or path in commit.folders()])


def resolve(request: Request, repo_id: str, revision: str, path: str, kind: str = "models") -> Reply:
    """A file, or the range of it that is asked for."""
    repository = request.hub.readable(request.account, kind, repo_id)
    request.hub.check_gate(request.account, repository)
    commit = at(repository, revision)
    if path not in commit.files:
        refusal = Refusal(404, "Entry not found", "EntryNotFound")
        refusal.reply.headers["X-Repo-Commit"] = commit.sha  # the client remembers that it is not there
        raise refusal
    file = commit.files[path]
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
    size = len(file.content)
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if wanted is None:
        return Reply(file.content, 200, headers)
    first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
    if first >= size:
        raise Refusal(416, "Requested Range Not Satisfiable")
    return Reply(file.content[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})


def _head(repository: Repository, branch: str) -> Commit:
    """The latest commit of a branch. Nothing else can be committed to."""
    if branch not in repository.branches:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    return repository.branches[branch]


def _below(commit: Commit, path: str) -> set[str]:
    folder = f"{path.rstrip('/')}/"
    found = {name for name in commit.files if name == path or name.startswith(folder)}
    if not found:
        raise Refusal(404, f"A file with the name {path} does not exist", "EntryNotFound")
    return found


def _entry(commit: Commit, path: str) -> dict:
    if path not in commit.files:
        oid = hashlib.sha1(path.encode()).hexdigest()  # noqa: S324 - stands for the hash of git's tree
        return {"type": "directory", "oid": oid, "size": 0, "path": path}
    file = commit.files[path]
    entry = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
    return entry
