# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How much memory was in use at most: on an accelerator what torch allocated, on a CPU what the process held."""

import os
import re
import resource
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Begins to measure anew, on the device of this process."""
    if _on_accelerator():
        torch.accelerator.reset_peak_memory_stats(PartialState().device)
    elif os.access(_CLEAR, os.W_OK):
        _CLEAR.write_text("5", encoding="ascii")  # Linux: the peak of the resident set becomes what is resident now


def peak_gib() -> float:
    """
    The peak since [`reset_peak`], in GiB, of the process that has the largest. All processes must ask.

    What a vLLM engine takes, in processes of its own, is not in it.
    """
    peak = torch.tensor([_peak_bytes() / 2**30], device=PartialState().device)
    return gather(peak).max().item()


def peak_is_of() -> str:
    """What [`peak_gib`] is of, in words."""
    if _on_accelerator():
        return f"allocated by torch on {PartialState().device.type}"
    return "resident in RAM" if os.access(_CLEAR, os.W_OK) else "resident in RAM since the process began"


def _on_accelerator() -> bool:
    return PartialState().device.type not in ("cpu", "mps")  # of MPS torch knows no peak


def _peak_bytes() -> int:
    if _on_accelerator():
        return torch.accelerator.max_memory_allocated(PartialState().device)
    if os.access(_CLEAR, os.W_OK):
        return int(re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8"))[1]) << 10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest << 10
