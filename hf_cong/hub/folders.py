# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A folder on disk to what the Hub is to hold: a model, an adapter, or a pair.

What the card says comes from the manifest that lies beside the files and from their configuration.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cards import (
    Result,
    eval_results_files,
    measured_as,
    model_card,
    pair_card,
    read_results,
)
from ..checkpoints import content_key
from ..journal import file_sha256, read_manifest
from .files import select_files
from .publication import Publication
from .sources import source_of

logger = logging.getLogger(__name__)

_PAIRS = ("contrastive_pair", "contrastive_lora_pair", "emulated_fine_tuning")
# Which configuration of a dataset a file becomes.
DATA_FILES = {"completions.parquet": "sft", "sft.parquet": "sft", "preferences.parquet": "preferences"}
_WHAT = {
    "model": "a model",
    "adapter": "an adapter",
    "pair": "a saved pair",
    "dataset": "completions or a dataset",
    "results": "an evaluation",
    "run": "the output of a training run",
}
_ROLES = {"base": "model", "policy": "weak_model", "reference": "weak_reference_model"}


def folder_kind(folder: str | Path) -> str | None:
    """
    What a folder holds: `"model"`, `"adapter"`, `"pair"`, `"dataset"`, `"results"`, `"run"`, or `None`.

    The `output_dir` of a training run is `"run"` before it has a model of its own.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"`source` must be a folder, and there is none at {str(folder)!r:.80}.")
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "config.json").is_file():
        return "pair" if _parse(folder / "config.json").get("model_type") in _PAIRS else "model"
    if (folder / "evaluation.json").is_file() or any(folder.glob("results_*.json")):
        return "results"
    if any((folder / name).is_file() for name in DATA_FILES):
        return "dataset"
    return "run" if (folder / "_cong").is_dir() else None


def check_folder(folder: str | Path, kind: str) -> None:
    """Raises `ValueError`, naming the command that fits, unless a folder holds what `hf-cong publish KIND` is for."""
    found = folder_kind(folder)
    if found == kind or (kind, found) == ("model", "adapter") or (kind == "run" and (Path(folder) / "_cong").is_dir()):
        return
    if found is None:
        raise ValueError(
            f"{folder} holds nothing that `hf-cong publish {kind}` knows: no configuration of a model, no completions "
            "and no evaluation. Pass the folder that a command of hf-cong, or `save_pretrained`, wrote."
        )
    command = "model" if found == "adapter" else found
    raise ValueError(f"{folder} holds {_WHAT[found]}. Publish it with `hf-cong publish {command}`.")


def model_publication(
    folder: str | Path,
    *,
    repo_id: str,
    private: bool = True,
    base_model: str | None = None,
    evaluation: str | Path | None = None,
    system: str | None = None,
    license: str | None = None,
    language: Sequence[str] = (),
    run: tuple[dict[str, Any], str] | None = None,
    repositories: Mapping[str, str] | None = None,
) -> Publication:
    """
    A model or a LoRA adapter that was saved to a folder.

    With the manifest of a training run beside it the card tells how it was made, and the run may write again. A folder
    without one is known by its weights: others are refused where these were published.

    Args:
        folder (`str` or `Path`):
            What `save_pretrained` wrote, or the `output_dir` of a training run.
        repo_id (`str`):
            Where it goes.
        private (`bool`, *optional*, defaults to `True`):
            Whether only its namespace sees a new repository.
        base_model (`str`, *optional*):
            The Hub id of the model that an adapter adapts, for one that was trained on a local copy.
        evaluation (`str` or `Path`, *optional*):
            Results for the card: see [`read_results`].
        system (`str`, *optional*):
            Which of the systems measured there it is; by default the one of this folder, or the only one.
        license (`str`, *optional*):
            Its licence, instead of what follows from its sources.
        language (`Sequence[str]`, *optional*):
            Its languages, instead of those of its prompts.
        run (`tuple[dict, str]`, *optional*):
            The manifest of the run that wrote it, and after which stage; by default what lies beside it.
        repositories (`Mapping[str, str]`, *optional*):
            Repositories of the same run that the card points to: see [`model_card`].

    Returns:
        [`Publication`]: the files, and the card.

    Raises:
        FileNotFoundError: if there is no such folder, or it is not complete.
        ValueError: if it holds something else, or something that is not published: see [`select_files`].
    """
    folder = Path(folder)
    check_folder(folder, "model")
    manifest, stage = run or _run_manifest(folder)
    # A run's folder may still hold what another run saved to it.
    is_adapter = manifest.get("adapter") and not manifest.get("merged")
    kind = folder_kind(folder) if run is None else "adapter" if is_adapter else "model"
    if base_model is not None and kind != "adapter":
        raise ValueError(f"`base_model` is for an adapter, and {folder} holds a whole model. Leave it out.")
    selected = select_files(folder, kind, **({"base_model": base_model} if kind == "adapter" else {}))
    _warn_without_tokenizer(folder, selected.files)
    if kind == "adapter" and (base_model is not None or manifest.get("sources", {}).get("model") is None):
        config = _parse(selected.files["adapter_config.json"])
        base = config["base_model_name_or_path"]
        adapter = {name: config.get(name) for name in ("r", "lora_alpha", "target_modules")}
        source = source_of(base, revision=None if base_model else config.get("revision"))
        manifest = {"adapter": adapter, **manifest, "sources": {**manifest.get("sources", {}), "model": source}}
    results, system, files = _results(evaluation, system, folder, repo_id)
    card = model_card(
        manifest,
        repo_id=repo_id,
        kind=kind,
        stage=stage,
        conversational=_is_conversational(selected.files),
        results=results,
        system=system,
        repositories=repositories,
        license=license,
        language=language,
    )
    return Publication(
        repo_id=repo_id,
        repo_type="model",
        kind=kind,
        run=manifest.get("run") or _weights_key(selected.files),
        files={**selected.files, **files},
        card=card,
        private=private,
        left=selected.left,
    )


def pair_publication(
    folder: str | Path,
    *,
    repo_id: str,
    private: bool = True,
    evaluation: str | Path | None = None,
    system: str | None = None,
    license: str | None = None,
    language: Sequence[str] = (),
    run: dict[str, Any] | None = None,
    repositories: Mapping[str, str] | None = None,
) -> Publication:
    """
    A pair that was saved as one model, such as the output of `hf-cong compress`, or a base that a pair steers.

    Args:
        folder (`str` or `Path`): What `save_pretrained` of the pair wrote.
        repo_id, private, evaluation, system, license, language, repositories: As for [`model_publication`].
        run (`dict`, *optional*): The manifest of the run whose pair it is.

    Returns:
        [`Publication`]: the files, among them the code that loads them without hf_cong, and the card.

    Raises:
        FileNotFoundError, ValueError: As [`model_publication`].
    """
    folder = Path(folder)
    check_folder(folder, "pair")
    selected = select_files(folder, "pair")
    _warn_without_tokenizer(folder, selected.files)
    config = _parse(folder / "config.json")
    results, system, files = _results(evaluation, system, folder, repo_id)
    card = pair_card(
        run or _pair_facts(folder, config),
        repo_id=repo_id,
        model_type=config["model_type"],
        conversational=_is_conversational(selected.files),
        results=results,
        system=system,
        repositories=repositories,
        license=license,
        language=language,
    )
    return Publication(
        repo_id=repo_id,
        repo_type="model",
        kind="pair",
        run=run["run"] if run else _weights_key(selected.files),
        files={**selected.files, **files},
        card=card,
        private=private,
        left=selected.left,
    )


def results_of(evaluation: str | Path, system: str | None, model: str | Path) -> tuple[list[Result], str]:
    """
    What was measured, and which system of it a model is.

    Args:
        evaluation (`str` or `Path`): See [`read_results`].
        system (`str`, *optional*): The system; by default the one that was measured at this name, or the only one.
        model (`str` or `Path`): The folder or the Hub id of the model.

    Raises:
        ValueError: if nothing was measured, or there are several systems and it is not clear which one it is.
    """
    results = read_results(evaluation)
    names = list(dict.fromkeys(result.system for result in results))
    if not names:
        raise ValueError(f"{evaluation} has no finite score. Repeat the evaluation that wrote it.")
    system = system or measured_as(results, model) or (names[0] if len(names) == 1 else None)
    if system not in names:
        raise ValueError(
            f"The evaluation is of {', '.join(names)}; which one is published is "
            f"{'not said' if system is None else f'said to be {system!r:.80}'}. Name it as `system`."
        )
    return results, system


def _results(
    evaluation: str | Path | None, system: str | None, folder: Path, repo_id: str
) -> tuple[list[Result], str | None, dict[str, bytes]]:
    """Results for the card, whose they are, and the files that leaderboards read."""
    if evaluation is None:
        if system is not None:
            raise ValueError("`system` is one of an evaluation. Pass the folder as `evaluation`.")
        return [], None, {}
    results, system = results_of(evaluation, system, folder)
    own = [result for result in results if result.system == system]
    return results, system, eval_results_files(own, repo_id=repo_id)


def _run_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest of the training run that wrote a model, `{}` if it is not known, and after which stage that is."""
    for root, stage in ((folder / "_cong", "dpo"), (folder.resolve().parent.parent, "sft")):
        if root.name == "_cong" and (root / "manifest.json").is_file():
            return read_manifest(root / "manifest.json"), stage
    return {}, "dpo"


def _pair_facts(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What the configuration of a pair, and the report of `hf-cong compress`, tell of what it was made of."""
    members = {**config, **(config.get("pair_config") or {})}
    keys = {"base": "base_config", "policy": "policy_config", "reference": "reference_config"}
    names = {role: (members.get(key) or {}).get("_name_or_path") for role, key in keys.items()}
    if (folder / "compression.json").is_file():
        names |= read_manifest(folder / "compression.json")["names"]
    return {
        "sources": {_ROLES[role]: source_of(name) for role, name in names.items() if name},
        "settings": {name: config.get(name) for name in ("alpha", "beta", "plausibility_threshold")},
    }


def _weights_key(files: dict[str, Path | bytes]) -> str:
    """Names a folder without a manifest: by its weights, not by what is said about them."""
    return content_key([(name, file_sha256(path)) for name, path in files.items() if name.endswith(".safetensors")])


def _warn_without_tokenizer(folder: Path, files: dict[str, Path | bytes]):
    if not any(name.startswith(("tokenizer", "vocab", "spiece", "sentencepiece", "tekken")) for name in files):
        logger.warning(
            "%s has no tokenizer, and who loads it will miss one: `tokenizer.save_pretrained` there.", folder
        )


def _is_conversational(files: dict[str, Path | bytes]) -> bool:
    if "chat_template.jinja" in files:
        return True
    return "tokenizer_config.json" in files and bool(_parse(files["tokenizer_config.json"]).get("chat_template"))


def _parse(content: Path | bytes) -> dict:
    text = content if isinstance(content, bytes) else content.read_bytes()
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        where = "A configuration" if isinstance(content, bytes) else str(content)
        raise ValueError(f"{where} is damaged: it must hold one JSON object. Save it again.")
    return value
