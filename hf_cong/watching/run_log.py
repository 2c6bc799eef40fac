# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""All that the stages of a run log, in one file below `output_dir` that no kill takes away.

A stage that goes on from a checkpoint takes the steps after it again: [`read_run_log`] has each step once.
"""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState

# First parts of names that no step of a training has: what was written, what was kept of it, what memory it took.
_OF_NO_STEP = ("decode", "samples", "sample", "sft", "dpo", "memory")


class KeepLog(TrainerCallback):
    """
    A tracker on disk: appends what it is told to `output_dir/_cong/logs.jsonl`, in the main process.

    Args:
        output_dir (`str` or `Path`): Of the run.
    """

    def __init__(self, output_dir: str | Path):
        self.path = _path(output_dir)

    def begin(self, stage: str, state: TrainerState) -> None:
        """Notes where a training begins: at 0, or at the step of the checkpoint that it goes on from."""
        self._append(state, {"begins": stage})

    def on_train_begin(self, args, state, control, **kwargs):
        self.begin("dpo", state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._append(state, logs)

    def _append(self, state: TrainerState, values: dict[str, Any]):
        if not state.is_world_process_zero:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a kill tore the last line; it stays a line of its own
                    file.write(b"\n")
            file.write(json.dumps({"step": state.global_step, **values}).encode("ascii") + b"\n")


def read_run_log(output_dir: str | Path) -> dict[str, dict[int, dict[str, float]]]:
    """
    What a run has logged, finished or not.

    Args:
        output_dir (`str` or `Path`): Of the run, whose stages may have been launched one by one.

    Returns:
        `dict[str, dict[int, dict[str, float]]]`: for the stages `"sft"` and `"dpo"`, at each step what was logged
        there, under the names of TRL; of several evaluation data sets, each under its own, `eval_<name>_...`, which
        TRL gives to its loss alone. Under `"stages"`, at step 0, the last value of everything else, under its whole
        name. A line that a kill tore is left out.

    Raises:
        FileNotFoundError: if there is no log.
    """
    path = _path(output_dir)
    if not has_run_log(output_dir):
        raise FileNotFoundError(
            f"{output_dir} has no log of a run ({path.relative_to(output_dir)}). Pass the `output_dir` of a run of "
            "`hf-cong train` or `ConGTrainer` that has begun a stage."
        )
    log = {"stages": {0: {}}, "sft": {}, "dpo": {}}
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        step, begins = line.pop("step"), line.pop("begins", None)
        if begins is not None:
            log[begins] = {before: values for before, values in log[begins].items() if before <= step}
        own = {}
        for name, value in line.items():
            stage, _, rest = name.partition("/")
            if stage == "sft" and "/" not in rest:
                own.setdefault("sft", {})[rest] = value
            elif stage in _OF_NO_STEP:
                log["stages"][0][name] = value
            else:
                own.setdefault("dpo", {})[name] = value
        for stage, values in own.items():
            log[stage].setdefault(step, {}).update(_of_one_evaluation(values))
    return log


def evaluations(values: dict[str, float]) -> list[str]:
    """With what the names begin of each evaluation among them: `eval_`, or `eval_<name>_` of data that has a name."""
    ends = [name.removesuffix("runtime") for name in values if name.endswith("_runtime")]
    return [prefix for prefix in ends if prefix.startswith("eval_")]


def _of_one_evaluation(values: dict[str, float]) -> dict[str, float]:
    for prefix in evaluations(values):
        bare = [name for name in values if name.startswith("eval_") and not name.startswith(prefix)]
        values = {prefix + name.removeprefix("eval_") if name in bare else name: values[name] for name in values}
    return values


def has_run_log(output_dir: str | Path) -> bool:
    """Whether a run has begun to log."""
    return _path(output_dir).exists()


def _path(output_dir: str | Path) -> Path:
    return Path(output_dir) / "_cong" / "logs.jsonl"
