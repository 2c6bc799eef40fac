# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import gc
import os
import tempfile
from pathlib import Path

import pytest
import torch

from tests.hub.stand_in import StandInHub

# Clients read where the Hub is when they are imported, so every process of tests begins with one. No test needs the
# network, and none sees the settings and caches of whoever runs it.
_HOME = tempfile.TemporaryDirectory(prefix="hf_cong_tests_")
_HUB = StandInHub(Path(_HOME.name))
_HUB.start()
for name in [name for name in os.environ if name.startswith("HF_") and name != "HF_CONG_REAL_DATA"]:
    del os.environ[name]
os.environ.update(_HUB.env)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# On a busy machine two threads can be many times slower than one, and one thread sums in one order.
torch.set_num_threads(1)


def pytest_collection_finish():
    # What was imported stays; without this every collection of garbage looks at all of it again, for half a second.
    gc.freeze()


@pytest.fixture(scope="session")
def hub():
    """The stand-in for the Hub. It is one for all tests of a process: give repositories names of their own."""
    return _HUB


@pytest.fixture(scope="session")
def benchmarks(hub):
    """The same, with small data sets for the tasks of `downstream`."""
    pytest.importorskip("lm_eval")
    from tests.task_data import add_benchmarks

    add_benchmarks(hub)
    return hub
