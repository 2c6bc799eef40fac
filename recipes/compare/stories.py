# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The stories of `recipes/stories` as a world: a real pretrained model. Needs the extra `recipes`."""

import os
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..stories.prepare import MAX_NEW_TOKENS, gold_reward, prepare
from .worlds import World


@dataclass(frozen=True)
class Stories(World):
    """The stories: see `recipes/stories`. All seeds train on the same prompts."""

    max_new_tokens: int = MAX_NEW_TOKENS
    max_length: int = 256

    @classmethod
    def make(cls, root: Path, *, effort: float, num_workers: int) -> "Stories":
        root.mkdir(parents=True, exist_ok=True)
        paths = prepare(os.environ["HF_CONG_REAL_DATA"], root, effort=effort)
        return cls(paths.strong, paths.weak_policy, paths.weak_reference)

    def training_prompts(self, seed: int) -> Dataset:
        return Dataset.from_json(str(self.strong.with_name("train.jsonl")))

    def test_prompts(self) -> Dataset:
        return Dataset.from_json(str(self.strong.with_name("test.jsonl")))

    def gold(self, prompt: str | list[dict], completion: str) -> float:
        return gold_reward(completion)
