# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One run in the trackers for all stages: what happens outside of a training reaches them under its stage's name.

Each stage has names of its own, and a training counts its own steps under them: no tracker sees a name go backwards.
"""

import time

from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from .run_log import KeepLog

_REPORTERS = tuple(INTEGRATION_TO_CALLBACK.values())
# Columns of what was scored, and what they are called in logs.
_REWARDS = {
    "reward": "implicit_reward",
    "chosen_reward": "implicit_reward_chosen",
    "rejected_reward": "implicit_reward_rejected",
}
# Whose rows are counted when a stage that writes has ended.
_COUNTED = {"decode": ("samples", "sft"), "sample": ("dpo",)}
_SECONDS = 60.0  # between two lines about a stage that writes


class Trackers:
    """
    The trackers of a launch.

    Args:
        args (`TrainingArguments`):
            Settings of the run; `report_to` and `run_name` are the trackers'.
        handler (`CallbackHandler`, *optional*):
            That of the trainer of this launch. A launch without one has the callbacks that `report_to` names.

    Attributes:
        keep ([`KeepLog`]): The log on disk, which is one of the callbacks.
    """

    def __init__(self, args: TrainingArguments, handler: CallbackHandler | None = None):
        self.args, self.keep = args, KeepLog(args.output_dir)
        reporters = get_reporting_integration_callbacks(args.report_to)
        self._handler = handler or CallbackHandler([DefaultFlowCallback, *reporters], None, None, None, None)
        self._handler.callbacks.insert(0, self.keep)
        self._begun = False

    def log(self, logs: dict[str, float], step: int = 0) -> None:
        """Logs what is of no training. Of a stage that writes, `step` is the number of rows it has written."""
        main = {"is_world_process_zero": self.args.process_index == 0}
        self.repeat(
            logs, TrainerState(global_step=step, is_local_process_zero=self.args.local_process_index == 0, **main)
        )

    def end(self, stage: str, written: dict[str, Dataset], counts: dict[str, dict]) -> None:
        """
        Logs what a stage that writes has left: the mean implicit reward of the weak pair, in nats per completion,
        where it was scored, and how many rows are kept.

        Args:
            stage (`str`): `"decode"` or `"sample"`.
            written (`dict[str, datasets.Dataset]`): Completions or pairs, by split.
            counts (`dict[str, dict]`): `stage_counts`.
        """
        for split, rows in written.items():
            columns = [column for column in _REWARDS if column in rows.column_names]
            means = {_REWARDS[column]: sum(rows[column][:]) / len(rows) for column in columns}
            if means:
                self.log({f"{stage}/{split}/{name}": mean for name, mean in means.items()}, len(rows))
        for name, found in counts.items():
            if name.split("/")[0] in _COUNTED[stage]:
                dropped = {f"dropped_{reason}": number for reason, number in found["dropped"].items()}
                numbers = {"rows_in": found["rows_in"], "kept": found["kept"], **dropped}
                self.log({f"{name}/{key}": number for key, number in numbers.items()})

    def repeat(self, logs: dict[str, float], state: TrainerState) -> None:
        """Logs what another trainer, in this state, has logged."""
        control = TrainerControl()
        if not self._begun:
            # Only then TensorBoard's has its directory, below `output_dir`. None begins a second time.
            for callback in self._handler.callbacks:
                if isinstance(callback, _REPORTERS):
                    callback.on_train_begin(self.args, state, control, model=self._handler.model)
            self._begun = True
        self._handler.on_log(self.args, state, control, logs)


class ForwardLogs(TrainerCallback):
    """
    Repeats the logs of a trainer to the trackers of a launch under `prefix/`.

    What begins with `memory/` names its stage itself.
    """

    def __init__(self, trackers: Trackers, prefix: str):
        self.trackers, self.prefix = trackers, prefix

    def on_train_begin(self, args, state, control, **kwargs):
        self.trackers.keep.begin(self.prefix, state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        own = {name: value for name, value in logs.items() if name.startswith("memory/")}
        logs = {f"{self.prefix}/{name}": value for name, value in logs.items() if name not in own} | own
        self.trackers.repeat(logs, state)


class WatchWriting:
    """
    Tells the trackers how a stage gets on that writes completions: `<stage>/<split>/...`.

    While it writes, once a minute: `rows_written` and `tokens_per_second`, of the main process alone. When it ends:
    `rows`, `mean_tokens`, `truncated` (the share of the rows that hit `max_new_tokens`) and `tokens_per_second`: of
    what this launch wrote, by all processes together.

    Args:
        trackers ([`Trackers`]): Where it is told.
        name (`str`): `<stage>/<split>`.
    """

    def __init__(self, trackers: Trackers, name: str):
        self.trackers, self.name = trackers, name
        self._begun, self._told, self._rows, self._tokens, self._seconds = None, 0.0, 0, 0, 0.0

    def __call__(self, rows: int, tokens: int) -> None:
        """Takes note of rows that are written, and of their tokens: see `watch` of [`generate_completions`]."""
        now = time.perf_counter()
        self._begun = now if self._begun is None else self._begun
        self._rows, self._tokens, self._seconds = self._rows + rows, self._tokens + tokens, now - self._begun
        if tokens and self._seconds - self._told >= _SECONDS:
            self._told = self._seconds
            progress = {"rows_written": self._rows, "tokens_per_second": self._tokens / self._seconds}
            self._tell(progress, self._rows)

    def end(self, completions: Dataset) -> None:
        """Tells of the stage as a whole, which has ended. All processes must."""
        written = gather_object([(self._tokens, self._seconds)])
        lengths = [len(ids) for ids in completions["completion_ids"]]
        told = {
            "rows": len(lengths),
            "mean_tokens": sum(lengths) / len(lengths),
            "truncated": list(completions["finish_reason"]).count("length") / len(lengths),
        }
        if tokens := sum(tokens for tokens, _ in written):
            told["tokens_per_second"] = tokens / max(seconds for _, seconds in written)
        self._tell(told, len(lengths))

    def _tell(self, numbers: dict[str, float], rows: int):
        self.trackers.log({f"{self.name}/{name}": value for name, value in numbers.items()}, rows)
