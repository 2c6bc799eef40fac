# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One collection of the Hub, which gathers the repositories of a run."""

from typing import NamedTuple

from huggingface_hub import HfApi

from .account import explained, require_token
from .secrets import check_secrets


class Item(NamedTuple):
    """A repository of a collection: its id, `"model"` or `"dataset"`, and what it is to this run."""

    repo_id: str
    repo_type: str
    note: str


def gather(title: str, items: list[Item], *, namespace: str, description: str, private: bool = True) -> str:
    """
    Makes the collection if there is none of this title, and puts into it what it lacks.

    What others put into it stays, and so does its visibility; description and notes become those given.

    Args:
        title (`str`):
            The title, by which the collection is found again.
        items (`list[Item]`):
            What to gather.
        namespace (`str`):
            The user or organisation whose collection it is.
        description (`str`):
            At most 150 characters.
        private (`bool`, *optional*, defaults to `True`):
            Whether a new collection is seen by its namespace only.

    Returns:
        `str`: the address of the collection.

    Raises:
        ValueError: if a text holds what looks like a token.
        PermissionError: if nobody is logged in, or the token may not write there.
        ConnectionError: if the Hub cannot be reached, is busy or fails.
    """
    texts = [title, description, *(item.note for item in items)]
    check_secrets({"the collection's text": "\n".join(texts).encode()})
    require_token()
    api = HfApi()
    with explained(f"the collection {title!r}"):
        collection = api.create_collection(
            title, namespace=namespace, description=description, private=private, exists_ok=True
        )
        if collection.description != description:
            api.update_collection_metadata(collection.slug, description=description)
        there = {(item.item_type, item.item_id): item for item in collection.items}
        for repo_id, repo_type, note in items:
            item = there.get((repo_type, repo_id))
            if item is None:
                api.add_collection_item(collection.slug, repo_id, repo_type, note=note, exists_ok=True)
            elif item.note != note:
                api.update_collection_item(collection.slug, item.item_object_id, note=note)
    return collection.url
