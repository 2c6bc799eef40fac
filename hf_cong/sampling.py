# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Sampling in which each row has its own random numbers, so that its draws do not depend on its neighbours."""

import hashlib
import math
from dataclasses import asdict, dataclass

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper


def row_seed(seed: int, prompt_id: str) -> int:
    """The seed of one prompt's completion: 63 bits of a hash of the run's seed and the prompt's name."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def warpers(temperature: float, top_k: int, top_p: float) -> list[LogitsProcessor]:
    """
    The stock warpers in the order of `generate`; each refuses a value out of its range.

    Args:
        temperature (`float`):
            Divides the scores; `1.0` is off.
        top_k (`int`):
            Keeps this many most probable tokens; `0` is off.
        top_p (`float`):
            Keeps the smallest set of tokens with this much probability; `1.0` is off.
    """
    chain = []
    if temperature != 1.0:
        chain.append(TemperatureLogitsWarper(float(temperature)))
    if top_k != 0:
        chain.append(TopKLogitsWarper(top_k))
    if top_p != 1.0:
        chain.append(TopPLogitsWarper(top_p))
    return chain


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """
    How the tokens of a completion are chosen, in the words of `generate` and the same for every engine.

    Args:
        max_new_tokens (`int`):
            Most tokens of a completion.
        do_sample (`bool`):
            `False` takes the most probable token at every step.
        repetition_penalty (`float`):
            Penalty on tokens of the prompt and of the completion so far; `1.0` is off.
        temperature (`float`):
            Divides the scores; `1.0` is off.
        top_k (`int`):
            Keeps this many most probable tokens; `0` is off.
        top_p (`float`):
            Keeps the smallest set of tokens with this much probability; `1.0` is off.

    Raises:
        ValueError: if a value is out of its range.
    """

    max_new_tokens: int
    do_sample: bool
    repetition_penalty: float
    temperature: float
    top_k: int
    top_p: float

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {self.max_new_tokens}.")
        if self.repetition_penalty <= 0:
            raise ValueError(f"`repetition_penalty` must be above 0, got {self.repetition_penalty}; 1.0 is off.")
        if self.do_sample:
            if self.temperature == math.inf:
                raise ValueError("`temperature` must be finite, got inf.")
            self.warpers()

    def settings(self) -> dict:
        """What of it has an effect, by name."""
        settings = asdict(self)
        if not self.do_sample:
            for name in ("temperature", "top_k", "top_p"):
                del settings[name]
        return settings

    def warpers(self) -> list[LogitsProcessor]:
        """The stock warpers in the order of `generate`; each refuses a value out of its range."""
        return warpers(self.temperature, self.top_k, self.top_p)


def uniforms(seeds: list[int], count: int) -> torch.FloatTensor:
    """The random numbers of each row, in [0, 1), of shape `(len(seeds), count)`."""
    # Made on the CPU, so that they are the same on any device.
    return torch.stack([torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw(scores: torch.FloatTensor, uniform: torch.FloatTensor) -> torch.FloatTensor:
    """
    Draws one token per row by inversion of its cumulative distribution, and leaves only that token.

    Args:
        scores (`torch.FloatTensor` of shape `(B, V)`): Scores of the next token, warped.
        uniform (`torch.FloatTensor` of shape `(B,)`): One number in [0, 1) per row.

    Returns:
        `torch.FloatTensor` of shape `(B, V)`: 0 for the token drawn, `-inf` elsewhere.

    Raises:
        ValueError: if a score is not a number.
    """
    # In float64, since CUDA leaves the order of summation open: no token's edge moves past a uniform number.
    cumulative = scores.softmax(-1).cumsum(-1, dtype=torch.float64)  # (B, V)
    total = cumulative[:, -1:]
    if not total.isfinite().all():
        raise ValueError("The engine's scores are not numbers (NaN). Load it in bfloat16 or float32, not float16.")
    uniform = uniform.to(scores.device, torch.float64)
    token = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)  # (B, 1)
    return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class DrawToken(LogitsProcessor):
    """
    [`draw`] of the next token of each row with that row's own random numbers.

    `generate(do_sample=True)` has one random stream for the whole batch, so a row depends on its neighbours. Behind
    this processor, greedy decoding samples, with one uniform number per token.

    Args:
        seeds (`list[int]`):
            One seed per row.
        prompt_length (`int`):
            Length of the padded prompts: the step is counted from there.
        max_new_tokens (`int`):
            Random numbers to prepare per row.
    """

    def __init__(self, seeds: list[int], prompt_length: int, max_new_tokens: int):
        self.uniforms = uniforms(seeds, max_new_tokens)
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return draw(scores, self.uniforms[:, input_ids.shape[1] - self.prompt_length])
