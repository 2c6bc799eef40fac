# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a card says about licences: the metadata, every source with its own, and what some of them ask for."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .facts import ROLES, license_text, source_license
from .licenses import License, combine
from .rendering import Markdown, code

# Llama's licences by their identifier on the Hub: their name, and how the name of a derived model has to begin.
_LLAMA = {
    "llama2": ("Llama 2", None),
    "llama3": ("Meta Llama 3", "Llama 3"),
    "llama3.1": ("Llama 3.1", "Llama"),
    "llama3.2": ("Llama 3.2", "Llama"),
    "llama3.3": ("Llama 3.3", "Llama"),
    "llama4": ("Llama 4", "Llama"),
}


class Llama(NamedTuple):
    """A licence of Llama, which reaches models that are trained on outputs."""

    title: Markdown
    prefix: Markdown | None
    built: Markdown
    fits: bool


class Terms(NamedTuple):
    """What a card says about licences."""

    metadata: dict[str, str]
    text: Markdown
    stated: bool
    sources: list[dict[str, Markdown]]
    unknown: list[Markdown]
    llama: list[Llama]


def licensing(
    sources: Mapping[str, Mapping[str, Any] | None],
    roles: Iterable[str],
    repo_id: str,
    repo_type: str,
    *,
    stated: str | None = None,
) -> Terms:
    """
    The licence of what was made of some sources.

    Args:
        sources (`Mapping`): Sources of a manifest by their role.
        roles (`Iterable[str]`): Those of which it was made.
        repo_id, repo_type (`str`): Where it is published.
        stated (`str`, *optional*): The licence that its publisher states.
    """
    known = {role: sources[role] for role in roles if sources.get(role) is not None}
    licenses = {role: source_license(source) for role, source in known.items()}
    license = combine(licenses.values()) if stated is None else License(stated)
    metadata = {"license": license.id}
    if license.id == "other":
        folder = "datasets/" if repo_type == "dataset" else ""
        metadata["license_name"] = license.name or "see-the-card"
        metadata["license_link"] = license.link or f"https://huggingface.co/{folder}{repo_id}#license"
    name = repo_id.split("/")[-1]
    found = dict.fromkeys(one.id for one in licenses.values() if one is not None and one.id in _LLAMA)
    llama = []
    for one in found:
        title, prefix = _LLAMA[one]
        fits = prefix is None or re.match(prefix.replace(" ", "[-_. ]?"), name) is not None
        built = "Meta Llama 3" if one == "llama3" else "Llama"
        llama.append(Llama(Markdown(title), prefix and Markdown(prefix), Markdown(built), fits))
    return Terms(
        metadata=metadata,
        text=license_text(license),
        stated=stated is not None,
        sources=[
            {"what": Markdown(ROLES[role]), "name": code(source["name"]), "license": license_text(licenses[role])}
            for role, source in known.items()
        ],
        unknown=[code(source["name"]) for role, source in known.items() if licenses[role] is None],
        llama=llama,
    )
