# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The processor in `policy.generate` writes exactly the tokens of the oracle."""

import copy

import pytest
import torch
from transformers import LogitsProcessor

from hf_cong import ContrastiveLogitsProcessor, ContrastivePairForCausalLM
from tests.equivalence.test_pair_generate import GREEDY, NEW, PROMPTS, left_pad
from tests.oracle import oracle_beams, oracle_greedy, oracle_logps
from tests.tiny import ALIKE, FAMILIES, tiny_model, tiny_pair

every_family = pytest.mark.parametrize("family", FAMILIES)
every_kind = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) if f in ALIKE else f for f in FAMILIES]
)


@pytest.fixture(scope="module")
def subjects():
    made = {}

    def subject(family):
        if family not in made:
            policy, reference = tiny_pair(family, seed=3)
            made[family] = (
                policy,
                reference,
                [oracle_greedy(policy, reference, p, max_new_tokens=NEW) for p in PROMPTS],
            )
        return made[family]

    return subject


def singles(policy, processor, **kwargs):
    """One `generate` per prompt, all with the same processor object."""
    outputs = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        output = policy.generate(
            ids, attention_mask=torch.ones_like(ids), logits_processor=[processor], **{**GREEDY, **kwargs}
        )
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


@every_kind
@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"prompt_lookup_num_tokens": 3},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 8},
    ],
    ids=lambda mode: next(iter(mode), "greedy"),
)
def test_one_object_serves_many_calls(subjects, family, mode):
    policy, reference, expected = subjects(family)
    assert singles(policy, ContrastiveLogitsProcessor(reference), **mode) == expected


@every_kind
def test_assisted_decoding(subjects, family):
    policy, reference, expected = subjects(family)
    processor = ContrastiveLogitsProcessor(reference)
    assert singles(policy, processor, assistant_model=copy.deepcopy(policy)) == expected


@every_family
def test_left_padded_batch(subjects, family):
    policy, reference, expected = subjects(family)
    ids, mask = left_pad(PROMPTS)
    processor = ContrastiveLogitsProcessor(reference, attention_mask=mask)
    for _ in range(2):  # and once more with the same object and the same prompts
        output = policy.generate(ids, attention_mask=mask, logits_processor=[processor], **GREEDY)
        assert output[:, ids.shape[1] :].tolist() == expected


@every_kind
def test_beams_are_those_of_the_pair_and_of_the_oracle(subjects, family):
    policy, reference, _ = subjects(family)
    kwargs = {**GREEDY, "max_new_tokens": 8, "num_beams": 3}
    ids = torch.tensor([PROMPTS[2]])
    processor = ContrastiveLogitsProcessor(reference)
    output = policy.generate(ids, attention_mask=torch.ones_like(ids), logits_processor=[processor], **kwargs)
    expected = oracle_beams(policy, reference, PROMPTS[2], num_beams=3, max_new_tokens=8)
    assert output[0, len(PROMPTS[2]) :].tolist() == expected

    ids, mask = left_pad(PROMPTS)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    processor = ContrastiveLogitsProcessor(reference, attention_mask=mask)
    kwargs |= {"num_return_sequences": 2}
    padded = policy.generate(ids, attention_mask=mask, logits_processor=[processor], **kwargs)
    assert torch.equal(padded, pair.generate(ids, attention_mask=mask, **kwargs))


def test_sampling_and_num_return_sequences(subjects):
    policy, reference, _ = subjects("llama")
    ids, mask = left_pad(PROMPTS)
    kwargs = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "num_return_sequences": 4}
    processor = ContrastiveLogitsProcessor(reference, attention_mask=mask)
    torch.manual_seed(0)
    output = policy.generate(ids, attention_mask=mask, logits_processor=[processor], **{**GREEDY, **kwargs})
    torch.manual_seed(0)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    assert torch.equal(output, pair.generate(ids, attention_mask=mask, **{**GREEDY, **kwargs}))
    for index, row in enumerate(output.tolist()):
        prompt = PROMPTS[index // 4]
        row = prompt + row[ids.shape[1] :]
        for t in range(len(prompt), len(row)):
            assert oracle_logps(policy, reference, row[:t])[row[t]] > -torch.inf


def test_alpha_one_and_no_threshold_is_generate_itself(subjects):
    policy, reference, _ = subjects("qwen2")
    processor = ContrastiveLogitsProcessor(reference, alpha=1.0, plausibility_threshold=0.0)
    ids = torch.tensor([PROMPTS[2]])
    for kwargs in ({}, {"do_sample": True, "temperature": 0.7}, {"num_beams": 3}):
        outputs = []
        for processors in ([], [processor]):
            torch.manual_seed(0)
            outputs.append(policy.generate(ids, logits_processor=processors, **{**GREEDY, **kwargs}).tolist())
        assert outputs[0] == outputs[1]


def test_the_highest_threshold_is_the_policys_greedy_whatever_alpha(subjects):
    policy, reference, _ = subjects("gpt2")
    processor = ContrastiveLogitsProcessor(reference, alpha=0.0, plausibility_threshold=0.999999)
    assert singles(policy, processor) == [
        policy.generate(torch.tensor([p]), **GREEDY)[0, len(p) :].tolist() for p in PROMPTS
    ]


def test_a_reference_of_another_family_dtype_and_head_width(subjects):
    policy = tiny_model("llama", 1, vocab_size=64)
    reference = tiny_model("gpt2", 2, vocab_size=72)
    expected = [oracle_greedy(policy, reference, p, max_new_tokens=NEW) for p in PROMPTS]
    assert singles(policy, ContrastiveLogitsProcessor(reference)) == expected
    wide = tiny_model("llama", 1, vocab_size=80)
    output = singles(wide, ContrastiveLogitsProcessor(tiny_model("gpt2", 2)), do_sample=True)
    assert max(max(row) for row in output) < 64
    # bfloat16 rounds, so the scores agree to its precision and the tokens need not
    ids = torch.tensor([PROMPTS[2]])
    scores = policy(ids).logits[:, -1]
    exact = ContrastiveLogitsProcessor(tiny_model("gpt2", 2))(ids, scores)
    rounded = ContrastiveLogitsProcessor(tiny_model("gpt2", 2).bfloat16())(ids, scores)
    assert rounded.dtype == torch.float32
    kept = exact > -1e3
    torch.testing.assert_close(rounded[kept], exact[kept], atol=0.15, rtol=0)


@pytest.mark.gpu
def test_a_reference_on_another_device(subjects):
    policy, reference, expected = subjects("llama")
    processor = ContrastiveLogitsProcessor(copy.deepcopy(reference).cuda())
    assert singles(policy, processor) == expected


def test_a_constraint_outside_the_plausible_set_keeps_the_policys_order(subjects):
    """min_new_tokens, grammars and the like act on the scores; all plausible tokens may fall to them."""
    policy, reference, _ = subjects("llama")
    ids = torch.tensor([PROMPTS[2]])
    scores = ContrastiveLogitsProcessor(reference)(ids, policy(ids).logits[:, -1])
    plausible = scores[0] > -1e3
    remaining = scores[0].masked_fill(plausible, -torch.inf)
    assert remaining.argmax() == policy(ids).logits[0, -1].masked_fill(plausible, -torch.inf).argmax()
    assert (scores.softmax(-1)[0][~plausible] == 0).all()


# Refusals, before the first token


class CountTokens(LogitsProcessor):
    calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores


@pytest.mark.parametrize("pad", [2, 0, 63])
def test_a_padded_batch_without_its_mask_is_refused(subjects, pad):
    policy, reference, _ = subjects("llama")
    ids, mask = left_pad(PROMPTS, pad)
    counter = CountTokens()
    with pytest.raises(ValueError, match="may be left-padded.*attention_mask"):
        policy.generate(
            ids, attention_mask=mask, logits_processor=[ContrastiveLogitsProcessor(reference), counter], **GREEDY
        )
    assert counter.calls == 0


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 6, 7, 8], [63, 1, 10, 11]],  # by one token that only the tokenizer knows
        [[63, 63, 1, 6], [63, 63, 1, 7]],  # all rows alike, to a multiple of some length
        [[63, 63, 1, 6]],  # a single row
    ],
)
def test_padding_in_any_form_is_refused(rows):
    reference = tiny_model("llama", eos_token_id=2)
    with pytest.raises(ValueError, match="may be left-padded"):
        ContrastiveLogitsProcessor(reference)(torch.tensor(rows), torch.randn(len(rows), 64))
    mask = torch.ones(len(rows), 4, dtype=torch.long)  # the control: the same rows, declared to be text
    ContrastiveLogitsProcessor(reference, attention_mask=mask)(torch.tensor(rows), torch.randn(len(rows), 64))


def test_a_batch_that_needs_no_mask_is_served_without():
    policy, reference = tiny_pair("llama", eos_token_id=2, pad_token_id=0)
    prompts = [[1, 6, 7, 8], [1, 10, 11, 12]]
    expected = [oracle_greedy(policy, reference, p, max_new_tokens=8) for p in prompts]
    kwargs = {"max_new_tokens": 8, "eos_token_id": [], "pad_token_id": 0, "do_sample": False}
    output = policy.generate(torch.tensor(prompts), logits_processor=[ContrastiveLogitsProcessor(reference)], **kwargs)
    assert output[:, 4:].tolist() == expected


def test_the_mask_of_another_batch_is_refused(subjects):
    policy, reference, _ = subjects("llama")
    ids, mask = left_pad(PROMPTS)
    processor = ContrastiveLogitsProcessor(reference, attention_mask=mask)
    policy.generate(ids, attention_mask=mask, logits_processor=[processor], **GREEDY)
    others, others_mask = left_pad([[7] * 30, [8] * 29, [9] * 3])
    with pytest.raises(ValueError, match="does not belong to these prompts"):
        policy.generate(others, attention_mask=others_mask, logits_processor=[processor], **GREEDY)
    swapped, swapped_mask = ids.flip(0), mask.flip(0)  # the same shape, other rows
    with pytest.raises(ValueError, match="does not belong to these prompts"):
        policy.generate(swapped, attention_mask=swapped_mask, logits_processor=[processor], **GREEDY)
    with pytest.raises(ValueError, match="shape \\(batch, tokens\\)"):
        ContrastiveLogitsProcessor(reference, attention_mask=mask[0])


def test_equal_ids_under_different_masks_are_different_rows(subjects):
    """A row that begins with the padding token as text, beside one that is padded with it."""
    policy, reference, _ = subjects("llama")
    ids, mask = torch.tensor([[2, 5, 6, 7], [2, 5, 6, 7]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    processor = ContrastiveLogitsProcessor(reference, attention_mask=mask)
    output = policy.generate(ids, attention_mask=mask, logits_processor=[processor], **GREEDY)
    expected = [oracle_greedy(policy, reference, prompt, max_new_tokens=NEW) for prompt in ([5, 6, 7], [2, 5, 6, 7])]
    assert output[:, 4:].tolist() == expected and expected[0] != expected[1]


def test_a_row_that_outgrows_the_references_context_is_refused(subjects):
    policy, _, _ = subjects("llama")
    reference = tiny_model("gpt2", n_positions=24)
    with pytest.raises(ValueError, match="reference's context is 24"):
        policy.generate(torch.tensor([PROMPTS[2]]), logits_processor=[ContrastiveLogitsProcessor(reference)], **GREEDY)


def test_a_reference_in_training_mode_has_no_dropout(subjects):
    policy, _, _ = subjects("llama")
    reference = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    expected = [oracle_greedy(policy, reference, p, max_new_tokens=NEW) for p in PROMPTS]
    assert singles(policy, ContrastiveLogitsProcessor(reference.train())) == expected


@pytest.mark.parametrize("reference", ["gpt2", None])
def test_a_reference_that_is_no_model_is_refused(reference):
    with pytest.raises(TypeError, match="must be a loaded transformers model"):
        ContrastiveLogitsProcessor(reference)


def test_packed_rows_of_continuous_batching_are_refused(subjects):
    _, reference, _ = subjects("llama")
    with pytest.raises(ValueError, match="Continuous batching"):
        ContrastiveLogitsProcessor(reference)(torch.tensor([5, 6]), torch.randn(2, 64))


# Negative controls


class NaiveProcessor(ContrastiveLogitsProcessor):
    """Trusts that every call continues the last one by one token, as simple processors do."""

    def __call__(self, input_ids, scores):
        (shadow,) = self.shadows
        new = input_ids if shadow.cache is None else input_ids[:, -1:]
        output = shadow.model(new, past_key_values=shadow.cache, use_cache=True)
        shadow.cache = output.past_key_values
        return self.contrast(scores, output.logits[:, -1])


@pytest.mark.parametrize("how", ["reuse", "beams", "prompt_lookup"])
def test_control_a_naive_shadow_is_wrong(subjects, how):
    policy, reference, expected = subjects("llama")
    if how == "reuse":
        assert singles(policy, NaiveProcessor(reference)) != expected
        return
    mode = {"num_beams": 4} if how == "beams" else {"prompt_lookup_num_tokens": 3}
    right, wrong = [], []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        for outputs, kind in ((right, ContrastiveLogitsProcessor), (wrong, NaiveProcessor)):
            outputs.append(policy.generate(ids, logits_processor=[kind(reference)], **{**GREEDY, **mode})[0].tolist())
    assert right != wrong


@every_kind
def test_control_another_alpha_writes_other_tokens(subjects, family):
    policy, reference, expected = subjects(family)
    assert singles(policy, ContrastiveLogitsProcessor(reference, alpha=0.9)) != expected
