# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the tests of publishing push, and how they see what came."""

from pathlib import Path

import numpy as np
from huggingface_hub import HfApi, snapshot_download
from safetensors.numpy import save_file

from hf_cong.hub.publication import Publication

RUN, OTHER_RUN = "0123456789abcdef", "fedcba9876543210"
CARD = "---\nlicense: apache-2.0\n---\n# A model\n"


def write_model(folder: Path) -> dict[str, Path]:
    """The files of a model, as far as the Hub cares; of every folder others, for the Hub sends nothing twice."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.arange(64.0)}, folder / "model.safetensors", metadata={"of": str(folder)})
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "chat_template.jinja").write_text("{{ messages }} ü\n")
    return {path.name: path for path in folder.iterdir()}


def publication(name: str, files: dict[str, Path | bytes], **changes) -> Publication:
    fields = {"repo_type": "model", "kind": "model", "run": RUN, "files": files, "card": CARD}
    return Publication(repo_id=name, **{**fields, **changes})


def commits(name: str, repo_type: str = "model") -> list[str]:
    """Titles, the first first."""
    return [commit.title for commit in HfApi().list_repo_commits(name, repo_type=repo_type)][::-1]


def contents(name: str, repo_type: str = "model") -> dict[str, bytes]:
    """The files of a repository as a client gets them, but the one the Hub made."""
    folder = Path(snapshot_download(name, repo_type=repo_type))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files.pop(".gitattributes")
    return files


def sent(hub, before: int, method: str) -> list[str]:
    """Addresses that were asked for with this method since the hub had so many requests."""
    return [address for verb, address, _ in hub.requests[before:] if verb == method]
