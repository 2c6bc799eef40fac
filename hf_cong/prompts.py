# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Prompts: where they come from, what names them, and how each becomes token ids exactly once."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import datasets
import jinja2
import pyarrow
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import PreTrainedTokenizerBase


def prompt_id(prompt: str | list[dict]) -> str:
    """
    The name under which everything about a prompt is joined: 16 hexadecimal characters of a hash of its content.

    Keys of a message whose value is `None` do not count: Arrow adds them when other messages have such a key.

    Args:
        prompt (`str` or `list[dict]`):
            Plain text, or chat messages.
    """
    if not isinstance(prompt, str):
        prompt = [{key: value for key, value in message.items() if value is not None} for message in prompt]
    canonical = json.dumps(prompt, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:16]


def read_prompts(
    source: datasets.Dataset | list | str | Path, *, column: str = "prompt", invalid_prompts: str = "raise"
) -> tuple[datasets.Dataset, dict[str, int]]:
    """
    Reads prompts, checks every row, and names each by its content.

    A prompt is a non-empty string, or a non-empty list of messages with a `role` and a `content` that are strings. All
    rows must be of the same kind, and no prompt may come twice.

    Args:
        source (`datasets.Dataset`, `list`, `str` or `Path`):
            A dataset; a list of prompts or of rows (`dict`); a `.jsonl` or `.parquet` file; or the id of a dataset on
            the Hub (its `train` split; load another split yourself).
        column (`str`, *optional*, defaults to `"prompt"`):
            The column that holds the prompts.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`):
            `"raise"` refuses the first row that fails a check, by its index; `"drop"` leaves such rows out and counts
            them.

    Returns:
        `tuple[datasets.Dataset, dict[str, int]]`: the rows kept, with the columns `prompt_id`, `prompt` and the rest;
        and the number of rows dropped by reason (`not_a_prompt`, `not_unicode`, `empty`, `mixed_format`, `duplicate`).

    Raises:
        TypeError: if `source` is an `IterableDataset`, a `DatasetDict` or another type.
        ValueError: if a row fails a check, the column is missing, a file is not UTF-8 or not JSON Lines, a column of a
            list mixes types, or no row is left.
        FileNotFoundError: if a named file does not exist.
    """
    if invalid_prompts not in ("raise", "drop"):
        raise ValueError(f'`invalid_prompts` must be "raise" or "drop", got {invalid_prompts!r}.')
    rows = read_rows(source, column)
    kept, ids, dropped = [], {}, Counter()
    conversational = None
    prompts = rows[column] if isinstance(rows, datasets.Dataset) else [row.get(column) for row in rows]
    for index, prompt in enumerate(prompts):
        reason = _defect(prompt)
        if reason is None:
            if conversational is None:
                conversational = not isinstance(prompt, str)
            if conversational is isinstance(prompt, str):
                reason = "mixed_format"
        if reason is None:
            name = prompt_id(prompt)
            if name not in ids:
                ids[name] = index
                kept.append(index)
                continue
            reason = "duplicate"
        if invalid_prompts == "raise":
            first = f" of row {ids[name]}" if reason == "duplicate" else ""
            raise ValueError(
                f"Row {index} of the prompts is {_DEFECTS[reason]}{first}: {repr(prompt)[:80]}. "
                'Correct the row or leave it out; where `invalid_prompts` is a setting, "drop" drops and counts it.'
            )
        dropped[reason] += 1
    if not kept:
        raise ValueError(f"No prompts: {len(rows)} rows arrived, dropped {dict(dropped)}; at least one must be left.")

    if isinstance(rows, datasets.Dataset):
        dataset = rows.select(kept)
        if column != "prompt":
            dataset = dataset.remove_columns(["prompt"] if "prompt" in dataset.column_names else [])
            dataset = dataset.rename_column(column, "prompt")
        rest = [name for name in dataset.column_names if name not in ("prompt", "prompt_id")]
        if "prompt_id" in dataset.column_names:
            dataset = dataset.remove_columns("prompt_id")
        dataset = dataset.add_column("prompt_id", list(ids)).select_columns(["prompt_id", "prompt", *rest])
    else:
        rest = dict.fromkeys(key for index in kept for key in rows[index])
        rest = [key for key in rest if key not in (column, "prompt_id", "prompt")]
        columns = {"prompt_id": list(ids), "prompt": [rows[index][column] for index in kept]}
        columns |= {key: [rows[index].get(key) for index in kept] for key in rest}
        dataset = datasets.concatenate_datasets([_as_column(*item) for item in columns.items()], axis=1)
    return dataset, dict(dropped)


def prompts_origin(prompts: datasets.Dataset) -> tuple[str, str] | None:
    """
    The dataset of the Hub that prompts are from, and its commit; `None` if that cannot be told.

    It is told by where they are kept: the cache of `datasets` names folders by commits, and so does that of the Hub.
    """
    commits = {Path(file["filename"]).parent.name for file in prompts.cache_files}
    commit = commits.pop() if len(commits) == 1 else ""
    if re.fullmatch("[0-9a-f]{40}", commit):
        for snapshot in Path(HF_HUB_CACHE).glob(f"datasets--*/snapshots/{commit}"):
            return snapshot.parents[1].name.removeprefix("datasets--").replace("--", "/"), commit
    return None


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict], *, chat_template_kwargs: dict | None = None
) -> list[int]:
    """
    The token ids a model continues: the ids TRL gives the same prompt, with one beginning-of-sequence token.

    Messages go through the chat template once, straight to ids. A special token that is typed inside a message stays
    text and cannot open or close a turn. Plain text is the whole document, so there the tokenizer's own rules hold.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of the model that will continue the prompt.
        prompt (`str` or `list[dict]`):
            Plain text, or chat messages; the assistant's turn is opened after them.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template. A template that prints the date needs it here (`date_string`), or the same
            prompt has other ids tomorrow.

    Returns:
        `list[int]`: the token ids.

    Raises:
        ValueError: if the prompt consists of messages and the tokenizer has no chat template or its template refuses
            them, or if the prompt has no tokens.
    """
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        bos = tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:  # the text itself began with the token the tokenizer adds
            ids = ids[1:]
        if appends_eos(tokenizer):
            ids = ids[:-1]  # a prompt is to be continued
    else:
        try:
            ids = tokenizer.apply_chat_template(
                prompt,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
                **(chat_template_kwargs or {}),
            )
        except jinja2.TemplateError as error:
            raise ValueError(
                f"The chat template refuses the prompt {repr(prompt)[:80]}: {error}. Change its roles."
            ) from error
    if not ids:
        raise ValueError(f"The prompt {repr(prompt)[:80]} has no tokens; a model needs at least one. Drop the row.")
    return ids


def completion_text(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], completion_ids: list[int]) -> str:
    """[`completion_texts`] of one completion."""
    return completion_texts(tokenizer, prompt_ids, [completion_ids])[0]


def completion_texts(
    tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], completions: list[list[int]]
) -> list[str]:
    """The text of completions as it stands after their prompt: alone, SentencePiece would lose its leading space."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = prompt_ids[-32:]  # enough for the space, and a long prompt is not decoded again and again
    prompt = tokenizer.decode(before, **options)
    texts = []
    for ids in completions:
        both = tokenizer.decode(before + ids, **options)
        if both.startswith(prompt):
            texts.append(both[len(prompt) :])
        else:
            texts.append(tokenizer.decode(ids, **options))  # the prompt ended within a character
    return texts


def appends_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer ends every text with an end-of-sequence token of its own."""
    last, last_bare = (tokenizer("a", add_special_tokens=added)["input_ids"][-1:] for added in (True, False))
    return last == [tokenizer.eos_token_id] != last_bare


_DEFECTS = {
    "not_a_prompt": "neither a string nor a list of messages with `role` and `content` strings",
    "not_unicode": "not valid Unicode (a lone surrogate)",
    "empty": "empty",
    "mixed_format": "of another kind than the rows before it (plain text against messages)",
    "duplicate": "a duplicate",
}


def _defect(prompt: object) -> str | None:
    """The reason why one value, taken alone, is no prompt."""
    if isinstance(prompt, str):
        texts = [prompt]
    elif isinstance(prompt, list):
        if not all(isinstance(message, dict) for message in prompt):
            return "not_a_prompt"
        texts = [message.get(key) for message in prompt for key in ("role", "content")]
        if not all(isinstance(text, str) for text in texts):
            return "not_a_prompt"
    else:
        return "not_a_prompt"
    if not any(text.strip() for text in (texts if isinstance(prompt, str) else texts[1::2])):
        return "empty"
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        return "not_unicode"
    return None


def _as_column(name: str, values: list) -> datasets.Dataset:
    try:
        return datasets.Dataset.from_dict({name: values})
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(
            f"The column `{name}` of the prompts mixes types ({str(error)[:160]}); a column must have one. Make its "
            "values alike, or leave it out."
        ) from None


def read_rows(source: object, column: str, *, name: str = "prompts") -> datasets.Dataset | list[dict]:
    """The rows of any source that has `column`; `name` is the argument, for messages."""
    if isinstance(source, str | Path):
        source = _read_named(source)
    if isinstance(source, datasets.IterableDataset):
        raise TypeError(
            f"`{name}` is an IterableDataset; rows are counted, sorted by length and read again on a resume, which "
            "needs a `datasets.Dataset`. Materialise it: `Dataset.from_list(list(stream.take(n)))`."
        )
    if isinstance(source, datasets.DatasetDict):
        raise TypeError(f"`{name}` is a DatasetDict; pass one split of {list(source)}.")
    if isinstance(source, datasets.Dataset):
        if column not in source.column_names:
            raise ValueError(f"`{name}` needs the column `{column}`; it has {source.column_names}.")
        return source
    if isinstance(source, list):
        rows = [row if isinstance(row, dict) else {column: row} for row in source]
        if rows and not any(column in row for row in rows):
            raise ValueError(f"`{name}` needs the column `{column}`; its first row has {list(rows[0])}.")
        return rows
    raise TypeError(
        f"`{name}` is a {type(source).__name__}; it must be a `datasets.Dataset`, a list, the path of a `.jsonl` or "
        "`.parquet` file, or the id of a dataset on the Hub."
    )


def _read_named(source: str | Path) -> datasets.Dataset | list[dict]:
    suffix = Path(source).suffix
    if suffix == ".parquet":
        if not Path(source).exists():
            raise FileNotFoundError(f"There is no file {source}.")
        return datasets.Dataset.from_parquet(str(source))
    if suffix == ".jsonl":
        rows = []
        # Line by line, so that a bad row is named; Arrow's reader only knows of bad columns.
        with open(source, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    if line.strip():
                        rows.append(json.loads(line.decode("utf-8-sig")))
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{source}, line {number} is not UTF-8 ({error.reason}); JSON Lines must be. Save it as UTF-8."
                    ) from None
                except ValueError as error:
                    raise ValueError(f"{source}, line {number} is not JSON ({error}). Correct the line.") from None
        return rows
    if Path(source).exists():
        raise ValueError(f"`prompts` is the path {str(source)!r}; a file of prompts must be `.jsonl` or `.parquet`.")
    return datasets.load_dataset(str(source), split="train")
