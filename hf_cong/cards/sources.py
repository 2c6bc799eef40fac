# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What something was made of: models and prompts, in Markdown and in metadata."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .licenses import License, read_license
from .rendering import Markdown, code

# The sources of a run, and what they are to what was made of them.
ROLES = {
    "model": "strong base",
    "writer": "writer of the completions",
    "weak_model": "weak policy, after alignment",
    "weak_reference_model": "weak reference, before alignment",
    "prompts": "prompts",
}
_REPO_ID = re.compile(r"[\w-][\w.-]{0,95}(/[\w-][\w.-]{0,95})?", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code")


class HubLink(NamedTuple):
    """A repository in Markdown."""

    title: Markdown
    markdown: Markdown


def _is_repo_id(name: object) -> bool:
    return isinstance(name, str) and _REPO_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def check_repo_id(repo_id: str) -> None:
    """Raises `ValueError` unless this is the name of a repository."""
    if not _is_repo_id(repo_id):
        raise ValueError(
            f"`repo_id` must be a name such as 'org/name', of letters, digits, `-`, `_` and `.`; got {repo_id!r:.80}."
        )


def hub_id(source: Mapping[str, Any] | None) -> str | None:
    """The repository of a source; `None` if it is not known to be on the Hub. The name of a path has no folders."""
    if source is None or not _is_repo_id(source["name"]):
        return None
    return source["name"] if source.get("commit") is not None or "/" in source["name"] else None


def hub_link(repo_id: str, repo_type: str = "model") -> HubLink:
    """The title and the link of a repository."""
    check_repo_id(repo_id)
    folder = "datasets/" if repo_type == "dataset" else ""
    text = repo_id.replace("_", "\\_")
    title = text.split("/")[-1]
    return HubLink(
        code(title) if title.lower().startswith("www.") else Markdown(title),
        Markdown(f"[{text}](https://huggingface.co/{folder}{repo_id})"),
    )


def source_link(source: Mapping[str, Any] | None, repo_type: str = "model") -> Markdown | None:
    """A source in running text: a link if it is on the Hub, else its name."""
    if source is None:
        return None
    return code(source["name"]) if hub_id(source) is None else hub_link(source["name"], repo_type).markdown


def source_rows(sources: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, object]]:
    """The sources, at which commit they were taken, and under which licence."""
    return [
        {
            "what": Markdown(ROLES[role]),
            "from": source_link(source, "dataset" if role == "prompts" else "model"),
            "commit": code(source["commit"]) if source.get("commit") else Markdown("unknown or local"),
            "license": license_text(source_license(source)),
        }
        for role, source in sources.items()
        if source is not None and role in ROLES
    ]


def source_license(source: Mapping[str, Any]) -> License | None:
    """The licence that a manifest has for a source."""
    return read_license(**(source.get("license") or {"id": None}))


def license_text(license: License | None) -> Markdown:
    """A licence in running text. Where its text is was said by someone else, so only a page of the Hub is linked."""
    if license is None:
        return Markdown("unknown")
    name, link = license.name or license.id, license.link or ""
    if link.startswith("https://huggingface.co/"):
        return Markdown(f"[{code(name)}]({link})")
    return code(f"{name}, {link}" if link else name)


def languages(given: str | Sequence[str] | None, *sources: Mapping[str, Any] | None) -> list[str] | None:
    """
    Codes of languages: those given, or those of the first source that says some.

    Raises:
        ValueError: if a given one is no code.
    """
    if given:
        codes = [given] if isinstance(given, str) else list(given)
        for one in codes:
            if not _is_language(one):
                raise ValueError(f"`language` must be codes such as 'en' or 'pt-BR', got {one!r:.80}.")
        return codes
    for source in sources:
        if source is not None and source.get("language"):
            return [one for one in source["language"] if _is_language(one)] or None
    return None


def _is_language(text: object) -> bool:
    return isinstance(text, str) and _LANGUAGE.fullmatch(text) is not None
