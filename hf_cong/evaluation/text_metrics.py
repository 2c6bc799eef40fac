# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Metrics of texts that need no model."""

from collections.abc import Iterable


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
        ValueError: if `n` is below 1.

    Source: Li et al. 2016, A Diversity-Promoting Objective Function, section 5.1; https://huggingface.co/papers/1510.03055
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    ngrams = []
    for text in texts:
        words = text.split()
        ngrams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0
