# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Code in a process of its own, with the real clients, empty caches and, if so wished, without hf_cong."""

import json
import subprocess
import sys
from pathlib import Path

_BEFORE = """
import json, sys
for name in {absent!r}:
    sys.modules[name] = None  # importing it raises ImportError
import torch

torch.set_num_threads(1)
result = {{}}
"""
_AFTER = """
json.dump(result, open({answer!r}, "w"))
"""


def run_fresh(hub, home: Path, code: str, *, absent: tuple[str, ...] = ("hf_cong",)) -> dict:
    """
    Runs `code`, and returns the dictionary `result` that it fills.

    Args:
        hub (`StandInHub`): What the clients of the process see.
        home (`Path`): An empty directory: their caches, and the place where the code runs.
        code (`str`): Python.
        absent (`tuple[str, ...]`, *optional*, defaults to `("hf_cong",)`): Packages that cannot be imported.
    """
    answer = home / "result.json"
    script = _BEFORE.format(absent=absent) + code + _AFTER.format(answer=str(answer))
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,  # whoever asks gets no answer
        cwd=home,
        env={**hub.env, "HF_HOME": str(home), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(answer.read_text())
