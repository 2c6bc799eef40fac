# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The pair writes, in every mode of `generate`, exactly the tokens of the oracle."""

import copy
from threading import Thread

import pytest
import torch
from transformers import (
    CompileConfig,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    TextIteratorStreamer,
    pipeline,
)

from hf_cong import ContrastivePairForCausalLM
from hf_cong.pair import modeling_stacks as module
from tests.oracle import oracle_beams, oracle_greedy, oracle_logps
from tests.tiny import ALIKE, FAMILIES, tiny_model, tiny_pair, tiny_tokenizer

# Longer than the sliding windows of the tiny models, so that a wrong window shows.
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], list(range(20, 41))]
NEW = 16
GREEDY = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}


class Subject:
    """A family's pair with the oracle's answers."""

    def __init__(self, family):
        self.policy, self.reference = tiny_pair(family, seed=3)
        self.pair = ContrastivePairForCausalLM.from_pair(self.policy, self.reference)
        self.expected = [oracle_greedy(self.policy, self.reference, p, max_new_tokens=NEW) for p in PROMPTS]

    def singles(self, model=None, **kwargs):
        model = model or self.pair
        outputs = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            output = model.generate(ids, attention_mask=torch.ones_like(ids), **{**GREEDY, **kwargs})
            outputs.append(output[0, len(prompt) :].tolist())
        return outputs

    def batch(self, model=None, **kwargs):
        ids, mask = left_pad(PROMPTS)
        output = (model or self.pair).generate(ids, attention_mask=mask, **{**GREEDY, **kwargs})
        return output[:, ids.shape[1] :].tolist()


def left_pad(prompts, pad=2):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


@pytest.fixture(scope="module")
def subjects():
    made = {}
    return lambda family: made.setdefault(family, Subject(family))


every_family = pytest.mark.parametrize("family", FAMILIES)
every_kind = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) if f in ALIKE else f for f in FAMILIES]
)


@every_family
def test_greedy(subjects, family):
    assert subjects(family).singles() == subjects(family).expected


@every_family
def test_left_padded_batch(subjects, family):
    assert subjects(family).batch() == subjects(family).expected


@every_kind
@pytest.mark.parametrize(
    "mode",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 8},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=lambda mode: next(iter(mode)),
)
def test_modes(subjects, family, mode):
    assert subjects(family).singles(**mode) == subjects(family).expected


@every_kind
def test_static_cache_left_padded(subjects, family):
    assert subjects(family).batch(cache_implementation="static") == subjects(family).expected


@every_kind
def test_assisted_by_the_policy(subjects, family):
    subject = subjects(family)
    assistant = copy.deepcopy(subject.policy)
    assert subject.singles(assistant_model=assistant) == subject.expected


@every_kind
def test_beams(subjects, family):
    subject = subjects(family)
    ids = torch.tensor([PROMPTS[2]])
    output = subject.pair.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=3, **{**GREEDY, "max_new_tokens": 8}
    )
    expected = oracle_beams(subject.policy, subject.reference, PROMPTS[2], num_beams=3, max_new_tokens=8)
    assert output[0, len(PROMPTS[2]) :].tolist() == expected


@every_kind
@pytest.mark.parametrize("implementation", ["own", "paged|eager"])
def test_continuous_batching(subjects, family, implementation):
    subject = subjects(family)
    before = subject.policy.config._attn_implementation
    if implementation == "own":
        implementation = before
    subject.pair.set_attn_implementation(implementation)
    outputs = subject.pair.generate_batch(
        [list(p) for p in PROMPTS],
        generation_config=GenerationConfig(**GREEDY),
        continuous_batching_config=ContinuousBatchingConfig(page_size=32, num_blocks=16, max_batch_tokens=16),
        progress_bar=False,
    )
    subject.pair.set_attn_implementation(before)
    assert [outputs[key].generated_tokens for key in sorted(outputs)] == subject.expected


def test_user_given_lazy_cache(subjects):
    subject = subjects("qwen2")
    for prompt, expected in zip(PROMPTS, subject.expected, strict=True):
        ids = torch.tensor([prompt])
        output = subject.pair.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=DynamicCache(), **GREEDY
        )
        assert output[0, len(prompt) :].tolist() == expected


def test_static_cache_compiled_without_graph_breaks(subjects):
    compile_config = CompileConfig(mode="default", fullgraph=True)
    compile_config._compile_all_devices = True
    subject = subjects("llama")
    assert subject.singles(cache_implementation="static", compile_config=compile_config) == subject.expected


def test_num_return_sequences_sample_from_the_plausible_set(subjects):
    subject = subjects("llama")
    ids = torch.tensor([PROMPTS[0]])
    output = subject.pair.generate(ids, max_new_tokens=6, do_sample=True, num_return_sequences=16, pad_token_id=2)
    for row in output.tolist():
        for t in range(len(PROMPTS[0]), len(row)):
            assert oracle_logps(subject.policy, subject.reference, row[:t])[row[t]] > -torch.inf
    assert len(set(map(tuple, output.tolist()))) > 1


def test_streaming_and_pipeline(tmp_path):
    tokenizer = tiny_tokenizer()
    policy, reference = tiny_pair("llama", vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=0)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    ids = tokenizer.encode("the cat sat on")
    text = tokenizer.decode(oracle_greedy(policy, reference, ids, max_new_tokens=12))

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    kwargs = {"input_ids": torch.tensor([ids]), "max_new_tokens": 12, "do_sample": False, "streamer": streamer}
    thread = Thread(target=pair.generate, kwargs=kwargs)
    thread.start()
    streamed = "".join(streamer)
    thread.join()
    assert streamed == text

    generator = pipeline("text-generation", model=pair, tokenizer=tokenizer)
    output = generator("the cat sat on", max_new_tokens=12, do_sample=False, return_full_text=False)
    assert output[0]["generated_text"] == tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True)


def test_members_of_different_depth_and_head_width():
    policy, reference = tiny_model("qwen2", 1, vocab_size=72), tiny_model("qwen2", 2, num_hidden_layers=3)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    for mode in ({}, {"cache_implementation": "static"}, {"num_beams": 1, "use_cache": False}):
        ids = torch.tensor([PROMPTS[2]])
        output = pair.generate(ids, attention_mask=torch.ones_like(ids), **{**GREEDY, **mode})
        assert output[0, ids.shape[1] :].tolist() == oracle_greedy(policy, reference, PROMPTS[2], max_new_tokens=NEW)


# Negative controls: what the equalities above would miss if they could not fail.


@every_kind
def test_control_another_alpha_writes_other_tokens(subjects, family):
    subject = subjects(family)
    others = [oracle_greedy(subject.policy, subject.reference, p, max_new_tokens=NEW, alpha=0.9) for p in PROMPTS]
    assert others != subject.expected


def test_control_a_cache_that_is_not_shifted_is_wrong(subjects, monkeypatch):
    subject = subjects("llama")
    monkeypatch.setattr(module, "_LaterLayers", lambda cache, first: cache)
    assert subject.singles() != subject.expected


def test_control_a_batch_without_its_mask_is_wrong(subjects):
    subject = subjects("llama")
    ids, _ = left_pad(PROMPTS)
    output = subject.pair.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
    assert output[:, ids.shape[1] :].tolist() != subject.expected
