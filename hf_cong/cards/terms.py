# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a card says about licences: the metadata, every source with its own, and what some of them ask for."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .licenses import combine, read_license
from .rendering import Markdown, code
from .sources import ROLES, license_text, source_license


class _Llama(NamedTuple):
    """What one of Meta's licences asks for, in its words."""

    notice: str
    built_with: str | None = None
    prefix: str | None = None
    keeps_outputs: bool = False  # from improving other models


_RIGHTS = "Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
_LLAMA = {
    "llama2": _Llama(f"Llama 2 is licensed under the LLAMA 2 {_RIGHTS}", keeps_outputs=True),
    "llama3": _Llama(
        f"Meta Llama 3 is licensed under the Meta Llama 3 {_RIGHTS}", "Meta Llama 3", "Llama 3", keeps_outputs=True
    ),
    **{
        f"llama{version}": _Llama(f"Llama {version} is licensed under the Llama {version} {_RIGHTS}", "Llama", "Llama")
        for version in ("3.1", "3.2", "3.3", "4")
    },
}


class Terms(NamedTuple):
    """
    What a card says about licences.

    Args:
        metadata (`dict[str, str]`): `license`, and with `"other"` its name and link.
        text (`Markdown`): The same in words.
        stated (`bool`): Whether its publisher stated it.
        several (`bool`): Whether the sources have several.
        sources (`list[dict]`): `what`, `name` and `license` of each.
        unknown (`list[Markdown]`): Sources whose licence is unknown.
        of_data (`bool`): Whether a dataset was made of them.
        llama (`list[dict]`): `notice`, `built_with`, `prefix`, `fits` (whether the name begins so), `keeps_outputs`.
    """

    metadata: dict[str, str]
    text: Markdown
    stated: bool
    several: bool
    sources: list[dict[str, Markdown]]
    unknown: list[Markdown]
    of_data: bool
    llama: list[dict[str, object]]


def terms_of(
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
        stated (`str`, *optional*): The licence that its publisher states: an identifier of the Hub.

    Raises:
        ValueError: if `stated` is no identifier of the Hub.
    """
    known = {role: sources[role] for role in roles if sources.get(role) is not None}
    licenses = {role: source_license(source) for role, source in known.items()}
    license = combine(licenses.values())
    if stated is not None:
        license = read_license(stated)
        if license is None or license.id != stated:
            raise ValueError(
                f"`license` is {stated!r:.80}; it must be one of the identifiers of the Hub, such as 'apache-2.0'. "
                "Leave it out, and the card says what follows from the sources."
            )
    metadata = {"license": license.id}
    if license.id == "other":
        folder = "datasets/" if repo_type == "dataset" else ""
        metadata["license_name"] = license.name or "unnamed"
        metadata["license_link"] = license.link or f"https://huggingface.co/{folder}{repo_id}#license"
    found = dict.fromkeys(one.id for one in licenses.values() if one is not None and one.id in _LLAMA)
    return Terms(
        metadata=metadata,
        text=license_text(license),
        stated=stated is not None,
        several=license not in licenses.values(),
        sources=[
            {"what": Markdown(ROLES[role]), "name": code(source["name"]), "license": license_text(licenses[role])}
            for role, source in known.items()
        ],
        unknown=list(dict.fromkeys(code(source["name"]) for role, source in known.items() if licenses[role] is None)),
        of_data=repo_type == "dataset",
        llama=[_asked(_LLAMA[one], repo_id.split("/")[-1]) for one in found],
    )


def _asked(llama: _Llama, name: str) -> dict[str, object]:
    words = {
        field: value and Markdown(value) for field, value in llama._asdict().items() if isinstance(value, str | None)
    }
    fits = llama.prefix is not None and re.match(llama.prefix.replace(" ", "[-_.]?"), name) is not None
    return {**words, "fits": fits, "keeps_outputs": llama.keeps_outputs}
