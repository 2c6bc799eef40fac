# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Jobs side by side in processes of one thread each, whose output goes to a file."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm.auto import tqdm


def run_jobs(jobs: list[tuple], *, num_workers: int, log: str | Path, description: str) -> list:
    """Results of `function(*arguments)` for each job, in order.

    Args:
        jobs (`list[tuple]`):
            A function that can be imported, and its arguments.
        num_workers (`int`):
            Most processes at once. `1` runs the jobs in this process, with its threads and its output.
        log (`str` or `Path`):
            File to which new processes append what libraries print.
        description (`str`):
            Label of the progress bar, which counts finished jobs.
    """
    if num_workers == 1:
        return [function(*arguments) for function, *arguments in jobs]
    # Spawned, not forked: a forked process may hang in the threads of torch that it did not inherit.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start, initargs=(str(log),)) as pool:
        futures = [pool.submit(*job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), desc=description, unit="job"):
            future.result()  # a failure ends the wait at once
        return [future.result() for future in futures]


def _start(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # Two processes of many threads on two cores wait for each other; one thread also sums in one order.
    torch.set_num_threads(1)
