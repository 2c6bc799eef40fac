# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Under which licence is a source, and what follows from all sources for what was made of them?

This is no legal advice: it repeats what cards say, and says so where they say nothing.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds; a licence is worth no longer wait
# What the Hub accepts as `license`: it refuses a card that has another.
_IDS = (
    "afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 "
    "etalab-2.0 eupl-1.1 gemma gfdl gpl gpl-2.0 gpl-3.0 intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 "
    "llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail "
    "openrail++ osl-3.0 pddl postgresql unlicense wtfpl zlib"
)
_KNOWN = frozenset(_IDS.split())


class License(NamedTuple):
    """
    A licence as the metadata of a card names it.

    Args:
        id (`str`): The Hub's identifier, such as `"apache-2.0"`; `"other"` for one it has no identifier for.
        name (`str`, *optional*): With `"other"`, what it is called, such as `"qwen-research"`.
        link (`str`, *optional*): With `"other"`, where its text is.
    """

    id: str
    name: str | None = None
    link: str | None = None


UNKNOWN = License("unknown")


def license_of(name: str, commit: str | None = None, repo_type: str = "model") -> License | None:
    """
    The licence that a model or dataset states in its card.

    Args:
        name (`str`): A repository of the Hub, or a local directory.
        commit (`str`, *optional*): The commit whose card is read, on the Hub. Without one, the directory of this name
            or the latest commit.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"dataset"`.

    Returns:
        [`License`]: what the card says; `None` if it says nothing or cannot be had, which is logged.
    """
    return _stated(_metadata(name, commit, repo_type), name, commit, repo_type)


def describe_source(name: str, commit: str | None = None, repo_type: str = "model") -> dict[str, Any]:
    """
    What a manifest says of a source: its `name` (of a local path the last component), `commit`, `license` and
    `language`.

    Args:
        name, commit, repo_type: As for [`license_of`].
    """
    metadata = _metadata(name, commit, repo_type)
    license = _stated(metadata, name, commit, repo_type)
    languages = metadata.get("language")
    languages = languages if isinstance(languages, list) else [languages]
    return {
        "name": Path(name).resolve().name if commit is None and Path(name).exists() else name,
        "commit": commit,
        "license": None if license is None else license._asdict(),
        # Norwegian without quotes is false to PyYAML.
        "language": ["no" if one is False else str(one) for one in languages if one not in (None, "")],
    }


def read_license(id: object, name: object = None, link: object = None) -> License | None:
    """
    A licence in words that the Hub accepts, whatever a card had; `None` if it had none.

    Args:
        id, name, link: The fields `license`, `license_name` and `license_link`.
    """
    if not isinstance(id, str) or not id.strip() or id == "unknown":
        return None
    if id in _KNOWN:
        return License(id)
    title = name if id == "other" else id
    if not (isinstance(link, str) and re.fullmatch(r"https://[\w./~%#?=&+-]{1,300}", link, re.ASCII)):
        link = None
    return License("other", _slug(title) if isinstance(title, str) and title.strip() else None, link)


def combine(licenses: Iterable[License | None]) -> License:
    """
    The licence of what was made of several sources.

    One that all share is that of the result. Otherwise the result has none of the Hub's identifiers: `"other"`, named
    after all of them, or `"unknown"` if that of any source is.

    Args:
        licenses (`Iterable[License]`): Of every source; `None` where it is unknown.
    """
    found = list(licenses)
    if not found or None in found or UNKNOWN in found:
        return UNKNOWN
    # Two that have neither a name nor a text are not known to be one.
    names = {one.name or one.link or (one.id if one.id != "other" else f"unnamed-{n}") for n, one in enumerate(found)}
    if len(names) == 1:
        return found[0]
    titles = {one.name or (one.id if one.id != "other" else "unnamed") for one in found}
    return License("other", _slug("-and-".join(sorted(titles))))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")[:100] or "unnamed"


def _stated(metadata: Mapping[str, Any], name: str, commit: str | None, repo_type: str) -> License | None:
    ids, link = metadata.get("license"), metadata.get("license_link")
    if commit is not None and isinstance(link, str) and re.fullmatch(r"[\w.-]+", link, re.ASCII):
        folder = "datasets/" if repo_type == "dataset" else ""
        link = f"https://huggingface.co/{folder}{name}/blob/{commit}/{link}"  # a file beside the card
    if not isinstance(ids, list):
        return read_license(ids, metadata.get("license_name"), link)
    several = [read_license(one, metadata.get("license_name"), link) for one in ids]  # a dataset may have more
    found = combine(several)
    return None if found == UNKNOWN else found


def _metadata(name: str, commit: str | None, repo_type: str) -> dict[str, Any]:
    """The metadata of a card, `{}` where there is none."""
    try:
        if commit is None and Path(name).is_dir():
            readme = Path(name) / "README.md"
            if not readme.is_file():
                return {}
            return ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
        card = HfApi().repo_info(name, revision=commit, repo_type=repo_type, timeout=_TIMEOUT).card_data
        return {} if card is None else card.to_dict()
    except (HTTPError, OSError, ValueError, yaml.YAMLError) as error:  # refused, no Hub, no name of one, no YAML
        reason = str(error).strip().splitlines() or [type(error).__name__]
        logger.warning("The licence of %s is unknown: %s", name, reason[0][:200])
        return {}
