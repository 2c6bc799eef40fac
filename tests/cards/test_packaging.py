# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The templates are found in a checkout, in a wheel, and in what is built from the source archive."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hf_cong.cards.rendering import templates

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in (ROOT / "model_cards").iterdir())
CARD = (
    "from hf_cong.cards import decoding_card; from hf_cong.cards.rendering import templates\n"
    "print(templates()); print(decoding_card('org/x'))"
)


def built(root: Path, folder: Path, kind: str) -> Path:
    pytest.importorskip("hatchling.build")
    code = f"import hatchling.build as build; print(build.build_{kind}({str(folder)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return folder / run.stdout.split()[-1]


def unpacked(wheel: Path, folder: Path) -> Path:
    zipfile.ZipFile(wheel).extractall(folder)  # noqa: S202
    return folder


def test_a_checkout_has_them_beside_the_package():
    assert templates() == ROOT / "model_cards" and "model.md.jinja" in NAMES


def test_a_wheel_of_the_source_archive_has_them(tmp_path):
    with tarfile.open(built(ROOT, tmp_path, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (checkout,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert sorted(path.name for path in (checkout / "model_cards").iterdir()) == NAMES
    site = unpacked(built(checkout, tmp_path, "wheel"), tmp_path / "site")
    for name in NAMES:
        assert (site / "hf_cong" / "model_cards" / name).read_bytes() == (ROOT / "model_cards" / name).read_bytes()
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"hf_cong"}
    path = {"PYTHONPATH": str(site)}
    run = subprocess.run([sys.executable, "-c", CARD], cwd=site, capture_output=True, text=True, check=True, env=path)
    assert run.stdout.splitlines()[0] == str(site / "hf_cong" / "model_cards") and "# x" in run.stdout.splitlines()


def test_an_editable_wheel_points_to_the_checkout(tmp_path):
    with zipfile.ZipFile(built(ROOT, tmp_path, "editable")) as archive:
        (pointer,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert archive.read(pointer).decode().strip() == str(ROOT)
        # a copy here would be read instead, and stay when the templates change
        assert not [name for name in archive.namelist() if "model_cards" in name]
