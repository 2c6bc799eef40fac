# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import math

import pytest
import torch

from hf_cong.evaluation.text_metrics import distinct_n, lengths, perplexity_under
from tests.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
PROMPTS, COMPLETIONS = ["tell me about", "a dog", "the"], [" the cat", " ran on a mat and sat", " owl"]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]


def model(family="llama", seed=0):
    return tiny_model(family, seed, vocab_size=len(TOKENIZER))


def surprise(scorer, prompt_ids, completion_ids):
    """Negative log-likelihood of each completion token, one row and one position at a time."""
    ids = prompt_ids + completion_ids
    with torch.no_grad():
        logps = scorer(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-logps[at - 1, ids[at]].item() for at in range(len(prompt_ids), len(ids))]


def test_lengths_by_hand():
    assert lengths(["one  two\nthree", "", " four"]) == [3, 0, 1]
    assert lengths(COMPLETIONS, TOKENIZER) == [len(TOKENIZER(text)["input_ids"]) for text in COMPLETIONS]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral"])
@pytest.mark.parametrize("prompts", [PROMPTS, CHATS], ids=["text", "messages"])
def test_perplexity_is_that_of_one_token_at_a_time(family, prompts):
    scorer = model(family)
    rows = []
    for prompt, completion in zip(prompts, COMPLETIONS, strict=True):
        if isinstance(prompt, list):
            prompt_ids = TOKENIZER.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        else:
            prompt_ids = TOKENIZER(prompt)["input_ids"]
        rows.append(surprise(scorer, prompt_ids, TOKENIZER(completion)["input_ids"]))
    measured = perplexity_under(scorer, TOKENIZER, prompts, COMPLETIONS)
    assert measured.perplexities == pytest.approx([math.exp(sum(row) / len(row)) for row in rows], rel=1e-4)
    assert measured.perplexity == pytest.approx(math.exp(sum(map(sum, rows)) / sum(map(len, rows))), rel=1e-4)
    assert (measured.tokens, measured.empty) == (sum(map(len, rows)), 0)
    assert perplexity_under(scorer, TOKENIZER, prompts, COMPLETIONS, batch_size=1) == (
        pytest.approx(measured.perplexity, rel=1e-4),
        pytest.approx(measured.perplexities, rel=1e-4),
        *measured[2:],
    )
    other = perplexity_under(model(family, seed=1), TOKENIZER, prompts, COMPLETIONS)
    assert other.perplexity != pytest.approx(measured.perplexity, rel=1e-2)


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary():
    uniform = model()
    with torch.no_grad():
        uniform.lm_head.weight.zero_()
    measured = perplexity_under(uniform, TOKENIZER, PROMPTS, COMPLETIONS)
    assert measured.perplexity == pytest.approx(len(TOKENIZER), rel=1e-5)
    assert measured.perplexities == pytest.approx([len(TOKENIZER)] * 3, rel=1e-5)


def test_long_completions_weigh_more_and_empty_ones_are_counted():
    scorer = model()
    measured = perplexity_under(scorer, TOKENIZER, [*PROMPTS, "a"], [*COMPLETIONS, ""])
    assert measured.perplexities[3] is None
    assert (measured.empty, measured.tokens) == (1, sum(lengths(COMPLETIONS, TOKENIZER)))
    weights = lengths(COMPLETIONS, TOKENIZER)
    logs = [math.log(value) for value in measured.perplexities[:3]]
    weighted = sum(weight * log for weight, log in zip(weights, logs, strict=True)) / sum(weights)
    assert math.log(measured.perplexity) == pytest.approx(weighted)
    assert math.log(measured.perplexity) != pytest.approx(sum(logs) / 3)
    with pytest.raises(ValueError, match="Of 2 `completions` none has a token"):
        perplexity_under(scorer, TOKENIZER, ["a", "a"], ["", ""])


@pytest.mark.parametrize("measure", [distinct_n, lengths])
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "is empty"),
        (None, "must be a list of strings, got None"),
        ("abc", "must be a list of strings, got 'abc'"),
        (["a", None], "Text 1 is None"),
        (["a", 3], "Text 1 is 3"),
    ],
)
def test_texts_that_are_none_are_refused(measure, texts, message):
    with pytest.raises(ValueError, match=message):
        measure(texts)


def test_refusals_of_a_perplexity():
    scorer = model()
    for prompts, completions in ((None, ["a"]), (["a"], None), (["a", None], ["b", "c"]), (["a", "b"], ["c", None])):
        with pytest.raises(ValueError, match="is None, or a row of it is"):
            perplexity_under(scorer, TOKENIZER, prompts, completions)
    with pytest.raises(ValueError, match="Got 2 `prompts`, 1 `completions`"):
        perplexity_under(scorer, TOKENIZER, ["a", "b"], ["c"])
    with pytest.raises(ValueError, match="none has a token"):
        perplexity_under(scorer, TOKENIZER, [], [])
    with torch.no_grad():
        scorer.model.norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="Row 0 has the log-likelihood nan"):
        perplexity_under(scorer, TOKENIZER, PROMPTS, COMPLETIONS)
