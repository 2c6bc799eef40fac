# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a system answered, by the prompt it answered: from a run of this package, or from any file."""

import re
from pathlib import Path

import datasets

from ...journal import read_manifest
from ...prompts import read_prompts, read_rows

_OF_A_RUN = ("completions.parquet", "results.jsonl")  # of `hf-cong generate` and of `hf-cong search`
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # which no tokenizer and no server takes


def read_completions(source: datasets.Dataset | list | str | Path) -> dict[str, dict]:
    """
    Reads one completion for every prompt.

    Args:
        source (`datasets.Dataset`, `list`, `str` or `Path`):
            The `output_dir` of [`generate_completions`] or of [`run_search`]; of a search by several methods with the
            one to read behind a `#`, `"runs/search#chunk_beam_search"`. Or rows with the columns `prompt` and
            `completion`: a dataset, a list, a `.jsonl` or `.parquet` file.

    Returns:
        `dict[str, dict]`: by `prompt_id`, in the order of the rows, the `prompt`, the `completion` and its
        `finish_reason`, `None` where it is not known. A prompt is named by its content, whatever the rows call it.

    Raises:
        TypeError: if `source` is of another type.
        ValueError: if a column is missing, a prompt is invalid or comes twice, a completion is no text, a method is
            needed or unknown, or the run in a folder is not whole.
        FileNotFoundError: if there is no such run or file.
    """
    method = ""
    if isinstance(source, str | Path):
        source, method = locate_completions(source)
    rows = _of_method([dict(row) for row in read_rows(source, "prompt", name="completions")], method)
    for index, row in enumerate(rows):
        completion = row.get("completion")
        if not isinstance(completion, str) or _LONE_SURROGATE.search(completion):
            raise ValueError(
                f"Row {index} of the completions has the `completion` {repr(completion)[:80]}; it must be a string of "
                "valid Unicode. Correct the row, or leave it out."
            )
    named, _ = read_prompts([{"prompt": row.get("prompt")} for row in rows])
    return {
        name: {"prompt": row["prompt"], "completion": row["completion"], "finish_reason": row.get("finish_reason")}
        for name, row in zip(named["prompt_id"], rows, strict=True)
    }


def question_text(prompt: str | list[dict]) -> str | None:
    """The text of a prompt that is one question, plain or the one message of a user; `None` of a conversation."""
    if isinstance(prompt, str):
        return prompt
    return prompt[0]["content"] if [message["role"] for message in prompt] == ["user"] else None


def locate_completions(source: str | Path) -> tuple[Path, str]:
    """The file that holds the completions, and the method behind the `#`, if any: see [`read_completions`]."""
    path, method = (str(source), "") if Path(source).exists() else str(source).partition("#")[::2]
    if not Path(path).is_dir():
        return Path(path), method
    files = [name for name in read_manifest(Path(path) / "manifest.json")["files"] if name in _OF_A_RUN]
    if not files:
        raise ValueError(
            f"{path} holds no completions. Pass the `output_dir` of `hf-cong generate` or `hf-cong search`, or a file "
            "with the columns `prompt` and `completion`."
        )
    return Path(path) / files[0], method


def _of_method(rows: list[dict], method: str) -> list[dict]:
    methods = list(dict.fromkeys(row["method"] for row in rows if "method" in row))
    if method and method not in methods:
        raise ValueError(
            f"There are no completions by the method {method!r:.80}; there are: {', '.join(methods) or 'none'}."
        )
    if len(methods) > 1 and not method:
        raise ValueError(
            f"The completions are by several methods, {', '.join(methods)}. Name one behind a `#`, like "
            f"'runs/search#{methods[-1]}'."
        )
    return [row for row in rows if not method or row["method"] == method]
