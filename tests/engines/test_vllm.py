# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Saved pairs in a real, unmodified vLLM write the oracle's tokens, whatever feature of the engine is on.

`make test-vllm` runs these. Every engine is a process of its own and takes 10 to 40 seconds to start.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
import transformers

from hf_cong import ContrastivePairForCausalLM
from tests.oracle import oracle_greedy, oracle_logps
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: `make test-vllm`"),
]

# Heads of 32, of which every backend of vLLM has kernels.
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
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


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("vllm_cache")


def environment(cache):
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in the process of its caller: half the imports
    }


def start(pair, cache, *batches, env=None, **engine):
    """Runs batches of `(prompts, sampling)` in a new engine; returns the process and its results, if it had any."""
    spec, result = cache / "spec.json", cache / "result.json"
    spec.write_text(json.dumps({"engine": {**ENGINE, "model": str(pair), **engine}, "batches": batches}))
    result.unlink(missing_ok=True)
    run = subprocess.run(
        [sys.executable, Path(__file__).parent / "run_vllm.py", spec, result],
        env={**environment(cache), **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return run, json.loads(result.read_text()) if result.exists() else None


def generate(pair, cache, *batches, **engine):
    run, result = start(pair, cache, *batches, **engine)
    assert run.returncode == 0, run.stderr[-3000:]
    return result


def tokens(batch):
    return [output["ids"][0] for output in batch]


def expected(policy, reference, **contrast):
    """The oracle's completions, after checking that they are neither the policy's nor those of the swapped pair."""
    want, alone, swapped = (
        [oracle_greedy(*pair, ids, max_new_tokens=16, **settings) for ids in PROMPTS]
        for pair, settings in (
            ((policy, reference), contrast),
            ((policy, reference), {"alpha": 1}),
            ((reference, policy), contrast),
        )
    )
    assert want not in (alone, swapped)
    return want


def random_pair(config):
    """Two unrelated models of a family that `tests/tiny.py` lacks."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(transformers.AutoModelForCausalLM.from_config(config).float().eval())
    return models


def gemma_pair(family):
    # Gemma's head is tied and its embeddings are scaled up: random ones drown the layers and repeat the last token.
    pair = tiny_pair(family, **SHAPE)
    for model in pair:
        model.get_input_embeddings().weight.data.mul_(0.05)
        model.model.norm.weight.data.add_(20)
    return pair


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    """`(policy, reference, directory)`, the pair most tests share."""
    policy, reference = tiny_pair("qwen2", **SHAPE)
    directory = tmp_path_factory.mktemp("qwen2")
    ContrastivePairForCausalLM.from_pair(policy, reference).save_pretrained(directory)
    policy.save_pretrained(directory / "policy")
    tiny_tokenizer().save_pretrained(directory)
    return policy, reference, directory


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    adapted, policy, reference = tiny_lora("qwen2", **{**SHAPE, "num_key_value_heads": 1})
    directory = tmp_path_factory.mktemp("lora")
    ContrastivePairForCausalLM.from_pair(adapted).save_pretrained(directory)
    policy.save_pretrained(directory / "policy")
    return policy, reference, directory


@pytest.fixture(params=["qwen2", "lora"])
def either(request):
    return request.getfixturevalue(request.param)


def test_logprobs_sampling_and_constraints(either, cache):
    policy, reference, directory = either
    want = expected(policy, reference)
    first = [oracle_logps(policy, reference, ids) for ids in PROMPTS]
    forbidden = [int(id) for id in (first[0] == -torch.inf).nonzero()[-40:, 0]]
    sampled = {**GREEDY, "temperature": 1, "seed": 3, "n": 2}
    greedy, again, logprobs, allowed, *samples = generate(
        directory,
        cache,
        (PROMPTS, GREEDY),
        (PROMPTS, GREEDY),
        (PROMPTS, {**GREEDY, "max_tokens": 1, "logprobs": 20}),
        (PROMPTS[:1], {**GREEDY, "max_tokens": 1, "allowed_token_ids": forbidden}),
        (PROMPTS, sampled),
        (PROMPTS[::-1], sampled),
        (PROMPTS, {**sampled, "seed": 4}),
        **CHUNKED,
    )["batches"]
    assert tokens(greedy) == tokens(again) == want
    assert again[3]["cached"] > 0
    for output, logps in zip(logprobs, first, strict=True):
        got = {int(id): logprob for id, logprob in output["logprobs"][0].items()}
        plausible = set((logps > -torch.inf).nonzero()[:, 0].tolist())
        assert plausible <= got.keys() or len(plausible) > 20
        for id in plausible & got.keys():
            assert abs(got[id] - logps[id].item()) < 1e-4
        assert all(logprob < -1e3 for id, logprob in got.items() if id not in plausible)
    # No allowed token is plausible: the policy's own order decides among them.
    best = max(forbidden, key=lambda id: oracle_logps(policy, reference, PROMPTS[0], alpha=1, mask=False)[id].item())
    assert tokens(allowed) == [[best]]
    assert best != forbidden[0]
    one, reordered, other = ([output["ids"] for output in batch] for batch in samples)
    assert one == reordered[::-1] != other
    assert tokens(samples[0]) != want


TWO_STACKS = {
    "llama": lambda: tiny_pair("llama", **SHAPE),
    "qwen3": lambda: tiny_pair("qwen3", **SHAPE),
    "gpt2": lambda: tiny_pair("gpt2", vocab_size=512, n_embd=128),
    "mistral, sliding windows": lambda: tiny_pair("mistral", **SHAPE),
    "gemma2, sliding windows in turns": lambda: gemma_pair("gemma2"),
    "gemma3, sliding windows by pattern": lambda: gemma_pair("gemma3"),
    "helium, by the Transformers backend": lambda: random_pair(
        transformers.HeliumConfig(
            **SHAPE, num_hidden_layers=2, max_position_embeddings=512, initializer_range=0.3, pad_token_id=0
        )
    ),
    "members of other depth and width": lambda: (
        tiny_model("llama", **{**SHAPE, "num_hidden_layers": 3}),
        tiny_model("llama", seed=1, **{**SHAPE, "hidden_size": 64}),
    ),
    "heads of other width": lambda: (
        tiny_model("llama", **SHAPE),
        tiny_model("llama", seed=1, **{**SHAPE, "vocab_size": 600}),
    ),
}


@pytest.mark.parametrize("case", TWO_STACKS)
def test_two_stacks(case, cache, tmp_path):
    policy, reference = TWO_STACKS[case]()
    want = expected(policy, reference)
    ContrastivePairForCausalLM.from_pair(policy, reference).save_pretrained(tmp_path)
    first, again = generate(tmp_path, cache, (PROMPTS, GREEDY), (PROMPTS, GREEDY), **CHUNKED)["batches"]
    assert tokens(first) == tokens(again) == want
    assert again[3]["cached"] > 0


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_lora(family, cache, tmp_path):
    # Targets that share a fused layer with one that is none, and a base with its head tied
    targets = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]} if family == "llama" else {}
    adapted, policy, reference = tiny_lora(family, lora=targets, tie_word_embeddings=family == "qwen3", **SHAPE)
    want = expected(policy, reference)
    ContrastivePairForCausalLM.from_pair(adapted).save_pretrained(tmp_path)
    first, again = generate(tmp_path, cache, (PROMPTS, GREEDY), (PROMPTS, GREEDY), **CHUNKED)["batches"]
    assert tokens(first) == tokens(again) == want
    assert again[3]["cached"] > 0


@pytest.mark.parametrize("drafter", ["ngram", "draft_model"])
def test_speculation(either, drafter, cache):
    policy, reference, directory = either
    settings = {
        "ngram": {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 3},
        "draft_model": {"method": "draft_model", "model": str(directory / "policy")},
    }
    speculation = {**settings[drafter], "num_speculative_tokens": 3}
    result = generate(directory, cache, (PROMPTS, GREEDY), speculative_config=speculation)
    assert tokens(result["batches"][0]) == expected(policy, reference)
    assert result["drafts"] > 0


def test_compiled_and_started_again(either, tmp_path):
    # vLLM on CPU cannot load its own compiled graph, of any model, and compiles again: what is seen here is that both
    # stacks are one graph under one name, so that a start after the first has no other's to find.
    policy, reference, directory = either
    want = expected(policy, reference)
    for _ in range(2):
        run, result = start(directory, tmp_path, (PROMPTS, GREEDY), enforce_eager=False)
        assert run.returncode == 0, run.stderr[-3000:]
        assert tokens(result["batches"][0]) == want
        log = run.stdout + run.stderr
        assert log.count("saved AOT compiled function") + log.count("Directly load AOT compilation") == 1
        assert len(list(tmp_path.glob("torch_compile_cache/torch_aot_compile/*/rank_*/model"))) == 1


def test_tensor_parallel(either, cache):
    policy, reference, directory = either
    result = generate(directory, cache, (PROMPTS, GREEDY), tensor_parallel_size=2)
    assert tokens(result["batches"][0]) == expected(policy, reference)


def test_alpha_by_overrides_behind_a_server(either, cache):
    policy, reference, directory = either
    want = expected(policy, reference, alpha=0.7)
    assert want != expected(policy, reference)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager", "--skip-tokenizer-init"]
    command = ["serve", directory, "--port", str(port), "--hf-overrides", '{"alpha": 0.7}', *options]
    log_path = cache / "server.log"
    with open(log_path, "wb") as log:
        server = subprocess.Popen(
            [Path(sys.executable).parent / "vllm", *command],
            env=environment(cache),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 400
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < deadline, log_path.read_text()[-3000:]
                time.sleep(1)
        body = {
            "model": str(directory),
            "prompt": PROMPTS,
            "temperature": 0,
            "max_tokens": 16,
            "ignore_eos": True,
            "return_token_ids": True,
            "detokenize": False,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        choices = json.load(urllib.request.urlopen(request))["choices"]  # noqa: S310
        assert [choice["token_ids"] for choice in sorted(choices, key=lambda choice: choice["index"])] == want
    finally:
        server.terminate()
        server.wait(60)


REFUSALS = {
    "alpha": ({"hf_overrides": {"alpha": 1.5}}, r"`alpha` must lie in [0, 1], got 1.5"),
    "pipeline": ({"pipeline_parallel_size": 2}, "Pipeline parallelism is not supported for this model"),
    "pooling": ({"runner": "pooling"}, "A pair only generates"),
    "prompt_embeds": ({"enable_prompt_embeds": True}, "A pair needs token ids"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, qwen2, cache):
    engine, message = REFUSALS[case]
    run, result = start(qwen2[2], cache, (PROMPTS, GREEDY), **engine)
    assert result is None and run.returncode != 0
    assert message in run.stderr, run.stderr[-3000:]


@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_without_the_plugin(trust_remote_code, either, cache):
    env = {"VLLM_PLUGINS": "", "HF_MODULES_CACHE": str(cache / "modules")}
    run, result = start(either[2], cache, (PROMPTS, GREEDY), env=env, trust_remote_code=trust_remote_code)
    assert result is None and run.returncode != 0
    message = "vLLM needs the plugin" if trust_remote_code else "contains custom code"
    assert message in run.stderr, run.stderr[-3000:]


def test_lora_of_an_architecture_without_one_forward(cache, tmp_path):
    adapted, _, _ = tiny_lora("gemma2", **SHAPE)
    ContrastivePairForCausalLM.from_pair(adapted).save_pretrained(tmp_path)
    run, result = start(tmp_path, cache, (PROMPTS, GREEDY))
    assert result is None and run.returncode != 0
    assert "A LoRA pair of Gemma2ForCausalLM does not run in vLLM" in run.stderr, run.stderr[-3000:]
