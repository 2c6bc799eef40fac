# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tasks of lm-eval: named sets, how many examples each is shown, and which of its metrics is the score."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lm_eval.api.group import Group
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from ...checkpoints import content_key

# Of a task's file, what does not tell it from another: the count is given apart, and what is made of the rest for the
# examples holds functions, which have another address in every process.
_NOT_DEFINING = ("num_fewshot", "fewshot_config")


class Protocol(NamedTuple):
    """
    How a task is run and read.

    Args:
        num_fewshot (`int`, *optional*): Solved examples in the prompt. `None` leaves it to the task's own file.
        metric (`str`, *optional*):
            The metric that is the score, as lm-eval writes it: `"acc_norm"`, or with its filter
            `"exact_match,strict-match"`. `None` takes the first of the task's own file.
    """

    num_fewshot: int | None = None
    metric: str | None = None


# The task files do not all say how many examples are shown. These are the counts of the first Open LLM Leaderboard,
# and of the second for IFEval.
PROTOCOLS = {
    "mmlu": Protocol(5, "acc,none"),
    "arc_challenge": Protocol(25, "acc_norm,none"),
    "hellaswag": Protocol(10, "acc_norm,none"),
    "truthfulqa_mc2": Protocol(0, "acc,none"),
    "winogrande": Protocol(5, "acc,none"),
    "gsm8k": Protocol(5, "exact_match,strict-match"),
    "ifeval": Protocol(0, "prompt_level_strict_acc,none"),
}
TASK_SETS = {"downstream": tuple(PROTOCOLS)}


@dataclass(frozen=True)
class LoadedTask:
    """
    A task, or a group that has a score of its own, with its data.

    Args:
        name (`str`): Its name in lm-eval.
        protocol ([`Protocol`]): How it is run and read.
        task (`Task` or `Group`): lm-eval's object.
    """

    name: str
    protocol: Protocol
    task: Task | Group

    @property
    def leaves(self) -> list[Task]:
        """The tasks in the group, or the one task."""
        return self.task.get_all_tasks() if isinstance(self.task, Group) else [self.task]

    @property
    def needs_likelihoods(self) -> bool:
        """Whether a system must tell the likelihood of given texts, which not every one can."""
        return any(leaf.OUTPUT_TYPE != "generate_until" for leaf in self.leaves)

    @property
    def longest_completion(self) -> int:
        """Most tokens that a system is asked to write; 0 if it is asked for likelihoods only."""
        written = [
            leaf.get_config("generation_kwargs") for leaf in self.leaves if leaf.OUTPUT_TYPE == "generate_until"
        ]
        return max(
            (normalize_gen_kwargs(each or {}, DEFAULT_MAX_GEN_TOKS)["max_gen_toks"] for each in written), default=0
        )

    @property
    def identity(self) -> dict:
        """What makes the numbers of two runs comparable (JSON values)."""
        configs = [leaf.dump_config() for leaf in self.leaves]
        configs = [{key: value for key, value in config.items() if key not in _NOT_DEFINING} for config in configs]
        return {"num_fewshot": self.protocol.num_fewshot, "definition": content_key(configs)}


def read_tasks(tasks: str | list | Mapping | None) -> dict[str, Protocol]:
    """
    What is to be run, by name.

    Args:
        tasks (`str`, `list[str]` or `dict[str, dict]`, *optional*):
            Names of tasks, groups, tags or sets (`"downstream"`): one, several with commas between them, or a list; or
            a mapping from names to `num_fewshot` and `metric`, where those are to be others.

    Raises:
        TypeError: if a name or a setting is of another type.
        ValueError: if a task comes twice or has an unknown setting.
    """
    if isinstance(tasks, str):
        tasks = [name.strip() for name in tasks.split(",")]
    given = tasks if isinstance(tasks, Mapping) else {}
    read = {}
    for name in tasks or ():
        if not isinstance(name, str) or not name:
            raise TypeError(f"A task is given by its name, got {repr(name)[:80]}.")
        settings = given.get(name) or {}
        if not isinstance(settings, Mapping) or not settings.keys() <= set(Protocol._fields):
            raise ValueError(
                f"The task {name!r:.80} has the settings {repr(settings)[:80]}; it may have `num_fewshot` "
                "and `metric`."
            )
        num_fewshot, metric = settings.get("num_fewshot"), settings.get("metric")
        if num_fewshot is not None and (not isinstance(num_fewshot, int) or num_fewshot < 0):
            raise TypeError(f"`num_fewshot` of {name!r:.80} must be a whole number, got {repr(num_fewshot)[:80]}.")
        if metric is not None and not isinstance(metric, str):
            raise TypeError(f"`metric` of {name!r:.80} must be a name, got {repr(metric)[:80]}.")
        for member in TASK_SETS.get(name, (name,)):
            if member in read:
                raise ValueError(f"The task {member!r:.80} comes twice. Keep one.")
            read[member] = _stated(member, Protocol(num_fewshot, metric))
    return read


def _stated(name: str, given: Protocol) -> Protocol:
    """What was given for a task, and for the rest what is usual."""
    usual = PROTOCOLS.get(name, Protocol())
    return Protocol(
        usual.num_fewshot if given.num_fewshot is None else given.num_fewshot, given.metric or usual.metric
    )


def load_tasks(protocols: Mapping[str, Protocol], include_path: str | None = None) -> dict[str, LoadedTask]:
    """
    The tasks with their data. A tag, and a group without a score of its own, becomes the tasks in it.

    Args:
        protocols (`dict[str, Protocol]`): See [`read_tasks`].
        include_path (`str`, *optional*): Folder with task files beside lm-eval's own.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if there is no such task, it runs generated code, has no such metric or not as many examples.
    """
    if include_path is not None and not Path(include_path).is_dir():
        raise FileNotFoundError(f"`include_path`: there is no folder {str(include_path)!r:.80}.")
    manager, loaded = _task_manager(protocols, include_path), {}
    for name, protocol in protocols.items():
        if name not in manager.task_index:
            near = ", ".join(difflib.get_close_matches(name, manager.all_tasks, n=3)) or "none"
            raise ValueError(
                f"There is no task {name!r:.80}. Names near it: {near}. Files of your own are found by `include_path`."
            )
        found = manager.load([name])
        group = found["groups"].get(name)
        members = {name: group} if group is not None and group.has_aggregation else found["tasks"]
        for member, task in members.items():
            if member in loaded:
                raise ValueError(f"The task {member!r:.80} comes twice, once in {name!r:.80}. Keep one.")
            loaded[member] = LoadedTask(member, _stated(member, protocol), task)
            _check(loaded[member])
    return loaded


def _task_manager(names: Iterable[str], include_path: str | None) -> TaskManager:
    """Knows the folder alone if no more is asked for: to read lm-eval's 14,000 names takes seconds."""
    manager = TaskManager(include_path=include_path, include_defaults=False)
    asked = list(names)
    for name in asked:  # grows by the members of groups
        if not isinstance(name, str) or name not in manager.task_index:
            return TaskManager(include_path=include_path)
        if name in manager.all_groups:
            asked += manager.task_index[name].cfg["task"]
    return manager


def _check(loaded: LoadedTask):
    wanted, metric = loaded.protocol
    for leaf in loaded.leaves:
        name, own = leaf.task_name, leaf.get_config("num_fewshot")
        if leaf.get_config("unsafe_code"):
            raise ValueError(
                f"The task {name!r:.80} runs code that a model writes. Run it where that may happen: `python -m "
                "hf_cong.evaluation.lm run --confirm_run_unsafe_code ...`."
            )
        if wanted and own == 0:
            raise ValueError(
                f"The file of the task {name!r:.80} sets `num_fewshot: 0`, which lm-eval never changes; got {wanted}. "
                "Leave it out, or write a task file of your own."
            )
        shown = own if wanted is None else wanted
        if shown and isinstance(leaf, ConfigurableTask) and shown > len(leaf.sampler.df):
            raise ValueError(
                f"`num_fewshot` of {name!r:.80} is {shown}, and it has {len(leaf.sampler.df)} examples to show. Lower "
                "it."
            )
        if metric is not None and metric.split(",")[0] not in leaf.aggregation():
            raise ValueError(
                f"The task {name!r:.80} has no metric {metric!r:.80}; it has {', '.join(leaf.aggregation())}."
            )
