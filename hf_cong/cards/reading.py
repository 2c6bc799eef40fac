# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results read from the files of `hf-cong evaluate` and of lm-eval."""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from .results import Result

logger = logging.getLogger(__name__)

# What makes another model of the checkpoint that lm-eval was given.
_STEERING = {"reference", "policy", "base", "alpha", "beta", "plausibility_threshold", "delta", "steer_path"}


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
            found[result.system, result.model, result.task, result.metric, result.filter] = result
    return list(found.values())


def measured_as(results: Iterable[Result], *models: str | Path) -> str | None:
    """
    The name under which a model was measured; `None` if it was not.

    Args:
        results (`Iterable[Result]`): What [`read_results`] gives.
        models (`str` or `Path`): Its folders and Hub ids.
    """
    wanted = {name for model in models for name in (str(model), str(Path(model).resolve()))}
    for result in results:
        if result.model is not None and {result.model, str(Path(result.model).resolve())} & wanted:
            return result.system
    return None


def _read_file(file: Path) -> list[Result]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}. Repeat the evaluation that wrote it.") from None
    if isinstance(content, dict) and isinstance(content.get("results"), dict):
        of_ours = {"rows": list, "systems": dict, "settings": dict}
        if all(isinstance(content.get(name), kind) for name, kind in of_ours.items()) and _are_rows(content["rows"]):
            return _read_comparison(content)
        if "rows" not in content and all(isinstance(scores, dict) for scores in content["results"].values()):
            return _read_lm_eval(content)
    raise ValueError(
        f"{file} is neither `evaluation.json` of `hf-cong evaluate` nor `results_*.json` of lm-eval. Pass the folder "
        "that one of them wrote."
    )


def _are_rows(rows: list[object]) -> bool:
    def is_named(row):  # what could not be measured, as a likelihood of a search, has no metric
        names = ("system", "task") if row.get("score") is None else ("system", "task", "metric")
        return all(isinstance(row.get(name), str) for name in names)

    return all(isinstance(row, dict) and is_named(row) for row in rows)


def _read_comparison(content: Mapping[str, Any]) -> list[Result]:
    limit, baseline = content["settings"].get("limit"), content["settings"].get("baseline")
    found = []
    for row in content["rows"]:
        value = _number(row.get("score"))
        if value is None:
            logger.warning("%s has no score on %s, so none is on the card.", row["system"], row["task"])
            continue
        metric, _, kind = row["metric"].partition(",")
        found.append(
            Result(
                system=row["system"],
                task=row["task"],
                metric=metric,
                filter=kind if kind != "none" and kind else None,
                is_benchmark=bool(kind),  # our own scales have no filters
                value=value,
                stderr=_number(row.get("stderr")),
                documents=row.get("documents"),
                num_fewshot=row.get("num_fewshot"),
                higher_is_better=row.get("higher_is_better"),
                model=_measured(_part(content, "systems", row["system"])),
                difference=row.get("difference"),
                reading=row.get("reading"),
                baseline=baseline,
                is_trial=limit is not None,
                note="; ".join(filter(None, (_trial(limit), row.get("reason")))) or None,
            )
        )
    return found


def _measured(settings: Mapping[str, Any]) -> str | None:
    """The model that a system is, if it is one model and no more."""
    return settings.get("model") if set(settings) == {"model"} else None


def _read_lm_eval(content: Mapping[str, Any]) -> list[Result]:
    system, model = _named(content)
    limit = _part(content, "config").get("limit")
    # A group that has a score stands for its members.
    members = set()
    for group, names in _part(content, "group_subtasks").items():
        if isinstance(names, list) and _scores(_part(content, "results", group)):
            members |= set(map(str, names))
    found = []
    for task, scores in content["results"].items():
        if task in members:
            continue
        config = _part(content, "configs", task)
        dataset = config.get("dataset_path")
        shots = _part(content, "n-shot").get(task)
        for metric, kind, value in _scores(scores):
            if value is None:
                logger.warning("%s of %s is no finite number, so it is not on the card.", metric, task)
                continue
            found.append(
                Result(
                    system=system,
                    task=task,
                    metric=metric,
                    filter=None if kind == "none" else kind,
                    value=value,
                    stderr=_number(scores.get(f"{metric}_stderr,{kind}")),
                    documents=_part(content, "n-samples", task).get("effective"),
                    num_fewshot=shots if isinstance(shots, int) else None,
                    higher_is_better=_part(content, "higher_is_better", task).get(metric),
                    dataset=dataset if _is_dataset(dataset) else None,
                    config=config.get("dataset_name") if _is_dataset(dataset) else None,
                    split=config.get("test_split") or config.get("validation_split"),
                    model=model,
                    is_trial=limit is not None,
                    note=_trial(limit),
                )
            )
    return found


def _named(content: Mapping[str, Any]) -> tuple[str, str | None]:
    """What a run of lm-eval calls its model, and that model's path or id unless it was steered by something else."""
    arguments = _part(content, "config", "model_args")
    model = str(arguments.get("peft") or content.get("model_name") or "model")
    name = model if _is_dataset(model) and not Path(model).exists() else Path(model).name
    steered = sorted(_STEERING & arguments.keys())
    if steered:
        return f"{name}, {', '.join(f'{key} {_short(arguments[key])}' for key in steered)}", None
    return name, model


def _part(content: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """A part of a file that others may have written; `{}` if there is none."""
    for name in names:
        content = content.get(name)
        if not isinstance(content, dict):
            return {}
    return content


def _trial(limit: object) -> str | None:
    if limit is None:
        return None
    if _number(limit) is None:
        return "a trial on a part of the documents"
    return f"a trial on the first {f'{limit:g}' if limit >= 1 else f'{100 * limit:g} percent of the'} documents"


def _short(value: object) -> str:
    return str(value).rstrip("/").split("/")[-1]


def _scores(scores: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    """Metric, filter and score; `None` for one that is not finite."""
    found = []
    for key, value in scores.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and metric != "bypass" and isinstance(value, Real):
            found.append((metric, kind, _number(value)))
    return found


def _is_dataset(name: object) -> bool:
    """Whether it is a dataset on the Hub, not a format or a folder."""
    return isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) is not None


def _number(value: object) -> float | None:
    numeric = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if numeric else None
