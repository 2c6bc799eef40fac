# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which run is this, and is what it left on disk whole? Names made of content, and checkpoints closed by a seal.

Knows the files of transformers' Trainer and nothing of ConG.
"""

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file
from trl.trainer.utils import hash_module

from .journal import file_sha256, replacing

logger = logging.getLogger(__name__)

_SEAL = "files.json"

# Training arguments that say where, when and how fast, not what.
_NO_EFFECT_PREFIXES = ("logging_", "log_", "save_", "eval_", "hub_", "push_", "trackio_", "ddp_", "do_", "include_")
_NO_EFFECT = {
    "batch_eval_metrics",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dataset_num_proc",
    "debug",
    "disable_tqdm",
    "enable_jit_checkpoint",
    "engine",
    "generation_batch_size",
    "greater_is_better",
    "load_best_model_at_end",
    "local_rank",
    "merge_adapter",
    "metric_for_best_model",
    "output_dir",
    "per_device_eval_batch_size",
    "precompute_ref_batch_size",
    "prediction_loss_only",
    "project",
    "report_to",
    "restore_callback_states_from_checkpoint",
    "resume_from_checkpoint",
    "run_name",
    "skip_memory_metrics",
    "stage",
}


def content_key(*parts: Any) -> str:
    """Sixteen hexadecimal characters that name values by their content, in every process alike."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_jsonable).encode()).hexdigest()[:16]


def _jsonable(value: Any) -> Any:
    # The order of a set, such as LoRA's `target_modules`, differs from process to process.
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def settings_identity(settings: dict[str, Any]) -> dict[str, Any]:
    """Those training arguments that change the trained weights, as JSON values: what two equal runs must share."""
    kept = {
        name: value
        for name, value in settings.items()
        if name not in _NO_EFFECT and not name.startswith(_NO_EFFECT_PREFIXES)
    }
    return json.loads(json.dumps(kept, default=_jsonable))


def model_identity(model: str | PreTrainedModel, **init_kwargs: Any) -> str:
    """Names the weights of a model: those in memory, those in a local directory, or a commit on the Hub."""
    if not isinstance(model, str):
        config = {name: value for name, value in model.config.to_diff_dict().items() if not name.startswith("_")}
        return f"weights:{hash_module(model)[:16]} config:{content_key(config)}"
    if Path(model).is_dir():
        files = sorted({*Path(model).glob("*.safetensors"), *Path(model).glob("*config.json")})
        return f"files:{content_key([(file.name, file_sha256(file)) for file in files])}"
    where = {name: init_kwargs[name] for name in ("revision", "cache_dir") if name in init_kwargs}
    file = find_adapter_config_file(model, **where) or cached_file(model, CONFIG_NAME, **where)
    return f"{model}@{Path(file).parent.name}"  # the cache of the Hub names a folder by its commit


def commit_of(identity: str) -> dict[str, str]:
    """What [`model_identity`] named, as an argument of `from_pretrained`: `revision`, for a model of the Hub."""
    _, at, commit = identity.partition("@")
    return {"revision": commit} if at else {}


def tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Names what a tokenizer makes of text: its vocabulary, special tokens and chat template."""
    return content_key(tokenizer.get_vocab(), tokenizer.special_tokens_map, tokenizer.chat_template)


def seal(directory: str | Path) -> None:
    """Writes, last and atomically, the list of all files below `directory` with their sizes: it is complete."""
    directory = Path(directory)
    sizes = {
        file.relative_to(directory).as_posix(): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != _SEAL
    }
    with replacing(directory / _SEAL) as temporary:
        temporary.write_text(json.dumps(sizes, indent=2), encoding="utf-8")


def damage(directory: str | Path) -> str | None:
    """What is wrong with a directory that [`seal`] should have closed, in words; `None` if it is whole."""
    directory = Path(directory)
    if not (directory / _SEAL).exists():
        return f"it has no {_SEAL}: it was not written to its end, or not by this trainer"
    try:
        sizes = json.loads((directory / _SEAL).read_text(encoding="utf-8"))
    except ValueError:
        sizes = None
    if not isinstance(sizes, dict):
        return f"its {_SEAL} is damaged"
    for name, size in sizes.items():
        if not (directory / name).exists():
            return f"{name} is missing"
        found = (directory / name).stat().st_size
        if found != size:
            return f"{name} has {found} bytes instead of {size}"
    return None


def checkpoints(directory: str | Path) -> list[Path]:
    """The `checkpoint-<step>` directories of a Trainer, the latest first."""
    found = [path for path in Path(directory).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def check_resumable(checkpoint: str | Path) -> None:
    """
    Refuses a checkpoint from which training would not go on as if it had never stopped.

    transformers resumes without complaint when the optimizer's file is missing, and then takes other steps.

    Raises:
        ValueError: if a file is missing or cut off, or the checkpoint was saved without its optimizer.
    """
    checkpoint = Path(checkpoint)
    reason = damage(checkpoint)
    if reason is None and not any("optim" in path.name for path in checkpoint.rglob("*")):
        reason = "it was saved without its optimizer (`save_only_model=True`)"
    if reason is not None:
        raise ValueError(
            f"Cannot resume from {checkpoint}: {reason}. Resume from another checkpoint, or delete this one; "
            "`resume_from_checkpoint=True` takes the latest whole one."
        )


def last_whole_checkpoint(directory: str | Path) -> str | None:
    """The latest checkpoint that can be resumed; says which later ones are passed over, and why."""
    for checkpoint in checkpoints(directory):
        try:
            check_resumable(checkpoint)
        except ValueError as error:
            logger.warning("Passed over a checkpoint. %s", error)
        else:
            return str(checkpoint)
    return None


class SealCheckpoints(TrainerCallback):
    """Seals every checkpoint once all processes have written their part of it."""

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
