# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from tokenizers import processors

from hf_cong import ContrastivePairForCausalLM, ImplicitReward
from hf_cong.prompts import encode_prompt
from hf_cong.rewards import completion_ids, completion_logps
from tests.test_prompts import byte_level
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = ["the cat", "tell me about the old dog and the fox", "a"]
COMPLETIONS = [" sat on the mat", " ran", " kind owl sat on a small mat"]


def pair_of(family):
    return tiny_pair(family, vocab_size=len(TOKENIZER), eos_token_id=2, pad_token_id=0)


@torch.no_grad()
def one_row(model, prompt, completion):
    """Log-probabilities the slow way: one row, no padding, every logit."""
    prompt, whole = TOKENIZER.encode(prompt), TOKENIZER.encode(prompt + completion)
    assert whole[: len(prompt)] == prompt
    logps = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return torch.stack([logps[t - 1, whole[t]] for t in range(len(prompt), len(whole))])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mixtral"])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batched_equals_one_row(family, batch_size):
    policy, reference = pair_of(family)
    for model in (policy, ContrastivePairForCausalLM.from_pair(policy, reference)):
        scored = completion_logps(model, TOKENIZER, PROMPTS, COMPLETIONS, batch_size=batch_size)
        for prompt, completion, logps in zip(PROMPTS, COMPLETIONS, scored, strict=True):
            torch.testing.assert_close(logps.double(), one_row(model, prompt, completion), atol=2e-4, rtol=0)


def test_the_reward_is_the_sum_of_its_tokens_and_scales_with_beta():
    policy, reference = pair_of("llama")
    reward = ImplicitReward(policy, reference, TOKENIZER, beta=0.5)
    sums = reward.score(PROMPTS, COMPLETIONS)
    tokens = reward.score(PROMPTS, COMPLETIONS, per_token=True)
    means = reward.score(PROMPTS, COMPLETIONS, normalize="tokens")
    for prompt, completion, total, row, mean in zip(PROMPTS, COMPLETIONS, sums, tokens, means, strict=True):
        expected = 0.5 * (one_row(policy, prompt, completion) - one_row(reference, prompt, completion))
        torch.testing.assert_close(row.double(), expected, atol=2e-4, rtol=0)
        assert total == pytest.approx(row.sum().item(), abs=1e-5)
        assert mean == pytest.approx(total / len(row), abs=1e-5)
    assert ImplicitReward(policy, policy, TOKENIZER).score(PROMPTS, COMPLETIONS) == [0.0] * 3  # the control


def test_ids_score_exactly_what_was_written():
    policy, _ = pair_of("llama")
    written = [12, 40, 41]  # need not be what the tokenizer makes of their text
    logps = completion_logps(policy, TOKENIZER, ["the cat"], [written])[0]
    ids = TOKENIZER.encode("the cat") + written
    with torch.no_grad():
        expected = policy(torch.tensor([ids])).logits[0].log_softmax(-1)
    torch.testing.assert_close(logps, torch.stack([expected[len(ids) - 4 + t, written[t]] for t in range(3)]))


def test_chat_prompts_and_empty_completions():
    policy, reference = pair_of("qwen2")
    prompt = [{"role": "user", "content": "tell me about the fox"}]
    scores = ImplicitReward(policy, reference, TOKENIZER).score([prompt, prompt], ["the fox ran", ""])
    assert scores[0] != 0.0 and scores[1] == 0.0


def test_refusals():
    policy, reference = pair_of("llama")
    reward = ImplicitReward(policy, reference, TOKENIZER)
    with pytest.raises(ValueError, match="`normalize` must be"):
        reward.score(PROMPTS, COMPLETIONS, normalize="chars")
    with pytest.raises(ValueError, match="zip"):
        reward.score(PROMPTS, COMPLETIONS[:2])
    with pytest.raises(ValueError, match="Row 0 has .* context is 512"):
        completion_logps(policy, TOKENIZER, ["the cat"], [[5] * 600])


def test_dropout_takes_no_part_and_every_mode_is_given_back():
    policy = tiny_model("gpt2", vocab_size=len(TOKENIZER), attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    expected = completion_logps(policy, TOKENIZER, PROMPTS, COMPLETIONS)
    policy.train()
    policy.transformer.h[0].eval()
    modes = [module.training for module in policy.modules()]
    scored = completion_logps(policy, TOKENIZER, PROMPTS, COMPLETIONS)
    assert [module.training for module in policy.modules()] == modes
    for ours, theirs in zip(scored, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    ids = torch.tensor([TOKENIZER.encode(PROMPTS[1])])
    with torch.no_grad():
        assert not torch.equal(policy(ids).logits, policy(ids).logits)  # the control: dropout is on


def test_an_eos_in_the_text_is_scored_and_one_that_the_tokenizer_added_is_not():
    """As it stands: after plain text and after messages alike."""
    adding = byte_level()
    adding.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", adding.bos_token_id), ("</s>", adding.eos_token_id)]
    )
    for tokenizer in (TOKENIZER, byte_level(), adding):
        for prompt in ("tell me", [{"role": "user", "content": "tell me"}]):
            prompt_ids = encode_prompt(tokenizer, prompt)
            plain = completion_ids(tokenizer, prompt, " about", prompt_ids)
            assert tokenizer.eos_token_id not in plain
            assert tokenizer.decode(plain) == " about"
            typed = completion_ids(tokenizer, prompt, " about" + tokenizer.eos_token, prompt_ids)
            assert typed == [*plain, tokenizer.eos_token_id]


def test_the_shorter_context_of_a_pair_counts():
    policy = tiny_model("llama", vocab_size=len(TOKENIZER))
    reference = tiny_model("llama", 1, vocab_size=len(TOKENIZER), max_position_embeddings=20)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    prompt_ids = TOKENIZER.encode("the cat")
    assert len(completion_logps(pair, TOKENIZER, ["the cat"], [[5] * (20 - len(prompt_ids))])[0]) > 1
    with pytest.raises(ValueError, match="Row 0 has .* context is 20"):
        completion_logps(pair, TOKENIZER, ["the cat"], [[5] * (21 - len(prompt_ids))])
