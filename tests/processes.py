# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Several processes that talk over the CPU, forked from this one: what is loaded here is loaded there."""

import multiprocessing
import os
import socket
from collections.abc import Callable

import pytest
import torch
from accelerate import PartialState

on_cpu = pytest.mark.skipif(torch.accelerator.is_available(), reason="these start processes that talk over the CPU")


def _rank(work, rank, world, port):
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    PartialState._reset_state()
    work(rank)
    PartialState().destroy_process_group()


def fork(world: int, work: Callable[[int], object]) -> list[int]:
    """Does `work(rank)` in processes that accelerate takes for one launch. Returns how they ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(work, rank, world, port)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]
