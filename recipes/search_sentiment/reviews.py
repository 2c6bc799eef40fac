# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The world of film reviews: every model and the tokenizer are trained here, from scratch.

A text is a passage of two sentences of a review; every model continues its first words to its end. The gold reward is
a classifier of other, labelled reviews: only the preferences of the weak pair have seen it.
"""

import json
import random
import re
import zipfile
from pathlib import Path

import numpy as np
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from hf_cong.journal import replacing

from ..stories.prepare import align, preferences, pretrain, split_of

OPENING_WORDS = 6
MIN_WORDS = 12  # of a completion that can be rewarded
PASSAGE_WORDS = range(OPENING_WORDS + MIN_WORDS, 81)
MAX_NEW_TOKENS = 64
VOCABULARY, END, PAD = 1024, "<|end|>", "<|pad|>"
ALIGN_PROMPTS, HELD_OUT_PROMPTS = 600, 300
STRONG = {
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WEAK = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


class GoldReward:
    """
    The probability that a review is a good one, in [0, 1]; 0 for a text under 12 words.

    TF-IDF and a logistic regression, fitted on the sentences of `corpora/sentence_polarity.zip`. No language model is
    trained on those.
    """

    def __init__(self, data_dir: str | Path):
        self._classifier = classifier().fit(*read_labelled_sentences(data_dir))

    def __call__(self, completion: str) -> float:
        return self.many([completion])[0]

    def many(self, completions: list[str]) -> list[float]:
        long_enough = np.array([len(completion.split()) >= MIN_WORDS for completion in completions])
        return (long_enough * self._classifier.predict_proba(completions)[:, 1]).tolist()


def classifier() -> Pipeline:
    """Untrained; words and pairs of words."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=4.0))


def read_labelled_sentences(data_dir: str | Path) -> tuple[list[str], list[int]]:
    """Sentences, and 1 for those of a good review."""
    sentences, labels = [], []
    with zipfile.ZipFile(Path(data_dir, "corpora", "sentence_polarity.zip")) as archive:
        for label, ending in enumerate(("neg", "pos")):
            text = archive.read(f"sentence_polarity/rt-polarity.{ending}").decode("latin-1")
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            sentences += lines
            labels += [label] * len(lines)
    return sentences, labels


def read_passages(data_dir: str | Path) -> list[str]:
    """The different passages of the reviews: two sentences each, of a length that a completion can have; sorted."""
    passages = set()
    with zipfile.ZipFile(Path(data_dir, "corpora", "movie_reviews.zip")) as archive:
        for name in sorted(archive.namelist()):
            if not re.search(r"/(neg|pos)/.+\.txt$", name):
                continue
            lines = [" ".join(line.split()) for line in archive.read(name).decode("latin-1").split("\n")]
            sentences = [line for line in lines if line]
            for first, second in zip(sentences[::2], sentences[1::2], strict=False):
                passages.add(f"{first} {second}")
    return sorted(passage for passage in passages if len(passage.split()) in PASSAGE_WORDS)


def opening(passage: str) -> str:
    """The words of a passage that become a prompt."""
    return " ".join(passage.split()[:OPENING_WORDS])


def openings(passages: list[str], split: str, n: int) -> list[str]:
    """The first `n` different openings of a split, in a fixed random order."""
    found = sorted({opening(passage) for passage in passages})
    random.Random(0).shuffle(found)  # noqa: S311
    return [prompt for prompt in found if split_of(prompt) == split][:n]


def prepare(data_dir: str | Path, root: Path, effort: float, num_test_prompts: int) -> None:
    """Writes what both trainings read: the passages, the prompts of each split and the tokenizer."""
    if (root / "tokenizer").exists():
        return
    passages = read_passages(data_dir)
    seen = [passage for passage in passages if split_of(opening(passage)) != "test"]
    random.Random(0).shuffle(seen)  # noqa: S311
    seen = seen[: round(len(seen) * effort)]
    Dataset.from_dict({"text": seen}).to_json(root / "passages.jsonl")
    for name, split, n in (
        ("test", "test", num_test_prompts),
        ("align-prompts", "align", round(ALIGN_PROMPTS * effort)),
        ("held-out-prompts", "train", round(HELD_OUT_PROMPTS * effort)),
    ):
        Dataset.from_dict({"prompt": openings(passages, split, n)}).to_json(root / f"{name}.jsonl")
    train_tokenizer(seen).save_pretrained(root / "tokenizer")


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left")


def train_strong(root: Path) -> None:
    """The large model: next-token training on all passages but those that begin like a test prompt."""
    _pretrain(root, "strong", STRONG)


def train_weak(data_dir: str | Path, root: Path) -> None:
    """The small pair: the same training, then DPO on own samples, the best against the worst of eight by gold."""
    _pretrain(root, "weak_reference", WEAK)
    if (root / "weak_policy" / "model.safetensors").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    reference = AutoModelForCausalLM.from_pretrained(root / "weak_reference")
    gold = GoldReward(data_dir)
    for name in ("align", "held-out"):
        prompts = list(Dataset.from_json(str(root / f"{name}-prompts.jsonl"))["prompt"])
        rows = preferences(reference, tokenizer, prompts, root / f"{name}-samples", gold)
        rows.to_json(root / f"{name}.jsonl")
    rows = Dataset.from_json(str(root / "align.jsonl"))
    align(tokenizer, rows, root / "weak_reference", root / "weak_policy")
    tokenizer.save_pretrained(root / "weak_policy")


def _pretrain(root: Path, name: str, shape: dict) -> None:
    done = root / f"{name}.json"
    if done.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    texts = list(Dataset.from_json(str(root / "passages.jsonl"))["text"])
    pretrain(tokenizer, texts, root / name, epochs=1, **shape)
    tokenizer.save_pretrained(root / name)
    with replacing(done) as temporary:
        temporary.write_text(json.dumps({"passages": len(texts), **shape}), encoding="utf-8")
