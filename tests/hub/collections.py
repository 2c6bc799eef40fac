# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Endpoints of the stand-in Hub about collections."""

import re

from .git import now
from .wire import Refusal, Reply, Request


def create(request: Request) -> Reply:
    body = request.json()
    namespace, title = body["namespace"], body["title"]
    _check_length(body, "description", 150)
    request.hub.check_writer(request.account, namespace)
    collections = request.hub.collections
    for slug, collection in collections.items():
        if (collection["owner"]["name"], collection["title"]) == (namespace, title):
            raise Refusal(409, "This collection already exists", slug=slug)  # with `exists_ok`, the client reads it
    slug = f"{namespace}/{re.sub('[^a-z0-9]+', '-', title.lower())}-{len(collections):024x}"
    collections[slug] = {
        "slug": slug,
        "title": title,
        "description": body.get("description"),
        "owner": {"name": namespace},
        "private": body.get("private", False),
        "items": [],
        "lastUpdated": now(),
        "position": 0,
        "theme": "green",
        "upvotes": 0,
    }
    return Reply(collections[slug])


def listing(request: Request) -> Reply:
    owners = request.query.get("owner")
    found = [
        {name: value for name, value in collection.items() if name != "position"}  # the client counts
        for collection in request.hub.collections.values()
        if (owners is None or collection["owner"]["name"] in owners) and _visible(request, collection)
    ]
    return Reply(found)


def read(request: Request, slug: str) -> Reply:
    collection = request.hub.collections.get(slug)
    if collection is None or not _visible(request, collection):
        raise Refusal(404, "Collection not found")
    return Reply(collection)


def update(request: Request, slug: str) -> Reply:
    collection = _writable(request, slug)
    _check_length(request.json(), "description", 150)
    collection |= request.json() | {"lastUpdated": now()}
    return Reply({"success": True, "data": collection})


def delete(request: Request, slug: str) -> Reply:
    _writable(request, slug)
    del request.hub.collections[slug]
    return Reply({})


def add_item(request: Request, slug: str) -> Reply:
    collection, body = _writable(request, slug), request.json()
    _check_length(body, "note", 500)
    items, item = collection["items"], body["item"]
    if item["type"] in ("model", "dataset", "space"):
        request.hub.readable(request.account, f"{item['type']}s", item["id"])
    if any((other["type"], other["id"]) == (item["type"], item["id"]) for other in items):
        raise Refusal(409, "The item is already in this collection")
    number = 1 + max((int(other["_id"], 16) for other in items), default=0)
    items.append({"_id": f"{number:024x}", "id": item["id"], "type": item["type"], "position": len(items)})
    if "note" in body:
        items[-1]["note"] = {"text": body["note"]}
    return Reply(collection)


def update_item(request: Request, slug: str, item: str) -> Reply:
    items, body = _writable(request, slug)["items"], request.json()
    found = _item(items, item)
    if "note" in body:
        found["note"] = {"text": body["note"]}
    if "position" in body:
        items.remove(found)
        items.insert(body["position"], found)
    _number(items)
    return Reply({})


def delete_item(request: Request, slug: str, item: str) -> Reply:
    items = _writable(request, slug)["items"]
    items.remove(_item(items, item))
    _number(items)
    return Reply({})


def _check_length(body: dict, name: str, most: int) -> None:
    if len(body.get(name) or "") > most:
        raise Refusal(400, f"Too big: expected string to have <{most} characters at {name}")


def _visible(request: Request, collection: dict) -> bool:
    return not collection["private"] or request.hub.belongs(request.account, collection["owner"]["name"])


def _writable(request: Request, slug: str) -> dict:
    collection = read(request, slug).content
    request.hub.check_writer(request.account, collection["owner"]["name"])
    return collection


def _item(items: list[dict], name: str) -> dict:
    for item in items:
        if item["_id"] == name:
            return item
    raise Refusal(404, "Item not found")


def _number(items: list[dict]) -> None:
    for position, item in enumerate(items):
        item["position"] = position
