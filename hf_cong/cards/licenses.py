# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Under which licence is a source, and what follows from all sources for what was made of them?

This is no legal advice: it repeats what cards say, and says so where they say nothing.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import DatasetCard, HfApi, ModelCard
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

_TIMEOUT = 10.0  # seconds; a licence is worth no longer wait
# What the Hub accepts as `license`; it refuses a card that has another.
_IDS = (
    "afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 "
    "bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 "
    "cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla- "
    "permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 "
    "etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl- "
    "lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 "
    "openrail openrail++ osl-3.0 other pddl postgresql unlicense wtfpl zlib "
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
        commit (`str`, *optional*): The commit whose card is read; by default the latest.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"dataset"`.

    Returns:
        [`License`]: what the card says; `None` if it says nothing or cannot be had, which is logged.
    """
    return _license(name, _card_data(name, commit, repo_type), commit, repo_type)


def describe_source(name: str, commit: str | None = None, repo_type: str = "model") -> dict[str, Any]:
    """
    What a manifest says of a source: its `name` (of a local path the last component), `commit`, `license` and
    `language`.

    Args:
        name (`str`): A repository of the Hub, or a local directory.
        commit (`str`, *optional*): Its commit.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"dataset"`.
    """
    card = _card_data(name, commit, repo_type)
    found = _license(name, card, commit, repo_type)
    languages = card.get("language") or []
    return {
        "name": Path(name).resolve().name if Path(name).exists() else name,
        "commit": commit,
        "license": None if found is None else found._asdict(),
        "language": [str(one) for one in ([languages] if isinstance(languages, str) else languages)],
    }


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
    names = sorted({_name(one) for one in found})
    if len(names) == 1:
        return found[0]
    return License("other", _slug("-and-".join(names)))


def _name(license: License) -> str:
    return license.name or license.link or license.id


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", text.lower()).strip("-")[:100] or "unnamed"


def _license(name: str, card: Mapping[str, Any], commit: str | None, repo_type: str) -> License | None:
    stated = card.get("license")
    if isinstance(stated, list):  # a dataset may have several
        several = [_license(name, {**card, "license": one}, commit, repo_type) for one in stated]
        return combine(several) if several else None
    if not isinstance(stated, str) or not stated.strip() or stated == "unknown":
        return None
    if stated in _KNOWN - {"other"}:
        return License(stated)
    title = card.get("license_name") if stated == "other" else stated
    link = card.get("license_link")
    if isinstance(link, str) and re.fullmatch(r"[\w.-]+", link, re.ASCII) and not Path(name).exists():
        folder = "datasets/" if repo_type == "dataset" else ""
        link = f"https://huggingface.co/{folder}{name}/blob/{commit or 'main'}/{link}"
    if not (isinstance(link, str) and re.fullmatch(r"https://[\w./~%#?=&+-]{1,300}", link, re.ASCII)):
        link = None
    return License("other", _slug(title) if isinstance(title, str) else None, link)


def _card_data(name: str, commit: str | None, repo_type: str) -> dict[str, Any]:
    """The metadata of a card, `{}` where there is none."""
    try:
        if Path(name).is_dir():
            readme = Path(name) / "README.md"
            cards = {"model": ModelCard, "dataset": DatasetCard}
            return cards[repo_type].load(readme).data.to_dict() if readme.is_file() else {}
        info = HfApi().repo_info(name, revision=commit, repo_type=repo_type, timeout=_TIMEOUT)
        return info.card_data.to_dict() if info.card_data is not None else {}
    except (HTTPError, OfflineModeIsEnabled, ValueError) as error:  # the Hub's answer, no Hub, no card or id
        reason = str(error).strip().splitlines() or [type(error).__name__]
        logger.warning("The licence of %s is unknown: %s", name, reason[0][:200])
        return {}
