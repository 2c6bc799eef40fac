# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Licences, from the cards of the Hub and of folders, and what follows for what is made of them."""

import logging
import time

import pytest
from huggingface_hub import HfApi, ModelCard, constants

from hf_cong.cards import License, combine, dataset_card, describe_source, license_of, model_card
from tests.cards.examples import FILES, MANIFEST, source

APACHE, MIT = License("apache-2.0"), License("mit")
LINK = "https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE"
QWEN = License("other", "qwen-research", LINK)


def card(**metadata) -> dict[str, str]:
    lines = "".join(f"{name}: {value}\n" for name, value in metadata.items())
    return {"README.md": f"---\n{lines}---\n# A model\n"}


STATED = {
    "apache": (card(license="apache-2.0"), APACHE),
    "llama": (card(license="llama3.2"), License("llama3.2")),
    "qwen": (card(license="other", license_name="qwen-research", license_link=LINK), QWEN),
    "other": (card(license="other"), License("other")),
    "invented": (card(license="My License 1.0!"), License("other", "my-license-1.0")),
    "unknown": (card(license="unknown"), None),
    "none": (card(language="en"), None),
    "a number": (card(license="3"), None),
    "no card": ({"config.json": "{}"}, None),
    "several": (card(license="[mit, apache-2.0]"), License("other", "apache-2.0-and-mit")),
    "one of a list": (card(license="[mit]"), MIT),
    "no text": (card(license="other", license_name="x", license_link="javascript:alert(1)"), License("other", "x")),
}


@pytest.mark.parametrize("name", STATED)
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_a_card_states(hub, tmp_path, name, kind):
    files, expected = STATED[name]
    repo_id = f"org/license-{kind}-{name.replace(' ', '-')}"
    commit = hub.add(repo_id, files, kind=f"{kind}s").sha
    assert license_of(repo_id, commit, kind) == license_of(repo_id, repo_type=kind) == expected
    for path, content in files.items():
        (tmp_path / path).write_text(content)
    assert license_of(str(tmp_path), None, kind) == expected


def test_the_card_of_that_commit_counts(hub):
    first = hub.add("org/relicensed", card(license="mit")).sha
    hub.add("org/relicensed", card(license="other", license_name="mine", license_link="LICENSE.md"))
    assert license_of("org/relicensed", first) == MIT
    latest = HfApi().model_info("org/relicensed").sha
    link = f"https://huggingface.co/org/relicensed/blob/{latest}/LICENSE.md"
    assert license_of("org/relicensed", latest) == License("other", "mine", link)


def test_a_source_for_the_manifest(hub, tmp_path, monkeypatch):
    commit = hub.add("org/described", card(license="mit", language="[en, de]"), kind="datasets").sha
    assert describe_source("org/described", commit, "dataset") == {
        "name": "org/described",
        "commit": commit,
        "license": {"id": "mit", "name": None, "link": None},
        "language": ["en", "de"],
    }
    folder = tmp_path / "my model"
    folder.mkdir()
    assert describe_source(str(folder)) == {"name": "my model", "commit": None, "license": None, "language": []}
    for language, found in {"no": ["no"], "[en, no]": ["en", "no"], "": [], "null": []}.items():
        (folder / "README.md").write_text(card(language=language)["README.md"], encoding="utf-8")
        assert describe_source(str(folder))["language"] == found
    monkeypatch.chdir(folder)
    assert describe_source(".")["name"] == "my model"


def test_a_folder_of_the_same_name_is_not_the_repository(hub, tmp_path, monkeypatch):
    commit = hub.add("org/shadowed", card(license="mit")).sha
    (tmp_path / "org" / "shadowed").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert license_of("org/shadowed", commit) == MIT and license_of("org/shadowed") is None


def test_a_gated_card_can_be_read_and_a_private_one_by_its_owner(hub):
    hub.add("bob/gated", card(license="llama3.1"))
    hub.repositories["models", "bob/gated"].gated = "auto"
    hub.add("alice/private", card(license="mit"), private=True)
    hub.add("bob/private", card(license="mit"), private=True)
    assert license_of("bob/gated") == License("llama3.1")
    assert license_of("alice/private") == MIT and license_of("bob/private") is None


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_refusal_is_unknown_and_logged(hub, monkeypatch, caplog, status):
    commit = hub.add("org/refused", card(license="mit")).sha
    monkeypatch.setattr(hub, "misbehave", lambda method, address: status if "org/refused" in address else None)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert license_of("org/refused", commit) is None
    assert time.monotonic() - started < 5 and "The licence of org/refused is unknown" in caplog.text
    assert hub.token not in caplog.text


@pytest.mark.parametrize("name", ["org/not-there", "a/b/c", "", "no where/x", "org/license\n", "x" * 300, "\0"])
def test_what_is_not_there_is_unknown(hub, name):
    assert license_of(name) is None and license_of(name, "0" * 40) is None


@pytest.mark.parametrize(
    "content", ["", "no card", "---\n: :\n---\n", "---\n- a\n---\n", "---\nlicense: [\n---\n", b"\xff\xfe"]
)
def test_a_damaged_card_in_a_folder_is_unknown(tmp_path, content):
    (tmp_path / "README.md").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert license_of(str(tmp_path)) is None


@pytest.mark.parametrize(
    "setting",
    [
        {"HF_HUB_OFFLINE": True},
        {"ENDPOINT": "http://127.0.0.1:9"},
        {"ENDPOINT": "http://no.invalid"},
    ],
)
def test_without_a_network_nobody_waits(hub, monkeypatch, setting):
    for name, value in setting.items():
        monkeypatch.setattr(constants, name, value)  # what the client read of its environment
    started = time.monotonic()
    assert license_of("org/model", "0" * 40) is None
    assert time.monotonic() - started < 5


COMBINED = [
    ([APACHE, APACHE], APACHE),
    ([QWEN, QWEN], QWEN),
    ([APACHE, MIT], License("other", "apache-2.0-and-mit")),
    ([APACHE, QWEN, QWEN], License("other", "apache-2.0-and-qwen-research")),
    ([License("llama3.2"), License("llama3")], License("other", "llama3-and-llama3.2")),
    ([APACHE, None], License("unknown")),
    ([], License("unknown")),
    ([License("other")], License("other")),
    ([License("other"), License("other")], License("other", "unnamed")),
    ([License("other", None, LINK), License("other", None, LINK)], License("other", None, LINK)),
    ([License("other", None, LINK), License("other", None, LINK + "2")], License("other", "unnamed")),
]


@pytest.mark.parametrize(("licenses", "expected"), COMBINED)
def test_several_sources(licenses, expected):
    assert combine(licenses) == expected and combine(reversed(licenses)) == expected


def made_of(repo_id="org/name", make=model_card, **licenses) -> ModelCard:
    """The card of what was made of sources under these licences, `None` for unknown."""
    roles = {"base": "model", "policy": "weak_model", "reference": "weak_reference_model", "prompts": "prompts"}
    sources = {
        roles[name]: source(f"org/{name}", license=None if one is None else tuple(one))
        for name, one in licenses.items()
    }
    return ModelCard(make({**MANIFEST, "sources": sources}, repo_id=repo_id))


def of_data(facts: dict, repo_id: str) -> str:
    return dataset_card(facts, repo_id=repo_id, files=FILES)


def test_one_licence_of_all():
    found = made_of(base=APACHE, policy=APACHE, reference=APACHE, prompts=APACHE)
    assert found.data.license == "apache-2.0" and "`apache-2.0`, as everything it was made of" in found.text
    found = made_of(base=QWEN, policy=QWEN, reference=QWEN)
    assert (found.data.license, found.data.license_name, found.data.license_link) == QWEN


def test_several_licences_are_all_named(hub):
    found = made_of(base=APACHE, policy=QWEN, reference=QWEN, prompts=MIT)
    found.validate()
    assert found.data.license == "other" and found.data.license_name == "apache-2.0-and-mit-and-qwen-research"
    assert "all of them apply" in found.text and f"[`qwen-research`]({LINK})" in found.text
    assert "weak policy, after alignment, `org/policy`" in found.text


def test_an_unknown_licence_is_seen(hub):
    found = made_of(base=APACHE, policy=APACHE, reference=APACHE, prompts=None)
    found.validate()
    assert found.data.license == "unknown" and "**Unknown.** No licence was found for `org/prompts`." in found.text


def test_prompts_and_weak_models_count_for_the_data_and_the_base_for_its_samples():
    found = made_of(make=of_data, base=QWEN, policy=APACHE, reference=APACHE, prompts=APACHE)
    assert found.data.license == "other" and found.data.license_link.endswith("/datasets/org/name#license")
    only_sft = made_of(
        make=lambda facts, repo_id: dataset_card(
            facts, repo_id=repo_id, files={"sft/train.parquet": FILES["sft/train.parquet"]}
        ),
        base=QWEN,
        policy=APACHE,
        reference=APACHE,
        prompts=APACHE,
    )
    assert only_sft.data.license == "apache-2.0" and "org/base" not in only_sft.text


@pytest.mark.parametrize(
    ("version", "name", "fits"),
    [
        ("llama3.2", "org/Llama-3.2-3B-cong", True),
        ("llama3.2", "Llama-cong", True),
        ("llama3.1", "org/strong-cong", False),
        ("llama3.3", "org/my-Llama", False),
        ("llama3.1", "Llama-lovers/strong-cong", False),
        ("llama4", "org/llama-cong", False),
        ("llama3", "org/Llama-3-8B-cong", True),
        ("llama3", "org/Llama-8B-cong", False),
    ],
)
def test_llama_asks_for_its_name(version, name, fits):
    text = made_of(name, base=APACHE, policy=License(version), reference=License(version)).text
    assert "Built with" in text and "Community License, Copyright © Meta Platforms" in text
    assert ("as this one does" in text) == fits and ("The name of this repository does not" in text) == (not fits)
    assert ("does not allow its outputs to improve other language models" in text) == (version == "llama3")
    text = made_of(name, make=of_data, base=APACHE, policy=License(version), reference=License(version)).text
    assert "those trained on this data included" in text and "this one does" not in text


def test_llama_2_keeps_its_outputs_and_nothing_else_is_llama():
    text = made_of(base=APACHE, policy=License("llama2"), reference=License("llama2")).text
    assert "does not allow its outputs to improve" in text and "Built with" not in text and "begin with" not in text
    assert "Llama" not in made_of(base=APACHE, policy=QWEN).text


def test_the_publisher_may_state_one():
    found = ModelCard(model_card(MANIFEST, repo_id="org/name", license="cc-by-nc-4.0"))
    assert found.data.license == "cc-by-nc-4.0" and "as its publisher states. What it was made of:" in found.text
    assert "`org/weak-dpo`" in found.text.split("## License")[1]
    for wrong in ("mine", "unknown", "", "Apache-2.0"):
        with pytest.raises(ValueError, match="must be one of the identifiers of the Hub"):
            model_card(MANIFEST, repo_id="org/name", license=wrong)


def test_only_pages_of_the_hub_are_linked():
    elsewhere = License("other", "x", "https://evil.example/zz")
    found = made_of(base=elsewhere, policy=elsewhere)
    assert found.data.license_link == "https://evil.example/zz" and "](https://evil" not in found.text
