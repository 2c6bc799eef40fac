# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Completions to training data in TRL's formats: joined by `prompt_id`, every dropped row counted."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow.parquet

from .journal import check_manifest, read_manifest, replacing, write_manifest

logger = logging.getLogger(__name__)

_SFT, _PREFERENCES = "sft.parquet", "preferences.parquet"
_REQUIRED = ("prompt_id", "prompt", "completion", "finish_reason")


def build_sft_dataset(
    completions: datasets.Dataset | str | Path,
    *,
    output_dir: str | Path | None = None,
    drop_truncated: bool = True,
) -> tuple[datasets.Dataset, dict]:
    """
    The completions worth imitating, as prompt and completion.

    Args:
        completions (`datasets.Dataset`, `str` or `Path`):
            What [`generate_completions`] returned, or its `output_dir`. The folder also hands its manifest on.
        output_dir (`str` or `Path`, *optional*):
            Where to save `sft.parquet` and its `manifest.json`: a folder of their own, or one to write anew.
        drop_truncated (`bool`, *optional*, defaults to `True`):
            Whether to leave out completions that were cut at the length limit: they do not teach stopping.

    Returns:
        `tuple[datasets.Dataset, dict]`: the columns `prompt_id`, `prompt`, `completion` (conversational if the prompts
        are), and the counts `{"rows_in", "kept", "dropped": {reason: rows}}` with the reasons `empty` and `truncated`.

    Raises:
        TypeError: if the completions are no `Dataset`.
        ValueError: if a column is missing, a completion is no string, a `prompt_id` comes twice, no row is left, or
            `output_dir` holds something else.
    """
    _check_output_dir(output_dir, _SFT)
    table, source = _load(completions, "completions")
    kept, dropped = [], Counter()
    for row in table.values():
        reason = None
        if not row["completion"].strip():
            reason = "empty"
        elif drop_truncated and row["finish_reason"] == "length":
            reason = "truncated"
        if reason is None:
            completion = _as_turn(row["completion"], row["prompt"])
            kept.append({"prompt_id": row["prompt_id"], "prompt": row["prompt"], "completion": completion})
        else:
            dropped[reason] += 1
    return _deliver(kept, dropped, output_dir, _SFT, drop_truncated, {"completions": source})


def build_preference_dataset(
    chosen: datasets.Dataset | str | Path,
    rejected: datasets.Dataset | str | Path,
    *,
    output_dir: str | Path | None = None,
    drop_truncated: bool = True,
    leave_out: Mapping[str, str] | None = None,
) -> tuple[datasets.Dataset, dict]:
    """
    Pairs the completions of two engines for the same prompts.

    Args:
        chosen (`datasets.Dataset`, `str` or `Path`):
            The preferred completions, in ConG the contrastive pair's: what [`generate_completions`] returned, or its
            `output_dir`. The folder also hands its manifest on.
        rejected (`datasets.Dataset`, `str` or `Path`):
            The dispreferred completions, in ConG the strong model's own.
        output_dir (`str` or `Path`, *optional*):
            Where to save `preferences.parquet` and its `manifest.json`: a folder of their own, or one to write anew.
        drop_truncated (`bool`, *optional*, defaults to `True`):
            Whether to leave out pairs whose chosen completion was cut at the length limit.
        leave_out (`Mapping[str, str]`, *optional*):
            Further pairs to leave out, by `prompt_id`, and the reason under which they are counted.

    Returns:
        `tuple[datasets.Dataset, dict]`: the columns `prompt_id`, `prompt`, `chosen`, `rejected` (conversational if the
        prompts are), and the counts `{"rows_in", "kept", "dropped": {reason: rows}}`. `rows_in` counts the prompts in
        either input; the reasons are `missing` (no partner), `empty` (one of the two), `truncated`, `identical`, and
        those of `leave_out`. If both inputs have the column `reward`, as [`score_completions`] adds it, the pairs also
        have `chosen_reward` and `rejected_reward`.

    Raises:
        TypeError: if the completions are no `Dataset`.
        ValueError: if a column is missing, a completion is no string, a `prompt_id` comes twice, no row is left, or
            `output_dir` holds something else.
    """
    _check_output_dir(output_dir, _PREFERENCES)
    chosen_table, chosen_source = _load(chosen, "chosen")
    rejected_table, rejected_source = _load(rejected, "rejected")
    kept, dropped, leave_out = [], Counter(), leave_out or {}
    for name, row in {**chosen_table, **rejected_table}.items():
        better, worse = chosen_table.get(name), rejected_table.get(name)
        reason = None
        if better is None or worse is None:
            reason = "missing"
        elif not better["completion"].strip() or not worse["completion"].strip():
            reason = "empty"
        elif drop_truncated and better["finish_reason"] == "length":
            reason = "truncated"
        elif better["completion"] == worse["completion"]:
            reason = "identical"
        elif name in leave_out:
            reason = leave_out[name]
        if reason is None:
            sides = {"chosen": better["completion"], "rejected": worse["completion"]}
            turns = {side: _as_turn(text, row["prompt"]) for side, text in sides.items()}
            rewards = {}
            if "reward" in better and "reward" in worse:
                rewards = {"chosen_reward": better["reward"], "rejected_reward": worse["reward"]}
            kept.append({"prompt_id": name, "prompt": row["prompt"], **turns, **rewards})
        else:
            dropped[reason] += 1
    sources = {"chosen": chosen_source, "rejected": rejected_source}
    return _deliver(kept, dropped, output_dir, _PREFERENCES, drop_truncated, sources)


def _check_output_dir(output_dir: str | Path | None, filename: str) -> None:
    """Refuses a folder whose manifest would be lost."""
    if output_dir is None:
        return
    check_manifest(Path(output_dir) / "manifest.json", (filename,))
    journal = next(Path(output_dir).glob("journal-*.jsonl"), None)
    if journal is not None:
        raise ValueError(
            f"{output_dir} holds {journal.name} of a `generate_completions` run; a dataset needs a folder of its own. "
            "Choose another `output_dir`."
        )


def _as_turn(text: str, prompt: str | list[dict]) -> str | list[dict]:
    """The completion in the prompt's kind: text after text, the assistant's turn after messages."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _load(completions: datasets.Dataset | str | Path, name: str) -> tuple[dict[str, dict], dict]:
    """Rows by `prompt_id`, and what is known of the run that wrote them."""
    manifest = None
    if isinstance(completions, str | Path):
        manifest = read_manifest(Path(completions) / "manifest.json")
        completions = datasets.Dataset(pyarrow.parquet.read_table(Path(completions) / "completions.parquet"))
    if not isinstance(completions, datasets.Dataset):
        raise TypeError(
            f"`{name}` is a {type(completions).__name__}; pass the `datasets.Dataset` that `generate_completions` "
            "returned, or its `output_dir`."
        )
    missing = [column for column in _REQUIRED if column not in completions.column_names]
    if missing:
        raise ValueError(
            f"`{name}` has the columns {completions.column_names}; {missing} are missing. Pass what "
            "`generate_completions` returned, or its `output_dir`."
        )
    rows, columns = {}, [name for name in (*_REQUIRED, "reward") if name in completions.column_names]
    for index, row in enumerate(completions.select_columns(columns)):
        if not isinstance(row["completion"], str):
            raise ValueError(
                f"Row {index} of `{name}` has the `completion` {repr(row['completion'])[:80]}; it must be a string. "
                "Pass the text alone, or leave the row out."
            )
        if row["prompt_id"] in rows:
            raise ValueError(f"`{name}` has `prompt_id` {row['prompt_id']} twice; each prompt must come once.")
        rows[row["prompt_id"]] = row
    if manifest is None:
        facts = ("model", "alpha", "beta", "plausibility_threshold")
        manifest = {fact: completions.unique(fact) for fact in facts if fact in completions.features}
    return rows, manifest


def _deliver(
    rows: list[dict],
    dropped: Counter,
    output_dir: str | Path | None,
    filename: str,
    drop_truncated: bool,
    sources: dict[str, dict],
) -> tuple[datasets.Dataset, dict]:
    counts = {"rows_in": len(rows) + dropped.total(), "kept": len(rows), "dropped": dict(sorted(dropped.items()))}
    logger.info("%s: %s", filename, counts)
    if not rows:
        raise ValueError(
            f"No row is left for {filename}: {counts['rows_in']} arrived, dropped {counts['dropped']}; at least one "
            "must be kept. With `truncated`, raise `max_new_tokens` or pass `drop_truncated=False`; with `missing`, "
            "pass completions of the same prompts; with `empty` or `identical`, write them with another model or seed."
        )
    dataset = datasets.Dataset.from_list(rows)
    if output_dir is not None:
        with replacing(Path(output_dir) / filename) as temporary:
            dataset.to_parquet(temporary)
        facts = {"counts": counts, "drop_truncated": drop_truncated, "sources": sources}
        write_manifest(Path(output_dir) / "manifest.json", facts, files=(filename,))
    return dataset, counts
