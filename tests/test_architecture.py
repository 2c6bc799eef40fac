# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The house has floors: a module imports only from lower ones, and importing the package is light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_cong

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_cong"
FLOORS = [
    {"functional", "journal", "memory", "report"},
    {"prompts", "compatibility", "checkpoints", "weights", "in_place_cache"},
    {"pair", "logits_process", "sampling", "factors", "cards"},
    {"engines", "rewards", "timing", "hub"},
    {"search"},
    {
        "generation",
        "preferences",
        "ranking",
        "cong_config",
        "adapters",
        "merging",
        "stopping",
        "grouping",
        "packing",
        "watching",
        "lending",
        "stages",
        "weak_pair",
        "refinement",
        "steering",
        "identity",
        "chain",
        "manifest",
        "publishing",
        "cong_trainer",
        "staged",
        "rounds",
        "baselines",
    },
    {"evaluation"},
    {"sandbox", "bench", "compress"},
    {"arguments", "recipes", "cli"},
]
# Within their floor, in this order: a later one may use an earlier one.
TRAINER_FLOOR = [
    "packing",
    "generation",
    "preferences",
    "ranking",
    "cong_config",
    "adapters",
    "merging",
    "stopping",
    "grouping",
    "watching",
    "lending",
    "stages",
    "weak_pair",
    "refinement",
    "steering",
    "identity",
    "chain",
    "manifest",
    "publishing",
    "cong_trainer",
    "staged",
    "rounds",
    "baselines",
]
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}


def imported(path):
    """Modules of the package, by top-level name, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = path.relative_to(PACKAGE).parts[: -node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            names = [name for name in names if name != "__version__"]  # of the package itself
            for name in names:
                yield (*base, *name.split("."))[0]
        elif node.module and node.module.startswith("hf_cong."):
            yield node.module.split(".")[1]


def modules():
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for other in set(imported(path)) - {own}:
        if own in TRAINER_FLOOR and other in TRAINER_FLOOR:
            assert TRAINER_FLOOR.index(other) < TRAINER_FLOOR.index(own), f"{own} imports {other}"
        elif (own, other) not in {("cli", "arguments"), ("cli", "recipes")}:
            assert FLOOR[other] < FLOOR[own], f"{own} imports {other}"


def test_importing_the_package_is_light():
    heavy = ("trl", "lm_eval", "datasets", "peft", "matplotlib")
    code = (
        f"import sys, hf_cong; print([m for m in {heavy!r} if m in sys.modules])\n"
        "hf_cong.ConGTrainer; print('trl' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.splitlines() == ["[]", "True"]


def test_public_names_resolve():
    for name in hf_cong.__all__:
        assert getattr(hf_cong, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        hf_cong.nonsense  # noqa: B018


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_unsafe(path):
    code = path.read_text()
    for pattern in (
        r"torch\.load\(",
        r"\bpickle\b",
        r"yaml\.load\(",
        r"trust_remote_code=True\)",
        r"except Exception",
        r"shell=True",
    ):
        assert not re.search(pattern, code), f"{path.name}: {pattern}"
    if not {"cli", "sandbox"} & set(path.relative_to(PACKAGE).parts):
        assert not re.search(r"(?<![\w.])print\(", code)
