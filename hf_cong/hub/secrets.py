# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tokens and keys that must not leave this machine: found in names, text, rows and the headers of weights.

Knows nothing of the Hub but the tokens of this session, and never says what it found, only where.
"""

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet
from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open

# kind -> (what every one of them holds, which is found fast; what it looks like)
_KINDS = {
    "a Hugging Face token": (("hf_", "api_org_"), r"(?:hf_|api_org_)(?:oauth_|jwt_)?[A-Za-z0-9]{16,}"),
    "a GitHub token": (("gh", "github_pat_"), r"(?:gh[oprsu]_|github_pat_)[A-Za-z0-9_]{20,}"),
    "a GitLab token": (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,}"),
    "an AWS key": (("AKIA", "ASIA"), r"(?<![A-Za-z0-9+/])A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9+/])"),
    "an OpenAI or Anthropic key": (
        ("sk-",),
        r"(?<![A-Za-z0-9])sk-(?:(?:proj|svcacct|admin|ant|or)-[\w-]{20,}|(?:[A-Za-z0-9]{1,20}-){0,4}[A-Za-z0-9_]{20,})",
    ),
    "a Google key": (("AIza", "GOCSPX-"), r"(?<![A-Za-z0-9+/])(?:AIza[\w-]{35}(?![A-Za-z0-9+/])|GOCSPX-[\w-]{20,})"),
    "a Slack token": (("xox", "xapp-"), r"(?:xox[abdeoprs]|xapp)-[A-Za-z0-9-]{10,}"),
    "a key of a service": (
        ("gsk_", "xai-", "npm_", "r8_", "sk_live_", "nvapi-", "pypi-AgE", "wandb_v1_"),
        r"(?<![A-Za-z0-9])(?:(?:gsk_|xai-|npm_|r8_|sk_live_)[A-Za-z0-9]{24,}|(?:nvapi-|pypi-AgE|wandb_v1_)[\w-]{40,})",
    ),
    # Nothing but the name before them tells these from a hash.
    "a key in a setting": (
        ("key", "KEY", "Key", "token", "TOKEN", "Token"),
        r"(?i:api|access|secret|auth|session|hub)[ _-]?(?i:key|token)[\"'\\\s:=]{1,8}"
        r"(?=[A-Za-z+/]{0,40}\d)[A-Za-z0-9+/]{24,}",
    ),
    "a Weights & Biases key": (
        ("wandb", "WANDB"),
        r"(?i:wandb)(?:(?!(?i:api|commit|hash|rev|sha))[^@/]){0,60}?(?<![\da-f])[\da-f]{40}(?![\da-f])",
    ),
    # In JSON the lines of a key end with backslashes and a letter.
    "a private key": (
        ("PRIVATE KEY",),
        r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY[A-Z ]{0,20}-----"
        r"(?:\\+(?:[nr]|u000[ad])|\s)*(?:Proc-Type|Version|Comment|[\w+/=]{8})",
    ),
}
_KINDS = {kind: (starts, re.compile(pattern, re.ASCII)) for kind, (starts, pattern) in _KINDS.items()}
_OWN = re.compile(r"(API_KEY|TOKEN|SECRET|SECRET_ACCESS_KEY|PASSWORD)$")  # variables of the environment
_BATCH = 1000  # rows of a table
_SHOWN = 20  # places of one file in an error


def check_secrets(files: dict[str, Path | bytes]) -> None:
    """
    Refuses files whose names or contents hold what looks like a token or a key, or a token of this session.

    Looked through are: every byte of text files, text in every column of a table (user data too: a prompt may quote a
    token), and of weights the names of tensors and the metadata.

    Args:
        files (`dict[str, Path | bytes]`): A local file, or its content, by the name it is to have.

    Raises:
        ValueError: naming every place and what is there, but not the token itself; or if weights cannot be read.
    """
    found = []
    for name, content in files.items():
        if kind := find_secret(name):
            found.append(f"the name {redact(name)!r} holds {kind}")
        places = [f"{redact(name)}, {place} holds {kind}" for place, kind in islice(_scan(name, content), _SHOWN)]
        found += [*places, f"and perhaps more of {redact(name)}"] if len(places) == _SHOWN else places
    if found:
        raise ValueError(
            f"Nothing was uploaded: {'; '.join(found)}. Take it out and repeat the "
            "command. A token that other people may have seen must be revoked where it was made."
        )


def find_secret(text: str) -> str | None:
    """What kind of secret a text holds, in words; `None` if it holds none that is known."""
    return next(iter(_secrets(text).values()), None)


def redact(text: str) -> str:
    """The text with `***` in place of every secret."""
    for secret in _secrets(text):
        text = text.replace(secret, "***")
    return text


def _secrets(text: str) -> dict[str, str]:
    """Every secret in a text, with its kind."""
    # A short value could be any word.
    own = {value for name, value in os.environ.items() if _OWN.search(name) and len(value) >= 12} | {get_token() or ""}
    found = {secret: "a token of this session" for secret in own if len(secret) >= 8 and secret in text}
    for kind, (starts, pattern) in _KINDS.items():
        if any(start in text for start in starts):
            found = {**dict.fromkeys(pattern.findall(text), kind), **found}
    return found


def _scan(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    """Where in a file there are secrets, and of what kind."""
    if name.endswith(".parquet"):
        yield from _scan_table(name, content)
    elif name.endswith(".safetensors"):
        yield from _scan_weights(name, content)
    else:
        data = content if isinstance(content, bytes) else content.read_bytes()
        text = data.replace(b"\0", b"").decode("latin-1")  # without its zeros, UTF-16 reads as ASCII
        for secret, kind in _secrets(text).items():
            yield f"line {1 + text.count(chr(10), 0, text.index(secret))}", kind


def _scan_weights(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    if isinstance(content, bytes):
        raise TypeError(f"`files[{redact(name)!r}]` must be the path of a file: weights are not held in memory.")
    try:
        with safe_open(content, "np") as weights:
            texts = {"the metadata": str(weights.metadata()), "the name of a tensor": "\n".join(weights.keys())}
    except SafetensorError as error:
        raise ValueError(f"{content} is no whole safetensors file ({error}). Save the model again.") from None
    for place, text in texts.items():
        if kind := find_secret(text):
            yield place, kind


def _scan_table(name: str, content: Path | bytes) -> Iterator[tuple[str, str]]:
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content) if isinstance(content, bytes) else content)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{redact(name)} is no whole Parquet file ({error}). Write it again.") from None
    with table:
        schema = table.schema_arrow
        if kind := find_secret(schema.serialize().to_pybytes().decode("latin-1")):
            yield "the header", kind
        columns = [field.name for field in schema if re.search("string|binary|extension", str(field.type))]
        first = 0
        for batch in table.iter_batches(_BATCH, columns=columns):
            rows = batch.to_pylist()
            if find_secret("\n".join(_texts(rows))):
                for number, row in enumerate(rows, first):
                    if kind := find_secret("\n".join(_texts(row))):
                        yield f"row {number}", kind
            first += len(batch)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
