# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every way to generate from a LoRA pair writes what recomputing the merged policy and its base writes."""

import pytest
import torch
from transformers import CompileConfig, ContinuousBatchingConfig, DynamicCache, GenerationConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from hf_cong import ContrastivePairForCausalLM
from hf_cong.pair import modeling_contrastive_lora_pair as module
from tests.oracle import oracle_beams, oracle_greedy, oracle_logps
from tests.tiny import FAMILIES, tiny_lora

# Longer than the sliding windows of the tiny models, so that a wrong window shows.
PROMPTS = [[5, 6, 7, 8], [9, 10, 11], list(range(20, 41))]
NEW = 16
GREEDY = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}


class Subject:
    """A family's LoRA pair with the oracle's answers."""

    def __init__(self, family):
        adapted, self.policy, self.reference = tiny_lora(family, seed=3)
        self.pair = ContrastivePairForCausalLM.from_pair(adapted)
        self.expected = [oracle_greedy(self.policy, self.reference, p, max_new_tokens=NEW) for p in PROMPTS]

    def singles(self, **kwargs):
        outputs = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            output = self.pair.generate(ids, attention_mask=torch.ones_like(ids), **{**GREEDY, **kwargs})
            outputs.append(output[0, len(prompt) :].tolist())
        return outputs

    def batch(self, **kwargs):
        ids, mask = left_pad(PROMPTS)
        return self.pair.generate(ids, attention_mask=mask, **{**GREEDY, **kwargs})[:, ids.shape[1] :].tolist()

    def continuous(self, prompts, **kwargs):
        config = {"page_size": 32, "num_blocks": 16, "max_batch_tokens": 16, **kwargs}
        outputs = self.pair.generate_batch(
            [list(p) for p in prompts],
            generation_config=GenerationConfig(**GREEDY),
            continuous_batching_config=ContinuousBatchingConfig(**config),
            progress_bar=False,
        )
        return [outputs[key].generated_tokens for key in sorted(outputs)]


def left_pad(prompts, pad=2):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


@pytest.fixture(scope="module")
def subjects():
    made = {}
    return lambda family: made.setdefault(family, Subject(family))


# GPT-2's projections are no linear layers; the slow families repeat what others of their kind show.
SLOW = ("qwen3", "mistral", "qwen3_moe", "gpt_oss")
every_family = pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in FAMILIES if f != "gpt2"],
)


@every_family
def test_greedy(subjects, family):
    assert subjects(family).singles() == subjects(family).expected


@every_family
def test_left_padded_batch(subjects, family):
    assert subjects(family).batch() == subjects(family).expected


@every_family
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


@every_family
def test_static_cache_left_padded(subjects, family):
    assert subjects(family).batch(cache_implementation="static") == subjects(family).expected


@every_family
def test_assisted_by_its_own_policy(subjects, family):
    subject = subjects(family)
    assert subject.singles(assistant_model=subject.pair.policy) == subject.expected


@every_family
def test_beams(subjects, family):
    subject = subjects(family)
    ids = torch.tensor([PROMPTS[2]])
    output = subject.pair.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=3, **{**GREEDY, "max_new_tokens": 8}
    )
    expected = oracle_beams(subject.policy, subject.reference, PROMPTS[2], num_beams=3, max_new_tokens=8)
    assert output[0, len(PROMPTS[2]) :].tolist() == expected


@every_family
@pytest.mark.parametrize("implementation", ["own", "paged|eager"])
def test_continuous_batching(subjects, family, implementation):
    subject = subjects(family)
    before = subject.pair.config._attn_implementation
    subject.pair.set_attn_implementation(before if implementation == "own" else implementation)
    outputs = subject.continuous(PROMPTS)  # the last prompt is longer than a batch: its prefill is cut
    subject.pair.set_attn_implementation(before)
    assert outputs == subject.expected


def test_continuous_batching_with_a_shared_prefix(subjects, monkeypatch):
    matches = []
    original = PagedAttentionCache.search_prefix_match

    def counting(self, request_id, prompt_ids):
        matches.append(original(self, request_id, prompt_ids))
        return matches[-1]

    monkeypatch.setattr(PagedAttentionCache, "search_prefix_match", counting)
    subject = subjects("llama")
    prompts = [[*PROMPTS[2][:16], last] for last in (3, 7, 11, 15)]
    outputs = subject.continuous(prompts, page_size=8, max_batch_tokens=17)
    assert outputs == [oracle_greedy(subject.policy, subject.reference, p, max_new_tokens=NEW) for p in prompts]
    assert max(matches) == 16


def test_user_given_lazy_cache(subjects):
    subject = subjects("qwen2")
    for prompt, expected in zip(PROMPTS, subject.expected, strict=True):
        ids = torch.tensor([prompt])
        output = subject.pair.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=DynamicCache(), **GREEDY
        )
        assert output[0, len(prompt) :].tolist() == expected


@pytest.mark.parametrize(
    ("family", "backend"),
    [
        pytest.param(family, backend, marks=pytest.mark.slow)
        for family, backend in (("llama", "aot_eager"), ("llama", "inductor"), ("gemma3", "inductor"))
    ],
)
def test_static_cache_compiled_without_graph_breaks(subjects, family, backend):
    compile_config = CompileConfig(mode="default", fullgraph=True, backend=backend)
    compile_config._compile_all_devices = True
    subject = subjects(family)
    assert subject.batch(cache_implementation="static", compile_config=compile_config) == subject.expected


def test_beams_of_a_batch_and_all_their_sequences(subjects):
    subject = subjects("qwen2")
    two_stacks = ContrastivePairForCausalLM.from_pair(subject.policy, subject.reference)
    ids, mask = left_pad(PROMPTS)
    kwargs = {**GREEDY, "num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 8, "attention_mask": mask}
    outputs = subject.pair.generate(ids, **kwargs)
    assert outputs.tolist() == two_stacks.generate(ids, **kwargs).tolist()
    for i, prompt in enumerate(PROMPTS):
        expected = oracle_beams(subject.policy, subject.reference, prompt, num_beams=4, max_new_tokens=8)
        assert outputs[3 * i, ids.shape[1] :].tolist() == expected


def test_num_return_sequences_sample_from_the_plausible_set(subjects):
    subject = subjects("llama")
    ids = torch.tensor([PROMPTS[0]])
    output = subject.pair.generate(ids, max_new_tokens=6, do_sample=True, num_return_sequences=16, pad_token_id=2)
    for row in output.tolist():
        for t in range(len(PROMPTS[0]), len(row)):
            assert oracle_logps(subject.policy, subject.reference, row[:t])[row[t]] > -torch.inf
    assert len(set(map(tuple, output.tolist()))) > 1


@torch.no_grad()
def test_the_cache_is_an_ordinary_one_of_as_many_rows(subjects):
    subject = subjects("llama")
    ids = torch.tensor([PROMPTS[2], PROMPTS[2][::-1], PROMPTS[2][7:] + PROMPTS[2][:7]])
    cache = subject.pair(ids).past_key_values
    config = subject.pair.config.get_text_config()
    assert len(cache.layers) == config.num_hidden_layers == 2
    assert cache.layers[0].keys.shape == (3, config.num_key_value_heads, 21, config.head_dim) == (3, 4, 21, 8)
    # rows are chosen and tokens taken back as in any cache; what follows continues from there
    cache.crop(-5)
    cache.batch_select_indices(torch.tensor([2, 1]))
    logits = subject.pair(ids[[2, 1], 16:], past_key_values=cache).logits
    torch.testing.assert_close(logits, subject.pair(ids[[2, 1]]).logits[:, 16:], atol=1e-4, rtol=0)
    # the control: continued with the rows of another order, it is something else
    cache.crop(-5)
    cache.batch_select_indices(torch.tensor([1, 0]))
    wrong = subject.pair(ids[[2, 1], 16:], past_key_values=cache).logits
    assert (wrong - logits).abs().max() > 1e-2


# Negative controls: what the equalities above would miss if they could not fail.


@every_family
def test_control_another_alpha_writes_other_tokens(subjects, family):
    subject = subjects(family)
    others = [oracle_greedy(subject.policy, subject.reference, p, max_new_tokens=NEW, alpha=0.9) for p in PROMPTS]
    assert others != subject.expected


@every_family
@pytest.mark.parametrize("rows", [slice(1, None, 2), slice(None), slice(0, 0)], ids=["odd", "all", "none"])
def test_control_the_delta_on_other_rows_is_wrong(subjects, family, rows):
    subject = subjects(family)
    layers = [layer for layer in subject.pair.modules() if isinstance(layer, module.LoraLinear)]
    even = layers[0].policy_rows
    for layer in layers:
        layer.policy_rows = rows
    assert subject.batch() != subject.expected
    for layer in layers:
        layer.policy_rows = even


def test_control_two_halves_are_no_neighbours(subjects, monkeypatch):
    subject = subjects("llama")
    monkeypatch.setattr(module, "_both", lambda rows: None if rows is None else torch.cat([rows, rows]))
    assert subject.singles() == subject.expected  # of one row, both layouts are the same
    assert subject.batch() != subject.expected


def test_control_without_the_scaling_it_is_wrong(subjects):
    subject = subjects("llama")
    layers = [layer for layer in subject.pair.modules() if isinstance(layer, module.LoraLinear)]
    with torch.no_grad():
        for layer in layers:
            layer.lora_B.div_(2)
        assert subject.batch() != subject.expected
        for layer in layers:
            layer.lora_B.mul_(2)


def test_control_a_cache_with_streams_exchanged_is_wrong(subjects, monkeypatch):
    subject = subjects("llama")
    as_rows = module._as_rows
    monkeypatch.setattr(module, "_as_rows", lambda states: as_rows(states).roll(1, 0))
    assert subject.singles() != subject.expected
    assert subject.continuous(PROMPTS) != subject.expected


def test_control_a_batch_without_its_mask_is_wrong(subjects):
    subject = subjects("llama")
    ids, _ = left_pad(PROMPTS)
    output = subject.pair.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
    assert output[:, ids.shape[1] :].tolist() != subject.expected
