# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a comparison needs of a world: a weak pair, a strong model, prompts, and a gold reward that no method sees."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from hf_cong.sandbox import build_sandbox, gold_reward, prompts
from hf_cong.sandbox.models import MAX_NEW_TOKENS


@dataclass(frozen=True)
class World(ABC):
    """
    Models and prompts. Every model's folder holds the tokenizer, which all of them share.

    Args:
        strong (`Path`): The strong model, untouched.
        weak_policy (`Path`): The weak model after alignment.
        weak_reference (`Path`): The weak model before alignment.
        max_new_tokens (`int`): Longest completion.
        max_length (`int`): Longest prompt and completion in training, in tokens.
    """

    strong: Path
    weak_policy: Path
    weak_reference: Path
    max_new_tokens: int
    max_length: int

    @classmethod
    @abstractmethod
    def make(cls, root: Path, *, effort: float, num_workers: int) -> "World":
        """The world in a folder, built there first if there is none."""

    @abstractmethod
    def training_prompts(self, seed: int) -> Dataset:
        """What every method of that seed trains on."""

    @abstractmethod
    def test_prompts(self) -> Dataset:
        """Held out, the same for every seed."""

    @abstractmethod
    def gold(self, prompt: str | list[dict], completion: str) -> float:
        """From 0 to 1."""


@dataclass(frozen=True)
class Sandbox(World):
    """The sandbox: see `recipes/sandbox`. Each seed trains on other prompts."""

    max_new_tokens: int = MAX_NEW_TOKENS
    max_length: int = 128

    @classmethod
    def make(cls, root: Path, *, effort: float, num_workers: int) -> "Sandbox":
        paths = build_sandbox(root, effort=effort, num_workers=num_workers)
        return cls(paths.strong, paths.weak_policy, paths.weak_reference)

    def training_prompts(self, seed: int) -> Dataset:
        return prompts(1000, seed)

    def test_prompts(self) -> Dataset:
        return prompts(300, split="test")

    def gold(self, prompt: str | list[dict], completion: str) -> float:
        return gold_reward(prompt, completion)
