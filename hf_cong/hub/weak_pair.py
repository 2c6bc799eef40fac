# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The weak pair of a training run as one model on disk, to be published."""

import shutil
from pathlib import Path
from typing import Any

from ..checkpoints import commit_of, content_key, damage, model_identity, seal
from ..journal import read_manifest
from ..pair import ContrastivePairForCausalLM
from ..pair.modeling_stacks import load_member


def save_weak_pair(root: str | Path, manifest: dict[str, Any]) -> Path:
    """
    Saves the pair that decoded, or finds it where it was saved before.

    Args:
        root (`str` or `Path`): The `_cong` of the run's `output_dir`.
        manifest (`dict`): The run's manifest.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: if the run decoded nothing, or its pair is not where it was, or is not what it was.
    """
    root, decoded = Path(root), manifest["stages"].get("decode")
    if not decoded:
        raise ValueError("The run decoded nothing, so it has no pair to publish. Leave `pair` out of `stages`.")
    written = read_manifest(root / next(iter(decoded.values())) / "manifest.json")
    identity = written["identity"]["engine"]
    folder = root / f"pair-{content_key(identity)}"
    if folder.exists() and damage(folder) is None:
        return folder
    names = {role: _find(identity[role], written["engine"][role]["model"]) for role in ("policy", "reference")}
    at = {role: {"dtype": "auto", **commit_of(identity[role])} for role in names}
    reference, _ = load_member(names["reference"], "reference", at["reference"])
    pair = ContrastivePairForCausalLM.from_pair(
        names["policy"],
        reference,
        alpha=identity["alpha"],
        plausibility_threshold=identity["plausibility_threshold"],
        model_init_kwargs=at["policy"],
    )
    shutil.rmtree(folder, ignore_errors=True)
    pair.save_pretrained(folder)
    seal(folder)
    return folder


def _find(identity: str, path: str) -> str:
    """Where a member of the pair is loaded from: what its identity names, or the folder that it was loaded from."""
    if commit_of(identity):
        return identity.partition("@")[0]
    if not Path(path).is_dir() or model_identity(path) != identity:
        raise ValueError(
            f"A weak model of the run was loaded from {path!r:.80}, which is not there, or not what it was. Save the "
            "pair yourself, `ContrastivePairForCausalLM.from_pair(...).save_pretrained(folder)`, and publish it with "
            "`hf-cong publish pair`."
        )
    return path
