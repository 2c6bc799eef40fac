# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Metrics of completions: how long, how varied, how likely under a model."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..rewards.likelihood import completion_logps


class Perplexity(NamedTuple):
    """
    How surprised a model is by completions.

    Args:
        perplexity (`float`): exp of the mean negative log-likelihood over all tokens, so that long texts weigh more.
        perplexities (`list[float | None]`): That of each completion alone; `None` for one without a token.
        tokens (`int`): Completion tokens.
        empty (`int`): Completions without a token, which have no part in `perplexity`.
    """

    perplexity: float
    perplexities: list[float | None]
    tokens: int
    empty: int


def distinct_n(texts: Iterable[str], n: int = 2) -> float:
    """Share of different n-grams among all n-grams of `texts`.

    It falls with the amount of text: compare only equal numbers of completions of the same prompts, at like lengths.

    Args:
        texts (`Iterable[str]`):
            Completions; words are what white space separates. An n-gram does not cross from one text into the next.
        n (`int`, *optional*, defaults to `2`):
            Words per n-gram.

    Returns:
        `float` in [0, 1]; `0.0` if no text has `n` words.

    Raises:
        ValueError: if there is no text, one is missing, or `n` is below 1.

    Source: Li et al. 2016, A Diversity-Promoting Objective Function, section 5.1; https://huggingface.co/papers/1510.03055
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    ngrams = []
    for text in _checked(texts):
        words = text.split()
        ngrams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def lengths(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase | None = None) -> list[int]:
    """
    Length of each text, in words or in tokens.

    Args:
        texts (`Iterable[str]`):
            Completions.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Counts its tokens, with no special token added. Without one, what white space separates is counted.

    Raises:
        ValueError: if there is no text, or one is missing.
    """
    texts = _checked(texts)
    if tokenizer is None:
        return [len(text.split()) for text in texts]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def perplexity_under(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | list[list[dict]] | list[list[int]],
    completions: list[str] | list[list[int]],
    *,
    batch_size: int = 16,
    chat_template_kwargs: dict | None = None,
) -> Perplexity:
    """
    Perplexity of completions given their prompts under a model, such as the base that training started from.

    Low is not good by itself: text that repeats has a low perplexity. No end-of-sequence token is counted.

    Args:
        model (`PreTrainedModel`): The model that scores; a pair scores by its unmasked p_α.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer. Perplexities under two tokenizers do not compare.
        prompts (`list[str]`, `list[list[dict]]` or `list[list[int]]`): Plain prompts, chat messages, or token ids.
        completions (`list[str]` or `list[list[int]]`): Texts, or token ids. See [`completion_logps`].
        batch_size (`int`, *optional*, defaults to `16`): Most rows per forward.
        chat_template_kwargs (`dict`, *optional*): Variables for the chat template.

    Returns:
        [`Perplexity`]

    Raises:
        ValueError: if no completion has a token, the lists differ in length, a row is missing, longer than the model's
            context or holds a token that the model does not have, or a token has no finite log-probability.
    """
    scored = completion_logps(
        model, tokenizer, prompts, completions, batch_size=batch_size, chat_template_kwargs=chat_template_kwargs
    )
    tokens = sum(map(len, scored))
    if tokens == 0:
        raise ValueError(f"Of {len(scored)} `completions` none has a token; a perplexity needs at least one.")
    sums = [-logps.double().sum().item() for logps in scored]
    for index, total in enumerate(sums):
        if not math.isfinite(total):
            raise ValueError(
                f"Row {index} has the log-likelihood {-total}. The model's scores are not numbers, or forbid a token: "
                "load it in bfloat16 or float32, not float16, and look for damaged weights."
            )
    each = [math.exp(total / len(logps)) if len(logps) else None for total, logps in zip(sums, scored, strict=True)]
    return Perplexity(math.exp(sum(sums) / tokens), each, tokens, sum(value is None for value in each))


def _checked(texts: Iterable[str]) -> list[str]:
    if texts is None or isinstance(texts, str):  # the characters of a string would be texts
        raise ValueError(f"`texts` must be a list of strings, got {repr(texts)[:80]}. Pass `[text]`.")
    texts = list(texts)
    if not texts:
        raise ValueError("`texts` is empty; a metric needs at least one text.")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"Text {index} is {repr(text)[:80]}; it must be a string. Drop and count such rows.")
    return texts
