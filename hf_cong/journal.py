# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Append-only records and final files that survive a kill at any moment.

A journal is a JSON Lines file: a header that says which run it belongs to, then one record per line, in the order of
the work and without timestamps, so that a run that was killed and started again leaves the bytes of one that was not.
This module knows nothing of models, prompts or datasets.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = ("hf-cong", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers")
_START = b'{"identity":'  # of every journal


class Journal:
    """
    An open journal: one writer, one file, every acknowledged record on disk.

    Opening takes a lock, reads the records, and cuts off a torn tail: a last line that a kill left unfinished is owed
    again. A journal without records belongs to no run yet and gets a new header. `append` returns once its records are
    on disk.

    Args:
        path (`str` or `os.PathLike`):
            The file; created, with its folder, if it does not exist.
        identity (`dict`):
            What makes this run this run (JSON values). An existing journal with another identity is refused.
        provenance (`dict`, *optional*):
            Further facts for the header of a new journal, such as names; never compared.

    Attributes:
        records (`list[dict]`): the records on disk, in the order of writing.

    Raises:
        ValueError: if the file is no journal or belongs to another run, or a line before the last is not a JSON
            object.
        BlockingIOError: if another process has the journal open.
    """

    def __init__(self, path: str | os.PathLike, identity: dict, provenance: dict | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._lock()
            header, self.records, size = _parse(self.path)
            self._size = size if self.records else 0
            os.ftruncate(self._file, self._size)
            if not self.records:
                self._write([{"identity": identity, "provenance": provenance or {}}])
                _sync_directory(self.path.parent)
            else:
                check_identity(identity, header["identity"], self.path)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, records: list[dict]) -> None:
        """Puts `records` on disk, one write and one fsync; an `OSError` (a full disk) leaves the journal as it was."""
        self._write(records)
        self.records.extend(records)

    def close(self) -> None:
        os.close(self._file)  # releases the lock
        self._file = -1  # its number may soon be another file's

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self.path} is being written by another process; one journal has one writer. "
                "Wait for the other run to end, or give this one another `output_dir`."
            ) from None

    def _write(self, lines: list[dict]) -> None:
        data = b"".join(_dump(line) for line in lines)
        try:
            written = 0
            while written < len(data):  # a write to a nearly full disk may be short
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(data)


def read_journal(path: str | os.PathLike) -> tuple[dict | None, list[dict]]:
    """
    The header (`{"identity": ..., "provenance": ...}`, or `None` for a journal torn before its first line ended) and
    the records of a journal that this process does not write. A torn tail is ignored and left as it is.
    """
    header, records, _ = _parse(Path(path))
    return header, records


def check_identity(expected: dict, found: dict, path: str | os.PathLike) -> None:
    """
    Raises `ValueError`, naming every field and both values, unless `found` agrees with all of `expected`.

    A field that is itself a `dict` must be equal; the names of what differs in it are written `field.name`.
    """
    differing = differences(expected, found)
    if differing:
        raise ValueError(
            f"{path} belongs to another run: {'; '.join(differing)}. "
            "Repeat the command that wrote it, or choose another `output_dir`."
        )


def differences(expected: dict, found: dict) -> list[str]:
    """Every field of `expected` that is different in `found`, with both values."""
    return [line for name in expected for line in _differences(name, expected[name], found.get(name))]


def _differences(name: str, here: object, there: object) -> Iterator[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        for inner in {**there, **here}:
            yield from _differences(f"{name}.{inner}", here.get(inner), there.get(inner))
    elif here != there:
        yield f"`{name}` {repr(there)[:80]} there, {repr(here)[:80]} here"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; moves it there, synced, when the block ends well, else removes it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".incomplete")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_manifest(path: str | os.PathLike, content: dict, *, files: tuple[str, ...] = ()) -> dict:
    """
    Writes, atomically and last, the JSON file whose presence says that its folder is complete.

    Args:
        path (`str` or `os.PathLike`):
            Where to write it.
        content (`dict`):
            The facts of the run (JSON values).
        files (`tuple[str, ...]`, *optional*, defaults to `()`):
            Names of files beside it, recorded with their sha256.

    Returns:
        `dict`: `content` with `versions` (of Python and the installed packages) and `files` added.
    """
    path = Path(path)
    manifest = {
        **content,
        "versions": _versions(),
        "files": {name: file_sha256(path.parent / name) for name in files},
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="ascii")
    return manifest


def check_manifest(path: str | os.PathLike, files: tuple[str, ...]) -> None:
    """Raises `ValueError` if there is a manifest at `path` and it is of other files than `files`, or damaged."""
    path = Path(path)
    found = list(_load_manifest(path)["files"]) if path.exists() else list(files)
    if found != list(files):
        raise ValueError(
            f"{path.parent} holds {', '.join(found) or 'no files'}, says its {path.name}; {', '.join(files)} would "
            f"take the place of that {path.name}. Choose another `output_dir`."
        )


def read_manifest(path: str | os.PathLike) -> dict:
    """The manifest at `path`, once every file it names is found to be as it was written; else `ValueError`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: the run that writes it has not ended. Repeat its command.")
    manifest = _load_manifest(path)
    for name, sha256 in manifest["files"].items():
        if not (path.parent / name).exists() or file_sha256(path.parent / name) != sha256:
            raise ValueError(
                f"{path.parent / name} is missing or is not the file that its manifest describes. "
                f"Delete {path} and repeat the command that wrote it."
            )
    return manifest


def file_sha256(path: str | os.PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _load_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="ascii"))
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ValueError(f"{path} is damaged or not a manifest. Delete it and repeat the command that wrote it.")
    return manifest


def _dump(line: dict) -> bytes:
    # ASCII escapes carry what UTF-8 cannot: a lone surrogate survives the round trip.
    return json.dumps(line, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _parse(path: Path) -> tuple[dict | None, list[dict], int]:
    """Header, records, and the length in bytes of the part that holds them."""
    data = path.read_bytes()
    if not data.startswith(_START[: len(data)]):  # a torn header may be shorter
        raise ValueError(
            f"{path} is not a journal: it does not begin with `{_START.decode()}`. Choose another `output_dir`, or "
            "move the file away."
        )
    lines = data.split(b"\n")
    last = len(lines) - 1 if lines[-1] else len(lines) - 2
    parsed, size = [], 0
    for number, line in enumerate(lines[: last + 1]):
        try:
            if number == len(lines) - 1:
                raise ValueError("no line end")
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("not an object")
        except ValueError as error:
            if number < last:
                raise ValueError(
                    f"{path}, line {number + 1} is damaged ({error}); only the last line of a journal may be. "
                    "Restore the file, or delete it to do its work again."
                ) from None
            break
        parsed.append(value)
        size += len(line) + 1
    if not parsed:
        return None, [], 0
    header, *records = parsed
    return header, records, size


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
