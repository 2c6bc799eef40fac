# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the tests of saved models in vLLM share: shapes, engines in this process or another, the oracle's completions.

Importing vLLM takes longer than starting an engine on a tiny model, so most engines run in the process of the tests.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from tests.engines.run_vllm import run
from tests.oracle import eft_greedy, eft_logps, oracle_greedy, oracle_logps

# Heads of 32, of which every backend of vLLM has kernels.
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
# A base of another depth, another width, and more heads.
BASE = {**SHAPE, "num_hidden_layers": 3, "hidden_size": 192, "num_attention_heads": 6}
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], list(range(5, 39)), [(7 * i) % 500 + 5 for i in range(150)]]
GREEDY = {"temperature": 0, "max_tokens": 16, "detokenize": False, "ignore_eos": True}
ENGINE = {
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "max_model_len": 256,
    "gpu_memory_utilization": 0.2,
    "enforce_eager": True,
    "disable_log_stats": False,
}
# Small enough that the long prompt is prefilled in chunks and one prompt waits for a place in the batch.
CHUNKED = {"max_num_batched_tokens": 48, "max_num_seqs": 3, "block_size": 32}
_CACHE = tempfile.TemporaryDirectory(prefix="vllm_cache_")  # removed at exit
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CACHE_ROOT": _CACHE.name,
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the process of its caller
}


def generate(directory, *batches, **engine):
    """What an engine in this process answers to batches of `(prompts, sampling)`."""
    with mock.patch.dict(os.environ, _ENVIRONMENT):
        return run({**ENGINE, "model": str(directory), **engine}, *batches)


def generate_apart(tmp_path, *jobs, env=None):
    """What engines in a process of their own answer: a list of results, and the log. A job is `(engine, batches)`."""
    jobs_path, results_path = tmp_path / "jobs.json", tmp_path / "results.json"
    jobs_path.write_text(json.dumps([({**ENGINE, **engine}, batches) for engine, batches in jobs]))
    process = subprocess.run(
        [sys.executable, Path(__file__).parent / "run_vllm.py", jobs_path, results_path],
        env={**os.environ, **_ENVIRONMENT, **(env or {})},
        capture_output=True,
        text=True,
        timeout=800,
    )
    log = process.stdout + process.stderr
    assert process.returncode == 0, log[-3000:]
    return json.loads(results_path.read_text()), log


def tokens(batch):
    return [output["ids"][0] for output in batch]


def logps(members, ids, **settings):
    return (oracle_logps if len(members) == 2 else eft_logps)(*members, ids, **settings)


def own_only(members):
    """The setting by which a pair is its policy, and a steered base the base."""
    return {"alpha": 1} if len(members) == 2 else {"beta": 0}


def expected(*members, **settings):
    """The oracle's completions, after checking that neither the first member nor the swapped pair writes them."""
    greedy = oracle_greedy if len(members) == 2 else eft_greedy
    *base, policy, reference = members
    want, alone, swapped = (
        [greedy(*models, ids, max_new_tokens=16, **formula) for ids in PROMPTS]
        for models, formula in (
            (members, settings),
            (members, own_only(members)),
            ((*base, reference, policy), settings),
        )
    )
    assert want not in (alone, swapped)
    return want
