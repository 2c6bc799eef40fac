# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The two settings of the recipe, each a folder of models, prompts and preferences, and the pairs that are worse.

A folder holds `strong`, `weak_reference` and `weak_policy`, each with the tokenizer; `test.jsonl`, the prompts that
nothing was trained on; `align.jsonl`, the preferences of the weak policy; and `held-out.jsonl`, preferences made
in the same way on other prompts, to check a pair with.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..stories import prepare as stories
from . import reviews

STORIES, REVIEWS = "stories", "reviews"
MAX_NEW_TOKENS = {STORIES: 96, REVIEWS: reviews.MAX_NEW_TOKENS}
HELD_OUT_STORIES = 300

FULL, SWAPPED = "the pair as it is", "policy and reference swapped"
FLIPPED = {
    "a quarter of the labels flipped": 0.25,
    "half of the labels flipped": 0.5,
    "three quarters of the labels flipped": 0.75,
}
SHORTENED = {"half of the steps": 1 / 2, "a quarter of the steps": 1 / 4, "an eighth of the steps": 1 / 8}
WORSE = (*SHORTENED, *FLIPPED)  # that are trained
PAIRS = (FULL, *WORSE, SWAPPED)
EPOCHS = 2  # of the full alignment


class World(NamedTuple):
    """One setting: its name and its folder."""

    name: str
    root: Path

    @property
    def strong(self) -> Path:
        return self.root / "strong"

    @property
    def max_new_tokens(self) -> int:
        return MAX_NEW_TOKENS[self.name]

    def pair(self, name: str) -> tuple[Path, Path]:
        """The policy and the reference of a pair of [`PAIRS`]."""
        reference = self.root / "weak_reference"
        if name == SWAPPED:
            return reference, self.root / "weak_policy"
        return self.root / ("weak_policy" if name == FULL else f"pairs/{name}"), reference

    def prompts(self) -> list[str]:
        return list(Dataset.from_json(str(self.root / "test.jsonl"))["prompt"])

    def preferences(self, name: str) -> Dataset:
        """`"align"` or `"held-out"`."""
        return Dataset.from_json(str(self.root / f"{name}.jsonl"))


def gold_reward(name: str, data_dir: str | Path) -> Callable[[list[str]], list[float]]:
    """The gold reward of completions in [0, 1]. It labelled the preferences; no search and no decoding sees it."""
    if name == REVIEWS:
        return reviews.GoldReward(data_dir).many
    return lambda completions: [stories.gold_reward(completion) for completion in completions]


def prepare_stories(data_dir: str | Path, root: Path, effort: float, num_test_prompts: int) -> None:
    """The world of the stories recipe, with its preferences written out and some more held out."""
    paths = stories.prepare(data_dir, root, effort=effort, num_test_prompts=num_test_prompts)
    if (root / "held-out.jsonl").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(paths.strong)
    reference = AutoModelForCausalLM.from_pretrained(paths.weak_reference)
    paragraphs = stories.read_paragraphs(data_dir)
    held_out = stories.openings(paragraphs, "train")[: round(HELD_OUT_STORIES * effort)]
    for name, prompts, samples in (
        ("align", stories.alignment_prompts(paragraphs, effort), paths.weak_policy / "samples"),
        ("held-out", held_out, root / "held-out-samples"),
    ):
        stories.preferences(reference, tokenizer, prompts, samples).to_json(root / f"{name}.jsonl")


def degrade(world: World, name: str) -> None:
    """Trains the policy of a worse pair from the same reference: on flipped labels, or for fewer steps."""
    policy, reference = world.pair(name)
    if (policy / "tokenizer.json").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(reference)
    rows = world.preferences("align")
    if name in FLIPPED:
        rows = flip(rows, FLIPPED[name])
    stories.align(tokenizer, rows, reference, policy, epochs=EPOCHS * SHORTENED.get(name, 1))
    tokenizer.save_pretrained(policy)


def flip(rows: Dataset, probability: float) -> Dataset:
    """Preferences of which some have chosen and rejected exchanged."""
    coins = random.Random(0)  # noqa: S311
    return Dataset.from_list(
        [
            {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if coins.random() < probability else row
            for row in rows
        ]
    )
