# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Drafted tokens change nothing: greedy text is the oracle's, sampled tokens are distributed as the oracle's.

Every case both keeps and refuses drafted tokens, and drafts more than a sliding window holds.
"""

import copy

import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM

from hf_cong import ContrastivePairForCausalLM
from tests.oracle import oracle_greedy, oracle_logps
from tests.tiny import tiny_lora, tiny_model, tiny_pair

PROMPT = [3, 9, 1, 14, 6, 3, 9, 2, 11, 7, 0, 5]  # with a repeated pair, so that prompt lookup finds something at once
NEW, DRAFT = 24, 11  # the windows of the tiny models hold 8
GREEDY = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
FAMILIES = ("llama", "qwen2", "gpt2", "gemma2", "gemma3", "mixtral")


class Subject:
    """A pair with its members alone, and the number of forwards that its texts took."""

    def __init__(self, family, *, lora=False, vocab_size=16, **overrides):
        overrides = {"vocab_size": vocab_size, "tie_word_embeddings": False, **overrides}  # tied, Gemma repeats itself
        if lora:
            adapted, self.policy, self.reference = tiny_lora(family, seed=3, **overrides)
            self.pair = ContrastivePairForCausalLM.from_pair(adapted)
        else:
            self.policy, self.reference = tiny_pair(family, seed=3, **overrides)
            self.pair = ContrastivePairForCausalLM.from_pair(self.policy, self.reference)
        self.forwards = 0
        self.pair.register_forward_hook(self._count)

    def _count(self, *_):
        self.forwards += 1

    def write(self, prompt=PROMPT, **kwargs):
        self.forwards = 0
        ids = torch.tensor([prompt])
        kwargs = {**GREEDY, "attention_mask": torch.ones_like(ids), **kwargs}
        return self.pair.generate(ids, **kwargs)[0, len(prompt) :].tolist()

    def oracle(self, prompt=PROMPT, new=NEW, **contrast):
        return oracle_greedy(self.policy, self.reference, prompt, max_new_tokens=new, **contrast)


def drafting(model, *, tokens=DRAFT, schedule="constant", confidence=0.0):
    """The model as an assistant; transformers takes these from the assistant's own generation configuration."""
    model.generation_config.num_assistant_tokens = tokens
    model.generation_config.num_assistant_tokens_schedule = schedule
    model.generation_config.assistant_confidence_threshold = confidence
    return {"assistant_model": model}


def smaller_sibling(model):
    """The model's first layer between its own embeddings and head."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 1
    if config.to_dict().get("layer_types"):
        config.layer_types = config.layer_types[:1]
    sibling = AutoModelForCausalLM.from_config(config).eval()
    sibling.load_state_dict(model.state_dict(), strict=False)
    return sibling


def drafts(kind, subject):
    if kind == "lookup":
        return {"prompt_lookup_num_tokens": DRAFT}
    return drafting(subject.pair.policy if kind == "policy" else smaller_sibling(subject.policy))


@pytest.fixture(scope="module")
def subjects():
    made = {}
    return lambda family, **kwargs: made.setdefault((family, *kwargs.items()), Subject(family, **kwargs))


@pytest.mark.parametrize("kind", ["policy", "sibling", "lookup"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy(subjects, family, kind):
    subject = subjects(family)
    assert subject.write(**drafts(kind, subject)) == subject.oracle()
    assert 1 + NEW // (DRAFT + 1) < subject.forwards < NEW


@pytest.mark.parametrize("kind", ["policy", "sibling", "lookup"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_greedy_lora_pair(subjects, family, kind):
    subject = subjects(family, lora=True)
    assert subject.write(**drafts(kind, subject)) == subject.oracle()
    assert 1 + NEW // (DRAFT + 1) < subject.forwards < NEW


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "heuristic"},
        {"schedule": "heuristic_transient", "tokens": 2},
        {"confidence": 0.2},
        {"confidence": 0.9},
        {"tokens": 1},
        {"tokens": 3 * NEW},
    ],
    ids=str,
)
def test_schedules_and_confidence(subjects, settings, lora):
    subject = subjects("llama", lora=lora)
    assert subject.write(**drafting(copy.deepcopy(subject.pair.policy), **settings)) == subject.oracle()


@pytest.mark.parametrize("kind", ["policy", "sibling", "lookup"])
@pytest.mark.parametrize("eos", [4, 17])
def test_end_of_sequence_inside_a_draft(subjects, kind, eos):
    subject = subjects("gemma3")
    whole = subject.oracle()
    stop = whole[eos]
    prompt_with_stop = [*PROMPT, stop, *whole[:3], stop]  # an earlier turn's end, which lookup may copy
    for prompt in (PROMPT, prompt_with_stop):
        expected = subject.oracle(prompt)
        expected = expected[: expected.index(stop) + 1] if stop in expected else expected
        assert subject.write(prompt, **drafts(kind, subject), eos_token_id=[stop]) == expected


@pytest.mark.parametrize("kind", ["policy", "sibling", "lookup"])
def test_length_limit_inside_a_draft(subjects, kind):
    subject = subjects("llama")
    for new in (1, 2, 7):
        assert subject.write(**drafts(kind, subject), max_new_tokens=new) == subject.oracle(new=new)


@pytest.mark.parametrize("kind", ["policy", "sibling", "lookup"])
def test_left_padded_row(subjects, kind):
    subject = subjects("gemma2")
    mask = torch.tensor([[0] * 3 + [1] * len(PROMPT)])
    assert subject.write([2] * 3 + PROMPT, attention_mask=mask, **drafts(kind, subject)) == subject.oracle()


@pytest.mark.parametrize("kind", ["policy", "sibling", "lookup"])
@pytest.mark.parametrize(
    "constraint",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 14, "eos_token_id": [5, 7, 9, 10]},
        {"suppress_tokens": [0, 3, 6, 9, 12, 15]},
    ],
    ids=lambda constraint: next(iter(constraint)),
)
def test_penalties_and_constraints(subjects, constraint, kind):
    """They act on log p_α, position by position: what the pair writes alone under them."""
    subject = subjects("llama")
    alone = subject.write(**constraint)
    assert subject.write(**drafts(kind, subject), **constraint) == alone
    assert alone != subject.write()


def test_more_than_one_row_is_refused(subjects):
    subject = subjects("llama")
    ids = torch.tensor([PROMPT, PROMPT])
    for kind in ("policy", "lookup"):
        with pytest.raises(ValueError, match="batch_size = 1"):
            subject.pair.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY, **drafts(kind, subject))


def test_an_assistant_of_another_width_is_refused(subjects):
    with pytest.raises(ValueError, match="different tokenizers"):
        subjects("llama").write(**drafting(tiny_model("llama", vocab_size=24)))


# Sampling. One long text of a tiny vocabulary gives a draw from p_α for every token, each in a context of its own; the
# oracle says how often the likeliest, the second likeliest ... token of those contexts should have been drawn.

TEMPERATURE = 0.8


def surprise(subject, seed=0, tokens=200, model=None, **kwargs):
    """p-value of sampled text under the oracle, by chi-squared over the ranks of p_α."""
    torch.manual_seed(seed)
    subject.forwards = 0
    ids = torch.tensor([PROMPT[:6]]).remainder(6)
    settings = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "max_new_tokens": tokens}
    output = (model or subject.pair).generate(
        ids, attention_mask=torch.ones_like(ids), **{**GREEDY, **settings}, **kwargs
    )
    text = output[0].tolist()
    assert len(text) == 6 + tokens
    drawn, expected = torch.zeros(6), torch.zeros(6)
    for position in range(6, len(text)):
        logps = oracle_logps(subject.policy, subject.reference, text[:position]) / TEMPERATURE
        p, order = logps.softmax(-1).float().sort(descending=True)
        expected += p
        drawn += (order == text[position]).float()
    common = expected >= 5  # ranks too rare for the chi-squared distribution are counted together
    cells = [torch.cat([counts[common], counts[~common].sum()[None]]).numpy() for counts in (drawn, expected)]
    cells = [cell[cells[1] > 0] for cell in cells]
    return chisquare(*cells, sum_check=False).pvalue


@pytest.fixture(scope="module")
def small():
    return Subject("gemma3", vocab_size=6)


@pytest.mark.parametrize(
    "kind", ["policy", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sibling", "lookup"))]
)
def test_sampling_follows_the_oracle(small, kind):
    assert surprise(small, **drafts(kind, small)) > 0.01
    assert 200 // (DRAFT + 1) < small.forwards < 200


# Negative controls: what the equalities above would miss if they could not fail.


def test_control_drafts_without_verification_are_not_distributed_so(small):
    assert surprise(small, model=small.policy) < 1e-6


def test_control_relaxed_verification_is_not_exact(subjects):
    """transformers' `assistant_ensemble_weight` mixes the assistant into what is accepted."""
    subject = subjects("llama")
    assert subject.write(**drafts("policy", subject), assistant_ensemble_weight=0.1) != subject.oracle()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_control_refused_drafts_must_leave_both_members(subjects, family, monkeypatch):
    subject = subjects(family)
    layers = subject.policy.config.num_hidden_layers

    def forget_only_the_policy(cache, tokens_to_remove):
        for layer in cache.layers[:layers]:
            layer.crop(tokens_to_remove)

    monkeypatch.setattr("transformers.cache_utils.Cache.crop", forget_only_the_policy)
    assert subject.write(**drafts("lookup", subject)) != subject.oracle()
