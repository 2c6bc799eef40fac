# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Systems on tasks and prompts: one in memory at a time, journaled by task, compared document by document."""

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import datasets
from accelerate.utils.memory import clear_device_cache
from tqdm.auto import tqdm

from ...checkpoints import content_key
from ...compatibility import context_length
from ...journal import Journal, check_identity, check_manifest, read_manifest, replacing, write_manifest
from ...prompts import read_prompts

try:
    from lm_eval.api.model import LM
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import handle_non_serializable
except ImportError as error:
    raise ImportError('Evaluation needs the package lm-eval. Install it: `pip install "hf-cong[eval]"`.') from error

from ..judges import Judge
from .completions import Writing, read_scales, write_completions
from .scoring import evaluate_task
from .systems import System, check_systems, read_systems
from .table import compare, plot_comparison, render_comparison
from .tasks import LoadedTask, load_tasks, read_tasks

_JSON, _TABLE, _PICTURE, _MANIFEST = "evaluation.json", "evaluation.md", "evaluation.png", "manifest.json"
_FILES = (_JSON, _TABLE, _PICTURE)


def run_evaluation(
    systems: Mapping[str, Mapping],
    *,
    baseline: str,
    output_dir: str | Path,
    tasks: str | list | Mapping | None = None,
    include_path: str | None = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
    prompts: datasets.Dataset | list | str | Path | None = None,
    reward: str | None = None,
    judge: Judge | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.8,
    top_p: float = 0.95,
    top_k: int = 0,
    seed: int = 0,
    batch_size: int = 8,
    dtype: str = "auto",
) -> list[dict]:
    """
    Compares systems on tasks of lm-eval and on completions of given prompts, each on the very same documents.

    A system is loaded when its turn comes, does all that it owes, and is freed. Every finished task of a system is
    journaled: after a kill, the same command goes on with the next, and ends with the bytes of a run that was not
    interrupted. Systems and tasks may be added to a finished run, which then measures only those. A name whose weights
    or settings have changed is refused, so that nothing is overwritten.

    Args:
        systems (`dict[str, dict]`):
            What is compared: see [`read_systems`].
        baseline (`str`):
            The system that all others are compared with, such as the strong base.
        output_dir (`str` or `Path`):
            Receives `journal.jsonl`, `samples/<system>/<task>.jsonl` (what was answered, as lm-eval logs it, without
            the prompts), `completions/<system>/`, then `evaluation.md` (the table), `evaluation.json`,
            `evaluation.png` and, last, `manifest.json`.
        tasks (`str`, `list` or `dict`, *optional*):
            Tasks of lm-eval, by name: see [`read_tasks`]. `"downstream"` is MMLU, ARC-Challenge, HellaSwag, TruthfulQA
            (MC2), Winogrande, GSM8K and IFEval.
        include_path (`str`, *optional*):
            Folder with task files of your own. A task file can run code: take none from a stranger.
        limit (`int`, *optional*):
            Documents of each task (of each one in a group), the first ones: for a trial.
        apply_chat_template (`bool`, *optional*, defaults to `False`):
            Whether tasks go through the chat template of each system.
        prompts (`datasets.Dataset`, `list`, `str` or `Path`, *optional*):
            Prompts that every system completes: see [`read_prompts`].
        reward (`str`, *optional*):
            The system whose pair gives the implicit reward of every completion.
        judge ([`Judge`], *optional*):
            Compares every completion with the baseline's.
        max_new_tokens, temperature, top_p, top_k, seed:
            How prompts are completed: see [`generate_completions`]. A search has its own temperature, `top_p` and
            `top_k`, on prompts as on tasks.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows per batch.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype of all weights.

    Returns:
        `list[dict]`: the rows of the table, by task and then by system: see [`compare`].

    Raises:
        TypeError: if a setting is of another type.
        ValueError: if a setting, a system, a task or a prompt is refused, or `output_dir` holds another run.
        BlockingIOError: if another process is writing to `output_dir`.
    """
    check_systems(systems)
    _check_options(systems, baseline, tasks, limit, prompts, reward, judge, batch_size)
    named = read_systems(systems, dtype)
    _check_abilities(named, reward, apply_chat_template=bool(tasks) and apply_chat_template)
    loaded = load_tasks(read_tasks(tasks), include_path) if tasks else {}
    scales, rows, writing = [], None, Writing(max_new_tokens, temperature, top_p, top_k, seed)
    if prompts is not None:
        rows, _ = read_prompts(prompts)
        scales = read_scales(writing.identity(rows), named, baseline, reward, judge, batch_size)
    protocols = {name: task.identity for name, task in loaded.items()}
    protocols |= {scale.title: scale.protocol for scale in scales}
    plan = {"limit": limit, "apply_chat_template": apply_chat_template, "lm_eval": version("lm_eval")}
    identities = {name: system.identity for name, system in named.items()}
    metrics = {name: task.protocol.metric for name, task in loaded.items()}
    metrics |= {scale.title: "mean" for scale in scales}
    identity = {**plan, "baseline": baseline, "systems": identities, "tasks": protocols, "metrics": metrics}
    output_dir = Path(output_dir)
    check_manifest(output_dir / _MANIFEST, _FILES)
    if (output_dir / _MANIFEST).exists() and read_manifest(output_dir / _MANIFEST)["identity"] == identity:
        return json.loads((output_dir / _JSON).read_text(encoding="utf-8"))["rows"]

    with contextlib.ExitStack() as stack:
        ledger = _Ledger(stack.enter_context(Journal(output_dir / "journal.jsonl", plan)), identities, protocols)
        total = len(named) * len(protocols)
        progress = tqdm(total=total, initial=total - len(ledger.owed), desc="Evaluating", unit="task")
        stack.enter_context(progress)
        if judge is not None:
            path = output_dir / f"judge-{content_key(judge.identity)}.jsonl"
            answers = stack.enter_context(Journal(path, judge.identity))
            stack.enter_context(judge.keep_answers(answers))
        measure = functools.partial(
            _measure, limit=limit, apply_chat_template=apply_chat_template, folder=output_dir / "samples"
        )
        written = {}
        for name, system in named.items():
            load = functools.cache(functools.partial(system.load, batch_size))
            for task in loaded.values():
                if (name, task.name) in ledger.owed:
                    ledger.add(name, task.name, measure(system, task, load))
                    progress.update()
            if rows is not None:
                folder = output_dir / "completions" / name
                written[name] = write_completions(system, rows, writing, folder, load, batch_size=batch_size)
            del load  # and with it the system
            clear_device_cache(garbage_collection=True)
        for scale in scales:
            owing = [name for name in named if (name, scale.title) in ledger.owed]
            if owing:
                scorer = scale.load()
                for name in owing:
                    ledger.add(name, scale.title, scale.score(written[name], written[baseline], scorer))
                    progress.update()
                del scorer
                clear_device_cache(garbage_collection=True)
        compared = compare(ledger.records, list(named), metrics, baseline)
        settings = {"baseline": baseline, **plan, "dtype": dtype}
        if prompts is not None:
            settings["completions"] = asdict(writing)
        given = {name: dict(system) for name, system in systems.items()}
        facts = {"identity": identity, "systems": given, "settings": settings}
        _finish(output_dir, compared, ledger.records, facts)
    return compared


def _check_options(systems, baseline, tasks, limit, prompts, reward, judge, batch_size) -> None:
    """Refuses what no file needs to be read for."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a whole number of at least 1, got {batch_size!r:.80}.")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ValueError(f"`limit` must be a whole number of at least 1, got {limit!r:.80}. Leave it out for all.")
    if not tasks and prompts is None:
        raise ValueError("There is nothing to measure. Name `tasks`, or give `prompts` to complete.")
    for option, value in {"reward": reward, "judge": judge}.items():
        if value is not None and prompts is None:
            raise ValueError(f"`{option}` is for completions of `prompts`, of which there are none. Pass `prompts`.")
    for option, name in {"baseline": baseline, "reward": reward}.items():
        if name is not None and name not in systems:
            raise ValueError(f"`{option}` is {name!r:.80}; it must be one of the systems: {', '.join(systems)}.")


def _check_abilities(named: Mapping[str, System], reward: str | None, *, apply_chat_template: bool) -> None:
    """Refuses systems that cannot do what is asked of all."""
    if reward is not None and named[reward].load_reward is None:
        raise ValueError(f"`reward` {reward!r} is no pair, so it gives no implicit reward. Name a system that is one.")
    for name, system in named.items():
        if apply_chat_template and system.tokenizer.chat_template is None:
            raise ValueError(
                f"`apply_chat_template` is set, and the tokenizer of the system {name!r} has no chat template. Leave "
                "it out, or save the tokenizer with one."
            )


class _Ledger:
    """
    The journal by system and task, and what it still owes.

    Args:
        journal ([`Journal`]): The open journal.
        systems, tasks (`dict[str, dict]`): Identities by name.

    Raises:
        ValueError: if a record is of another system or task of the same name.
    """

    def __init__(self, journal: Journal, systems: Mapping[str, dict], tasks: Mapping[str, dict]):
        self._journal, self._systems, self._tasks = journal, systems, tasks
        self.records = {(record["system"], record["task"]): record for record in journal.records}
        self.owed = {(system, task) for system in systems for task in tasks} - self.records.keys()
        for (system, task), record in self.records.items():
            for name, here, there in ((system, systems, "system_identity"), (task, tasks, "task_identity")):
                if name in here:
                    check_identity({name: here[name]}, {name: record[there]}, journal.path)

    def add(self, system: str, task: str, measured: dict) -> None:
        """Puts what was measured on disk."""
        identities = {"system_identity": self._systems[system], "task_identity": self._tasks[task]}
        self.records[system, task] = {"system": system, "task": task, **identities, **measured}
        self._journal.append([self.records[system, task]])
        self.owed.remove((system, task))


def _measure(
    system: System,
    task: LoadedTask,
    load: Callable[[], LM],
    *,
    limit: int | None,
    apply_chat_template: bool,
    folder: Path,
) -> dict:
    """What a system scores on a task, whose samples are kept; or the reason why it cannot do it."""
    if system.search is not None and task.needs_likelihoods:
        return {"reason": "a search has no likelihoods"}
    lm = load()
    context = lm.max_length if isinstance(lm, HFLM) else context_length(lm.model)
    if context is not None and task.longest_completion >= context:
        return {"reason": f"it may write {task.longest_completion} tokens, and the context is {context}"}
    found, samples = evaluate_task(lm, task, limit=limit, apply_chat_template=apply_chat_template)
    with replacing(folder / system.name / f"{task.name}.jsonl") as temporary:
        kept = ({key: value for key, value in sample.items() if key != "arguments"} for sample in samples)
        lines = (json.dumps(sample, default=handle_non_serializable) + "\n" for sample in kept)
        temporary.write_text("".join(lines), encoding="ascii")
    return found


def _finish(output_dir: Path, rows: list[dict], records: Mapping[tuple[str, str], dict], facts: dict) -> None:
    """Writes the table, all metrics and the picture, then the manifest that says they are whole."""
    (output_dir / _MANIFEST).unlink(missing_ok=True)  # of fewer systems or tasks
    baseline, tasks = facts["settings"]["baseline"], facts["identity"]["tasks"]
    apart = ("system", "task", "system_identity", "task_identity", "documents")
    results = {
        system: {
            task: {key: value for key, value in records[system, task].items() if key not in apart} for task in tasks
        }
        for system in facts["systems"]
    }
    with replacing(output_dir / _JSON) as temporary:
        content = {**facts, "rows": rows, "results": results}
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="ascii")
    with replacing(output_dir / _TABLE) as temporary:
        temporary.write_text(render_comparison(rows, baseline, facts), encoding="utf-8")
    plot_comparison(output_dir / _PICTURE, rows, baseline)
    write_manifest(output_dir / _MANIFEST, facts, files=_FILES)
