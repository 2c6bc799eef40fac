# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The measures of a sweep: by the pair, by another model, by judges; batch by batch, journaled, joined by prompt."""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import datasets
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...journal import Journal
from ...pair import ContrastivePairForCausalLM
from ...rewards import ImplicitReward
from ...rewards.likelihood import check_lengths, completion_logps
from ..divergence import measure_completions
from .settings import Setting

Measure = Callable[[Setting, datasets.Dataset], list[dict]]


@runtime_checkable
class ScoringJudge(Protocol):
    """An explicit reward, such as a [`RewardModelJudge`]: more is better."""

    name: str
    identity: dict

    def score(self, prompts: list, completions: list[str]) -> list[float]:
        """The reward of each completion, a finite number."""


@dataclass(frozen=True)
class FunctionJudge:
    """
    An explicit reward that is a Python function.

    Args:
        name (`str`): What tables call it.
        function (`Callable`): Takes a prompt (text or messages) and its completion (text), returns a finite number.
        identity (`dict`, *optional*): What tells it from another function of that name (JSON values).
    """

    name: str
    function: Callable[[str | list[dict], str], float]
    identity: dict = field(default_factory=dict)

    def score(self, prompts: list, completions: list[str]) -> list[float]:
        return [self.function(*row) for row in zip(prompts, completions, strict=True)]


def by_pair(
    at: Callable[[Setting], ContrastivePairForCausalLM],
    tokenizer: PreTrainedTokenizerBase,
    chat_template_kwargs: dict | None,
    batch_size: int,
) -> Measure:
    """What the pair itself says of a completion: see [`measure_completions`]."""

    def measures(setting: Setting, rows: datasets.Dataset) -> list[dict]:
        reward = ImplicitReward(at(setting), None, tokenizer, chat_template_kwargs=chat_template_kwargs)
        columns = [rows[name][:] for name in ("prompt", "completion_ids", "finish_reason")]
        return measure_completions(reward, *columns, **setting._asdict(), batch_size=batch_size)

    return measures


def by_other_model(
    load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> Measure:
    """The negative log-likelihood of the text under another model, without an end-of-sequence token."""
    model = functools.cache(load)

    def measures(_: Setting, rows: datasets.Dataset) -> list[dict]:
        texts = rows["prompt"][:], rows["completion"][:]
        scored = completion_logps(model(), tokenizer, *texts, batch_size=batch_size)
        return [
            {"nll": -logps.double().mean().item() if len(logps) else None, "nll_tokens": len(logps)}
            for logps in scored
        ]

    return measures


def by_judge(judge: ScoringJudge, _: Setting, rows: datasets.Dataset) -> list[dict]:
    """The explicit reward."""
    scores = judge.score(rows["prompt"][:], rows["completion"][:])
    check_lengths(completions=rows["completion"][:], scores=scores)
    return [{judge.name: math.nan if score is None else float(score)} for score in scores]


def measure(
    journals: Path,
    written: Mapping[Setting, datasets.Dataset],
    batch_size: int,
    name: str,
    identity: dict,
    measures: Measure,
) -> list[dict]:
    """
    Measures what the journal of that name does not hold; a record is a batch, so that none is half there.

    Args:
        journals (`Path`): The directory of the journals.
        written (`Mapping[Setting, datasets.Dataset]`): Completions by setting.
        batch_size (`int`): Completions per batch.
        name (`str`): The journal.
        identity (`dict`): What a journal that goes on must share.
        measures (`Callable`): Takes a setting and its completions.

    Returns:
        `list[dict]`: all records of the journal.

    Raises:
        ValueError: if a measure is not a finite number, naming the completion. What was measured before it is kept.
    """
    with Journal(journals / f"{name}.jsonl", identity) as journal:
        done = {(record["setting"], row["prompt_id"]) for record in journal.records for row in record["rows"]}
        owed = {
            setting: [i for i, prompt_id in enumerate(rows["prompt_id"]) if (setting.name, prompt_id) not in done]
            for setting, rows in written.items()
        }
        total = sum(map(len, written.values()))
        initial = total - sum(map(len, owed.values()))
        with tqdm(total=total, initial=initial, desc=f"Measuring: {name}", unit="completion") as progress:
            for setting, left in owed.items():
                for start in range(0, len(left), batch_size):
                    batch = written[setting].select(left[start : start + batch_size])
                    found = [
                        {"prompt_id": prompt_id, **values}
                        for prompt_id, values in zip(batch["prompt_id"][:], measures(setting, batch), strict=True)
                    ]
                    _check_finite(name, setting, found)
                    journal.append([{"setting": setting.name, "rows": found}])
                    progress.update(len(batch))
        return journal.records


def _check_finite(name: str, setting: Setting, rows: list[dict]):
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(
                    f"By {name:.40}, `{key:.40}` is {value} for prompt {row['prompt_id']} in {setting.name}; "
                    "it must be a finite number. What was measured is kept: mend the cause, repeat the command."
                )


def join(written: Mapping[Setting, datasets.Dataset], measured: list[list[dict]]) -> dict[Setting, list[dict]]:
    """All about each completion, by setting, in the order of the prompts; of two measures of a name the later."""
    found = defaultdict(dict)
    for record in itertools.chain.from_iterable(measured):
        for row in record["rows"]:
            found[record["setting"], row["prompt_id"]] |= row
    return {
        setting: [
            {
                **setting._asdict(),
                "prompt_id": row["prompt_id"],
                "completion": row["completion"],
                "finish_reason": row["finish_reason"],
                "tokens": len(row["completion_ids"]),
                "characters": len(row["completion"]),
                **found[setting.name, row["prompt_id"]],
            }
            for row in rows
        ]
        for setting, rows in written.items()
    }
