# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Metadata of cards: read from the front matter of a README, and checked by some of the rules of the Hub."""

import re

import yaml

_LICENSES = set(
    "afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause "
    "bsd-3-clause bsl-1.0 c-uda cc cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 "
    "cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-2.0 deepfloyd-if-license eupl-1.1 gemma gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 mit mpl-2.0 odbl "
    "odc-by openmdw-1.0 openrail openrail++ other pddl unknown unlicense wtfpl zlib".split()
)
_LISTS = ("tags", "model-index", "task_categories", "size_categories", "source_datasets", "annotations_creators")
_REPO_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def front_matter(text: str) -> dict:
    """
    The metadata of a card, `{}` if it has none.

    Raises:
        ValueError: if it is not YAML, or no mapping.
    """
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text.replace("\r\n", "\n"), re.DOTALL)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        raise ValueError(f"YAML Metadata Error: {error}") from None
    if not isinstance(metadata, dict | None):
        raise ValueError("YAML Metadata Error: expected a mapping")
    return metadata or {}


def check_card(text: str) -> tuple[list[str], list[str]]:
    """What the Hub refuses in a card, and what it warns of."""
    try:
        metadata = front_matter(text)
    except ValueError as error:
        return [str(error)], []
    if not metadata:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [f'"{name}" must be an array' for name in _LISTS if not isinstance(metadata.get(name, []), list)]
    licenses = _as_list(metadata.get("license"))
    if unknown := [name for name in licenses if name not in _LICENSES]:
        errors.append(f'"license" must be one of [{", ".join(sorted(_LICENSES))}], got {unknown[0]!r}')
    for name in ("base_model", "datasets"):
        for value in _as_list(metadata.get(name)):
            if not (isinstance(value, str) and _REPO_ID.fullmatch(value)):
                errors.append(f'"{name}" with value "{value}" is not valid. Use an id from the Hub.')
    if not errors:
        errors = [error for model in metadata.get("model-index", []) for error in _check_results(model)]
    return errors, [] if licenses else ['"license" is missing']


def card_tags(metadata: dict) -> list[str]:
    """The tags that the Hub shows for a card: its own, and what it makes of other fields."""
    tags = [*_as_list(metadata.get("tags"))]
    tags += [metadata[name] for name in ("library_name", "pipeline_tag") if name in metadata]
    for name, prefix in (("license", "license"), ("base_model", "base_model"), ("datasets", "dataset")):
        tags += [f"{prefix}:{value}" for value in _as_list(metadata.get(name))]
    return list(dict.fromkeys(tags))


def _as_list(value) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _check_results(model: dict) -> list[str]:
    if not isinstance(model, dict) or "name" not in model or not isinstance(model.get("results"), list):
        return ['"model-index[]" needs "name" and an array "results"']
    errors = []
    for result in model["results"]:
        needed = [("task", "type"), ("dataset", "name"), ("dataset", "type")]
        lacking = [f"{part}.{name}" for part, name in needed if name not in result.get(part, {})]
        for row in result.get("metrics", [{}]):
            lacking += [f"metrics[].{name}" for name in ("type", "value") if name not in row]
        errors += [f'"model-index[].results[].{name}" is required' for name in lacking]
    return errors
