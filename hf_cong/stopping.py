# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What ends a training before its end, a signal and a loss that is no number; and that its end is one."""

import logging
import signal
from itertools import chain
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainerCallback

from .prompts import prompt_id

logger = logging.getLogger(__name__)


class SaveOnSigterm(TrainerCallback):
    """
    On SIGTERM, ends training after the step in work, with a checkpoint: what `enable_jit_checkpoint` asks for.

    It takes the place of transformers' own callback, whose processes stop each at a step of its own, and whose
    checkpoints no `on_save` hears of, so that nothing says that they are whole.
    """

    def __init__(self):
        self._asked, self.stopped = False, False

    def on_train_begin(self, args, state, control, model, **kwargs):
        if model.is_distributed_loading_by_transformers:
            raise ValueError(
                "`enable_jit_checkpoint` saves what training can go on from, and `distributed_config` leaves the "
                "optimizer in shards that transformers does not save. Leave one of them out."
            )
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number, frame):
        self._asked = True

    def on_step_end(self, args, state, control, **kwargs):
        asked = torch.tensor(float(self._asked), device=args.device)
        if reduce(asked, "sum") > 0 and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGTERM, self._before)


class EndsOnce:
    """
    Of a trainer that goes on from its last checkpoint: no step more, which transformers' takes if that was in the
    middle of an epoch.

    Overrides `_init_training_state`.
    """

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        where = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else where


def leave_if_stopped(trainer: Trainer) -> None:
    """Ends the process, with the status of one that SIGTERM ended, if that is what ended the training."""
    if any(
        isinstance(callback, SaveOnSigterm) and callback.stopped for callback in trainer.callback_handler.callbacks
    ):
        logger.warning(
            "SIGTERM: training was stopped after step %d of %d and saved in %s. The same command goes on from there.",
            trainer.state.global_step,
            trainer.state.max_steps,
            trainer.args.output_dir,
        )
        raise SystemExit(128 + signal.SIGTERM)


def check_loss(
    trainer: Trainer, loss: Tensor, inputs: dict[str, Any], dataset: Dataset, columns: tuple[str, ...]
) -> None:
    """
    Refuses to go on with a loss that is no number, which would soon be in every weight.

    Args:
        trainer (`transformers.Trainer`): The trainer.
        loss (`torch.Tensor` of shape `()`): Loss of a batch.
        inputs (`dict[str, Any]`): The batch; its first rows are those of the dataset's `columns`.
        dataset (`datasets.Dataset`): The rows that were trained on, with `prompt` and `columns`.
        columns (`tuple[str, ...]`): The columns of ids that make a row, one behind the other.

    Raises:
        FloatingPointError: naming the step and the batch's `prompt_id`s.
    """
    if loss.isfinite().all():
        return
    names = "cut and packed together, so that nothing tells them apart any more"
    if "prompt" in dataset.column_names:
        if "attention_mask" in inputs:
            rows = [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
        else:  # side by side, without padding
            rows = inputs["input_ids"][0].split(inputs["cu_seq_lens_q"].diff().tolist())
        rows = {tuple(ids.tolist()) for ids in rows}
        found = (row for row in dataset if tuple(chain(*(row[name] for name in columns))) in rows)
        names = ", ".join(prompt_id(row["prompt"]) for row in found)
    state = PartialState()
    raise FloatingPointError(
        f"The loss of step {trainer.state.global_step + 1} is {loss.item()} in process {state.process_index} of "
        f"{state.num_processes}, in a batch of the prompts (`prompt_id`) {names}. Lower the learning rate, train in "
        "bf16 instead of fp16, or leave these rows out. The checkpoints before this step are as they were."
    )
