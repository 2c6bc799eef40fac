# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A real vLLM engine, in this process and behind a URL, writes the greedy completions of transformers.

Needs an environment with vLLM; an engine takes half a minute to start.
"""

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

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM, generate_completions
from tests.test_generation import PROMPTS, SETTINGS, TOKENIZER, tokens
from tests.tiny import tiny_model, tiny_pair

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
vllm = pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

# Heads of 32, of which every backend of vLLM has kernels.
SHAPE = {"vocab_size": len(TOKENIZER), "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
# A random model seldom writes its end-of-sequence token; with these, some rows stop. They are not the tokenizer's.
EOS = [*range(100, 120)]
ENGINE = {"enforce_eager": True, "dtype": "float32", "max_model_len": 256}
GREEDY = {**SETTINGS, "do_sample": False, "batch_size": None}
SAME = ("prompt_id", "prompt", "completion", "completion_ids", "finish_reason", "seed")


# What is decoded with, and must come from `hf_overrides`: the directory says otherwise.
SETTINGS_OF = {"model": {}, "pair": {"alpha": 0.7}, "steered": {"beta": 0.5}}


def make(kind, **settings):
    policy, reference = tiny_pair("qwen2", **SHAPE)
    policy.generation_config.eos_token_id = EOS
    if kind == "model":
        model = policy
    elif kind == "pair":
        model = ContrastivePairForCausalLM.from_pair(policy, reference, **settings)
    else:
        base = tiny_model("qwen2", seed=7, **{**SHAPE, "num_hidden_layers": 3})
        model = EmulatedFineTuningForCausalLM.from_pair(base, policy, reference, **settings)
    # What vLLM would sample by, if it were asked to decide.
    model.generation_config.update(do_sample=True, temperature=0.5, top_k=2, repetition_penalty=1.5)
    return model


@pytest.fixture(scope="module", params=["model", "pair", "steered"])
def checkpoint(request, tmp_path_factory):
    """A directory that vLLM loads, the settings to run it with, and what transformers writes so."""
    root, settings = tmp_path_factory.mktemp(request.param), SETTINGS_OF[request.param]
    model = make(request.param)
    model.save_pretrained(root / "checkpoint")
    TOKENIZER.save_pretrained(root / "checkpoint")
    here = generate_completions(PROMPTS, make(request.param, **settings), output_dir=root / "here", **GREEDY)
    assert set(here["finish_reason"]) == {"stop", "length"}
    if settings:
        assert tokens(here) != tokens(generate_completions(PROMPTS, model, output_dir=root / "else", **GREEDY))
    return root / "checkpoint", settings, here


def test_an_engine_in_this_process(checkpoint, tmp_path):
    path, settings, here = checkpoint
    llm = vllm.LLM(str(path), gpu_memory_utilization=0.3, hf_overrides=settings, **ENGINE)
    written = generate_completions(PROMPTS, llm, output_dir=tmp_path / "greedy", **GREEDY)
    for name in SAME:
        assert written[name][:] == here[name][:], name
    for name in ("alpha", "beta", "plausibility_threshold"):
        assert written[name][:] == here[name][:], name
    manifest = json.loads((tmp_path / "greedy" / "manifest.json").read_text())
    assert manifest["identity"]["engine"]["vllm"].startswith("files:")
    assert manifest["identity"]["batch_size"] == 256
    assert manifest["generation"]["eos_token_id"] == [2, *EOS]

    # Sampling: the seed of the prompt decides, neither its batch nor its place.
    sampled = {**SETTINGS, "temperature": 1.0}
    first = tokens(generate_completions(PROMPTS, llm, output_dir=tmp_path / "0", **sampled))
    again = tokens(generate_completions(PROMPTS[::-1], llm, output_dir=tmp_path / "1", **{**sampled, "batch_size": 5}))
    other = tokens(generate_completions(PROMPTS, llm, output_dir=tmp_path / "2", **{**sampled, "seed": 4}))
    assert again == first != tokens(here)
    assert all(other[name] != ids for name, ids in first.items() if len(ids) > 2)
    penalised = generate_completions(PROMPTS, llm, output_dir=tmp_path / "3", repetition_penalty=1.5, **GREEDY)
    assert tokens(penalised) != tokens(here)  # so the model's own penalty was not in what came before

    with pytest.raises(ValueError, match="the engine's context leaves 244"):
        generate_completions(["x" * 245], llm, output_dir=tmp_path / "4", **GREEDY)
    with pytest.raises(ValueError, match=r"belongs to another run: `engine\."):
        generate_completions(PROMPTS, make("model"), output_dir=tmp_path / "greedy", **GREEDY)


@pytest.mark.parametrize("checkpoint", ["pair"], indirect=True)
def test_a_server(checkpoint, tmp_path):
    path, settings, here = checkpoint
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "256", "--served-model-name", "tiny"]
    command = [
        Path(sys.executable).parent / "vllm",
        "serve",
        path,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--hf-overrides",
        json.dumps(settings),
        *options,
    ]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 400
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
                time.sleep(1)
        url = f"http://127.0.0.1:{port}/v1"
        written = generate_completions(PROMPTS, url, output_dir=tmp_path / "greedy", **GREEDY)
        for name in SAME:
            assert written[name][:] == here[name][:], name
        manifest = json.loads((tmp_path / "greedy" / "manifest.json").read_text())
        assert manifest["identity"]["engine"] == {"served_model": "tiny", "root": str(path)}
        assert manifest["engine"]["max_model_len"] == 256
        assert manifest["generation"]["completion_ids"] == "of the model"
        sampled = {**SETTINGS, "temperature": 1.0}
        first = tokens(generate_completions(PROMPTS, url, output_dir=tmp_path / "0", **sampled))
        again = generate_completions(PROMPTS[::-1], url, output_dir=tmp_path / "1", **{**sampled, "batch_size": 1})
        assert tokens(again) == first != tokens(here)
    finally:
        server.terminate()
        server.wait(60)
