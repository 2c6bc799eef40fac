# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Emulated fine-tuning writes, as one model and as a processor, exactly what recomputing all three models writes."""

import copy

import pytest
import torch
from transformers import CompileConfig, ContinuousBatchingConfig, DynamicCache, GenerationConfig

from hf_cong import (
    ContrastivePairForCausalLM,
    EmulatedFineTuningForCausalLM,
    EmulatedFineTuningLogitsProcessor,
)
from hf_cong.pair import modeling_stacks
from tests.equivalence.test_pair_generate import GREEDY, NEW, PROMPTS, left_pad
from tests.oracle import eft_beams, eft_greedy, eft_logps
from tests.tiny import ALIKE, FAMILIES, tiny_base, tiny_lora, tiny_model, tiny_pair

BETA = 1.5
UNTIED = {"tie_word_embeddings": False}  # tiny tied Gemmas repeat the last token, whatever steers them
FORMS = ("two stacks", "LoRA")


class Subject:
    """A family's base and pair, with the oracle's answers."""

    def __init__(self, family, form="two stacks"):
        if form == "LoRA":
            adapted, *members = tiny_lora(family, seed=3, **UNTIED)
            policy = (adapted,)
        else:
            policy = members = tiny_pair(family, seed=3, **UNTIED)
        self.models = (tiny_base(family, **UNTIED), *members)
        self.model = EmulatedFineTuningForCausalLM.from_pair(self.models[0], *policy, beta=BETA)
        self.expected = self.oracle()

    def oracle(self, prompts=PROMPTS, **settings):
        settings = {"beta": BETA, "max_new_tokens": NEW, **settings}
        return [eft_greedy(*self.models, prompt, **settings) for prompt in prompts]

    def singles(self, model=None, **kwargs):
        outputs = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            output = (model or self.model).generate(ids, attention_mask=torch.ones_like(ids), **{**GREEDY, **kwargs})
            outputs.append(output[0, len(prompt) :].tolist())
        return outputs

    def batch(self, model=None, **kwargs):
        ids, mask = left_pad(PROMPTS)
        output = (model or self.model).generate(ids, attention_mask=mask, **{**GREEDY, **kwargs})
        return output[:, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def subjects():
    made = {}

    def subject(family, form="two stacks"):
        if (family, form) not in made:
            made[family, form] = Subject(family, form)
        return made[family, form]

    return subject


every_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) if f in ALIKE else f for f in FAMILIES]
)
# GPT-2's projections are no linear layers.
every_form = pytest.mark.parametrize(
    ("family", "form"),
    [
        pytest.param(family, form, marks=pytest.mark.slow) if family in slow else (family, form)
        for form, slow in (("two stacks", ALIKE), ("LoRA", (*ALIKE, "mixtral")))
        for family in FAMILIES
        if (family, form) != ("gpt2", "LoRA")
    ],
)


@every_form
def test_greedy_and_a_left_padded_batch(subjects, family, form):
    subject = subjects(family, form)
    assert subject.singles() == subject.expected
    assert subject.batch() == subject.expected


@every_form
@pytest.mark.parametrize(
    "mode",
    [{"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}],
    ids=lambda mode: next(iter(mode)),
)
def test_modes(subjects, family, form, mode):
    subject = subjects(family, form)
    assert subject.singles(**mode) == subject.expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize(
    "mode",
    [
        {"use_cache": False},
        {"prefill_chunk_size": 8},
        {"prefill_chunk_size": 8, "cache_implementation": "static"},  # which would give all layers the base's shape
    ],
    ids=str,
)
def test_more_modes(subjects, family, form, mode):
    subject = subjects(family, form)
    assert subject.singles(**mode) == subject.expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_static_cache_left_padded(subjects, family, form):
    subject = subjects(family, form)
    assert subject.batch(cache_implementation="static") == subject.expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("assistant", ["base", "policy"])
def test_assisted_by_a_member(subjects, family, form, assistant):
    subject = subjects(family, form)
    model = subject.model.base if assistant == "base" else subject.model.pair.policy
    assert subject.singles(assistant_model=model) == subject.expected


@every_form
def test_beams(subjects, family, form):
    subject = subjects(family, form)
    ids, mask = left_pad(PROMPTS[1:])
    kwargs = {**GREEDY, "max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2}
    output = subject.model.generate(ids, attention_mask=mask, **kwargs)[::2, ids.shape[1] :].tolist()
    settings = {"num_beams": 3, "max_new_tokens": 8, "beta": BETA}
    assert output == [eft_beams(*subject.models, prompt, **settings) for prompt in PROMPTS[1:]]


def test_a_bare_cache_of_the_users(subjects):
    for form in FORMS:
        subject = subjects("llama", form)
        for prompt, expected in zip(PROMPTS, subject.expected, strict=True):
            ids = torch.tensor([prompt])
            output = subject.model.generate(
                ids, attention_mask=torch.ones_like(ids), past_key_values=DynamicCache(), **GREEDY
            )
            assert output[0, len(prompt) :].tolist() == expected


@pytest.mark.parametrize("form", ["two stacks", pytest.param("LoRA", marks=pytest.mark.slow)])
def test_static_cache_compiled_without_graph_breaks(subjects, form):
    compile_config = CompileConfig(mode="default", fullgraph=True, backend="aot_eager")
    compile_config._compile_all_devices = True
    subject = subjects("llama", form)
    assert subject.batch(cache_implementation="static", compile_config=compile_config) == subject.expected


def test_samples_come_from_the_bases_plausible_set(subjects):
    subject = subjects("llama")
    ids = torch.tensor([PROMPTS[0]])
    output = subject.model.generate(ids, max_new_tokens=6, do_sample=True, num_return_sequences=16, pad_token_id=2)
    for row in output.tolist():
        for t in range(len(PROMPTS[0]), len(row)):
            assert eft_logps(*subject.models, row[:t], beta=BETA)[row[t]] > -torch.inf
    assert len(set(map(tuple, output.tolist()))) > 1


# Continuous batching: pages have one size, so the base is wider and deeper in all but its key-value heads.


def paged(family, form):
    base = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 8, **UNTIED}
    shape = {"head_dim": 8, **UNTIED}
    if form == "LoRA":
        adapted, *members = tiny_lora(family, seed=3, **shape)
        policy, base = (adapted,), {**base, "num_key_value_heads": 4}  # a LoRA pair has both streams' heads
    else:
        policy = members = tiny_pair(family, seed=3, **shape)
    models = (tiny_base(family, **base), *members)
    return EmulatedFineTuningForCausalLM.from_pair(models[0], *policy, beta=BETA), models


def continuous(model):
    outputs = model.generate_batch(
        [list(prompt) for prompt in PROMPTS],
        generation_config=GenerationConfig(**GREEDY),
        continuous_batching_config=ContinuousBatchingConfig(page_size=32, num_blocks=16, max_batch_tokens=16),
        progress_bar=False,
    )
    return [outputs[key].generated_tokens for key in sorted(outputs)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("implementation", ["sdpa", "paged|eager"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_continuous_batching(family, form, implementation):
    model, models = paged(family, form)
    expected = [eft_greedy(*models, prompt, beta=BETA, max_new_tokens=NEW) for prompt in PROMPTS]
    model.set_attn_implementation(implementation)
    assert continuous(model) == expected


def test_continuous_batching_of_unequal_heads_is_refused(subjects):
    with pytest.raises(ValueError, match=r"equal key-value heads, got 3 of width 16 in the base, 2 of width 8 in the"):
        continuous(subjects("llama").model)
    with pytest.raises(ValueError, match=r"3 of width 16 in the base, 4 of width 8 in the policy and reference\. Use"):
        continuous(subjects("llama", "LoRA").model)


# The processor, with three live models


def steered(subject, processor=None, **kwargs):
    processor = processor or EmulatedFineTuningLogitsProcessor(*subject.models[1:], beta=BETA)
    return subject.singles(subject.models[0], logits_processor=[processor], **kwargs)


@every_family
def test_processor_greedy_and_batch(subjects, family):
    subject = subjects(family)
    assert steered(subject) == subject.expected
    ids, mask = left_pad(PROMPTS)
    processor = EmulatedFineTuningLogitsProcessor(*subject.models[1:], beta=BETA, attention_mask=mask)
    assert subject.batch(subject.models[0], logits_processor=[processor]) == subject.expected


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("mode", ["prompt_lookup", "assisted", "static"])
def test_processor_modes(subjects, family, mode):
    subject = subjects(family)
    kwargs = {
        "prompt_lookup": {"prompt_lookup_num_tokens": 3},
        "assisted": {"assistant_model": copy.deepcopy(subject.models[1])},
        "static": {"cache_implementation": "static"},
    }[mode]
    assert steered(subject, **kwargs) == subject.expected


def test_processor_beams_are_those_of_the_model(subjects):
    subject = subjects("llama")
    ids, mask = left_pad(PROMPTS)
    kwargs = {**GREEDY, "max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2, "attention_mask": mask}
    processor = EmulatedFineTuningLogitsProcessor(*subject.models[1:], beta=BETA, attention_mask=mask)
    output = subject.models[0].generate(ids, logits_processor=[processor], **kwargs)
    assert torch.equal(output, subject.model.generate(ids, **kwargs))


def test_processor_across_families_of_one_vocabulary():
    models = tiny_model("llama", 9), *tiny_pair("gpt2", seed=3)
    processor = EmulatedFineTuningLogitsProcessor(*models[1:])
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = models[0].generate(ids, attention_mask=torch.ones_like(ids), logits_processor=[processor], **GREEDY)
        assert output[0, len(prompt) :].tolist() == eft_greedy(*models, prompt, max_new_tokens=NEW)


# Negative controls: what the equalities above would miss if they could not fail.


@every_form
def test_control_another_beta_writes_other_tokens(subjects, family, form):
    subject = subjects(family, form)
    for beta in (0.0, 0.5):
        assert subject.oracle(beta=beta, max_new_tokens=6) != [expected[:6] for expected in subject.expected]


@every_form
def test_control_every_model_counts(subjects, family, form):
    subject = subjects(family, form)
    base, policy, reference = subject.models
    for others in ((base, reference, policy), (policy, policy, reference), (base, policy, base)):
        wrong = [eft_greedy(*others, prompt, beta=BETA, max_new_tokens=6) for prompt in PROMPTS]
        assert wrong != [expected[:6] for expected in subject.expected]


def test_control_without_a_plausible_set_it_is_another(subjects):
    subject = subjects("llama")
    assert subject.oracle(mask=False) != subject.expected


def test_control_a_static_cache_of_one_shape_does_not_fit(subjects, monkeypatch):
    monkeypatch.delattr(modeling_stacks.StacksForCausalLM, "_get_static_cache_init_shape")
    with pytest.raises(RuntimeError, match="slice shape"):
        subjects("llama").singles(cache_implementation="static", prefill_chunk_size=8)


@pytest.mark.parametrize("form", FORMS)
def test_control_a_cache_that_is_not_shifted_is_wrong(form, monkeypatch):
    # members of one shape, which do not stumble over the base's keys
    model, models = paged("llama", form)
    expected = [eft_greedy(*models, prompt, beta=BETA, max_new_tokens=NEW) for prompt in PROMPTS]
    ids = [torch.tensor([prompt]) for prompt in PROMPTS]

    def write():
        return [model.generate(row, **GREEDY)[0, row.shape[1] :].tolist() for row in ids]

    assert write() == expected
    monkeypatch.setattr(modeling_stacks, "_LaterLayers", lambda cache, first: cache)
    assert write() != expected


def test_control_pages_that_are_not_shifted_are_wrong(monkeypatch):
    model, models = paged("llama", "two stacks")
    monkeypatch.setattr(modeling_stacks, "_LaterPages", lambda cache, first: cache)
    assert continuous(model) != [eft_greedy(*models, prompt, beta=BETA, max_new_tokens=NEW) for prompt in PROMPTS]


def test_control_a_batch_without_its_mask_is_wrong(subjects):
    subject = subjects("llama")
    ids, _ = left_pad(PROMPTS)
    output = subject.model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
    assert output[:, ids.shape[1] :].tolist() != subject.expected


def test_control_the_pairs_own_contrast_is_another(subjects):
    subject = subjects("llama")
    pair = ContrastivePairForCausalLM.from_pair(*subject.models[1:])
    assert subject.singles(pair) != subject.expected
