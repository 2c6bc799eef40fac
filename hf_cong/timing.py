# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The clock, the memory, the machine. This module knows nothing about pairs."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import collect_env
from transformers import PreTrainedModel

from .pair.configuration_stacks import key_value_shape

_PACKAGES = ("hf-cong", "torch", "transformers", "peft")


def timed(function: Callable, *arguments, device: torch.device) -> tuple[object, float]:
    """
    Calls a function once.

    Returns:
        `tuple[object, float]`: its result, and the seconds until the device had done all its work. On a GPU the time
        is between two events in its stream, on a CPU that of the wall clock.
    """
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        result = function(*arguments)
        end.record()
        torch.cuda.synchronize(device)
        return result, start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - begin


def time_decode(decode: Callable[[Tensor, int], Tensor], prompts: Tensor, new_tokens: int) -> dict[str, float]:
    """
    Times one decode, and one of a single token, which is the prompt's forward and whatever a call costs.

    Args:
        decode (`Callable`): Prompts `(B, T)` and a number of new tokens to the new tokens.
        prompts (`torch.LongTensor` of shape `(B, T)`): The prompts.
        new_tokens (`int`): At least 2.

    Returns:
        `dict[str, float]`: seconds, `"first_token"` and `"total"`; a step is their difference over `new_tokens - 1`.
    """
    _, first_token = timed(decode, prompts, 1, device=prompts.device)
    _, total = timed(decode, prompts, new_tokens, device=prompts.device)
    return {"first_token": first_token, "total": total}


def weight_bytes(models: tuple[PreTrainedModel, ...]) -> int:
    """Bytes of the parameters of all models; what they share counts once."""
    tensors = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for model in models
        for parameter in model.parameters()
    }
    return sum(tensors.values())


def cache_bytes(models: tuple[PreTrainedModel, ...], rows: int, tokens: int) -> int:
    """Bytes of the keys and values of `rows` rows of `tokens` tokens in full-attention caches of all models."""
    total = 0
    for model in models:
        config = model.config.get_text_config(decoder=True)
        heads, width = key_value_shape(config)
        total += 2 * config.num_hidden_layers * heads * width * rows * tokens * model.dtype.itemsize
    return total


def hardware(device: torch.device) -> dict[str, object]:
    """What the numbers are of: the machine, its threads, and the versions of what runs on it."""
    facts = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "driver": collect_env.get_nvidia_driver_version(collect_env.run),
            "cuda": torch.version.cuda,
        }
    return facts


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
