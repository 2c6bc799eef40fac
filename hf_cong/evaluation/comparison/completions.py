# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Systems on prompts: what each writes, and our own metrics of it, prompt by prompt."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.model import LM
from scipy import stats
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...checkpoints import content_key
from ...generation import generate_completions
from ...report.statistics import win_rate
from ...rewards import ImplicitReward
from ...search.batches import SearchSettings
from ...search.run import run_search
from ..judges import Judge
from ..text_metrics import distinct_n, lengths, perplexity_under
from .systems import System


@dataclass(frozen=True)
class Writing:
    """How prompts are completed: see [`generate_completions`], which refuses the same."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int

    def __post_init__(self):
        SearchSettings(**asdict(self))  # refuses what cannot be

    def identity(self, prompts: datasets.Dataset) -> dict:
        """What makes the completions of two runs comparable (JSON values)."""
        return {"prompts": content_key(prompts["prompt_id"][:]), **asdict(self)}


def write_completions(
    system: System,
    prompts: datasets.Dataset,
    writing: Writing,
    output_dir: Path,
    load: Callable[[], LM],
    *,
    batch_size: int,
) -> list[dict]:
    """A completion of every prompt by one system, kept in `output_dir`; `load` is called only if one is owed."""
    prompts = prompts.select_columns(["prompt"])
    options = {"tokenizer": system.tokenizer, "output_dir": output_dir, "batch_size": batch_size, **asdict(writing)}
    if system.search is None:
        return generate_completions(prompts, lambda: load().model, engine_id=system.identity, **options).to_list()
    return run_search(
        prompts,
        lambda: load().model,
        lambda: load().reward,
        model_id=system.identity["model"],
        reward_id=system.identity["reward"],
        methods=["chunk_beam_search"],
        **{**options, **system.search},
    )


@dataclass(frozen=True)
class Scale:
    """
    One of our metrics of completions, in the form of a task.

    Args:
        title (`str`): Quantity and unit, for tables.
        protocol (`dict`): What makes the numbers of two runs comparable (JSON values).
        load (`Callable`): Loads what scores.
        score (`Callable`): Scores one system's rows, given the baseline's and what was loaded; see [`measured`].
    """

    title: str
    protocol: dict
    load: Callable[[], Any]
    score: Callable[[list[dict], list[dict], Any], dict]


def read_scales(
    writing: dict,
    systems: Mapping[str, System],
    baseline: str,
    reward: str | None,
    judge: Judge | None,
    batch_size: int,
) -> list[Scale]:
    """The metrics of a run: those of texts, then those that need the baseline, a pair or a judge."""
    scales = [Scale(title, writing, lambda: None, score) for title, score in _OF_TEXTS.items()]
    scales.append(
        Scale(
            f"nats per token under {baseline}",
            {**writing, "model": systems[baseline].identity},
            lambda: (systems[baseline].load(batch_size).model, systems[baseline].tokenizer),
            functools.partial(_surprise, batch_size=batch_size),
        )
    )
    if reward is not None:
        scales.append(
            Scale(
                f"implicit reward under {reward}, nats",
                {**writing, "pair": systems[reward].identity},
                systems[reward].load_reward,
                functools.partial(_implicit_reward, batch_size=batch_size),
            )
        )
    if judge is not None:
        against = {"baseline": systems[baseline].identity, "judge": judge.identity}
        title = f"win rate against {baseline} by {judge.name}"
        scales.append(Scale(title, {**writing, **against}, lambda: judge, _judged))
    return scales


def _length(rows: list[dict], baseline_rows: list[dict], scorer: None) -> dict:
    return measured(rows, lengths([row["completion"] for row in rows]))


def _distinct(rows: list[dict], baseline_rows: list[dict], scorer: None) -> dict:
    found = measured([], [], higher_is_better=True)  # of all texts together
    found["metrics"]["mean"]["score"] = distinct_n([row["completion"] for row in rows], 2)
    return found


def _finished(rows: list[dict], baseline_rows: list[dict], scorer: None) -> dict:
    return measured(rows, [row["finish_reason"] == "stop" for row in rows], higher_is_better=True)


_OF_TEXTS = {"length, words": _length, "distinct-2": _distinct, "finished, share": _finished}


def _implicit_reward(rows: list[dict], baseline_rows: list[dict], scorer: ImplicitReward, *, batch_size: int) -> dict:
    scores = scorer.score(
        [row["prompt"] for row in rows],
        [row["completion"] for row in rows],
        finish_reasons=[row["finish_reason"] for row in rows],
        batch_size=batch_size,
    )
    return measured(rows, scores, higher_is_better=True)


def _surprise(
    rows: list[dict],
    baseline_rows: list[dict],
    scorer: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    *,
    batch_size: int,
) -> dict:
    """The logarithm of the perplexity of each completion. An empty one has none."""
    prompts, texts = [row["prompt"] for row in rows], [row["completion"] for row in rows]
    if not any(texts):
        return measured(rows, [None] * len(rows))
    found = perplexity_under(*scorer, prompts, texts, batch_size=batch_size)
    values = [None if one is None else math.log(one) for one in found.perplexities]
    return {**measured(rows, values), "perplexity": found.perplexity, "empty": found.empty}


def _judged(rows: list[dict], baseline_rows: list[dict], scorer: Judge) -> dict:
    """The share of prompts won, a tie counting half. A verdict that cannot be read is left out and counted."""
    if rows is baseline_rows:
        return measured(rows, [0.5] * len(rows), higher_is_better=True)
    theirs = {row["prompt_id"]: row["completion"] for row in baseline_rows}
    shares = scorer.compare(
        [row["prompt"] for row in rows],
        [row["completion"] for row in rows],
        [theirs[row["prompt_id"]] for row in rows],
    )
    found, read = measured(rows, shares, higher_is_better=True), [share for share in shares if share is not None]
    if read:
        won = win_rate(read, [0.5] * len(read))
        found["difference"] = {"mean": won.rate - 0.5, "low": won.low - 0.5, "high": won.high - 0.5}
        found["ties"] = won.ties / won.n
    return {**found, "unread": len(shares) - len(read)}


def measured(rows: list[dict], values: Sequence[float | None], *, higher_is_better: bool | None = None) -> dict:
    """One value per completion and their mean, in the form in which [`evaluate_task`] gives what it measured."""
    numbers = [None if value is None else float(value) for value in values]
    known = [number for number in numbers if number is not None]
    score = {
        "score": math.fsum(known) / len(known) if known else None,
        "stderr": float(stats.sem(known)) if len(known) > 1 else None,
        "higher_is_better": higher_is_better,
    }
    documents = {"names": [row["prompt_id"] for row in rows], "values": {"mean": numbers}}
    return {"metrics": {"mean": score}, "num_fewshot": None, "version": None, "documents": documents}
