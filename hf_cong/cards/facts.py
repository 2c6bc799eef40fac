# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A run's manifest as facts for a card. What is not in it is not in them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .rendering import Markdown, plain, table
from .results import Result, result_rows
from .sources import hub_link, source_rows
from .terms import Terms

_PARTS = ("sources", "settings", "stages", "counts", "measures", "versions")
_STAGES = {"samples": "samples", "sft": "SFT", "dpo": "DPO"}
_OF_A_STEP = ("learning_rate", "grad_norm", "step")  # they say nothing of a whole run


def read_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """
    A manifest with all parts, those that are missing empty.

    Raises:
        ValueError: if a part is not as this package writes it.
    """
    known = {"run": manifest.get("run"), "adapter": manifest.get("adapter")}
    for part in _PARTS:
        given = manifest.get(part) or {}
        _check(part, given, isinstance(given, Mapping))
        known[part] = {name: value for name, value in given.items() if value is not None}
    for name, source in known["sources"].items():
        _check(f"sources.{name}", source, isinstance(source, Mapping) and isinstance(source.get("name"), str))
    for name, count in known["counts"].items():
        whole = isinstance(count, Mapping) and {"rows_in", "kept", "dropped"} <= count.keys()
        _check(f"counts.{name}", count, whole and isinstance(count["dropped"], Mapping))
    for stage, measures in known["measures"].items():
        _check(f"measures.{stage}", measures, isinstance(measures, Mapping))
    return known


def _check(name: str, value: object, is_whole: bool) -> None:
    if not is_whole:
        raise ValueError(
            f"The manifest is damaged: its `{name}` is {value!r:.80}. Repeat the command that wrote it, in a new "
            "folder."
        )


def setting_rows(settings: Mapping[str, Any]) -> list[dict[str, object]]:
    """Settings under their own names."""
    return [{"setting": name, "value": _value(value)} for name, value in settings.items() if value is not None]


def _value(value: object) -> object:
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(plain(one) for one in value)
    return value


def count_rows(counts: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> list[dict[str, object]]:
    """Rows that came in, were kept, and were dropped, by stage and split."""
    rows = []
    for name, count in counts.items():
        stage, _, split = name.partition("/")
        if stage not in stages:
            continue
        dropped = [f"{number} {plain(reason)}" for reason, number in count["dropped"].items() if number]
        rows.append(
            {
                "data of": Markdown(_STAGES[stage]),
                "split": split,
                "rows in": count["rows_in"],
                "kept": count["kept"],
                "dropped": ", ".join(dropped) or Markdown("none"),
            }
        )
    return rows


def measure_rows(measures: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> list[dict[str, object]]:
    """The last values that training logged."""
    return [
        {"stage": Markdown(_STAGES[stage]), "measure": name, "last value": _rounded(value)}
        for stage in stages
        for name, value in (measures.get(stage) or {}).items()
        if value is not None and name not in _OF_A_STEP
    ]


def _rounded(value: object) -> object:
    return Markdown(f"{value:.4g}") if isinstance(value, float) else value


def optional_table(rows: Sequence[Mapping[str, object]]) -> Markdown | None:
    return table(rows) if rows else None


def common_facts(
    known: Mapping[str, Any],
    repo_id: str,
    results: Sequence[Result],
    terms: Terms,
    repositories: Mapping[str, str] | None,
) -> dict[str, Any]:
    """What every template may use."""
    here = hub_link(repo_id)
    labels = {"model": "the model", "sft": "ConG-S, after stage I", "data": "the data", "pair": "the weak pair"}
    kinds = {"data": "dataset"}
    related = [
        {"what": Markdown(labels[role]), "link": hub_link(name, kinds.get(role, "model")).markdown}
        for role, name in (repositories or {}).items()
        if name != repo_id
    ]
    versions = [f"{name} {version}" for name, version in known["versions"].items()]
    return {
        "repo_id": repo_id,
        "title": here.title,
        "run": known["run"],
        "sources": optional_table(source_rows(known["sources"])),
        "related": related,
        **result_facts(results),
        "terms": terms,
        "versions": versions,
    }


def result_facts(results: Sequence[Result]) -> dict[str, Any]:
    """What the section of results may use."""
    return {
        "results": optional_table(result_rows(results)),
        "benchmarked": any(result.is_benchmark for result in results),
        "judged": any(result.task.startswith("win rate") for result in results),
        "baselines": sorted({result.baseline for result in results if result.baseline}),
        "notes": list(dict.fromkeys((result.task, result.system, result.note) for result in results if result.note)),
    }
