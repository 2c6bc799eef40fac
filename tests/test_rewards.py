# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import copy
import functools
import math

import peft
import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM

from hf_cong import ContrastivePairForCausalLM, ImplicitReward
from hf_cong.prompts import encode_prompt
from hf_cong.rewards import completion_logps, likelihood
from hf_cong.rewards.likelihood import encode_completions
from tests.test_prompts import byte_level
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

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
    equal = ImplicitReward(policy, copy.deepcopy(policy), TOKENIZER)
    assert equal.score(PROMPTS, COMPLETIONS) == [0.0] * 3  # the control


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
    for normalize in ("chars", True, math.nan, math.inf):
        with pytest.raises(ValueError, match="`normalize` must be"):
            reward.score(PROMPTS, COMPLETIONS, normalize=normalize)
    with pytest.raises(ValueError, match="`normalize='tokens'` is of sums"):
        reward.score(PROMPTS, COMPLETIONS, normalize="tokens", per_token=True)
    for scoring in (reward.score, functools.partial(completion_logps, policy, TOKENIZER)):
        with pytest.raises(ValueError, match="Got 3 `prompts`, 2 `completions`; every row needs one of each"):
            scoring(PROMPTS, COMPLETIONS[:2])
        with pytest.raises(TypeError, match=r"`prompts` must be a list, got the string 'cat'. Pass `\[prompt\]`"):
            scoring("cat", COMPLETIONS)
    for reasons in (["stop"] * 2, ["stop"] * 4):
        with pytest.raises(ValueError, match=f"Got 3 `prompts`, {len(reasons)} `finish_reasons`"):
            reward.score(PROMPTS, COMPLETIONS, finish_reasons=reasons)
    with pytest.raises(ValueError, match='must be "stop" or "length", got \'eos\''):
        reward.score(PROMPTS, COMPLETIONS, finish_reasons=["stop", "length", "eos"])
    with pytest.raises(ValueError, match="Row 2 holds token 320, and the model has 320"):
        reward.score(PROMPTS, [[5], [5], [len(TOKENIZER)]])
    with pytest.raises(TypeError, match="`reference` is missing"):
        ImplicitReward(policy, None, TOKENIZER)
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
            plain = encode_completions(tokenizer, [prompt], [prompt_ids], [" about"])[0]
            assert tokenizer.eos_token_id not in plain
            assert tokenizer.decode(plain) == " about"
            typed = encode_completions(tokenizer, [prompt], [prompt_ids], [" about" + tokenizer.eos_token])[0]
            assert typed == [*plain, tokenizer.eos_token_id]


def test_the_shorter_context_of_a_pair_counts():
    policy = tiny_model("llama", vocab_size=len(TOKENIZER))
    reference = tiny_model("llama", 1, vocab_size=len(TOKENIZER), max_position_embeddings=20)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    prompt_ids = TOKENIZER.encode("the cat")
    assert len(completion_logps(pair, TOKENIZER, ["the cat"], [[5] * (20 - len(prompt_ids))])[0]) > 1
    with pytest.raises(ValueError, match="Row 0 has .* context is 20"):
        completion_logps(pair, TOKENIZER, ["the cat"], [[5] * (21 - len(prompt_ids))])


def sums(policy, reference, prompts, completions):
    pairs = zip(prompts, completions, strict=True)
    return [(one_row(policy, *pair) - one_row(reference, *pair)).sum().item() for pair in pairs]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma2", "mixtral"])
def test_a_pair_and_its_two_members_are_one_reward(family):
    policy, reference = pair_of(family)
    expected = sums(policy, reference, PROMPTS, COMPLETIONS)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    for reward in (ImplicitReward(policy, reference, TOKENIZER), ImplicitReward(pair, None, TOKENIZER)):
        assert reward.score(PROMPTS, COMPLETIONS, batch_size=2) == pytest.approx(expected, abs=5e-4)
    # the control: a pair beside another reference is a policy of its own, log p_α
    assert ImplicitReward(pair, reference, TOKENIZER).score(PROMPTS, COMPLETIONS) != pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "mixtral"])
def test_an_adapter_and_its_base_are_a_reward(family, tmp_path):
    adapted, policy, reference = tiny_lora(family, vocab_size=len(TOKENIZER))
    expected = sums(policy, reference, PROMPTS, COMPLETIONS)
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    for given in (adapted, pair):
        scored = ImplicitReward(given, None, TOKENIZER).score(PROMPTS, COMPLETIONS)
        assert scored == pytest.approx(expected, abs=5e-4)
    assert ImplicitReward(reference, adapted, TOKENIZER).score(PROMPTS, COMPLETIONS) == pytest.approx(
        [-value for value in expected], abs=5e-4
    )
    if family == "llama":
        reference.save_pretrained(tmp_path / "base")
        adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        adapted.save_pretrained(tmp_path / "adapter")
        named = ImplicitReward(str(tmp_path / "adapter"), None, TOKENIZER)
        assert named.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=5e-4)


def test_what_ended_is_given_the_reward_of_its_end_and_what_was_cut_is_not():
    policy, reference = pair_of("llama")
    reward = ImplicitReward(policy, reference, TOKENIZER)
    plain = reward.score(PROMPTS, COMPLETIONS)
    ended = sums(policy, reference, PROMPTS, [completion + TOKENIZER.eos_token for completion in COMPLETIONS])
    reasons = ["stop", "length", "stop"]
    expected = [ended[0], plain[1], ended[2]]
    assert reward.score(PROMPTS, COMPLETIONS, finish_reasons=reasons) == pytest.approx(expected, abs=5e-4)
    assert all(abs(a - b) > 0.01 for a, b in zip(plain, ended, strict=True))  # the control
    tokens = reward.score(PROMPTS, COMPLETIONS, finish_reasons=reasons, per_token=True)
    lengths = [len(row) for row in reward.score(PROMPTS, COMPLETIONS, per_token=True)]
    assert [len(row) for row in tokens] == [lengths[0] + 1, lengths[1], lengths[2] + 1]
    means = reward.score(PROMPTS, COMPLETIONS, finish_reasons=reasons, normalize="tokens")
    assert means == pytest.approx([value / len(row) for value, row in zip(expected, tokens, strict=True)], abs=5e-4)
    # An empty completion that ended is scored by its end alone.
    assert reward.score(["the cat"], [""], finish_reasons=["stop"]) == pytest.approx(
        sums(policy, reference, ["the cat"], [TOKENIZER.eos_token]), abs=5e-4
    )


def test_a_number_is_taken_off_for_every_character():
    policy, reference = pair_of("llama")
    reward = ImplicitReward(policy, reference, TOKENIZER, beta=0.5)
    plain = reward.score(PROMPTS, COMPLETIONS)
    expected = [value - 0.03 * len(text) for value, text in zip(plain, COMPLETIONS, strict=True)]
    assert reward.score(PROMPTS, COMPLETIONS, normalize=0.03) == pytest.approx(expected, abs=1e-5)
    ids = [
        TOKENIZER.encode(prompt + text)[len(TOKENIZER.encode(prompt)) :]
        for prompt, text in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    assert reward.score(PROMPTS, ids, normalize=0.03) == pytest.approx(expected, abs=1e-5)
    assert reward.score(PROMPTS, COMPLETIONS, normalize=0) == plain


GEMMA = (
    "{% for m in messages %}<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
OPENS_ONLY = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}["
    "{{ m['content'] }}]{% endfor %}"
)


@pytest.mark.parametrize(
    "template, end",
    [(GEMMA, "<|im_end|>"), (PHI, "<|im_end|>"), (LLAMA_2, "<|endoftext|>"), (OPENS_ONLY, "<|endoftext|>")],
)
def test_the_end_of_a_turn_is_the_one_that_the_chat_template_writes(template, end):
    """Where it is not the tokenizer's end-of-sequence token, as with Gemma and Phi-3."""
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token, tokenizer.chat_template = "<|endoftext|>", template
    policy, reference = pair_of("llama")
    policy.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    reward = ImplicitReward(policy, reference, tokenizer)
    messages = [{"role": "user", "content": "tell me"}]
    prompts = ["tell me", messages, tokenizer.encode("tell me")]
    assert [tokenizer.decode(reward.end_token_id(prompt)) for prompt in prompts] == [
        "<|endoftext|>",
        end,
        "<|endoftext|>",
    ]
    typed = [tokenizer.encode(" about"), tokenizer.encode(" about" + end)]
    scored = reward.score([messages] * 2, typed, finish_reasons=["stop", "length"])
    assert scored[0] == pytest.approx(scored[1], abs=1e-5)
    # and it can be said
    assert ImplicitReward(policy, reference, tokenizer, eos_token_id=7).end_token_id(messages) == 7


def test_a_model_cannot_be_its_own_reference():
    # PEFT puts its layers into the model that it is given, so that model is no longer the one before alignment.
    base = tiny_model("llama", vocab_size=len(TOKENIZER))
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config)
    for members in [(adapted, base), (base, adapted), (base, base), (adapted, adapted)]:
        with pytest.raises(ValueError, match="are one model, whose reward is 0"):
            ImplicitReward(*members, TOKENIZER)
    fresh = tiny_model("llama", vocab_size=len(TOKENIZER))
    expected, apart = (
        ImplicitReward(adapted, other, TOKENIZER).score(["the cat"], [" ran"]) for other in (None, fresh)
    )
    assert abs(expected[0]) > 1e-2
    assert apart == pytest.approx(expected, abs=1e-4)
    with pytest.raises(TypeError, match=r"got PeftModel.*merge an adapter first"):
        ImplicitReward(adapted, fresh, TOKENIZER).incremental(["the cat"])


def test_names_beside_a_reference_are_refused():
    policy, reference = pair_of("llama")
    for role, members in {"policy": ("org/dpo", reference), "reference": (policy, "org/instruct")}.items():
        with pytest.raises(TypeError, match=f"`{role}` must be a loaded model, got 'org/.*Load it"):
            ImplicitReward(*members, TOKENIZER)


def test_a_saved_pair_is_a_reward(tmp_path):
    members = pair_of("llama")
    expected = ImplicitReward(*members, TOKENIZER).score(PROMPTS, COMPLETIONS)
    ContrastivePairForCausalLM.from_pair(*members).save_pretrained(tmp_path)
    saved = ImplicitReward(tmp_path, None, TOKENIZER)
    assert saved.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-4)


def test_an_end_token_that_the_models_do_not_have():
    last, beyond = (ImplicitReward(*pair_of("llama"), TOKENIZER, eos_token_id=end) for end in (319, 320))
    assert len(last.score(["the cat"], [" ran"], finish_reasons=["stop"])) == 1
    with pytest.raises(ValueError, match="The end-of-sequence token is 320, and the models have 320"):
        beyond.score(["the cat"], [" ran"], finish_reasons=["stop"])


def test_without_an_end_token_nothing_can_end():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    reward = ImplicitReward(*pair_of("llama"), tokenizer)
    assert len(reward.score(["the cat"], [" ran"], finish_reasons=["length"])) == 1
    with pytest.raises(ValueError, match="`tokenizer` has none. Pass `eos_token_id`"):
        reward.score(["the cat"], [" ran"], finish_reasons=["stop"])


def test_the_end_of_a_row_that_fills_the_context_is_scored():
    reward = ImplicitReward(*tiny_pair("gpt2", vocab_size=len(TOKENIZER), n_positions=12), TOKENIZER)
    prompts, ids = [[5] * 4], [[6] * 8]
    assert len(reward.score(prompts, ids, finish_reasons=["stop"], per_token=True)[0]) == 9
    with pytest.raises(ValueError, match=r"Row 0 has 4 \+ 9 tokens, and the model's context is 12"):
        reward.score(prompts, [[6] * 9], finish_reasons=["stop"])


def test_members_of_different_tokenizers_are_refused(tmp_path):
    policy, reference = pair_of("llama")
    other = tiny_model("llama", vocab_size=len(TOKENIZER) + 8)
    with pytest.raises(ValueError, match="theirs have 320 and 328 tokens, and their tokenizers are not at hand"):
        ImplicitReward(policy, other, TOKENIZER)
    saved = {"policy": (policy, TOKENIZER), "padded": (other, TOKENIZER), "other": (reference, tiny_tokenizer(1))}
    for name, (model, tokenizer) in saved.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    policy, padded, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in saved)
    with pytest.raises(ValueError, match="must share one vocabulary, but .* ids differ"):
        ImplicitReward(policy, other, TOKENIZER)
    assert len(ImplicitReward(policy, padded, TOKENIZER).score(["the cat"], [" ran"])) == 1  # the control


def test_wide_vocabularies_are_scored_in_smaller_batches(monkeypatch):
    policy, reference = pair_of("llama")
    expected = completion_logps(policy, TOKENIZER, PROMPTS, COMPLETIONS)
    sizes = []
    policy.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    completion_logps(policy, TOKENIZER, PROMPTS, COMPLETIONS)
    assert len(sizes) == 1
    limit = 20 * len(TOKENIZER)
    assert sizes.pop() > limit
    monkeypatch.setattr(likelihood, "MAX_LOGITS", limit)
    for ours, theirs in zip(completion_logps(policy, TOKENIZER, PROMPTS, COMPLETIONS), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert len(sizes) == 2
    assert max(sizes) <= limit
