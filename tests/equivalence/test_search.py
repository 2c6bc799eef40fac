# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Batched, cached search finds what the slow way finds: one prompt at a time, everything from ids at every step."""

import hashlib
import math

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cache,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_cong import (
    ContrastivePairForCausalLM,
    EmulatedFineTuningForCausalLM,
    ImplicitReward,
    best_of_n,
    generate_completions,
    weak_to_strong_search,
)
from hf_cong.prompts import completion_text, encode_prompt, prompt_id
from hf_cong.sampling import row_seed
from hf_cong.search import batches
from hf_cong.search.samplers import ModelSampler
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS = ["the cat", "tell me about a kind old dog on the mat", "owl", "a rude fox ran"]  # every batch is padded
MESSAGES = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
# A random model seldom writes its end-of-sequence token; with these sixty, some rows end and some do not.
EOS = [2, *range(100, 160)]
NEW = 12
SETTINGS = {"max_new_tokens": NEW, "temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 7}
SHAPES = [(1, 1, 5), (2, 2, 3), (3, 2, 4), (1, 4, None), (2, 3, 1), (4, 1, 5)]


def make_base(family, **overrides):
    model = tiny_model(family, seed=5, vocab_size=len(TOKENIZER), **overrides)
    model.generation_config.eos_token_id = EOS
    return model


def make_reward(family, tokenizer=TOKENIZER, **kwargs):
    return ImplicitReward(*tiny_pair(family, seed=1, vocab_size=len(tokenizer)), tokenizer, **kwargs)


def stream(seed, prompt, slot, number):
    """Uniform number `number` of a slot."""
    name = prompt_id(prompt) + (f"/{slot}" if slot else "")
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(NEW, generator=generator)[number].double()


@torch.no_grad()
def sample(model, ids, uniform, *, temperature=0.9, top_k=40, top_p=0.95, do_sample=True):
    """The token after `ids`, by the definitions of temperature, top-k, top-p and inversion."""
    scores = model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()
    if not do_sample:
        return scores.argmax().item()
    scores = scores / temperature
    scores[scores < scores.topk(top_k).values[-1]] = -math.inf
    ranked, order = scores.sort()
    cut = ranked.softmax(-1).cumsum(-1) <= 1 - top_p
    cut[-1] = False
    scores[order[cut]] = -math.inf
    cumulative = scores.softmax(-1).double().cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True).item()


def oracle(model, reward, prompt, width, successors, length, *, seed=7, text=False, **sampling):
    """`(ids, finish reason, reward)` of the survivors, best first, and of the discarded."""
    prompt_ids = encode_prompt(TOKENIZER, prompt)

    def value(ids, ended):
        if text:
            scored = completion_text(TOKENIZER, prompt_ids, ids)
            assert not scored.endswith("\N{REPLACEMENT CHARACTER}")
            return reward.score([prompt], [scored], finish_reasons=["stop" if ended else "length"])[0]
        return reward.score([prompt], [ids + [reward.tokenizer.eos_token_id] * ended])[0]

    survivors, discarded, written = [([], None, 0.0)] * width, [], 0
    while any(reason is None for _, reason, _ in survivors):
        chunk = min(length or NEW, NEW - written)
        candidates = [survivor for survivor in survivors if survivor[1]]
        live = [survivor for survivor in survivors if not survivor[1]]
        for slot, (parent, _, _) in enumerate(survivor for survivor in live for _ in range(successors)):
            ids, reason = list(parent), None
            for number in range(written, written + chunk):
                token = sample(model, prompt_ids + ids, stream(seed, prompt, slot, number), **sampling)
                if token in EOS:
                    reason = "stop"
                    break
                ids.append(token)
            if reason is None and written + chunk == NEW:
                reason = "length"
            if not any((ids, reason is None) == (other, why is None) for other, why, _ in candidates):
                candidates.append((ids, reason, value(ids, reason == "stop")))
        written += chunk
        candidates.sort(key=lambda candidate: -candidate[2])
        survivors, rest = candidates[:width], candidates[width:]
        discarded += rest
    return survivors, discarded


def found(result):
    """The same of a result, and what it says of itself agrees with it."""
    both = [[], []]
    for hypothesis in result.hypotheses:
        both[not hypothesis.survived].append((hypothesis.ids, hypothesis.finish_reason, hypothesis.implicit_reward))
    best = result.hypotheses[0]
    assert (result.completion, result.completion_ids) == (best.text, best.ids)
    assert (result.finish_reason, result.implicit_reward) == (best.finish_reason, best.implicit_reward)
    assert result.trace[-1].best_reward == result.implicit_reward
    return both


def assert_same(results, expected):
    for result, (survivors, discarded) in zip(results, expected, strict=True):
        for got, want in zip(found(result), (survivors, discarded), strict=True):
            assert [row[:2] for row in got] == [row[:2] for row in want]
            assert [row[2] for row in got] == pytest.approx([row[2] for row in want], abs=1e-4)


def search(model, reward, shape, prompts=PROMPTS, **kwargs):
    width, successors, length = shape
    return weak_to_strong_search(
        model,
        TOKENIZER,
        prompts,
        reward,
        beam_width=width,
        successors_per_beam=successors,
        chunk_length=length,
        **{**SETTINGS, **kwargs},
    )


CASES = [("llama", "llama", shape) for shape in SHAPES]
CASES += [(base, pair, (2, 2, 3)) for base, pair in [("qwen2", "gpt2"), ("gpt2", "qwen3"), ("mixtral", "llama")]]
# Windows of 8 tokens: prompt and completion outgrow them.
CASES += [(base, pair, (3, 2, 4)) for base, pair in [("gemma2", "llama"), ("gemma3", "qwen2"), ("llama", "gemma3")]]


@pytest.mark.parametrize(("base", "pair", "shape"), CASES, ids=str)
def test_search_is_the_slow_search(base, pair, shape):
    model, reward = make_base(base), make_reward(pair)
    expected = [oracle(model, reward, prompt, *shape) for prompt in PROMPTS]
    assert_same(search(model, reward, shape), expected)


def test_a_base_with_layers_that_keep_a_state_is_searched_like_any():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    layers = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
    config = Lfm2Config(vocab_size=len(TOKENIZER), **shape, **layers, initializer_range=0.3)
    torch.manual_seed(0)
    model, reward = Lfm2ForCausalLM(config).eval(), make_reward("llama")
    model.generation_config.eos_token_id = EOS
    assert_same(search(model, reward, (2, 2, 3)), [oracle(model, reward, prompt, 2, 2, 3) for prompt in PROMPTS])


def test_the_cases_have_ends_cuts_and_discards():
    results = [result for shape in SHAPES for result in search(make_base("llama"), make_reward("llama"), shape)]
    every = [hypothesis for result in results for hypothesis in result.hypotheses]
    assert {hypothesis.finish_reason for hypothesis in every} == {"stop", "length", None}
    assert {result.finish_reason for result in results} == {"stop", "length"}


@pytest.mark.parametrize("prompts", [PROMPTS, MESSAGES], ids=["text", "messages"])
def test_results_do_not_depend_on_the_batch(prompts):
    model, reward, shape = make_base("gemma2"), make_reward("llama"), (2, 2, 3)
    expected = [oracle(model, reward, prompt, *shape) for prompt in prompts]
    for size in (1, 3):
        assert_same(search(model, reward, shape, prompts, batch_size=size), expected)
    assert_same(search(model, reward, shape, prompts[::-1])[::-1], expected)


def test_one_row_is_what_generate_completions_writes(tmp_path):
    model, reward = make_base("llama"), make_reward("llama")
    written = generate_completions(MESSAGES, model, tokenizer=TOKENIZER, output_dir=tmp_path, **SETTINGS)
    for result, row in zip(search(model, reward, (1, 1, 5), MESSAGES), written, strict=True):
        assert (result.prompt_id, result.seed) == (row["prompt_id"], row["seed"])
        assert (result.completion, result.completion_ids) == (row["completion"], row["completion_ids"])
        assert result.finish_reason == row["finish_reason"]
        assert (result.kl, result.kl_method) == (0, "best-of-n bound")
    other = search(model, reward, (1, 1, 5), MESSAGES, seed=8)
    assert [result.completion_ids for result in other] != [row["completion_ids"] for row in written]


def test_greedy_is_what_generate_completions_writes(tmp_path):
    model, reward = make_base("gpt2"), make_reward("llama")
    settings = {**SETTINGS, "do_sample": False}
    written = generate_completions(PROMPTS, model, tokenizer=TOKENIZER, output_dir=tmp_path, **settings)
    results = search(model, reward, (1, 1, 4), do_sample=False)
    assert [result.completion_ids for result in results] == written["completion_ids"][:]


def test_best_of_n_is_the_best_of_n_samples():
    model, reward = make_base("llama"), make_reward("llama")
    for prompt, result in zip(PROMPTS, best_of_n(model, TOKENIZER, PROMPTS, reward, n=4, **SETTINGS), strict=True):
        survivors, discarded = oracle(model, reward, prompt, 1, 4, None)
        assert len(survivors + discarded) == 4
        best = max(survivors + discarded, key=lambda row: row[2])
        assert (result.completion_ids, result.finish_reason) == best[:2]
        assert len(result.trace) == 1
        assert result.kl == pytest.approx(math.log(4) - 3 / 4)


def make_pair_base():
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("llama", seed=5, vocab_size=len(TOKENIZER)))
    pair.generation_config.eos_token_id = EOS
    return pair


class Masked(torch.nn.Module):
    """A pair as the oracle has to call it: with the plausible set on, as `generate` has it."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def forward(self, ids, **kwargs):
        return self.pair(ids, plausible_only=True, **kwargs)


def make_lora_base():
    adapted, *_ = tiny_lora("llama", seed=5, vocab_size=len(TOKENIZER))
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    pair.generation_config.eos_token_id = EOS
    return pair


def make_steered_base():
    weak = tiny_pair("llama", seed=8, vocab_size=len(TOKENIZER))
    steered = EmulatedFineTuningForCausalLM.from_pair(make_base("llama", num_hidden_layers=3), *weak)
    steered.generation_config.eos_token_id = EOS
    return steered


def make_lora_steered_base():
    adapted, *_ = tiny_lora("llama", seed=8, vocab_size=len(TOKENIZER))
    steered = EmulatedFineTuningForCausalLM.from_pair(make_base("llama"), adapted, beta=0.5)
    steered.generation_config.eos_token_id = EOS
    return steered


@pytest.mark.parametrize("make", [make_pair_base, make_lora_base, make_steered_base, make_lora_steered_base])
def test_several_models_in_one_are_steered_like_any_model(make):
    pair, reward, shape = make(), make_reward("qwen2"), (2, 2, 4)
    expected = [oracle(Masked(pair), reward, prompt, *shape) for prompt in PROMPTS]
    assert_same(search(pair, reward, shape), expected)


def test_an_adapted_model_is_steered_like_any_model():
    model = make_base("llama")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], init_lora_weights=False)
    adapted, reward = peft.get_peft_model(model, config).eval(), make_reward("llama")
    expected = [oracle(adapted, reward, prompt, 2, 2, 4) for prompt in PROMPTS]
    assert_same(search(adapted, reward, (2, 2, 4)), expected)
    with adapted.disable_adapter(), pytest.raises(AssertionError):
        assert_same(search(adapted, reward, (2, 2, 4)), expected)


def test_a_pair_as_the_reward_is_its_members_as_the_reward():
    model, members = make_base("llama"), tiny_pair("llama", seed=1, vocab_size=len(TOKENIZER))
    reward = ImplicitReward(ContrastivePairForCausalLM.from_pair(*members), None, TOKENIZER)
    shape = (2, 2, 3)
    expected = [oracle(model, ImplicitReward(*members, TOKENIZER), prompt, *shape) for prompt in PROMPTS]
    assert_same(search(model, reward, shape), expected)


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 4, None)], ids=str)
def test_across_vocabularies_the_text_is_scored(shape):
    model, other = make_base("llama"), tiny_tokenizer(seed=2)
    other.chat_template = "{% for message in messages %}Q: {{ message['content'] }}\n{% endfor %}A:"
    reward = make_reward("gpt2", other)
    results = search(model, reward, shape, MESSAGES)
    for message, result in zip(MESSAGES, results, strict=True):
        assert result.completion == TOKENIZER.decode(result.completion_ids, skip_special_tokens=True)
        for hypothesis in result.hypotheses:
            text, reason = hypothesis.text, hypothesis.finish_reason or "length"
            if reason == "length":  # the first bytes of a character are not scored
                text = text.rstrip("\N{REPLACEMENT CHARACTER}")
            (expected,) = reward.score([message], [text], finish_reasons=[reason])
            assert hypothesis.implicit_reward == pytest.approx(expected, abs=1e-4)


# Each breaks one thing on purpose, and the comparison with the oracle notices.


@pytest.fixture(scope="module")
def expected():
    model, reward = make_base("llama"), make_reward("llama")
    return [oracle(model, reward, prompt, 2, 2, 3) for prompt in PROMPTS]


def assert_wrong(expected):
    with pytest.raises(AssertionError):
        assert_same(search(make_base("llama"), make_reward("llama"), (2, 2, 3)), expected)


def test_a_cache_that_does_not_follow_the_rows_is_noticed(monkeypatch, expected):
    reorder = Cache.reorder_cache
    monkeypatch.setattr(Cache, "reorder_cache", lambda self, rows: reorder(self, rows.flip(0)))
    assert_wrong(expected)


def test_padding_that_is_read_is_noticed(monkeypatch, expected):
    start = ModelSampler.start

    def unmasked(self, *args):
        start(self, *args)
        self._mask.fill_(1)

    monkeypatch.setattr(ModelSampler, "start", unmasked)
    assert_wrong(expected)


def test_slots_that_share_their_numbers_are_noticed(monkeypatch, expected):
    monkeypatch.setattr(batches, "_slot_seed", lambda seed, name, slot: row_seed(seed, name))
    assert_wrong(expected)


def test_rewards_of_the_wrong_parents_are_noticed(monkeypatch, expected):
    incremental = ImplicitReward.incremental

    def shifted(self, prompts):
        scorer = incremental(self, prompts)
        score = scorer.score
        scorer.score = lambda parents, completions, finished: score(parents, completions[::-1], finished)
        return scorer

    monkeypatch.setattr(ImplicitReward, "incremental", shifted)
    assert_wrong(expected)


def test_credit_for_a_cut_completion_is_noticed(monkeypatch, expected):
    incremental = ImplicitReward.incremental

    def generous(self, prompts):
        scorer = incremental(self, prompts)
        score = scorer.score
        scorer.score = lambda parents, completions, finished: score(
            parents, completions, [done or len(ids) == NEW for done, ids in zip(finished, completions, strict=True)]
        )
        return scorer

    monkeypatch.setattr(ImplicitReward, "incremental", generous)
    assert_wrong(expected)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_bfloat16_bases_and_pairs_run(family):
    model = make_base(family).to(torch.bfloat16)
    reward = ImplicitReward(*(m.to(torch.bfloat16) for m in tiny_pair("llama", vocab_size=len(TOKENIZER))), TOKENIZER)
    for result in search(model, reward, (2, 2, 3)):
        (again,) = reward.score([result.prompt], [result.completion_ids], finish_reasons=[result.finish_reason])
        assert result.implicit_reward == pytest.approx(again, abs=0.5)


def test_other_models_are_refused():
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    reward = make_reward("llama")
    with pytest.raises(ValueError, match="cannot go on from a cache"):
        search(mamba, reward, (1, 2, 3))
    t5 = T5ForConditionalGeneration(
        T5Config(vocab_size=len(TOKENIZER), d_model=16, num_layers=1, d_ff=16, num_heads=2)
    )
    with pytest.raises(ValueError, match="encoder-decoder"):
        search(t5, reward, (1, 2, 3))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="PROMPT_TUNING adapter, whose virtual tokens"):
        search(peft.get_peft_model(make_base("llama"), config), reward, (1, 2, 3))
