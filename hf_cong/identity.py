# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What names a strong model and the run that trains it, so that nothing of another run is taken for its own."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from peft import PeftConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel
from trl.trainer.utils import hash_module

from .adapters import adapter_base
from .checkpoints import content_key, model_identity
from .cong_config import ConGConfig
from .journal import check_identity, differences, replacing
from .pair.modeling_stacks import lookup

STRONG = ("model", "model_init_kwargs", "quantization", "adapters")  # what `strong_identity` says
# How the rows of an update are cut into batches, and the name of their number in records.
BATCH, UPDATE = ("per_device_train_batch_size", "gradient_accumulation_steps"), "rows_per_update"
# Where a model is found and how it is laid out, not what it is.
_PLACEMENT = ("revision", "cache_dir", "use_safetensors", "device_map", "distributed_config", "attn_implementation")


def strong_identity(
    model: str | PreTrainedModel | PeftModel,
    args: ConGConfig,
    peft_config: PeftConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    *,
    weights: str | None = None,
) -> dict[str, Any]:
    """
    What names the strong model as it is before any stage.

    One that is given by name is named by its files or its commit, so that a launch that shards it, or needs only its
    name, need not load it whole. Of an adapter, `model` is its base.

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`): The model.
        args ([`ConGConfig`]): Says how it is loaded, if it is given by name.
        peft_config (`PeftConfig`, *optional*): The adapter that is put on it, before PEFT fills it in.
        quantization_config (`BitsAndBytesConfig`, *optional*): How it is quantised when it is loaded.
        weights (`str`, *optional*): A hash of the weights of a model in memory, if one is at hand.
    """
    adapters, init = {} if peft_config is None else {"default": peft_config.to_dict()}, None
    if isinstance(model, str):
        where = lookup(args.model_init_kwargs)
        base, revision = adapter_base(model, where)
        if base is not None:
            adapters = {"default": model_identity(model, **where)}
            model, where = base, {**where, "revision": revision}
        name = model_identity(model, **where)
        init = {"dtype": "float32", **(args.model_init_kwargs or {})}
        init = {key: str(value).removeprefix("torch.") for key, value in init.items() if key not in _PLACEMENT}
    else:
        name = weights or hash_module(model)
        if isinstance(model, PeftModel):
            adapters = {name: adapter.to_dict() for name, adapter in model.peft_config.items()}
    return {
        "model": name,
        "model_init_kwargs": init,
        "quantization": None if quantization_config is None else content_key(quantization_config.to_dict()),
        "adapters": content_key(adapters),
    }


def check_same_run(identity: dict[str, Any], directory: Path, args: ConGConfig) -> None:
    """Refuses checkpoints in `directory` that the run of this identity did not write."""
    try:
        found = json.loads((directory / "_cong" / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        raise ValueError(
            f"The checkpoints in {directory} belong to another run, or to none: there is no whole record of it "
            "(`_cong/run.json`). Use another `output_dir`, or delete them."
        ) from None
    check_identity(cut_alike(identity, found, args), found, directory)


def write_record(path: Path, identity: dict[str, Any], args: ConGConfig) -> None:
    """Notes whose the directory of `path` is, for [`check_same_run`] and [`cut_alike`]."""
    with replacing(path) as temporary:
        found = {**identity, UPDATE: rows_per_update(identity, args)}
        temporary.write_text(json.dumps(found, indent=2), encoding="utf-8")


def refuse_unfinished(
    stage: str, result: Path, reason: str, own: dict[str, Any], record: Path, known: Collection[Path] = ()
) -> NoReturn:
    """
    Says that a stage has not ended in this run, and what is different in those runs in which it has.

    Args:
        stage (`str`): The stage.
        result (`Path`): What it would have left.
        reason (`str`): What is wrong with it.
        own (`dict[str, Any]`): What names it in this run.
        record (`Path`): The file that would say so; records of other runs lie in directories beside its own.
        known (`Collection[Path]`): Such directories that are of this run.

    Raises:
        FileNotFoundError: always.
    """
    directory, others = record.parent, []
    for path in sorted(directory.parent.glob(f"{directory.name.rpartition('-')[0]}-*/{record.name}")):
        if path.parent in (directory, *known):
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        lines = differences(own, found.get("identity", found)) or ["other prompts, or another tokenizer"]
        others.append(f"{path.parent.name} is of another run: {'; '.join(lines)}.")
    raise FileNotFoundError(
        " ".join(
            [
                f"Stage `{stage}` of this run has not ended: {result}: {reason}.",
                *others,
                f"Run it first, with the same settings: `hf-cong train --config ... --stage {stage}`.",
            ]
        )
    )


def rows_per_update(identity: dict[str, Any], args: ConGConfig) -> int:
    return math.prod(identity[name] for name in BATCH) * args.world_size


def cut_alike(identity: dict[str, Any], found: dict[str, Any], args: ConGConfig) -> dict[str, Any]:
    """`identity` with the batches of `found`, if both take as many rows to an update: then it is the same training."""
    if rows_per_update(identity, args) != found.get(UPDATE):
        return identity
    return {**identity, **{name: found[name] for name in BATCH}}


def untrained(identity: dict[str, Any]) -> str:
    """The name of the strong model's weights before any stage."""
    return content_key("untrained", {name: identity[name] for name in STRONG})
