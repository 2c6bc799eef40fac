# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The decoding on the Hub: a repository that `model.generate(custom_generate=...)` runs without hf_cong."""

from pathlib import Path

from .. import __version__
from ..cards import decoding_card
from ..checkpoints import content_key
from .publication import Publication

_PACKAGE = Path(__file__).parents[1]
_SOURCES = ("hub/generate.py", "logits_process.py", "functional.py", "compatibility.py")
# As in pyproject.toml. transformers checks them before it runs the code.
_REQUIREMENTS = "torch>=2.8\ntransformers>=5.20,<6\n"


def decoding_files() -> dict[str, bytes]:
    """
    The files that make `generate` contrastive, by path, copied from the source of this package.

    Beside the weights of a policy they do the same: `from_pretrained` of that repository, with trust in remote code,
    gives a model whose `generate` takes `reference_model`.
    """
    files = {"requirements.txt": _REQUIREMENTS}
    for source in _SOURCES:
        code = (_PACKAGE / source).read_text(encoding="utf-8").replace("from ..", "from .")
        rights, rest = code.split("\n", 1)
        origin = f"# A copy of hf_cong/{source} of hf_cong {__version__}, which wrote it. Changes belong there."
        files[Path(source).name] = f"{rights}\n{origin}\n{rest}"
    return {f"custom_generate/{name}": text.encode() for name, text in files.items()}


def decoding_publication(repo_id: str, *, private: bool = True) -> Publication:
    """
    Contrastive decoding as a model repository without a model.

    Args:
        repo_id (`str`): Where it goes.
        private (`bool`, *optional*, defaults to `True`): Whether only its namespace sees a new repository.

    Returns:
        [`Publication`]: the code, its requirements and the card, to be published.

    Example:

    ```python
    >>> publish(decoding_publication("org/cong-decoding"))
    >>> policy.generate(
    ...     **inputs, custom_generate="org/cong-decoding", trust_remote_code=True, reference_model=reference, alpha=0.4
    ... )
    ```
    """
    return Publication(
        repo_id=repo_id,
        repo_type="model",
        kind="decoding",
        run=content_key("decoding"),  # every version of the package may write the next over the last
        files=decoding_files(),
        card=decoding_card(repo_id),
        private=private,
    )
