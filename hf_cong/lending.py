# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""One trainer's model lent to another trainer: supervised fine-tuning inside a run that goes on afterwards."""

import copy
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import is_peft_model
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from .adapters import KeepsDtypes
from .checkpoints import SealCheckpoints, damage, last_whole_checkpoint, seal
from .grouping import GroupsByLength
from .memory import peak_gib
from .stopping import EndsOnce, SaveOnSigterm, check_loss, leave_if_stopped
from .watching.trackers import ForwardLogs, Trackers

logger = logging.getLogger(__name__)


@contextmanager
def lend(model: PreTrainedModel | PeftModel) -> Iterator[PreTrainedModel | PeftModel]:
    """
    Lends a trainer's model to another trainer, and gives it back with new weights and nothing else changed.

    A trainer leaves behind: TRL's fused forward, whose outputs are those of the last trainer built; accelerate's
    autocast forward; `_is_accelerate_prepared`, which makes the next `prepare` a no-op, without autocast; and settings
    of the configuration (`output_router_logits` of a mixture of experts).

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            The model of the lending trainer, not wrapped for distributed training.
    """
    names = ("forward", "_original_forward", "_is_accelerate_prepared")
    modules = [model, model.get_base_model()] if is_peft_model(model) else [model]
    kept = [{name: module.__dict__[name] for name in names if name in module.__dict__} for module in modules]
    config = dict(model.config.__dict__)
    try:
        yield model
    finally:
        for module, attributes in zip(modules, kept, strict=True):
            for name in names:
                module.__dict__.pop(name, None)
            module.__dict__.update(attributes)
        model.config.__dict__.clear()
        model.config.__dict__.update(config)


class FineTuner(GroupsByLength, KeepsDtypes, EndsOnce, SFTTrainer):
    """
    Overrides `training_step`: a loss that is no number ends it; `_prepare_dataset`, which keeps the rows of packed
    sequences, for their prompts; and `log`, which says what memory it took.
    """

    _rows = None

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if packing and dataset_name == "train" and args.packing_strategy != "wrapped":  # which cuts rows anywhere
            whole = copy.copy(args)
            whole.shuffle_dataset, whole.max_length = False, None
            dataset = super()._prepare_dataset(dataset, processing_class, whole, False, formatting_func, dataset_name)
            self._rows = dataset
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def training_step(self, model, inputs, num_items_in_batch=None):
        batch = dict(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        dataset = self.train_dataset if self._rows is None else self._rows
        check_loss(self, loss, batch, dataset, ("input_ids",))
        return loss

    def log(self, logs, start_time=None):
        if "train_runtime" in logs:  # the last line while the trackers are open
            logs = {**logs, "memory/sft_peak_gib": peak_gib()}
        super().log(logs, start_time)


def fine_tune(
    trainer: Trainer, settings: dict[str, Any], output_dir: Path, rows: dict[str, Dataset], trackers: Trackers
) -> None:
    """
    Fine-tunes the model of `trainer` in place, or loads the result if an earlier run left it in `output_dir`.

    Args:
        trainer (`transformers.Trainer`):
            The trainer that lends its model.

    See [`train_and_keep`] for the other arguments.
    """
    if damage(output_dir / "final") is None:
        trainer._load_from_checkpoint(str(output_dir / "final"))
        return
    with lend(trainer.model) as model:

        def build(callbacks: list[TrainerCallback], **kwargs: Any) -> FineTuner:
            inner = FineTuner(model, processing_class=trainer.processing_class, callbacks=callbacks, **kwargs)
            inner.remove_callback(PrinterCallback)  # the logs reach the one of `trainer`
            return inner

        train_and_keep(build, settings, output_dir, rows, trackers)


def train_and_keep(
    build: Callable[..., FineTuner],
    settings: dict[str, Any],
    output_dir: Path,
    rows: dict[str, Dataset],
    trackers: Trackers,
) -> None:
    """
    Trains, and keeps the result in `output_dir/final`: whole weights in safetensors, or an adapter, and a tokenizer.

    Continues from the last whole checkpoint in `output_dir`.

    Args:
        build (`Callable`):
            Makes the trainer of the arguments `args`, `train_dataset`, `eval_dataset` and `callbacks`.
        settings (`dict[str, Any]`):
            Arguments of [`~trl.SFTConfig`].
        output_dir (`Path`):
            Where checkpoints and result lie. It must be named by all that the result depends on.
        rows (`dict[str, datasets.Dataset]`):
            `prompt` and `completion`, by split: `train`, and `eval` or `eval_<name>` to evaluate on.
        trackers ([`Trackers`]):
            Where the logs go, under `sft/`.

    Raises:
        FloatingPointError: at a loss that is no number.
        RuntimeError: if shards were not gathered into whole weights.
        SystemExit: after SIGTERM, with `enable_jit_checkpoint`.
    """
    final = output_dir / "final"
    if final.exists():
        logger.warning(
            "Fine-tuning is repeated from its last checkpoint: its result %s is damaged: %s.", final, damage(final)
        )
    checkpoint = last_whole_checkpoint(output_dir)
    PartialState().wait_for_everyone()  # all processes have looked before one writes

    evals = {name.removeprefix("eval_"): dataset for name, dataset in rows.items() if name != "train"}
    if not evals:
        settings = {**settings, "eval_strategy": "no"}
    callbacks = [ForwardLogs(trackers, "sft"), SealCheckpoints()]
    if settings["enable_jit_checkpoint"]:
        settings, callbacks = {**settings, "enable_jit_checkpoint": False}, [*callbacks, SaveOnSigterm()]
    # Arguments reset accelerate's global state, which only the next trainer built fills again: not a line earlier.
    config = SFTConfig(output_dir=str(output_dir), **settings)
    trainer = build(
        args=config,
        train_dataset=rows["train"],
        eval_dataset=evals.get("eval", evals) or None,
        callbacks=callbacks,
    )
    # The sampler's seed is torch's initial seed, which anything that ran before may have changed.
    set_seed(config.seed)
    trainer.train(resume_from_checkpoint=checkpoint)
    leave_if_stopped(trainer)
    if trainer.is_world_process_zero():
        shutil.rmtree(final, ignore_errors=True)
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(final))
    trainer.save_state()  # with all that it logged
    # Frees the optimizer, and the hooks that a distributed wrapper leaves on the parameters.
    trainer.accelerator.free_memory()
    trainer.callback_handler.callbacks.clear()
    trainer.model = trainer.model_wrapped = trainer.optimizer = trainer.lr_scheduler = None
    del trainer
    clear_device_cache(garbage_collection=True)
    PartialState().wait_for_everyone()
    if not list(final.glob("*.safetensors")):
        raise RuntimeError(
            f"{final} has no safetensors: the shards were not gathered. With DeepSpeed's ZeRO stage 3 set "
            "`stage3_gather_16bit_weights_on_model_save` (`zero3_save_16bit_model` of accelerate) to true, and repeat."
        )
    if PartialState().is_main_process:
        seal(final)
    PartialState().wait_for_everyone()
