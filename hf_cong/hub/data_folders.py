# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Folders of completions and of what was built of them, to a dataset on the Hub."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet

from ..cards import dataset_card
from ..checkpoints import content_key
from ..journal import read_manifest
from .files import is_local, select_files
from .folders import DATA_FILES, check_folder
from .publication import Publication
from .sources import source_of, unknown_source

_WRITING = ("max_new_tokens", "temperature", "top_p", "top_k", "do_sample", "repetition_penalty", "seed")
_CONTRAST = {"alpha", "beta", "plausibility_threshold"}
_ROLES = {"base": "writer", "policy": "weak_model", "reference": "weak_reference_model"}


def dataset_publication(
    folders: Sequence[str | Path],
    *,
    repo_id: str,
    private: bool = True,
    prompts: str | None = None,
    license: str | None = None,
    language: Sequence[str] = (),
) -> Publication:
    """
    Completions and what was built of them, as one dataset: `sft` with `prompt` and `completion`, `preferences` with
    `prompt`, `chosen` and `rejected`.

    Args:
        folders (`Sequence[str | Path]`):
            Output directories of [`generate_completions`], [`build_sft_dataset`] and [`build_preference_dataset`]; of
            each configuration one.
        repo_id (`str`):
            Where it goes.
        private (`bool`, *optional*, defaults to `True`):
            Whether only its namespace sees a new repository.
        prompts (`str`, *optional*):
            The Hub id of the dataset that the prompts are from, if the manifests do not tell.
        license, language:
            As for [`model_publication`].

    Returns:
        [`Publication`]: the files, and the card.

    Raises:
        FileNotFoundError: if there is no such folder, or the command that writes it has not ended.
        ValueError: if a file is not as its manifest describes it, two are of one configuration, or one model wrote the
            one and a pair the other.
    """
    files, left, runs, origins, settings = {}, [], {}, [], []
    manifest = {"sources": {}, "counts": {}, "versions": {}}
    for folder in map(Path, folders):
        check_folder(folder, "dataset")
        found = read_manifest(folder / "manifest.json")
        selected = select_files(folder, "dataset")
        names = [name for name in found["files"] if name in DATA_FILES and name in selected.files]
        if len(names) != 1:
            raise ValueError(
                f"{folder / 'manifest.json'} is of {', '.join(found['files']) or 'no files'}; it must be of one of "
                f"{', '.join(DATA_FILES)}. Pass the folder that `hf-cong generate` or `hf-cong build` wrote."
            )
        (name,) = names
        config = DATA_FILES[name]
        if config in runs:
            raise ValueError(
                f"{folder} is the second of the configuration `{config}`; a dataset has one of each. Publish them as "
                "two datasets."
            )
        left += [f"{folder.name}/{path}" for path in {*selected.left, *selected.files} - {name}]
        path = selected.files[name]
        files[f"{config}/train.parquet"] = _as_trl(path) if name == "completions.parquet" else path
        written = found.get("sources") or {"completions": found}
        _check_written(folder, written)
        origins += [origin for source in written.values() if (origin := source.get("prompts"))]
        runs[config] = {role: source.get("identity", source) for role, source in written.items()}
        runs[config]["drop_truncated"] = found.get("drop_truncated")
        sources = _writers(written)
        if len({("writer" in one, "weak_model" in one) for one in (sources, manifest["sources"]) if one}) > 1:
            raise ValueError(
                f"{folder} and {folders[0]} were not written alike: by one model, a pair, or a model that a pair "
                "steered. Publish them as two datasets."
            )
        for role, source in sources.items():
            manifest["sources"][role] = _both(manifest["sources"].get(role, source), source)
        settings += [*map(_settings, written.values()), {"drop_truncated": found.get("drop_truncated")}]
        manifest["counts"]["dpo/train" if config == "preferences" else "sft/train"] = found.get("counts")
        manifest["versions"] = found.get("versions")
    manifest["run"] = content_key(runs)
    manifest["sources"]["prompts"] = _prompts(prompts, origins)
    manifest["settings"] = {name: _several([one.get(name) for one in settings]) for one in settings for name in one}
    card = dataset_card(manifest, repo_id=repo_id, files=files, license=license, language=language)
    return Publication(
        repo_id=repo_id,
        repo_type="dataset",
        kind="dataset",
        run=manifest["run"],
        files=files,
        card=card,
        private=private,
        left=tuple(sorted(left)),
    )


def _check_written(folder: Path, written: Any) -> None:
    sides = list(written.values()) if isinstance(written, dict) else [written]
    parts = [side.get(name) or {} for side in sides if isinstance(side, dict) for name in ("identity", "engine")]
    if not all(isinstance(part, dict) for part in [written, *sides, *parts]):
        raise ValueError(
            f"{folder / 'manifest.json'} is damaged: it does not tell who wrote the completions. Repeat, in a new "
            "folder, the command that wrote it."
        )


def _prompts(given: str | None, origins: list[list[str]]) -> dict[str, Any]:
    """The dataset of the prompts: the one that is given, or the one that all manifests name."""
    if given is not None:
        commits = {commit for name, commit in origins if name == given}
        return source_of(given, commits.pop() if len(commits) == 1 else None, repo_type="dataset")
    found = sorted(set(map(tuple, origins)))
    if len(found) == 1:
        return source_of(*found[0], repo_type="dataset")
    names = " and ".join(dict.fromkeys(name for name, _ in found))
    return unknown_source(names or "unrecorded prompts")


def _writers(written: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The models that wrote a dataset, by what they are to it."""
    sources = {}
    for side, manifest in written.items():
        sources |= {"model": _writer(manifest)} if side == "rejected" else _members(manifest)
    return sources


def _both(source: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return source if source == other else unknown_source(f"{source['name']} and {other['name']}")


def _several(values: list[Any]) -> Any:
    """The one value of a setting; all of them if it had several."""
    found = list(dict.fromkeys(value for value in values if value is not None))
    return found if len(found) > 1 else next(iter(found), None)


def _members(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The weak pair, and what it steers; or the one model that wrote alone."""
    engine, named = _engine(manifest)
    contrast = [facts.get(name) for facts in (engine, named) for name in ("alpha", "beta")]
    if all(weight is None for weight in [*contrast, *manifest.get("alpha", ())]):
        return {"writer": _writer(manifest)}
    members = named if "policy" in named else engine
    found = {
        role: _written_by(named.get(member), (engine.get(member) or {}).get("model"))
        for member, role in _ROLES.items()
        if member in members
    }
    return found or {"weak_model": _writer(manifest)}  # a pair that was saved as one


def _writer(manifest: dict[str, Any]) -> dict[str, Any]:
    engine, named = _engine(manifest)
    given = manifest.get("model") or ["unnamed"]  # the column of a dataset that came without its folder
    return _written_by(named.get("policy") or named.get("vllm"), engine.get("model") or " and ".join(map(str, given)))


def _engine(manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run of [`generate_completions`] says of its engine: facts, and names with their commits."""
    identity = (manifest.get("identity") or {}).get("engine")
    return manifest.get("engine") or {}, identity if isinstance(identity, dict) else {}


def _written_by(identity: str | None, name: str | None) -> dict[str, Any]:
    """A model that wrote: by its commit where that is known, else by the name it was loaded by."""
    known, at, commit = (identity or "").partition("@")
    if at:
        return source_of(known, commit)
    short = _without_folders(name or "unnamed")
    return source_of(name) if name and " vs " not in name else unknown_source(short)


def _settings(manifest: dict[str, Any]) -> dict[str, Any]:
    engine = manifest.get("engine") or {}
    names = {"alpha": "alpha", "steering_beta": "beta", "plausibility_threshold": "plausibility_threshold"}
    contrast = {setting: engine.get(name) for setting, name in names.items()}
    return {**contrast, **{name: (manifest.get("identity") or {}).get(name) for name in _WRITING}}


def _as_trl(path: Path) -> bytes:
    """
    Completions as TRL reads them: after messages an assistant's turn. Models are named without their folders; settings
    that no completion has, as β of a pair's, have no column.
    """
    rows = datasets.Dataset(pyarrow.parquet.read_table(path))
    features = rows.features.copy()
    columns = {name: rows[name][:] for name in ("model", "completion")}
    short = {name: _without_folders(name) for name in set(columns["model"])}
    columns["model"] = [short[name] for name in columns["model"]]
    if not isinstance(rows.features["prompt"], datasets.Value):
        columns["completion"] = [[{"role": "assistant", "content": text}] for text in columns["completion"]]
        text = datasets.Value("string")
        features["completion"] = datasets.List({"role": text, "content": text})
    kept = {name: columns.get(name) or rows[name][:] for name in features}
    for name in _CONTRAST & features.keys():
        if set(kept[name]) <= {None}:
            del kept[name], features[name]
    content = io.BytesIO()
    datasets.Dataset.from_dict(kept, features=features).to_parquet(content)
    return content.getvalue()


def _without_folders(model: str) -> str:
    """`"/home/me/policy vs org/reference"` to `"policy vs org/reference"`."""
    return " vs ".join(Path(name).name if is_local(name) else name for name in model.split(" vs "))
