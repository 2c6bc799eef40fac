# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The cards: of a model, an adapter, a pair, a dataset, the decoding alone, and the text of a collection."""

from collections.abc import Mapping, Sequence
from typing import Any

from .facts import common_facts, count_rows, measure_rows, optional_table, read_manifest, setting_rows
from .rendering import Markdown, plain, render
from .results import Result, model_index
from .sources import ROLES, check_repo_id, hub_id, hub_link, languages, source_link
from .terms import terms_of
from .writing import papers, writing_facts

# Settings of stage II, which a card of stage I does not show.
_STAGE_TWO = (
    *("rejected_from", "drop_contradicting", "reward_margin"),
    *("beta", "loss_type", "learning_rate", "num_train_epochs", "max_steps"),
)


def model_card(
    manifest: Mapping[str, Any],
    *,
    repo_id: str,
    kind: str = "model",
    stage: str = "dpo",
    conversational: bool = True,
    results: Sequence[Result] = (),
    system: str | None = None,
    repositories: Mapping[str, str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """
    The card of a trained model, or of a trained LoRA adapter.

    Args:
        manifest (`Mapping`):
            What is known of the run. Every part may be missing, and is then missing from the card.
        repo_id (`str`):
            Where the model is published.
        kind (`str`, *optional*, defaults to `"model"`):
            `"model"` or `"adapter"`.
        stage (`str`, *optional*, defaults to `"dpo"`):
            `"dpo"` for the model at the end, `"sft"` for ConG-S, the model after stage I.
        conversational (`bool`, *optional*, defaults to `True`):
            Whether its tokenizer has a chat template.
        results (`Sequence[Result]`, *optional*):
            What was measured: see [`read_results`].
        system (`str`, *optional*):
            Which system of the results this model is: see [`measured_as`]. Without it, results are shown and none is
            claimed for this model.
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
    check_repo_id(repo_id)
    known = read_manifest(manifest)
    sources, stages = known["sources"], known["stages"]
    base, link = hub_id(sources.get("model")), source_link(sources.get("model"))
    measured = _of_system(results, system)
    data = (repositories or {}).get("data")
    datasets = list(dict.fromkeys(name for name in (data, hub_id(sources.get("prompts"))) if name is not None))
    terms = terms_of(sources, ROLES, repo_id, "model", stated=license)
    steps = ["sft"] if stage == "sft" else ["sft", "dpo"]
    settings = {name: value for name, value in known["settings"].items() if stage == "dpo" or name not in _STAGE_TWO}
    metadata = {
        **terms.metadata,
        "base_model": base,
        "base_model_relation": None if base is None else "adapter" if kind == "adapter" else "finetune",
        "datasets": datasets,
        "library_name": "peft" if kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "language": languages(language, sources.get("prompts"), sources.get("model")),
        "tags": list(dict.fromkeys([*_tags(known, stage), *map(plain, manifest.get("tags") or [])])),
        "model-index": model_index(repo_id.split("/")[-1], measured),
    }
    facts = {
        **common_facts(known, repo_id, results, terms, repositories),
        "stage": stage,
        "is_adapter": kind == "adapter",
        "conversational": conversational,
        "base": link,
        "subject": Markdown(
            f"An adapter for {link or 'a language model'}" if kind == "adapter" else link or "A model"
        ),
        "base_id": base,
        "base_name": sources["model"]["name"] if sources.get("model") else None,
        **writing_facts(known, stage),
        "fine_tuned": bool(stages.get("sft")),
        "sampled": bool(stages.get("sample")),
        "finished": bool(stages.get("dpo")),
        "cited": _cited(known, stage),
        "settings": optional_table(setting_rows(settings)),
        "adapter": optional_table(setting_rows(known["adapter"] or {})),
        "counts": optional_table(count_rows(known["counts"], ["samples", *steps])),
        "truncated": sum(
            known["counts"].get(f"{step}/train", {}).get("dropped", {}).get("truncated", 0) for step in steps
        ),
        "measures": optional_table(measure_rows(known["measures"], steps)),
        "round": settings.get("round"),
        "seed": settings.get("seed"),
    }
    return render(kind, facts, metadata)


def _tags(known: Mapping[str, Any], stage: str) -> list[str]:
    """What the model is found by, as far as it is known what ran."""
    stages, writing = known["stages"], writing_facts(known)["writing"]
    ran = ["sft"] if stage == "sft" or stages.get("sft") else []
    ran += ["dpo"] if stage == "dpo" and stages.get("dpo") else []
    method = ["cong", "weak-to-strong"] if _is_cong(known, stage) else []
    method += ["contrastive-decoding"] if writing == "contrast" else []
    method += ["lora"] if "lora_alpha" in (known["adapter"] or {}) else []
    return [*method, *ran, "alignment", "trl"] if ran else method


def _cited(known: Mapping[str, Any], stage: str) -> list[str]:
    """The papers of what ran."""
    method = ["cong"] if _is_cong(known, stage) else []
    method += papers(writing_facts(known)["writing"])
    return [*method, "dpo"] if stage == "dpo" and known["stages"].get("dpo") else method


def _is_cong(known: Mapping[str, Any], stage: str) -> bool:
    """Whether any stage before DPO ran."""
    return stage == "sft" or bool(known["stages"].keys() & {"decode", "sft", "sample"})


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
    members = list(dict.fromkeys(filter(None, map(hub_id, sources.values()))))
    measured = _of_system(results, system)
    terms = terms_of(sources, roles, repo_id, "model", stated=license)
    metadata = {
        **terms.metadata,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": members,
        "base_model_relation": "merge" if members else None,
        "language": languages(language, sources["weak_model"]),
        "tags": ["cong", "weak-to-strong", "contrastive-decoding", "alignment", "custom_code"],
        "model-index": model_index(repo_id.split("/")[-1], measured),
    }
    facts = {
        **common_facts({**known, "sources": sources}, repo_id, results, terms, repositories),
        "model_type": model_type,
        "cited": ["eft" if steered else "cong"],
        "conversational": conversational,
        "base": source_link(sources.get("model")),
        "policy": source_link(sources["weak_model"]),
        "reference": source_link(sources["weak_reference_model"]),
        "settings": optional_table(setting_rows(settings)),
    }
    return render("pair", facts, metadata)


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
    return render("decoding", {"repo_id": repo_id, "title": hub_link(repo_id).title, "cited": ["cong"]}, metadata)


def collection_text(manifest: Mapping[str, Any]) -> str:
    """
    What a collection says of the repositories of a run: one line, no longer than the Hub takes.

    Args:
        manifest (`Mapping`): As for [`model_card`].
    """
    known = read_manifest(manifest)
    base, alpha = hub_id(known["sources"].get("model")), known["settings"].get("alpha")
    parts = ["Contrastive weak-to-strong generalization (arXiv:2510.07884)"]
    if base is not None:  # a path may be named anything
        parts.append(f"of {base[:50]}")
    if isinstance(alpha, int | float):
        parts.append(f"with α = {alpha}")
    return " ".join(parts)


def _of_system(results: Sequence[Result], system: str | None) -> list[Result]:
    """The results of the model that is published."""
    names = list(dict.fromkeys(result.system for result in results))
    if system is not None and system not in names:
        raise ValueError(
            f"`system` is {system!r:.80}, of which there are no results; there are some of "
            f"{', '.join(names) or 'nothing'}. Name one of these."
        )
    return [result for result in results if result.system == system]
