# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What something was made of, as the manifests of cards have it."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from ..cards import describe_source
from .files import is_local
from .secrets import find_secret, redact

logger = logging.getLogger(__name__)


def source_of(
    name: str, commit: str | None = None, *, revision: str | None = None, repo_type: str = "model"
) -> dict[str, Any]:
    """
    A source by its path or Hub id. Of a path no more than the last component leaves this machine.

    Args:
        name (`str`): A folder, a repository of the Hub, or a folder of its cache.
        commit (`str`, *optional*): The commit it was taken from. By default the one it is at now.
        revision (`str`, *optional*): The branch or tag it was taken from.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"dataset"`.

    Returns:
        `dict`: `name`, `commit`, `license` and `language`.
    """
    if cached := re.search(r"(?:models|datasets)--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/?$", name):
        name, commit = f"{cached[1]}/{cached[2]}", cached[3]
    if is_local(name) and not os.path.isdir(name):  # of a name that no file can have, too
        return unknown_source(Path(name).name)
    if not is_local(name) and find_secret(f"{name} {revision}"):
        return unknown_source(redact(name))  # the Hub is not asked for it either
    if commit is None and not is_local(name):
        try:
            commit = HfApi().repo_info(name, revision=revision, repo_type=repo_type, timeout=10.0).sha
        except (HfHubHTTPError, HTTPError, OfflineModeIsEnabled) as error:
            logger.warning("At which commit %s is cannot be found out: %s", name, str(error).strip()[:200])
    return describe_source(name, commit, repo_type)


def unknown_source(name: str) -> dict[str, Any]:
    """A source of which no more is known than its name."""
    return {"name": name, "commit": None, "license": None, "language": []}
