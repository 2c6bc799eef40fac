# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Endpoints of the stand-in Hub about repositories: who may, which are there, what is known of them, their refs."""

from .cards import card_tags, check_card, front_matter
from .git import Commit, Repository
from .wire import Refusal, Reply, Request


def whoami(request: Request) -> Reply:
    if request.account is None:
        raise Refusal(401, "Invalid username or password.")
    user, role, scopes = request.account
    token = {"displayName": "tests", "role": role}
    if role == "fineGrained":
        scoped = [{"entity": {"name": name}, "permissions": ["repo.content.read", "repo.write"]} for name in scopes]
        token["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": scoped}
    organisations = [name for name, members in request.hub.members.items() if user in members]
    return Reply(
        {
            "type": "user",
            "id": user,
            "name": user,
            "fullname": user,
            "orgs": [{"type": "org", "id": name, "name": name, "roleInOrg": "write"} for name in organisations],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def create(request: Request) -> Reply:
    body = request.json()
    kind, repo_id = _named(request, body)
    request.hub.check_writer(request.account, repo_id.split("/")[0])
    exists = (kind, repo_id) in request.hub.repositories
    if not exists:
        private = body.get("visibility") == "private"
        request.hub.repositories[kind, repo_id] = Repository(kind, repo_id, request.account.user, private)
    repository = request.hub.repositories[kind, repo_id]
    url = f"{request.hub.url}/{repository.path}"
    if exists:
        raise Refusal(409, "You already created this repo", url=url)  # with `exist_ok`, the client reads the url
    return Reply({"url": url, "name": repo_id, "id": repo_id})


def delete(request: Request) -> Reply:
    kind, repo_id = _named(request, request.json())
    request.hub.writable(request.account, kind, repo_id)
    del request.hub.repositories[kind, repo_id]
    return Reply({})


def _named(request: Request, body: dict) -> tuple[str, str]:
    if request.account is None:
        raise Refusal(401, "Invalid username or password.")
    return f"{body.get('type') or 'model'}s", f"{body.get('organization') or request.account.user}/{body['name']}"


def validate_card(request: Request) -> Reply:
    errors, warnings = check_card(request.json()["content"])
    found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Reply(found, 400 if errors else 200)


def settings(request: Request, kind: str, repo_id: str) -> Reply:
    repository, body = request.hub.writable(request.account, kind, repo_id), request.json()
    repository.gated = body.get("gated", repository.gated)
    if "visibility" in body:
        repository.private = body["visibility"] == "private"
    return Reply({"private": repository.private, "gated": repository.gated})


def grant(request: Request, kind: str, repo_id: str) -> Reply:
    repository = request.hub.writable(request.account, kind, repo_id)
    if not repository.gated:
        raise Refusal(400, "The repository is not gated")
    repository.granted.add(request.json()["user"])
    return Reply({})


def check_access(request: Request, kind: str, repo_id: str) -> Reply:
    request.hub.check_gate(request.account, request.hub.readable(request.account, kind, repo_id))
    return Reply({})


def check_write_access(request: Request, kind: str, repo_id: str) -> Reply:
    request.hub.writable(request.account, kind, repo_id)
    return Reply({})


def listing(request: Request, kind: str) -> Reply:
    """Repositories by `author`, text to `search` for, and tags to `filter` by."""
    query = request.query
    found = []
    for (found_kind, repo_id), repository in request.hub.repositories.items():
        if found_kind != kind or any(author != repository.namespace for author in query.get("author", [])):
            continue
        try:
            request.hub.readable(request.account, kind, repo_id)
        except Refusal:
            continue
        if all(text in repo_id for text in query.get("search", [])):
            found.append(_describe(repository, repository.branches["main"]))
    found = [item for item in found if set(query.get("filter", [])) <= set(item["tags"])]
    return Reply(found[: int(query.get("limit", [len(found)])[0])])


def info(request: Request, kind: str, repo_id: str, revision: str = "main") -> Reply:
    repository = request.hub.readable(request.account, kind, repo_id)
    return Reply(_describe(repository, at(repository, revision), request.asks("blobs")))


def at(repository: Repository, revision: str) -> Commit:
    """The commit that a revision names."""
    commit = repository.find(revision)
    if commit is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def _describe(repository: Repository, commit: Commit, blobs: bool = False) -> dict:
    siblings = []
    for path, file in sorted(commit.files.items()):
        siblings.append({"rfilename": path})
        if blobs:
            siblings[-1] |= {"size": len(file.content), "blobId": file.oid}
        if blobs and file.lfs:
            lfs = {"sha256": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
            siblings[-1]["lfs"] = lfs
    card = {}
    if "README.md" in commit.files:
        card = front_matter(commit.files["README.md"].content.decode())
    known = {name: card[name] for name in ("library_name", "pipeline_tag", "model-index", "sdk") if name in card}
    return {
        "_id": repository.id,
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.namespace,
        "sha": commit.sha,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": False,
        "createdAt": repository.created,
        "lastModified": commit.date,
        "downloads": 0,
        "likes": 0,
        "tags": card_tags(card),
        "cardData": card,
        "siblings": siblings,
        **known,
    }


def refs(request: Request, kind: str, repo_id: str) -> Reply:
    repository = request.hub.readable(request.account, kind, repo_id)

    def listed(folder: str, commits: dict[str, Commit]) -> list[dict]:
        return [
            {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit.sha}
            for name, commit in commits.items()
        ]

    found = {"branches": listed("heads", repository.branches), "tags": listed("tags", repository.tags)}
    return Reply({**found, "converts": []})


def commits(request: Request, kind: str, repo_id: str, revision: str) -> Reply:
    commit = at(request.hub.readable(request.account, kind, repo_id), revision)
    return Reply(
        [
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in commit.history()
        ]
    )


def create_branch(request: Request, kind: str, repo_id: str, branch: str) -> Reply:
    repository = request.hub.writable(request.account, kind, repo_id)
    if branch in repository.branches:
        raise Refusal(409, f'Reference "refs/heads/{branch}" already exists')
    repository.branches[branch] = at(repository, request.json().get("startingPoint", "main"))
    return Reply({})


def delete_branch(request: Request, kind: str, repo_id: str, branch: str) -> Reply:
    repository = request.hub.writable(request.account, kind, repo_id)
    if branch == "main":
        raise Refusal(403, "Cannot delete the branch main")
    at(repository, branch)
    del repository.branches[branch]
    return Reply({})


def create_tag(request: Request, kind: str, repo_id: str, revision: str) -> Reply:
    repository, tag = request.hub.writable(request.account, kind, repo_id), request.json()["tag"]
    if tag in repository.tags:
        raise Refusal(409, f'Tag "{tag}" already exists')
    repository.tags[tag] = at(repository, revision)
    return Reply({})


def delete_tag(request: Request, kind: str, repo_id: str, revision: str) -> Reply:
    repository = request.hub.writable(request.account, kind, repo_id)
    if revision not in repository.tags:
        raise Refusal(404, f"No tag {revision}", "RevisionNotFound")
    del repository.tags[revision]
    return Reply({})
