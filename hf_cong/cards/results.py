# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What was measured: as rows of a table, and in the two forms that the Hub knows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import eval_results_to_model_index

from .rendering import plain

# Benchmarks with a leaderboard on the Hub that tasks of lm-eval measure: by task its dataset, the id of the task
# there, and the metric that counts, all in percent.
_LEADERBOARDS = {
    "gsm8k": ("openai/gsm8k", "gsm8k", ("exact_match", "strict-match")),
    "mmlu_pro": ("TIGER-Lab/MMLU-Pro", "mmlu_pro", ("exact_match", "custom-extract")),
}


@dataclass(frozen=True)
class Result:
    """
    One score of one system on one task.

    Args:
        system (`str`): Who was measured, as the evaluation calls it.
        task (`str`): The task, or the scale on which completions were measured.
        metric (`str`): What the score is, such as `"acc_norm"`.
        value (`float`): The score.
        filter (`str`, *optional*): Which of lm-eval's readings of an answer it is, where there are several.
        is_benchmark (`bool`, *optional*, defaults to `True`): Whether it is a task of lm-eval.
        is_trial (`bool`, *optional*, defaults to `False`): Whether it is over the first documents only.
        stderr (`float`, *optional*): Its standard error.
        documents (`int`, *optional*): How many documents it is over.
        num_fewshot (`int`, *optional*): Solved examples in the prompt.
        higher_is_better (`bool`, *optional*): The direction, where there is one.
        dataset (`str`, *optional*): The dataset's id on the Hub.
        config, split (`str`, *optional*): Its part that was used.
        model (`str`, *optional*): The path or Hub id that was measured, as it was given. Never part of a card.
        difference (`dict`, *optional*): To the baseline: `mean`, `low`, `high`.
        reading (`str`, *optional*): What that difference shows, such as `"undecided"`.
        baseline (`str`, *optional*): The system that it was compared with.
        note (`str`, *optional*): What a reader must know of it.
    """

    system: str
    task: str
    metric: str
    value: float
    filter: str | None = None
    is_benchmark: bool = True
    is_trial: bool = False
    stderr: float | None = None
    documents: int | None = None
    num_fewshot: int | None = None
    higher_is_better: bool | None = None
    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    model: str | None = None
    difference: Mapping[str, float | None] | None = None
    reading: str | None = None
    baseline: str | None = None
    note: str | None = None


def model_index(name: str, results: Iterable[Result]) -> list[dict[str, Any]] | None:
    """The `model-index` of a card: benchmarks, as a whole, of the one system that it is about and calls `name`."""
    entries = [
        EvalResult(
            task_type="text-generation",
            task_name=_title(result),
            dataset_type=result.dataset or plain(result.task),
            dataset_name=plain(result.task),
            dataset_config=None if result.config is None else plain(result.config),
            dataset_split=None if result.split is None else plain(result.split),
            dataset_args=None if result.num_fewshot is None else {"num_fewshot": result.num_fewshot},
            metric_type=plain(result.metric),
            metric_name=plain(_metric(result)),
            metric_value=result.value,
        )
        for result in results
        if result.is_benchmark and not result.is_trial
    ]
    return eval_results_to_model_index(name, entries) if entries else None


def eval_results_files(results: Iterable[Result], *, repo_id: str) -> dict[str, bytes]:
    """
    `.eval_results/<task>.yaml` by path in the repository, for tasks whose benchmark has a leaderboard on the Hub.

    Args:
        results (`Iterable[Result]`): Results of one system.
        repo_id (`str`): The model they are of, whose card tells how they came about.
    """
    files = {}
    for result in results:
        if result.task not in _LEADERBOARDS or result.is_trial:
            continue
        dataset, task, metric = _LEADERBOARDS[result.task]
        if (result.metric, result.filter) != metric:
            continue
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=round(100 * result.value, 4),
            source_url=f"https://huggingface.co/{repo_id}",
            source_name="Model card",
            notes=plain(", ".join(["lm-eval", *_setting(result)])),
        )
        content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        files[f".eval_results/{task}.yaml"] = content.encode()
    return files


def result_rows(results: Sequence[Result]) -> list[dict[str, object]]:
    """Results as rows of a table."""
    compared = any(result.difference is not None for result in results)
    rows = []
    for result in results:
        score = f"{result.value:.4g}" + ("" if result.stderr is None else f" ± {result.stderr:.2g}")
        row = {
            "task": result.task,
            "metric": _metric(result),
            "shots": result.num_fewshot,
            "system": result.system,
            "n": result.documents,
            "score": score,
        }
        if compared:
            row["difference to the baseline"] = _difference(result)
        rows.append(row)
    return rows


def _difference(result: Result) -> str | None:
    if result.difference is None:
        return "baseline" if result.system == result.baseline else None
    mean, low, high = (result.difference.get(name) for name in ("mean", "low", "high"))
    ends = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{mean:+.3f}{ends}" + ("" if result.reading is None else f", {result.reading}")


def _metric(result: Result) -> str:
    return result.metric if result.filter is None else f"{result.metric}, {result.filter}"


def _setting(result: Result) -> list[str]:
    shots = [] if result.num_fewshot is None else [f"{result.num_fewshot}-shot"]
    return [*shots, _metric(result)]


def _title(result: Result) -> str:
    return plain(", ".join([result.task, *_setting(result)[:-1]]))
