# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One system on one task of lm-eval: its scores, and what they are of, document by document."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from lm_eval import evaluate
from lm_eval.api.group import Group
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from .tasks import LoadedTask

# Resamples for a standard error that has no formula. lm-eval's 100,000 take minutes.
_BOOTSTRAP_ITERS = 1000


def evaluate_task(
    lm: LM, loaded: LoadedTask, *, limit: int | None = None, apply_chat_template: bool = False
) -> tuple[dict, list[dict]]:
    """
    One system on one task, with the numbers of lm-eval's own command at its default seeds.

    Args:
        lm (`LM`): The system.
        loaded ([`LoadedTask`]): The task.
        limit (`int`, *optional*): Documents of each task, the first ones.
        apply_chat_template (`bool`, *optional*, defaults to `False`): Whether prompts go through the chat template.

    Returns:
        `tuple[dict, list[dict]]`: what was measured (JSON values), and lm-eval's samples. Measured are

        - `metrics`, for each `"metric,filter"` its `score` and `stderr` (`None` if there is none, or if it is not
          finite) and `higher_is_better`;
        - `documents`: their `names`, which are made of their content, and for each metric their `values`, `None` where
          that is no number;
        - `cut`, how many documents had prompts longer than the context, whose beginning lm-eval cuts off;
        - `parts`, for each member of a group its metrics;
        - `num_fewshot` (`None` if it differs within a group) and `version`, as they were.
    """
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    for leaf in loaded.leaves:
        if loaded.protocol.num_fewshot is not None or leaf.get_config("num_fewshot") is None:
            leaf.set_config("num_fewshot", loaded.protocol.num_fewshot or 0)
        leaf.set_fewshot_seed(DEFAULT_OTHER_SEED)
    found = evaluate(
        lm,
        {
            "tasks": {leaf.task_name: leaf for leaf in loaded.leaves},
            "groups": {group.name: group for group in _groups(loaded.task)},
        },
        limit=limit,
        bootstrap_iters=_BOOTSTRAP_ITERS,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=True,
    )
    own = found["results"][loaded.name]
    keys = [key for key in own if "," in key and "_stderr," not in key]
    metrics = {}
    for key in keys:
        metric, kind = key.split(",", 1)
        metrics[key] = {
            "score": _number(own[key]),
            "stderr": _number(own.get(f"{metric}_stderr,{kind}")),
            "higher_is_better": _shared(leaf.higher_is_better().get(metric) for leaf in loaded.leaves),
        }
    samples = [{"task": task, **sample} for task, rows in found["samples"].items() for sample in rows]
    measured = {
        "metrics": metrics,
        "cut": len({(one["task"], one["doc_id"]) for one in samples if isinstance(lm, HFLM) and _is_cut(lm, one)}),
        "num_fewshot": _shared(leaf.get_config("num_fewshot") for leaf in loaded.leaves),
        "version": str(found["versions"].get(loaded.name)),
        "parts": {
            name: {key: _number(value) for key, value in part.items() if "," in key}
            for name, part in found["results"].items()
            if name != loaded.name
        },
        "documents": _documents(samples, keys),
    }
    return measured, samples


def _is_cut(lm: HFLM, sample: Mapping) -> bool:
    for text, *more in sample["arguments"]:
        if not more:  # a rolling likelihood, which goes on in the next window
            continue
        if isinstance(more[0], str):
            text, room = text + more[0], lm.max_length + 1
        else:
            room = lm.max_length - normalize_gen_kwargs(more[0], lm.max_gen_toks)["max_gen_toks"]
        if len(text.encode()) > room and len(lm.tok_encode(text)) > room:  # no token is shorter than a byte
            return True
    return False


def _shared(values: Iterable[Any]) -> Any:
    """The one value that all have, or `None`. Of a group in a group, lm-eval does not tell."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _groups(task: Task | Group) -> list[Group]:
    return [task, *task.get_all_groups()] if isinstance(task, Group) else []


def _documents(samples: list[dict], keys: list[str]) -> dict:
    """Values by document. A document that is there twice has two names."""
    seen, values = Counter(), {}
    for sample in samples:
        task, kind, content = sample["task"], sample["filter"], sample["doc_hash"][:16]
        seen[task, kind, content] += 1
        document = values.setdefault(f"{task}:{content}:{seen[task, kind, content]}", {})
        document |= {f"{metric},{kind}": _number(sample[metric]) for metric in sample["metrics"]}
    return {"names": list(values), "values": {key: [row.get(key) for row in values.values()] for key in keys}}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, Real | np.bool_) and math.isfinite(value) else None
