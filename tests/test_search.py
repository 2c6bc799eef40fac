# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The beam without models, search on models whose best completion is known by hand, and what is refused."""

import copy
import dataclasses
import itertools
import json
import math

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    SynthIDTextWatermarkingConfig,
    set_seed,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from hf_cong import (
    EmulatedFineTuningLogitsProcessor,
    ImplicitReward,
    best_of_n,
    chunk_beam_search,
    weak_to_strong_search,
)
from hf_cong.prompts import prompt_id
from hf_cong.sampling import row_seed
from hf_cong.search.beam import Beam, kl_bound
from hf_cong.search.samplers import Continuation
from tests.equivalence.test_search import EOS, MESSAGES, PROMPTS, SETTINGS, TOKENIZER, make_base, make_reward
from tests.test_engines import full_above, on_cuda
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

A, B, C = (TOKENIZER.convert_tokens_to_ids(letter) for letter in "abc")
END = TOKENIZER.eos_token_id


# The beam alone


def live(*ids):
    return Continuation(list(ids), "".join(map(chr, ids)), False)


def ended(*ids, by=END):
    return Continuation(list(ids), "".join(map(chr, ids)), True, by)


def contents(hypotheses):
    return [(hypothesis.ids, hypothesis.finish_reason, hypothesis.implicit_reward) for hypothesis in hypotheses]


def test_the_best_survive_and_every_other_is_listed():
    beam = Beam(2)
    rows = [live(1), ended(2), live(3), live(4)]
    assert beam.advance(rows, [1.0, 3.0, 2.0, 0.0], tokens=1, last=False) == [2]
    assert contents(beam.survivors) == [([2], "stop", 3.0), ([3], None, 2.0)]
    assert contents(beam.discarded) == [([1], None, 1.0), ([4], None, 0.0)]
    # The finished one holds its place without a row; the other gives way to its successors.
    assert beam.advance([live(3, 5), live(3, 6)], [2.5, 4.0], tokens=2, last=True) == []
    assert contents(beam.survivors) == [([3, 6], "length", 4.0), ([2], "stop", 3.0)]
    assert contents(beam.discarded[2:]) == [([3, 5], "length", 2.5)]
    assert [dataclasses.astuple(step) for step in beam.trace] == [(1, 3.0, 2.5), (2, 4.0, 3.5)]
    assert [hypothesis.chunk for hypothesis in beam.survivors] == [2, 1]


def test_a_finished_survivor_can_be_overtaken():
    beam = Beam(1)
    assert beam.advance([ended(1), live(2)], [1.0, 2.0], tokens=1, last=False) == [1]
    assert contents(beam.discarded) == [([1], "stop", 1.0)]
    beam.advance([ended(2)], [0.5], tokens=2, last=False)  # what is discarded stays so
    assert contents(beam.survivors) == [([2], "stop", 0.5)]


def test_equal_rows_count_once():
    beam = Beam(3)
    rows = [ended(1), ended(1), live(2), live(2), live(1)]
    assert beam.advance(rows, [5.0, 5.0, 4.0, 4.0, 1.0], tokens=1, last=False) == [2, 4]
    assert contents(beam.survivors) == [([1], "stop", 5.0), ([2], None, 4.0), ([1], None, 1.0)]
    assert beam.discarded == []
    assert beam.advance([ended(1), live(2, 2)], [5.0, 4.5], tokens=2, last=False) == [1]
    assert contents(beam.survivors) == [([1], "stop", 5.0), ([2, 2], None, 4.5)]


def test_equal_rows_that_ended_otherwise_count_each():
    beam = Beam(3)  # "ab" that the model ended; the same, of which a stop string left "a", without credit for an end
    cut = Continuation([1, 2], "a", True, "b!")
    assert beam.advance([cut, ended(1, 2), cut], [1.0, 5.0, 1.0], tokens=4, last=False) == []
    assert [(best.text, best.implicit_reward) for best in beam.survivors] == [("\x01\x02", 5.0), ("a", 1.0)]
    beam = Beam(2)  # a server may cut a row at the very text with which another ended
    rows = [Continuation(None, "ab", False), Continuation(None, "ab", True)]
    beam.advance(rows, [1.0, 2.0], tokens=4, last=True)
    assert [(best.finish_reason, best.implicit_reward) for best in beam.survivors] == [("stop", 2.0), ("length", 1.0)]


def test_rows_that_are_cut_come_last_and_are_not_gone_on_with():
    beam = Beam(2)
    assert beam.advance([live(1), live(), live(2)], [-2.0, 0.0, -3.0], tokens=2, last=False, cut={1}) == [0, 2]
    beam = Beam(2)
    assert beam.advance([live(1), live()], [-2.0, 0.0], tokens=2, last=False, cut={1}) == [0]
    assert contents(beam.survivors) == [([1], None, -2.0), ([], "length", 0.0)]
    assert (beam.trace[0].best_reward, beam.trace[0].mean_reward) == (0.0, -1.0)


def test_text_alone_tells_rows_apart_where_ids_are_unknown():
    beam = Beam(2)
    rows = [Continuation(None, "a", False), Continuation(None, "a", False), Continuation(None, "b", False)]
    assert beam.advance(rows, [1.0, 1.0, 0.0], tokens=1, last=False) == [0, 2]


def test_at_the_same_reward_the_first_sampled_is_first():
    beam = Beam(2)
    assert beam.advance([live(1), live(2), live(3)], [0.0, 0.0, 0.0], tokens=1, last=False) == [0, 1]


def test_kl_bounds():
    assert kl_bound(1, 1, 9) == (0, "best-of-n bound")
    assert kl_bound(1, 4, 1) == (pytest.approx(math.log(4) - 0.75), "best-of-n bound")
    assert kl_bound(1, 4, 3)[0] == pytest.approx(3 * (math.log(4) - 0.75))
    assert kl_bound(2, 3, 1) == (pytest.approx(math.log(6)), "counting bound")
    assert kl_bound(2, 3, 4)[0] == pytest.approx(math.log(6) + 3 * math.log(3))


@pytest.mark.parametrize(("width", "successors"), [(1, 1), (1, 2), (1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize("preferred", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
def test_the_bounds_hold_for_what_is_found(width, successors, preferred):
    # Two chunks of one token, 0 or 1, over every draw of every row: the exact distribution of what is found.
    chance = {0: 0.8, 1: 0.2}
    found = dict.fromkeys(itertools.product((0, 1), repeat=2), 0.0)
    for first in itertools.product((0, 1), repeat=width * successors):
        # The reward of a prefix is what it shares with the preferred completion: its tokens may be a bait.
        shared = [float(token == preferred[0]) for token in first]
        begun = Beam(width)
        parents = begun.advance([live(token) for token in first], shared, tokens=1, last=False)
        rows = [first[parent] for parent in parents for _ in range(successors)]
        for second in itertools.product((0, 1), repeat=len(rows)):
            beam = Beam(width, list(begun.survivors), trace=list(begun.trace))
            whole = list(zip(rows, second, strict=True))
            beam.advance(
                [live(*ids) for ids in whole], [float(ids == preferred) for ids in whole], tokens=2, last=True
            )
            weight = math.prod(chance[token] for token in first + second)
            found[tuple(beam.survivors[0].ids)] += weight
    assert sum(found.values()) == pytest.approx(1)
    kl = sum(q * math.log(q / math.prod(chance[token] for token in ids)) for ids, q in found.items() if q)
    assert kl <= kl_bound(width, successors, 2)[0] + 1e-9
    if successors > 1:
        assert kl > 0.01


# Models of which the best completion is known: the next token depends on the last one only, by a table.


class TableConfig(PreTrainedConfig):
    model_type = "table_of_a_test"
    num_hidden_layers = num_attention_heads = num_key_value_heads = hidden_size = 1


class TableModel(PreTrainedModel, GenerationMixin):
    config_class = TableConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.table

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        logits_to_keep=0,
        **kwargs,
    ):
        if use_cache is not False:
            past_key_values = DynamicCache() if past_key_values is None else past_key_values
            nothing = torch.zeros(len(input_ids), 1, input_ids.shape[1], 1)
            past_key_values.update(nothing, nothing, 0)
        kept = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        return CausalLMOutputWithPast(logits=self.table(input_ids)[:, kept], past_key_values=past_key_values)


def table_model(scores, *, otherwise=-1e4):
    """`scores`: for each token the log-probabilities of those that may follow it, up to a constant."""
    model = TableModel(TableConfig(vocab_size=len(TOKENIZER), eos_token_id=END, pad_token_id=0)).eval()
    with torch.no_grad():
        model.table.weight.fill_(otherwise)
        for token, row in scores.items():
            for following, score in row.items():
                model.table.weight[token, following] = score
    return model


def table_reward(preferences):
    """A pair whose log-ratio is, but for a constant of the last token, the preference for the token that follows."""
    policy = {token: {**row} for token, row in preferences.items()}
    reference = {token: dict.fromkeys(row, 0.0) for token, row in preferences.items()}
    return ImplicitReward(table_model(policy), table_model(reference), TOKENIZER)


def log_ratio(preferences, token, following):
    row = torch.tensor(list(preferences[token].values()), dtype=torch.float64)
    chosen = torch.tensor(preferences[token][following], dtype=torch.float64)
    return (chosen - row.logsumexp(0) + math.log(len(row))).item()


UNIFORM = {token: {A: 0.0, B: 0.0, C: 0.0, END: 0.0} for token in (A, B, C)}


def test_search_finds_the_best_of_all_completions():
    preferences = {
        A: {A: -1.0, B: 2.0, C: 0.0, END: -2.0},
        B: {A: 0.5, B: -1.0, C: 2.0, END: 0.0},
        C: {A: -0.5, B: 0.0, C: -1.0, END: 3.0},
    }
    rewards = {}
    for length in range(5):
        for body in itertools.product((A, B, C), repeat=length):
            whole = body if length == 4 else (*body, END)
            steps = itertools.pairwise((A, *whole))
            rewards[body] = sum(log_ratio(preferences, *step) for step in steps)
    best = max(rewards, key=rewards.get)
    (result,) = weak_to_strong_search(
        table_model(UNIFORM),
        TOKENIZER,
        ["a"],
        table_reward(preferences),
        beam_width=16,
        successors_per_beam=24,
        chunk_length=1,
        max_new_tokens=4,
        temperature=1.0,
        top_k=0,
        seed=1,
    )
    assert tuple(result.completion_ids) == best
    assert result.completion == TOKENIZER.decode(best)
    assert result.finish_reason == ("length" if len(best) == 4 else "stop")
    assert result.implicit_reward == pytest.approx(rewards[best], abs=1e-5)
    for hypothesis in result.hypotheses:
        if hypothesis.finish_reason is not None:
            assert hypothesis.implicit_reward == pytest.approx(rewards[tuple(hypothesis.ids)], abs=1e-5)


def test_a_wider_beam_gets_past_a_bait():
    # From the prompt "a", "b" looks better and leads to "a", which is bad; "c" leads to "c", which is good.
    base = {A: {B: 0.0, C: 0.0}, B: {A: 0.0}, C: {C: 0.0}}
    preferences = {A: {B: 1.0, C: 0.0}, B: {A: 0.0, C: 6.0}, C: {C: 6.0, A: 0.0}}
    found = {}
    for width in (1, 2):
        (result,) = weak_to_strong_search(
            table_model(base),
            TOKENIZER,
            ["a"],
            table_reward(preferences),
            beam_width=width,
            successors_per_beam=8,
            chunk_length=1,
            max_new_tokens=2,
            top_k=0,
        )
        found[width] = result.completion
        assert result.finish_reason == "length"
    assert found == {1: "ba", 2: "cc"}


def test_copies_do_not_fill_the_beam():
    # "b" ends at once and is the best; with copies of it in all four places, "cc" would be lost to the listing.
    base = {A: {B: 3.0, C: 0.0}, B: {END: 0.0}, C: {C: 0.0}}
    preferences = {A: {B: 2.0, C: 0.0}, B: {END: 0.0, A: 0.0}, C: {C: 0.0, A: 0.0}}
    (result,) = weak_to_strong_search(
        table_model(base),
        TOKENIZER,
        ["a"],
        table_reward(preferences),
        beam_width=4,
        successors_per_beam=16,
        chunk_length=2,
        max_new_tokens=2,
        top_k=0,
    )
    assert [hypothesis.text for hypothesis in result.hypotheses] == ["b", "cc"]
    assert [hypothesis.finish_reason for hypothesis in result.hypotheses] == ["stop", "length"]


# What a search returns


def small(prompts=PROMPTS, reward=None, model=None, tokenizer=TOKENIZER, **kwargs):
    settings = {**SETTINGS, "beam_width": 2, "successors_per_beam": 2, "chunk_length": 3, **kwargs}
    return weak_to_strong_search(
        model or make_base("llama"), tokenizer, prompts, reward or make_reward("llama"), **settings
    )


def test_a_result_is_complete_and_json():
    results = small()
    assert [result.prompt for result in results] == PROMPTS
    for result in results:
        assert json.loads(json.dumps(dataclasses.asdict(result)))["prompt_id"] == prompt_id(result.prompt)
        assert result.seed == row_seed(7, result.prompt_id)
        assert [step.tokens for step in result.trace] == [3, 6, 9, 12][: len(result.trace)]
        seen = [(tuple(hypothesis.ids), hypothesis.finish_reason is None) for hypothesis in result.hypotheses]
        assert len(set(seen)) == len(seen) >= 4
        survivors = [hypothesis for hypothesis in result.hypotheses if hypothesis.survived]
        assert result.hypotheses[: len(survivors)] == survivors
        assert len(survivors) == 2
        best = max(survivors, key=lambda hypothesis: hypothesis.implicit_reward)
        assert result.implicit_reward == best.implicit_reward
        expected = math.log(4) + (best.chunk - 1) * math.log(2)
        assert (result.kl, result.kl_method) == (pytest.approx(expected), "counting bound")


def fed(model):
    """The shapes of everything a model reads."""
    shapes = []
    model.register_forward_pre_hook(lambda _, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True)
    return shapes


def test_every_token_is_read_once():
    model, reward = make_base("llama"), make_reward("llama")
    model.generation_config.eos_token_id, tokenizer = None, copy.deepcopy(TOKENIZER)
    tokenizer.eos_token = None
    of_base, of_pair = fed(model), fed(reward.scorers[1].model)
    small(model=model, reward=reward, tokenizer=tokenizer)
    width = max(len(ids) for ids in TOKENIZER(PROMPTS)["input_ids"])
    assert of_base == [(4, width - 1)] + [(16, 1)] * 12
    chunks = [shape for shape in of_pair if shape[0] == 16]
    assert chunks == [(16, 3)] * 4


def test_finished_prompts_leave_the_batch():
    model = make_base("llama")
    of_base = fed(model)
    results = small(model=model)
    ended = [len(result.trace) for result in results]
    assert min(ended) < max(ended)
    rows = [shape[0] for shape in of_base[1:]]
    assert rows[0] == 16
    assert rows[-1] < 16
    assert rows == sorted(rows, reverse=True)


def test_the_search_earns_more_reward_than_a_sample():
    one, many = small(beam_width=1, successors_per_beam=1), small(beam_width=3, successors_per_beam=4)
    gain = [a.implicit_reward - b.implicit_reward for a, b in zip(many, one, strict=True)]
    assert sum(gain) / len(gain) > 1


@pytest.mark.parametrize("chunk_length", [4, None])
def test_a_stop_string_ends_and_cuts_a_completion_without_credit(chunk_length):
    free = small(beam_width=1, successors_per_beam=6, chunk_length=None, max_new_tokens=40)
    stops = ["a", "e"]  # frequent in any text, and often not where a token begins
    reward = make_reward("llama")
    results = small(
        beam_width=1,
        successors_per_beam=6,
        chunk_length=chunk_length,
        max_new_tokens=40,
        stop_strings=stops,
        reward=reward,
    )
    stopped = 0
    for result in results:
        for hypothesis in result.hypotheses:
            assert not any(stop in hypothesis.text for stop in stops)
            if not isinstance(hypothesis.stop_reason, str):
                continue
            stopped += 1
            assert hypothesis.finish_reason == "stop"
            text = TOKENIZER.decode(hypothesis.ids)
            assert text.startswith(hypothesis.text)
            assert not hypothesis.ids or len(TOKENIZER.decode(hypothesis.ids[:-1])) < len(hypothesis.text)
            (expected,) = reward.score([result.prompt], [hypothesis.ids], finish_reasons=["length"])
            assert hypothesis.implicit_reward == pytest.approx(expected, abs=1e-4)
    assert stopped > 8
    if chunk_length is None:  # one selection: the same rows, cut
        for with_stops, without in zip(results, free, strict=True):
            texts = [hypothesis.text for hypothesis in without.hypotheses]
            assert all(any(text.startswith(h.text) for text in texts) for h in with_stops.hypotheses)


def test_overlapping_stop_strings_cut_chunks_of_any_length_alike():
    one = {"beam_width": 1, "successors_per_beam": 1, "max_new_tokens": 30}
    (free,) = small(["a rude fox ran"], chunk_length=None, **one)
    text = free.completion
    assert "\ufffd" not in text[3:10] and text.index(text[4:7]) == 4
    stops = [text[3:10], text[4:7]]  # the second is within the first, and complete before it
    for length in (1, 2, 5, None):
        (result,) = small(["a rude fox ran"], chunk_length=length, stop_strings=stops, **one)
        assert result.completion == text[:4]
        assert result.hypotheses[0].stop_reason == stops[1]
    (control,) = small(["a rude fox ran"], chunk_length=None, stop_strings=stops[:1], **one)
    assert control.completion == text[:3]


def test_stop_strings_that_never_occur_change_nothing():
    assert [r.completion_ids for r in small(stop_strings=["never written"])] == [r.completion_ids for r in small()]


def test_a_stop_string_of_the_prompt_does_not_end_the_completion():
    (result,) = small(["the end"], stop_strings=["the end"])
    assert len(result.completion_ids) > 0


@pytest.mark.parametrize("member", ["base", "pair"])
def test_out_of_memory_halves_the_prompts_and_changes_nothing(member, caplog):
    expected = small()
    model, reward = make_base("llama"), make_reward("llama")
    full_above(model if member == "base" else reward.scorers[0].model, 9, on_cuda)
    results = small(model=model, reward=reward, batch_size=4)
    assert [result.completion_ids for result in results] == [result.completion_ids for result in expected]
    assert "4 prompts do not fit in memory; going on with 2." in caplog.text
    full_above(model if member == "base" else reward.scorers[0].model, 3, on_cuda)
    with pytest.raises(RuntimeError, match="One prompt with 4 rows of 12 new tokens does not fit in memory"):
        small(model=model, reward=reward, batch_size=4)


def test_the_model_is_left_as_it_was():
    model, reward = make_base("llama").train(), make_reward("llama")
    own = model.generation_config
    own.temperature, own.repetition_penalty = 0.1, 1.7  # set aside
    results = small(model=model, reward=reward)
    assert model.training
    assert model.generation_config is own
    assert own.repetition_penalty == 1.7
    assert [result.completion_ids for result in results] == [result.completion_ids for result in small()]


def test_one_token_and_chunks_longer_than_the_completion():
    for result in small(max_new_tokens=1):
        assert [step.tokens for step in result.trace] == [1]
        assert len(result.completion_ids) <= 1
    long, whole = (small(max_new_tokens=7, chunk_length=length) for length in (50, None))
    assert long == whole


def test_prompts_of_one_token():
    (alone,) = small(["a"])
    both = small(["a", "the cat sat on the mat"])
    assert alone.completion_ids == both[0].completion_ids


# What is refused


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"beam_width": 0}, ValueError, "`beam_width` must be at least 1, got 0"),
        ({"successors_per_beam": -1}, ValueError, "`successors_per_beam` must be at least 1, got -1"),
        ({"chunk_length": 0}, ValueError, "`chunk_length` must be at least 1, got 0"),
        ({"chunk_length": math.inf}, TypeError, "`chunk_length` must be an int, got inf; None selects once"),
        ({"beam_width": 2.0}, TypeError, "`beam_width` must be an int, got 2.0"),
        ({"prompts": "the cat"}, TypeError, "`prompts` must be a list, got the string 'the cat'"),
        ({"max_new_tokens": 0}, ValueError, "`max_new_tokens` must be at least 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"do_sample": False}, ValueError, "all 4 rows .* would be equal"),
        ({"stop_strings": "end"}, TypeError, "`stop_strings` must be a list of strings"),
        ({"stop_strings": [""]}, ValueError, "`stop_strings` holds an empty string"),
        ({"prompts": []}, ValueError, "No prompts"),
        ({"prompts": ["a", "a"]}, ValueError, "duplicate"),
        ({"prompts": ["the cat " * 300]}, ValueError, r"Prompt 0 has \d+ tokens; .* context of `model` leaves 500"),
    ],
    ids=str,
)
def test_bad_settings(kwargs, error, match):
    with pytest.raises(error, match=match):
        small(**kwargs)


def test_best_of_none():
    for n in (0, 2.5, None):
        with pytest.raises(ValueError, match=f"`n` must be a whole number of at least 1, got {n}"):
            best_of_n(make_base("llama"), TOKENIZER, PROMPTS, make_reward("llama"), n=n)


def test_other_rewards_and_models():
    with pytest.raises(TypeError, match="`reward` must be an ImplicitReward, got function"):
        weak_to_strong_search(make_base("llama"), TOKENIZER, PROMPTS, lambda *_: 0.0)
    with pytest.raises(TypeError, match="`reward` must be an ImplicitReward, got function"):
        make_base("llama").generate(**inputs(), **GENERATE, reward=lambda *_: 0.0)
    with pytest.raises(TypeError, match="`model` is 'gpt2' .* must be a loaded model, or the URL of a server"):
        weak_to_strong_search("gpt2", TOKENIZER, PROMPTS, make_reward("llama"))
    with pytest.raises(TypeError, match="`tokenizer` is None"):
        weak_to_strong_search(make_base("llama"), None, PROMPTS, make_reward("llama"))
    with pytest.raises(ValueError, match="`tokenizer` has 320 tokens"):
        small(model=tiny_model("llama", vocab_size=100))


@pytest.mark.parametrize("tokenizer", [TOKENIZER, tiny_tokenizer(seed=2)], ids=["ids", "text"])
def test_a_prompt_longer_than_the_pairs_context(tokenizer):
    members = tiny_pair("llama", vocab_size=len(tokenizer), max_position_embeddings=20)
    reward = ImplicitReward(*members, tokenizer)
    with pytest.raises(ValueError, match=r"prompt \w{16} \('the cat sat.*context is 20"):
        small(["a", "the cat sat on the mat and told me about a rude old dog and a kind fox"], reward=reward)


def test_a_completion_is_cut_where_the_pair_has_no_room_for_its_text():
    tokenizer, prompt, room = tiny_tokenizer(seed=2), "the cat sat on", 14

    def search(context, *others):
        members = tiny_pair("llama", vocab_size=len(tokenizer), max_position_embeddings=context)
        reward = ImplicitReward(*members, tokenizer)
        return small([prompt, *others], reward=reward, max_new_tokens=20)[0], reward

    def needed(hypothesis):
        text = hypothesis.text if hypothesis.finish_reason == "stop" else hypothesis.text.rstrip("\ufffd")
        return len(tokenizer(prompt + text)["input_ids"])

    wide, _ = search(512)
    assert any(needed(hypothesis) > room for hypothesis in wide.hypotheses)
    found, reward = search(room, "a")
    assert max(map(needed, found.hypotheses)) <= room
    cut = [hypothesis for hypothesis in found.hypotheses if hypothesis.finish_reason == "length"]
    assert cut and all(len(hypothesis.ids) in (0, 3, 6) for hypothesis in cut)
    texts = [hypothesis.text.rstrip("\ufffd") for hypothesis in cut]
    rewards = [hypothesis.implicit_reward for hypothesis in cut]
    assert rewards == pytest.approx(reward.score([prompt] * len(cut), texts), abs=1e-4)


@pytest.mark.parametrize("broken", [0, 1])
def test_rewards_that_are_no_numbers_name_the_prompt(broken):
    reward = make_reward("llama")
    embeddings = reward.scorers[broken].model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[TOKENIZER("owl")["input_ids"][-1]] = math.nan
    with pytest.raises(ValueError, match=rf"prompt {prompt_id('owl')} \('owl'\).* nan"):
        small(reward=reward)


# As a decoding method of `generate`


def inputs(prompts=PROMPTS):
    return TOKENIZER(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)


GENERATE = {
    "max_new_tokens": 12,
    "do_sample": True,
    "temperature": 0.9,
    "top_k": 40,
    "top_p": 0.95,
    "custom_generate": chunk_beam_search,
}
STEER = EmulatedFineTuningLogitsProcessor(*tiny_pair("llama", vocab_size=len(TOKENIZER)))
WATERMARK = SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3)


def test_generate_returns_ids_like_generate():
    model, reward, rows = make_base("llama"), make_reward("llama"), inputs()
    model.generation_config.pad_token_id = 0
    shape = {"beam_width": 2, "successors_per_beam": 2, "chunk_length": 3, "seed": 7}
    output = model.generate(**rows, **GENERATE, reward=reward, return_dict_in_generate=True, **shape)
    ids = model.generate(**rows, **GENERATE, reward=reward, **shape)
    assert torch.equal(ids, output.sequences)
    width = rows["input_ids"].shape[1]
    assert torch.equal(ids[:, :width], rows["input_ids"])
    ends = 0
    for row, result in zip(ids[:, width:].tolist(), output.results, strict=True):
        written = result.completion_ids
        assert row[: len(written)] == written
        rest = row[len(written) :]
        if result.finish_reason == "stop":
            ends += 1
            assert rest[0] in EOS
            assert set(rest[1:]) <= {0}
        else:
            assert rest == []
        (expected,) = reward.score([result.prompt], [written], finish_reasons=[result.finish_reason])
        assert result.implicit_reward == pytest.approx(expected, abs=1e-4)
    assert 0 < ends < len(PROMPTS)
    # One row at a time, so without padding: the same, but for a row's place in the batch, which decides its numbers.
    first = model.generate(**inputs(PROMPTS[:1]), **GENERATE, reward=reward, **shape)
    assert first[0].tolist() == [*TOKENIZER(PROMPTS[0])["input_ids"], *ids[0, width:].tolist()][: first.shape[1]]


def test_generate_follows_its_configuration():
    model, reward, rows = make_base("llama"), make_reward("llama"), inputs()
    model.generation_config.pad_token_id = 0
    width = rows["input_ids"].shape[1]
    shape = {"beam_width": 1, "successors_per_beam": 1, "chunk_length": 4}
    greedy = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    expected = model.generate(**rows, **greedy)
    got = model.generate(**rows, **greedy, custom_generate=chunk_beam_search, reward=reward, **shape)
    assert torch.equal(got, expected)
    model.generation_config.eos_token_id = None
    config = GenerationConfig(**greedy, pad_token_id=0, min_new_tokens=5)
    assert model.generate(**rows, generation_config=config).shape[1] == width + 12
    endless = model.generate(
        **rows, generation_config=config, custom_generate=chunk_beam_search, reward=reward, **shape
    )
    assert torch.equal(endless, model.generate(**rows, generation_config=config))
    set_seed(0)
    first = model.generate(**rows, **GENERATE, reward=reward)
    second = model.generate(**rows, **GENERATE, reward=reward)
    set_seed(0)
    again = model.generate(**rows, **GENERATE, reward=reward)
    assert torch.equal(first, again)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_generate_stops_at_strings_and_scores_text_of_another_vocabulary():
    other = tiny_tokenizer(seed=2)
    reward = make_reward("gpt2", other)
    model, rows = make_base("llama"), inputs()
    settings = {**GENERATE, "reward": reward, "processing_class": TOKENIZER, "return_dict_in_generate": True}
    output = model.generate(**rows, **settings, stop_strings=["e"], seed=1)
    assert not any("e" in result.completion for result in output.results)
    plain = model.generate(**rows, **settings, seed=1)
    for prompt, result in zip(PROMPTS, plain.results, strict=True):
        if not result.completion.endswith("\N{REPLACEMENT CHARACTER}"):
            (expected,) = reward.score([prompt], [result.completion], finish_reasons=[result.finish_reason])
            assert result.implicit_reward == pytest.approx(expected, abs=1e-4)
    chat = model.generate(**rows, **settings, seed=1, prompts=MESSAGES)
    assert [r.implicit_reward for r in chat.results] != [r.implicit_reward for r in plain.results]


def test_generate_keeps_a_penalty_that_it_is_given():
    model, reward, rows = make_base("llama"), make_reward("llama"), inputs()
    model.generation_config.pad_token_id = 0
    greedy = {"max_new_tokens": 12, "do_sample": False, "logits_processor": [RepetitionPenaltyLogitsProcessor(5.0)]}
    one = {"beam_width": 1, "successors_per_beam": 1, "custom_generate": chunk_beam_search, "reward": reward}
    expected = model.generate(**rows, **greedy)
    assert torch.equal(model.generate(**rows, **greedy, **one), expected)
    plain = model.generate(**rows, **{**greedy, "logits_processor": []})
    assert plain.shape != expected.shape or not torch.equal(plain, expected)


def test_generate_needs_the_tokenizer_of_another_vocabulary():
    reward = ImplicitReward(*tiny_pair("gpt2", vocab_size=len(TOKENIZER)), TOKENIZER)
    same, other = (tiny_model("llama", vocab_size=size) for size in (len(TOKENIZER), 64))
    settings = {**GENERATE, "reward": reward, "max_new_tokens": 3}
    assert same.generate(torch.tensor([[5, 6]]), **settings).shape[1] > 2
    with pytest.raises(ValueError, match="Pass the model's tokenizer as `processing_class`. `model` has 64 tokens"):
        other.generate(torch.tensor([[5, 6]]), **settings)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_return_sequences": 2}, "`num_return_sequences` is 2"),
        ({"do_sample": False}, "all 16 rows"),
        ({"max_time": 3.0}, "cannot follow MaxTimeCriteria"),
        ({"watermarking_config": WATERMARK}, "SynthIDTextWatermarkLogitsProcessor must see the same rows"),
        pytest.param({"logits_processor": [STEER]}, "Emulated.* must see .* made by `from_pair`", id="steer"),
        ({"beam_width": 0}, "`beam_width` must be at least 1"),
        ({"prompts": ["the cat"]}, "Got 4 `input_ids`, 1 `prompts`"),
    ],
    ids=str,
)
def test_generate_refuses_what_a_search_has_no_place_for(kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_base("llama").generate(**inputs(), **{**GENERATE, **kwargs}, reward=make_reward("llama"))
