# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The implicit reward of growing, branching completions against scoring every whole text again, one row at a time."""

import os
import random
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer

from hf_cong import ContrastivePairForCausalLM, ImplicitReward
from hf_cong.prompts import encode_prompt
from hf_cong.rewards import incremental_reward, likelihood
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
SHAPE = {"vocab_size": len(TOKENIZER), "initializer_range": 0.2}
PROMPTS = ["the cat", "tell me about the old dog and the fox that ran on a mat", "a"]
IDS = range(3, len(TOKENIZER))

# Longer than the windows of the tiny sliding families (8 tokens), and every kind of unfinished character at its cuts.
TEXTS = {
    "emoji": " so 🙂🙃 👩‍👩‍👧‍👦 and 🏳️‍🌈, café 🇫🇷!",
    "cjk": "，你好世界。今日は良い天気ですね。안녕하세요 세계",
    "code": "\n    def f(x_1, y=None):\n\t\treturn {'a': x_1 ** 2}  # ok\n\n",
    "words": " unbelievable counterrevolutionaries sat on the mat, rudely.",
}


def members(kind, family):
    """The reward of two models, of a pair or of a LoRA pair, and the two models themselves."""
    if kind == "lora":
        adapted, policy, reference = tiny_lora(family, **SHAPE)
        return ImplicitReward(adapted, None, TOKENIZER), policy, reference
    policy, reference = tiny_pair(family, **SHAPE)
    if kind == "pair":
        return (
            ImplicitReward(ContrastivePairForCausalLM.from_pair(policy, reference), None, TOKENIZER),
            policy,
            reference,
        )
    return ImplicitReward(policy, reference, TOKENIZER), policy, reference


@torch.no_grad()
def one_row(policy, reference, prompt_ids, ids):
    """The reward the slow way: one row, no padding, no cache, every logit."""
    if not ids:
        return 0.0
    whole, targets = torch.tensor([prompt_ids + ids]), torch.tensor(ids)
    logps = [
        model(whole, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].double().log_softmax(-1)
        for model in (policy, reference)
    ]
    return (logps[0] - logps[1]).gather(-1, targets[:, None]).sum().item()


def grow(generator, rows, most=6):
    """A next generation: random parents, some rows cut back and written anew, some finished, all of unequal length."""
    parents, completions, finished = [], [], []
    for _ in range(generator.randint(3, 7)):
        parent = generator.randrange(len(rows))
        ids = list(rows[parent])
        if generator.random() < 0.3:
            ids = ids[: generator.randint(0, len(ids))]
        ids += [generator.choice(IDS) for _ in range(generator.randint(0, most))]
        parents.append(parent)
        completions.append(ids)
        finished.append(generator.random() < 0.25)
    return parents, completions, finished


def play(reward, policy, reference, rounds=7, seed=0, prompts=PROMPTS):
    """Scores some generations both ways; returns the largest difference and the spread of the rewards."""
    generator = random.Random(seed)  # noqa: S311
    scorer = reward.incremental(prompts)
    lineage, rows = list(range(len(prompts))), [[] for _ in prompts]
    worst, values = 0.0, []
    for _ in range(rounds):
        parents, rows, finished = grow(generator, rows)
        lineage = [lineage[parent] for parent in parents]
        scored = scorer.score(parents, rows, finished)
        for value, prompt, ids, ended in zip(scored, lineage, rows, finished, strict=True):
            prompt_ids = encode_prompt(TOKENIZER, prompts[prompt])
            expected = one_row(policy, reference, prompt_ids, ids + [EOS] * ended)
            worst, values = max(worst, abs(value - expected)), [*values, value]
    return worst, max(values) - min(values)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "mistral", "gemma2", "gemma3", "mixtral"])
@pytest.mark.parametrize("kind", ["models", "pair", "lora"])
def test_ids_with_random_parents_over_many_rounds(family, kind):
    if (family, kind) == ("gpt2", "lora"):
        pytest.skip("one forward covers no Conv1D")
    worst, spread = play(*members(kind, family))
    assert worst < 1e-4
    assert spread > 1


_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_SHAPE |= {"vocab_size": len(TOKENIZER), "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
UNUSUAL = {
    # Distances for positions, counted from the attention mask: no `position_ids`.
    "alibi": lambda: transformers.BloomConfig(**_SHAPE, initializer_range=0.2),
    # Attention within chunks of 8 tokens, which begin where the row begins.
    "chunks": lambda: transformers.Llama4TextConfig(
        **{**_SHAPE, "num_hidden_layers": 4},
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        attention_chunk_size=8,
        initializer_range=0.2,
    ),
    # Keys and values of different widths.
    "latent": lambda: transformers.DeepseekV3Config(
        **_SHAPE,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=6,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        initializer_range=0.2,
    ),
}


@pytest.mark.parametrize("kind", list(UNUSUAL))
def test_unusual_positions_and_caches(kind):
    both = []
    for seed in range(2):
        torch.manual_seed(seed)
        both.append(transformers.AutoModelForCausalLM.from_config(UNUSUAL[kind]()).float().eval())
    worst, spread = play(ImplicitReward(*both, TOKENIZER), *both)
    assert worst < 1e-4
    assert spread > 1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_prompt_of_one_token_and_rows_that_feed_nothing(attention):
    reward, policy, reference = members("models", "gemma3")
    for model in (policy, reference):
        model.set_attn_implementation(attention)
    scorer = reward.incremental([[7], [8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]])
    assert scorer.score([0, 1, 1], [[], [], []], [False] * 3) == [0.0] * 3
    rows = [[], [20, 21], [22] * 14]
    scored = scorer.score([0, 0, 1], rows, [True, False, False])
    expected = [
        one_row(policy, reference, prompt, ids)
        for prompt, ids in (([7], [EOS]), ([7], rows[1]), (list(range(8, 20)), rows[2]))
    ]
    assert scored == pytest.approx(expected, abs=1e-4)
    assert scorer.score([2, 1, 0], [rows[2], rows[1], []], [False, False, True]) == pytest.approx(
        expected[::-1], abs=1e-4
    )


# What the equality would miss if it could not fail


def test_control_parents_in_the_wrong_order(monkeypatch):
    select = incremental_reward._select
    monkeypatch.setattr(
        incremental_reward,
        "_select",
        lambda cache, rows, columns, room: select(cache, rows.flip(0), columns, room=room),
    )
    worst, _ = play(*members("models", "llama"))
    assert worst > 0.1


def test_control_columns_of_padding_are_not_masked(monkeypatch):
    reward, policy, reference = members("models", "llama")
    logits = likelihood.Scorer.logits

    def unmasked(self, cache=None, **inputs):
        return logits(self, cache, **{**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])})

    monkeypatch.setattr(likelihood.Scorer, "logits", unmasked)
    worst, _ = play(reward, policy, reference)
    assert worst > 0.1


def test_control_rows_that_are_not_aligned(monkeypatch):
    """Tokens that do not lie side by side: the sliding window is wrong, however right masks and positions are."""
    logits = likelihood.Scorer.logits
    gap = 5

    def change(cache, states_of):
        for number, layer in enumerate(cache.layers):
            cache.layers[number] = DynamicLayer()
            cache.layers[number].update(states_of(layer.keys), states_of(layer.values))

    def with_a_gap(self, cache, **inputs):
        # Columns of zeros between what was kept and what is new, masked like any padding.
        width = cache.get_seq_length()
        if width:
            change(cache, lambda states: torch.nn.functional.pad(states, (0, 0, 0, gap)))
            mask = inputs["attention_mask"]
            zeros = mask.new_zeros(len(mask), gap)
            inputs["attention_mask"] = torch.cat([mask[:, :width], zeros, mask[:, width:]], 1)
        result = logits(self, cache, **inputs)
        if width:
            change(cache, lambda states: torch.cat([states[:, :, :width], states[:, :, width + gap :]], 2))
        return result

    monkeypatch.setattr(likelihood.Scorer, "logits", with_a_gap)
    worst, _ = play(*members("models", "llama"))
    assert worst < 1e-4  # full attention does not mind
    worst, _ = play(*members("models", "mistral"))
    assert worst > 0.1


def test_control_a_completion_that_was_cut_gets_no_credit_for_its_end():
    _, policy, reference = members("models", "qwen2")
    reward = ImplicitReward(policy, reference, TOKENIZER, beta=0.5)
    ids, prompt_ids = [20, 30, 40], encode_prompt(TOKENIZER, PROMPTS[0])
    cut, ended = reward.incremental(PROMPTS).score([0, 0], [ids, ids], [False, True])
    assert cut == pytest.approx(0.5 * one_row(policy, reference, prompt_ids, ids), abs=1e-4)
    assert ended == pytest.approx(0.5 * one_row(policy, reference, prompt_ids, [*ids, EOS]), abs=1e-4)
    assert abs(cut - ended) > 0.01


# Text


def byte_level(corpus, vocab_size=600):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def sentencepiece_like(corpus):
    """BPE over characters with `▁` for spaces and bytes for what it never saw, as Llama's and Gemma's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.train_from_iterator(
        [text.replace(" ", "▁") for text in corpus],
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def gpt2():
    folder = Path(os.environ["HF_CONG_REAL_DATA"]) / "tokenizers" / "gpt2"
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


CORPUS = [*TEXTS.values(), *PROMPTS] * 4
SCORERS = {
    "byte_level": lambda: byte_level(CORPUS),
    "untrained": tiny_tokenizer,
    "sentencepiece": lambda: sentencepiece_like([TEXTS["code"], TEXTS["words"], *PROMPTS] * 4),
    "gpt2": gpt2,
}
REAL = pytest.mark.skipif("HF_CONG_REAL_DATA" not in os.environ, reason="HF_CONG_REAL_DATA is not set")
CASES = [(scorer, family) for scorer in list(SCORERS)[:3] for family in ("llama", "gpt2", "gemma3")]


def cuts(text, generator):
    """The text as a model of another vocabulary shows it after each chunk: cut anywhere, within characters too."""
    data, end = text.encode(), 0
    while end < len(data):
        end = min(len(data), end + generator.randint(1, 9))
        yield data[:end].decode(errors="replace")


@pytest.mark.parametrize("scorer, family", [*CASES, pytest.param("gpt2", "llama", marks=REAL)])
def test_text_of_another_vocabulary(scorer, family):
    tokenizer = SCORERS[scorer]()
    policy, reference = tiny_pair(family, vocab_size=len(tokenizer), initializer_range=0.2)
    reward = ImplicitReward(policy, reference, tokenizer)
    generator = random.Random(0)  # noqa: S311
    prompts = ["the cat", "Here is a text", [{"role": "user", "content": "go on"}]]
    tokenizer.chat_template = tiny_tokenizer().chat_template
    streams = [(number, cuts(text, generator)) for number, text in enumerate(TEXTS.values())]
    live = {number: (number % len(prompts), stream) for number, stream in streams}
    scoring, order, halves, anew = reward.incremental(prompts), None, 0, 0
    texts = {number: "" for number in live}
    while live:
        alive, next_order = [], list(live)
        generator.shuffle(next_order)
        parents, ended = [], []
        for number in next_order:
            prompt, stream = live[number]
            parents.append(prompt if order is None else order.index(number))
            before, texts[number] = texts[number], next(stream)
            ended.append(texts[number] == list(TEXTS.values())[number])
            halves += texts[number].endswith("\ufffd")
            ids = [encode(tokenizer, prompts[prompt], text.rstrip("\ufffd")) for text in (before, texts[number])]
            anew += ids[1][: len(ids[0])] != ids[0]
        scored = scoring.score(parents, [texts[number] for number in next_order], ended)
        for number, value, end in zip(next_order, scored, ended, strict=True):
            prompt = prompts[live[number][0]]
            text = texts[number].rstrip("\ufffd")
            ids = encode(tokenizer, prompt, text) + [tokenizer.eos_token_id] * end
            assert value == pytest.approx(one_row(policy, reference, encode_prompt(tokenizer, prompt), ids), abs=2e-4)
            whole = reward.score([prompt], [text], finish_reasons=["stop" if end else "length"])
            assert value == pytest.approx(whole[0], abs=1e-4)
            if not end:
                alive.append(number)
        order = next_order
        live = {number: live[number] for number in alive}
    assert halves > 5  # characters were cut
    assert anew > 5 or scorer == "untrained"  # and words


def encode(tokenizer, prompt, text):
    before = encode_prompt(tokenizer, prompt)
    return likelihood.encode_completions(tokenizer, [prompt], [before], [text])[0]


def test_half_a_character_is_not_scored_until_it_is_whole():
    tokenizer = byte_level(CORPUS)
    policy, reference = tiny_pair("llama", vocab_size=len(tokenizer), initializer_range=0.2)
    reward = ImplicitReward(policy, reference, tokenizer)
    scoring = reward.incremental(["the cat"])
    (before,) = scoring.score([0], [" ok"], [False])
    for end in range(1, 4):
        half = " ok" + "🦊".encode()[:end].decode(errors="replace")
        assert half.endswith("\ufffd")
        assert scoring.score([0], [half], [False]) == [before]
    (whole,) = scoring.score([0], [" ok🦊"], [False])
    assert whole == pytest.approx(reward.score(["the cat"], [" ok🦊"])[0], abs=1e-4)
    # What is finished will not be completed: there it is scored as it stands.
    (finished,) = scoring.score([0], [" ok\ufffd"], [True])
    assert finished == pytest.approx(reward.score(["the cat"], [" ok\ufffd"], finish_reasons=["stop"])[0], abs=1e-4)
    assert abs(reward.score(["the cat"], [" ok\ufffd"])[0] - before) > 0.01  # the control: it would have counted


def test_text_after_ids():
    """As a search hands over what `generate` was given: the prompt's ids, and text of another vocabulary."""
    reward, policy, reference = members("pair", "qwen2")
    prompt_ids, texts = encode_prompt(TOKENIZER, [{"role": "user", "content": "go"}]), [" the ca", " the cat sat"]
    scoring = reward.incremental([prompt_ids])
    for text in texts:
        (value,) = scoring.score([0], [text], [False])
        expected = one_row(policy, reference, prompt_ids, TOKENIZER.encode(text))
        assert value == pytest.approx(expected, abs=1e-4)


# Cost


class Counter:
    """Tokens and forwards that reach the embeddings of a model, and the most numbers that leave its head at once."""

    def __init__(self, model):
        self.tokens = self.forwards = self.logits = 0
        model.get_input_embeddings().register_forward_hook(self._embedded)
        model.get_output_embeddings().register_forward_hook(self._headed)

    def _embedded(self, module, inputs, output):
        self.tokens += inputs[0].numel()
        self.forwards += 1

    def _headed(self, module, inputs, output):
        self.logits = max(self.logits, output.numel())


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@pytest.mark.parametrize("text", [False, True], ids=["ids", "text"])
def test_tokens_fed_grow_linearly_with_length(family, text):
    """Counted, not timed: at every length a token is fed once, or a little more often where words are cut."""
    policy, reference = tiny_pair(family, **SHAPE)
    counters = [Counter(policy), Counter(reference)]
    reward = ImplicitReward(policy, reference, TOKENIZER)
    generator = random.Random(0)  # noqa: S311
    written = [generator.choice(IDS) for _ in range(128)]
    if text:
        written = "".join(TEXTS.values())[:128]
    for length in (32, 64, 128):
        for counter in counters:
            counter.tokens = 0
        scoring, parents, encoded_again = reward.incremental(["the cat", "a"]), [0, 0, 1, 1], 0
        for end in range(4, length + 1, 4):
            scoring.score(parents, [written[:end]] * 4, [False] * 4)
            parents = generator.sample(range(4), 4)
            tokens = len(TOKENIZER.encode(written[:end]) if text else written[:end])
            encoded_again += 4 * tokens
        assert counters[0].tokens == counters[1].tokens
        # Fed are two prompts once and four rows; the last token of a row would be fed with the next chunk.
        assert 4 * (tokens - 1) <= counters[0].tokens <= 4 * tokens * (1.2 if text else 1) + 8
        assert encoded_again > length / 16 * counters[0].tokens  # the control: without a cache it is quadratic


def test_a_lora_pair_scores_in_one_forward():
    adapted, policy, reference = tiny_lora("llama", **SHAPE)
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    counter = Counter(pair)
    reward = ImplicitReward(pair, None, TOKENIZER)
    scoring = reward.incremental(PROMPTS)
    assert counter.forwards == 1
    scoring.score([0, 1, 2], [[20, 21]] * 3, [False] * 3)
    assert counter.forwards == 2
    reward.score(PROMPTS, [[20, 21]] * 3)
    assert counter.forwards == 3


@pytest.mark.parametrize("kind", ["models", "lora"])
def test_logits_come_in_slices(monkeypatch, kind):
    """Rows at a time, or tokens at a time where one row is too much: the same rewards in less memory."""
    prompts, rows = ["the cat", "a", "tell me"], [[20] * 12, [30] * 9, [40] * 3, [50] * 12]
    again = [[*row, 60, 61, 62] for row in rows]
    results, most = [], []
    for limit in (likelihood.MAX_LOGITS, 30 * len(TOKENIZER), 5 * len(TOKENIZER)):
        monkeypatch.setattr(likelihood, "MAX_LOGITS", limit)
        reward, policy, reference = members(kind, "llama")
        counter = Counter(reward.scorers[0].model)
        scoring = reward.incremental(prompts)
        first = scoring.score([0, 1, 1, 2], rows, [False, True, False, False])
        results.append(first + scoring.score([3, 0, 2], [again[3], again[0], again[2]], [False, False, True]))
        most.append(counter.logits)
    assert results[1] == pytest.approx(results[0], abs=1e-4)
    assert results[2] == pytest.approx(results[0], abs=1e-4)
    assert most[1] <= 30 * len(TOKENIZER)
    assert most[2] <= 5 * len(TOKENIZER)
    assert most[0] > 30 * len(TOKENIZER)  # the control: without a limit there were more


# Refusals


def test_refusals():
    mamba = transformers.MambaConfig(vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1)
    mamba = transformers.AutoModelForCausalLM.from_config(mamba)
    policy = tiny_model("llama", **SHAPE)
    with pytest.raises(ValueError, match="`reference` is a 'mamba' model with a recurrent state"):
        ImplicitReward(policy, mamba, TOKENIZER).incremental(["a"])
    reference = tiny_model("llama", 1, max_position_embeddings=20, **SHAPE)
    reward = ImplicitReward(policy, reference, TOKENIZER)
    with pytest.raises(ValueError, match="Row 1 has .* context is 20"):
        reward.incremental(["a", [5] * 21])
    scoring = reward.incremental(["a", [5] * 18])
    with pytest.raises(ValueError, match=r"`parents\[1\]` is 2, and the last call had 2 rows"):
        scoring.score([0, 2], [[5], [5]], [False, False])
    with pytest.raises(ValueError, match=r"`parents\[0\]` is -1"):
        scoring.score([-1], [[5]], [False])
    with pytest.raises(ValueError, match=r"Row 1 has 18 \+ 3 tokens, and the model's context is 20"):
        scoring.score([0, 1], [[5], [5] * 3], [False, False])
    with pytest.raises(ValueError, match="Got 2 `parents`, 1 `completions`, 1 `finished`"):
        scoring.score([0, 1], [[5]], [False])
    with pytest.raises(ValueError, match="Row 0 holds token 999"):
        scoring.score([0], [[999]], [False])
    # None of them changed anything; and the end of a row that fills the context is still scored.
    full = scoring.score([1, 0], [[5, 6], [7]], [True, False])
    assert full[0] == pytest.approx(one_row(policy, reference, [5] * 18, [5, 6, EOS]), abs=1e-4)


def test_a_reward_that_is_not_a_number_is_refused_by_its_row():
    policy, reference = tiny_pair("llama", **SHAPE)
    with torch.no_grad():
        policy.get_input_embeddings().weight[50] = torch.nan
    reward = ImplicitReward(policy, reference, TOKENIZER)
    scoring = reward.incremental(PROMPTS)
    assert len(scoring.score([0, 1], [[20], [21]], [False, False])) == 2
    with pytest.raises(ValueError, match="Row 1 has the reward nan"):
        scoring.score([0, 1], [[20, 22, 23], [21, 50, 23]], [False, False])
    with pytest.raises(ValueError, match="Row 2 has the reward nan"):
        reward.score(PROMPTS, [[20], [20], [50, 20]])
