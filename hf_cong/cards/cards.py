# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The cards: of a model, an adapter, a pair, a dataset, the decoding alone, and the text of a collection."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .facts import (
    ROLES,
    check_repo_id,
    count_rows,
    hub_id,
    hub_link,
    languages,
    measure_rows,
    read_manifest,
    setting_rows,
    source_link,
    source_rows,
)
from .licensing import licensing
from .parquet import dataset_metadata
from .rendering import Markdown, plain, render, table
from .results import Result, model_index, result_rows

# Settings of stage II, which a card of stage I does not show.
_STAGE_TWO = ("beta", "loss_type", "learning_rate", "num_train_epochs", "max_steps", "precompute_ref_log_probs")


def model_card(
    manifest: Mapping[str, Any],
    *,
    repo_id: str,
    stage: str = "dpo",
    conversational: bool = True,
    results: Sequence[Result] = (),
    system: str | None = None,
    repositories: Mapping[str, str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """
    The card of a trained model.

    Args:
        manifest (`Mapping`):
            What is known of the run. Every part may be missing, and is then missing from the card.
        repo_id (`str`):
            Where the model is published.
        stage (`str`, *optional*, defaults to `"dpo"`):
            `"dpo"` for the model at the end, `"sft"` for ConG-S, the model after stage I.
        conversational (`bool`, *optional*, defaults to `True`):
            Whether its tokenizer has a chat template.
        results (`Sequence[Result]`, *optional*):
            What was measured: see [`read_results`].
        system (`str`, *optional*):
            Which system of the results this model is: see [`measured_as`]. By default the only one.
        repositories (`Mapping[str, str]`, *optional*):
            Published repositories of the same run by what they hold: `"model"`, `"sft"`, `"data"`, `"pair"`.
        license (`str`, *optional*):
            The licence that the publisher states, instead of what follows from the sources.
        language (`str` or `Sequence[str]`, *optional*):
            Codes of its languages, instead of those of the prompts.

    Returns:
        `str`: the whole README.md.

    Raises:
        ValueError: if `repo_id` or `language` is not what it should be, or `system` has no results.
    """
    return _trained_card(
        "model", manifest, repo_id, stage, conversational, results, system, repositories, license, language
    )


def adapter_card(
    manifest: Mapping[str, Any],
    *,
    repo_id: str,
    stage: str = "dpo",
    conversational: bool = True,
    results: Sequence[Result] = (),
    system: str | None = None,
    repositories: Mapping[str, str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """The card of a trained LoRA adapter; the arguments are those of [`model_card`]."""
    return _trained_card(
        "adapter", manifest, repo_id, stage, conversational, results, system, repositories, license, language
    )


def _trained_card(
    kind, manifest, repo_id, stage, conversational, results, system, repositories, license, language
) -> str:
    check_repo_id(repo_id)
    known = read_manifest(manifest)
    sources, stages = known["sources"], known["stages"]
    base = hub_id(sources.get("model"))
    measured = _of_system(results, system)
    data = (repositories or {}).get("data")
    datasets = [name for name in (data, hub_id(sources.get("prompts"))) if name is not None]
    terms = licensing(sources, ROLES, repo_id, "model", stated=license)
    steps = ["sft"] if stage == "sft" else ["sft", "dpo"]
    settings = {name: value for name, value in known["settings"].items() if stage == "dpo" or name not in _STAGE_TWO}
    metadata = {
        **terms.metadata,
        "base_model": hub_id(sources.get("model")),
        "base_model_relation": ("adapter" if kind == "adapter" else "finetune")
        if hub_id(sources.get("model"))
        else None,
        "datasets": datasets,
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "language": languages(language, sources.get("prompts"), sources.get("model")),
        "tags": ["cong", "weak-to-strong", "contrastive-decoding", "alignment", "trl", stage]
        + (["lora"] if kind == "adapter" else []),
        "model-index": model_index(repo_id.split("/")[-1], measured),
    }
    facts = {
        **_common(known, repo_id, results, terms, repositories),
        "stage": stage,
        "conversational": conversational,
        "base": source_link(sources.get("model")),
        "base_id": base,
        "base_name": sources["model"]["name"] if sources.get("model") else None,
        "policy": source_link(sources.get("weak_model")),
        "reference": source_link(sources.get("weak_reference_model")),
        "prompts": source_link(sources.get("prompts"), "dataset"),
        "decoded": bool(stages.get("decode")),
        "fine_tuned": bool(stages.get("sft")),
        "sampled": bool(stages.get("sample")),
        "finished": bool(stages.get("dpo")),
        "settings": table(setting_rows(settings)) if settings else None,
        "adapter": table(setting_rows(known["adapter"])) if known["adapter"] else None,
        "counts": _table(count_rows(known["counts"], steps)),
        "truncated": sum(count["dropped"].get("truncated", 0) for count in known["counts"].values()),
        "measures": _table(measure_rows(known["measures"], steps)),
        "seed": settings.get("seed"),
    }
    return render(kind, facts, metadata)


def pair_card(
    manifest: Mapping[str, Any],
    *,
    repo_id: str,
    model_type: str = "contrastive_pair",
    conversational: bool = True,
    results: Sequence[Result] = (),
    system: str | None = None,
    repositories: Mapping[str, str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """
    The card of a pair that decodes as one model.

    Args:
        manifest (`Mapping`):
            As for [`model_card`]: the sources `weak_model` and `weak_reference_model`, with emulated fine-tuning
            `model` for the base, and the settings `alpha` or `beta` and `plausibility_threshold`.
        repo_id (`str`):
            Where the pair is published.
        model_type (`str`, *optional*, defaults to `"contrastive_pair"`):
            That of its configuration: `"contrastive_pair"`, `"contrastive_lora_pair"` or `"emulated_fine_tuning"`.
        conversational, results, system, repositories, license, language:
            As for [`model_card`].

    Returns:
        `str`: the whole README.md.

    Raises:
        ValueError: as [`model_card`].
    """
    check_repo_id(repo_id)
    known = read_manifest(manifest)
    steered = model_type == "emulated_fine_tuning"
    roles = ("model",) * steered + ("weak_model", "weak_reference_model")
    sources = {role: known["sources"].get(role) for role in roles}
    settings = {
        name: known["settings"][name]
        for name in ("alpha", "beta", "plausibility_threshold")
        if name in known["settings"] and name != ("alpha" if steered else "beta")
    }
    measured = _of_system(results, system)
    terms = licensing(sources, roles, repo_id, "model", stated=license)
    metadata = {
        **terms.metadata,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": languages(language, sources["weak_model"]),
        "tags": ["cong", "weak-to-strong", "contrastive-decoding", "alignment", "custom_code"],
        "model-index": model_index(repo_id.split("/")[-1], measured),
    }
    facts = {
        **_common({**known, "sources": sources}, repo_id, results, terms, repositories),
        "model_type": model_type,
        "conversational": conversational,
        "base": source_link(sources.get("model")),
        "policy": source_link(sources["weak_model"]),
        "reference": source_link(sources["weak_reference_model"]),
        "settings": _table(setting_rows(settings)),
    }
    return render("pair", facts, metadata)


def dataset_card(
    manifest: Mapping[str, Any],
    *,
    repo_id: str,
    files: Mapping[str, Path | bytes],
    repositories: Mapping[str, str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """
    The card of what a run decoded and sampled.

    Args:
        manifest (`Mapping`):
            As for [`model_card`].
        repo_id (`str`):
            Where the dataset is published.
        files (`Mapping[str, Path | bytes]`):
            The dataset by path in the repository: `<config>/<split>.parquet`, or in parts
            `<config>/<split>-00000-of-00002.parquet`. Other files are passed over.
        repositories, license, language:
            As for [`model_card`].

    Returns:
        `str`: the whole README.md, with `configs` and `dataset_info`.

    Raises:
        ValueError: as [`model_card`], and if `files` has no dataset.
    """
    check_repo_id(repo_id)
    known = read_manifest(manifest)
    sources = known["sources"]
    found = dataset_metadata(files)
    preferences = any("rejected" in columns for columns in found.columns.values())
    roles = [role for role in ROLES if role != "model" or preferences]
    prompts = hub_id(sources.get("prompts"))
    terms = licensing(sources, roles, repo_id, "dataset", stated=license)
    settings = {name: value for name, value in known["settings"].items() if name in _WRITING}
    metadata = {
        **terms.metadata,
        "language": languages(language, sources.get("prompts")),
        "task_categories": ["text-generation"],
        "size_categories": [found.size_category],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["machine-generated"],
        "source_datasets": [prompts] if prompts else None,
        "tags": ["cong", "weak-to-strong", "contrastive-decoding", "synthetic", "alignment", "trl", "sft"]
        + (["dpo", "preference"] if preferences else []),
        **found.metadata,
    }
    facts = {
        **_common({**known, "sources": {role: sources.get(role) for role in roles}}, repo_id, (), terms, repositories),
        "configs": list(found.columns),
        "columns": {name: _columns(columns) for name, columns in found.columns.items()},
        "splits": table(found.split_rows),
        "split": found.split_rows[-1]["split"],
        "config": found.split_rows[-1]["config"],
        "preferences": preferences,
        "base": source_link(sources.get("model")),
        "policy": source_link(sources.get("weak_model")),
        "reference": source_link(sources.get("weak_reference_model")),
        "prompts": source_link(sources.get("prompts"), "dataset"),
        "decoded": bool(known["stages"].get("decode")) or bool(sources.get("weak_model")),
        "settings": _table(setting_rows(settings)),
        "counts": _table(count_rows(known["counts"], ["sft", "dpo"])),
    }
    return render("dataset", facts, metadata)


# Settings that have a part in what is written.
_WRITING = (
    "alpha",
    "plausibility_threshold",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "do_sample",
    "repetition_penalty",
    "seed",
    "drop_truncated",
    "max_length",
    "invalid_prompts",
)
_COLUMNS = {
    "prompt_id": "names the prompt by its content; the same in every configuration",
    "prompt": "text, or messages",
    "completion": "what the weak pair wrote by contrastive decoding",
    "chosen": "what the weak pair wrote by contrastive decoding",
    "rejected": "what the strong model wrote after stage I",
    "finish_reason": "`stop`, or `length` if it was cut",
    "alpha": "α, the weight kept on the weak policy",
    "plausibility_threshold": "τ",
    "seed": "of the run",
}


def _columns(types: Mapping[str, str]) -> Markdown:
    rows = [
        {"column": name, "type": kind, "what": Markdown(_COLUMNS[name]) if name in _COLUMNS else None}
        for name, kind in types.items()
    ]
    return table(rows)


def decoding_card(repo_id: str) -> str:
    """
    The card of the repository that holds the decoding alone, for `custom_generate`.

    Args:
        repo_id (`str`): Where it is published.

    Returns:
        `str`: the whole README.md.
    """
    check_repo_id(repo_id)
    metadata = {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["custom_generate", "cong", "weak-to-strong", "contrastive-decoding"],
    }
    return render("decoding", {"repo_id": repo_id, "title": hub_link(repo_id).title}, metadata)


def collection_text(manifest: Mapping[str, Any]) -> str:
    """
    What a collection says of the repositories of a run: one line, no longer than the Hub takes.

    Args:
        manifest (`Mapping`): As for [`model_card`].
    """
    known = read_manifest(manifest)
    settings, base = known["settings"], known["sources"].get("model")
    parts = ["Contrastive weak-to-strong generalization (arXiv:2510.07884)"]
    if base is not None:
        parts.append(f"of {plain(base['name'])[:50]}")
    if "alpha" in settings:
        parts.append(f"with α = {settings['alpha']}")
    return " ".join(parts)[:150]


def _of_system(results: Sequence[Result], system: str | None) -> list[Result]:
    """The results of the model that is published."""
    names = list(dict.fromkeys(result.system for result in results))
    if system is not None and system not in names:
        raise ValueError(
            f"`system` is {system!r:.80}, of which there are no results; there are some of "
            f"{', '.join(names) or 'nothing'}. Name one of these."
        )
    if system is None and len(names) == 1:
        system = names[0]
    return [result for result in results if result.system == system]


def _table(rows: Sequence[Mapping[str, object]]) -> Markdown | None:
    return table(rows) if rows else None


def _common(known, repo_id, results, terms, repositories) -> dict[str, Any]:
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
        "sources": _table(source_rows(known["sources"])),
        "related": related,
        "results": _table(result_rows(results)),
        "baselines": sorted({result.baseline for result in results if result.baseline}),
        "notes": list(dict.fromkeys((result.task, result.system, result.note) for result in results if result.note)),
        "terms": terms,
        "versions": versions,
    }
