# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A search steers `vllm serve`, which gives several choices at once and says what ended each.

Needs an environment with vLLM; the server takes half a minute to start.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

from hf_cong import ImplicitReward, run_search, weak_to_strong_search
from hf_cong.search.endpoint_sampler import EndpointSampler
from hf_cong.search.samplers import Row
from tests.search.served import ENDS, letters_model, letters_tokenizer, relaying, serving
from tests.tiny import tiny_pair

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

TOKENIZER = letters_tokenizer()
PROMPTS = ["the cat ", "a dog. ", "why? ", "hello, my name is ", "no!"]
MESSAGES = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
GREEDY = {"beam_width": 1, "successors_per_beam": 1, "do_sample": False, "max_new_tokens": 12}
SAMPLED = {"beam_width": 2, "successors_per_beam": 3, "chunk_length": 3, "max_new_tokens": 9, "temperature": 1.0}


def make_model():
    # Heads of 32, of which every backend of vLLM has kernels.
    return letters_model(8, hidden_size=64, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("server")
    make_model().save_pretrained(root / "model")
    TOKENIZER.save_pretrained(root / "model")
    options = ["--enforce-eager", "--dtype", "float32", "--max-model-len", "96", "--served-model-name", "tiny"]
    command = [Path(sys.executable).parent / "vllm", "serve", root / "model", *options]
    with serving(command, root / "log") as address, relaying(address) as relay:
        relay.model = ""  # it serves one
        yield relay


@pytest.fixture
def relay(server):
    server.reset()
    return server


@pytest.fixture(scope="module")
def reward():
    return ImplicitReward(*tiny_pair("llama", 3, vocab_size=len(TOKENIZER)), TOKENIZER)


def texts(results):
    return [(result.completion, result.finish_reason) for result in results]


@pytest.mark.parametrize("prompts", [PROMPTS, MESSAGES], ids=["text", "messages"])
@pytest.mark.parametrize("chunk_length", [5, None])
def test_greedy_text_is_that_of_the_model_here(relay, reward, prompts, chunk_length):
    settings = {**GREEDY, "chunk_length": chunk_length}
    here = weak_to_strong_search(make_model(), TOKENIZER, prompts, reward, **settings)
    there = weak_to_strong_search(relay.url, TOKENIZER, prompts, reward, **settings)
    assert texts(there) == texts(here)
    assert {result.finish_reason for result in here} == {"stop", "length"}
    assert [r.implicit_reward for r in there] == pytest.approx([r.implicit_reward for r in here], abs=1e-4)
    # what the server says of the end is what ended the row here
    ends = [[h.stop_reason for r in results for h in r.hypotheses] for results in (there, here)]
    assert [end if end is not None else 0 for end in ends[0]] == [end if end is not None else 0 for end in ends[1]]
    assert {end for end in ends[1] if end is not None} <= set(range(len(ENDS)))


def test_choices_come_together_and_in_any_order_of_requests_the_same(relay, reward):
    found = []
    for concurrency in (16, 1):
        relay.reset()
        steered = EndpointSampler(relay.url, temperature=1.0, top_k=5, concurrency=concurrency)
        found.append(weak_to_strong_search(steered, None, PROMPTS, reward, **SAMPLED))
        probe, *sent = relay.requests
        assert [body["n"] for body in sent[:5]] == [6] * 5 and {body["n"] for body in sent[5:]} == {3}
        assert {body["top_k"] for body in sent} == {5}
        assert (relay.most_under_way == 1) == (concurrency == 1)
        assert dict(steered.cost) == {**relay.usage, "without_usage": 0}
    assert found[0] == found[1]
    assert any(len({h.text for h in result.hypotheses}) > 6 for result in found[0])
    other = weak_to_strong_search(steered, None, PROMPTS, reward, seed=1, **SAMPLED)
    assert not set(texts(other)) & set(texts(found[0]))


def test_the_server_cuts_at_stop_strings_and_gets_no_credit_for_them(relay, reward):
    settings = {**GREEDY, "chunk_length": 5}
    plain = weak_to_strong_search(relay.url, None, PROMPTS, reward, **settings)
    letter = next(result.completion[1] for result in plain if len(result.completion) > 2)
    here = weak_to_strong_search(make_model(), TOKENIZER, PROMPTS, reward, stop_strings=[letter], **settings)
    there = weak_to_strong_search(relay.url, None, PROMPTS, reward, stop_strings=[letter], **settings)
    assert texts(there) == texts(here) != texts(plain)
    assert letter in {result.hypotheses[0].stop_reason for result in there}
    assert [r.implicit_reward for r in there] == pytest.approx([r.implicit_reward for r in here], abs=1e-4)
    assert relay.requests[-1]["stop"] == [letter]


def test_a_prompt_without_room_is_refused(relay):
    steered = EndpointSampler(relay.url)
    steered.start(["a" * 90], 9)
    with pytest.raises(ValueError, match=r"has 90 tokens; with `max_new_tokens=9` the context .* leaves 87"):
        steered.extend([Row(0, 0)], 3)
    with pytest.raises(ConnectionError, match="does not complete a prompt: .*96"):
        EndpointSampler(relay.url).start(["a" * 200], 9)


def _killed_by_answers(answers, path, url, reward):
    """As a process of its own: dies once it has had so many answers."""
    count = EndpointSampler._count

    def counted(self, record):
        nonlocal answers
        answers -= 1
        if answers < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        count(self, record)

    EndpointSampler._count = counted
    run(path, url, reward)


def run(path, url, reward):
    methods = ["base", "best_of_n", "chunk_beam_search"]
    run_search(PROMPTS, url, reward, tokenizer=None, output_dir=path, methods=methods, batch_size=3, **SAMPLED)


def test_a_killed_run_ends_with_the_same_bytes(relay, reward, tmp_path):
    run(tmp_path / "whole", relay.url, reward)
    usage = dict(relay.usage)
    relay.reset()
    arguments = (25, tmp_path / "killed", relay.url, reward)
    process = multiprocessing.get_context("fork").Process(target=_killed_by_answers, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    run(tmp_path / "killed", relay.url, reward)
    for name in ("journal.jsonl", "results.jsonl", "search.png"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    # what was under way at the kill is asked for again, and nothing else
    again = relay.usage["requests"] - usage["requests"]
    assert 0 <= again <= 16
