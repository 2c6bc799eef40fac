# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A collection of what a run published, which the same command makes once."""

import pytest
from huggingface_hub import HfApi, get_collection

from hf_cong.hub.collection import Item, gather
from tests.hub.publishing import sent


@pytest.fixture
def items(hub, request):
    names = [f"alice/{request.node.name[5:40]}-{number}" for number in range(2)]
    hub.add(names[0], {}, private=True)
    hub.add(names[1], {}, kind="datasets", private=True)
    return [Item(names[0], "model", "The model"), Item(names[1], "dataset", "What it learned from")]


def shown(url):
    collection = get_collection("/".join(url.split("/")[-2:]))
    return collection, [(item.item_id, item.item_type, item.note) for item in collection.items]


def test_a_collection_is_made_once(hub, items):
    url = gather("Once", items, namespace="alice", description="A run.")
    collection, found = shown(url)
    assert found == [tuple(item) for item in items] and collection.private and collection.description == "A run."
    before = len(hub.requests)
    assert gather("Once", items, namespace="alice", description="A run.") == url
    assert shown(url)[1] == found
    assert sent(hub, before, "POST") == ["/api/collections"]  # asked for by its title: it is there
    assert [name.title for name in HfApi().list_collections(owner="alice")].count("Once") == 1


def test_what_is_new_is_added_and_what_others_did_stays(hub, items):
    url = gather("More", items[:1], namespace="alice", description="A run.")
    slug = shown(url)[0].slug
    HfApi().add_collection_item(slug, "2510.07884", "paper", note="By hand")
    HfApi().update_collection_metadata(slug, private=False)
    again = [items[0]._replace(note="A better note"), items[1]]
    assert gather("More", again, namespace="alice", description="Another text.") == url
    collection, found = shown(url)
    assert found == [tuple(again[0]), ("2510.07884", "paper", "By hand"), tuple(again[1])]
    assert not collection.private and collection.description == "Another text."


def test_an_organisation_has_collections(items):
    assert "/org/" in gather("Ours", items, namespace="org", description="")


def test_a_collection_that_cannot_be_written_is_said(hub, items, monkeypatch):
    with pytest.raises(PermissionError, match="the collection 'Theirs'"):
        gather("Theirs", items, namespace="bob", description="")
    with monkeypatch.context() as reading:
        reading.setenv("HF_TOKEN", hub.read_token)
        with pytest.raises(PermissionError, match="the collection 'Mine'"):
            gather("Mine", items, namespace="alice", description="")
        reading.delenv("HF_TOKEN")
        with pytest.raises(PermissionError, match="hf auth login"):
            gather("Mine", items, namespace="alice", description="")


def test_a_failure_half_way_is_finished_by_the_same_call(hub, items, monkeypatch):
    with monkeypatch.context() as down:
        down.setattr(hub, "misbehave", lambda method, address: 500 if address.endswith("/items") else None)
        with pytest.raises(ConnectionError, match="the collection 'Half'.* repeat the same command"):
            gather("Half", items, namespace="alice", description="A run.")
    assert shown(gather("Half", items, namespace="alice", description="A run."))[1] == [tuple(item) for item in items]


def test_a_description_longer_than_the_hub_takes_is_refused_by_it(items):
    gather("Long", items, namespace="alice", description="x" * 150)
    with pytest.raises(OSError, match="description"):
        gather("Longer", items, namespace="alice", description="x" * 151)
