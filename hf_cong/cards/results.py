# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What was measured, read from the files of `hf-cong evaluate` and of lm-eval, in the two forms that the Hub knows."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import eval_results_to_model_index

from .rendering import plain

# Benchmarks with a leaderboard on the Hub that tasks of lm-eval measure: by task its dataset, the id of the task
# there, and the metric that counts, all in percent.
_LEADERBOARDS = {
    "gsm8k": ("openai/gsm8k", "gsm8k", "exact_match"),
    "mmlu_pro": ("TIGER-Lab/MMLU-Pro", "mmlu_pro", "exact_match"),
}


@dataclass(frozen=True)
class Result:
    """
    One score of one system on one task.

    Args:
        system (`str`): Who was measured, as the evaluation calls it.
        task (`str`): The task or scale.
        metric (`str`): What the score is, such as `"acc_norm"`.
        value (`float`): The score.
        filter (`str`, *optional*): Which of lm-eval's readings of an answer it is, unless there is one only.
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
        note (`str`, *optional*): What a reader must know, such as a trial on few documents.
    """

    system: str
    task: str
    metric: str
    value: float
    filter: str | None = None
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


def read_results(path: str | Path) -> list[Result]:
    """
    Every finite score below a path.

    Args:
        path (`str` or `Path`):
            What `hf-cong evaluate` wrote (its `output_dir` or `evaluation.json`), or lm-eval's `results_*.json`, or a
            folder that holds such files. Of several files of lm-eval about one model and task, the latest counts.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is not what it should be.
    """
    path = Path(path)
    if path.is_dir():
        own = path / "evaluation.json"
        files = [own] if own.is_file() else sorted(path.rglob("results_*.json"), key=lambda file: file.name)
    else:
        files = [path]
    if not files or not files[0].is_file():
        raise FileNotFoundError(
            f"{path} holds neither `evaluation.json` of `hf-cong evaluate` nor `results_*.json` of lm-eval. Pass the "
            "folder that one of them wrote."
        )
    found: dict[tuple, Result] = {}
    for file in files:
        for result in _read_file(file):
            found[result.model or result.system, result.task, result.metric, result.filter] = result
    return list(found.values())


def measured_as(results: Iterable[Result], model: str | Path) -> str | None:
    """The name under which a model, a folder or a Hub id, was measured; `None` if it was not."""
    wanted = {str(model), str(Path(model).resolve())}
    for result in results:
        if result.model is not None and {result.model, str(Path(result.model).resolve())} & wanted:
            return result.system
    return None


def model_index(name: str, results: Iterable[Result]) -> list[dict[str, Any]] | None:
    """The `model-index` of a card: results of the one system that it is about, which it calls `name`."""
    entries = [
        EvalResult(
            task_type="text-generation",
            task_name=_title(result),
            dataset_type=result.dataset or plain(result.task),
            dataset_name=plain(result.task),
            dataset_config=result.config,
            dataset_split=result.split,
            dataset_args=None if result.num_fewshot is None else {"num_fewshot": result.num_fewshot},
            metric_type=plain(result.metric),
            metric_name=plain(_metric(result)),
            metric_value=result.value,
        )
        for result in results
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
        if result.task not in _LEADERBOARDS or result.note is not None:
            continue
        dataset, task, metric = _LEADERBOARDS[result.task]
        if result.metric != metric or f".eval_results/{task}.yaml" in files:
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


def _read_file(file: Path) -> list[Result]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}. Repeat the evaluation that wrote it.") from None
    if (
        isinstance(content, dict)
        and isinstance(content.get("rows"), list)
        and isinstance(content.get("systems"), dict)
    ):
        return _read_comparison(content)
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        return _read_lm_eval(content)
    raise ValueError(
        f"{file} is neither `evaluation.json` of `hf-cong evaluate` nor results of lm-eval: it has no `results`."
    )


def _read_comparison(content: Mapping[str, Any]) -> list[Result]:
    limit, baseline = content["settings"].get("limit"), content["settings"].get("baseline")
    found = []
    for row in content["rows"]:
        value = _number(row.get("score"))
        if value is None:
            continue
        metric, kind = _split(row["metric"])
        notes = [] if limit is None else [f"the first {limit} documents only"]
        notes += [] if row.get("reason") is None else [row["reason"]]
        found.append(
            Result(
                system=row["system"],
                task=row["task"],
                metric=metric,
                filter=kind,
                value=value,
                stderr=_number(row.get("stderr")),
                documents=row.get("documents"),
                num_fewshot=row.get("num_fewshot"),
                higher_is_better=row.get("higher_is_better"),
                model=_measured(content["systems"].get(row["system"], {})),
                difference=row.get("difference"),
                reading=row.get("reading"),
                baseline=baseline,
                note="; ".join(notes) or None,
            )
        )
    return found


def _measured(settings: Mapping[str, Any]) -> str | None:
    """The model that a system is, if it is one model and no more."""
    return settings.get("model") if set(settings) == {"model"} else None


def _read_lm_eval(content: Mapping[str, Any]) -> list[Result]:
    model = content.get("model_name") or content.get("config", {}).get("model_args", {}).get("pretrained", "")
    limit = content.get("config", {}).get("limit")
    groups = content.get("groups", {})
    members = {name for group in groups for name in content.get("group_subtasks", {}).get(group, [])}
    found = []
    for task, scores in content["results"].items():
        if task in members:  # the group has the score
            continue
        config = content.get("configs", {}).get(task, {})
        dataset = config.get("dataset_path")
        samples = content.get("n-samples", {}).get(task, {})
        shots = content.get("n-shot", {}).get(task)
        for key, score in scores.items():
            value = _number(score)
            metric, _, kind = key.partition(",")
            if value is None or not kind or metric.endswith("_stderr"):
                continue
            found.append(
                Result(
                    system=Path(model).name or "model",
                    task=task,
                    metric=metric,
                    filter=None if kind == "none" else kind,
                    value=value,
                    stderr=_number(scores.get(f"{metric}_stderr,{kind}")),
                    documents=samples.get("effective"),
                    num_fewshot=shots if isinstance(shots, int) else None,
                    higher_is_better=content.get("higher_is_better", {}).get(task, {}).get(metric),
                    dataset=dataset if _is_dataset(dataset) else None,
                    config=config.get("dataset_name") if _is_dataset(dataset) else None,
                    split=config.get("test_split") or config.get("validation_split"),
                    model=model or None,
                    note=None if limit is None else f"the first {limit} documents only",
                )
            )
    return found


def _split(key: str) -> tuple[str, str | None]:
    metric, _, kind = key.partition(",")
    return metric, None if kind in ("", "none") else kind


def _is_dataset(name: object) -> bool:
    """Whether it is a dataset on the Hub, not a format or a folder."""
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) is not None


def _number(value: object) -> float | None:
    numeric = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if numeric else None
