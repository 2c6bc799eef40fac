# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The world of the stories recipe: openings of real stories, a gold reward, a real strong model and a weak pair.

Every model continues the opening of a story to the end of its paragraph: the newline is the end-of-sequence token. No
step of ConG imports the gold reward; only the alignment of the weak pair has seen it, on openings of its own.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple
from zlib import crc32

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from hf_cong.generation import generate_completions
from hf_cong.journal import check_identity, replacing

OPENING_WORDS = 10
MIN_WORDS = 16  # about 40 tokens of this tokenizer
MAX_NEW_TOKENS = 192
CANDIDATES = 8
NEWLINE = "<0x0A>"  # its byte token, id 13
SPLITS = {"test": 20, "align": 30, "train": 50}  # percent of the openings

_STORY = re.compile(r"(Once|One (day|morning|night)|There (was|were|once|lived)|Long ago|In (a|the) )")
_sentiment = SentimentIntensityAnalyzer()


class StoriesPaths(NamedTuple):
    """What [`prepare`] writes; each model's directory holds the tokenizer too."""

    strong: Path
    weak_reference: Path
    weak_policy: Path
    train: Path
    test: Path


def long_enough(completion: str) -> float:
    """1 for a text of at least 16 words, else 0."""
    return float(len(completion.split()) >= MIN_WORDS)


def sentiment(completion: str) -> float:
    """VADER's compound score, averaged over the sentences: 0 is negative, 0.5 neutral, 1 positive."""
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\W*\s", completion) if re.search(r"\w", sentence)]
    if not sentences:
        return 0.5
    return (1 + fmean(_sentiment.polarity_scores(sentence)["compound"] for sentence in sentences)) / 2


def gold_reward(completion: str) -> float:
    """The sentiment of a paragraph in [0, 1]; 0 for a text that is too short, so that stopping early wins nothing."""
    return long_enough(completion) * sentiment(completion)


def opening(paragraph: str) -> str:
    """The words of a paragraph that become a prompt."""
    return " ".join(paragraph.split()[:OPENING_WORDS])


def read_paragraphs(data_dir: str | Path) -> list[str]:
    """The different paragraphs of the TinyStories corpora that are long enough to be a good answer, sorted."""
    files = sorted(Path(data_dir, "corpora", "tinystories").glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"No text in {data_dir}/corpora/tinystories; pass the directory of the real data.")
    lines = {line.strip() for path in files for line in path.read_text(encoding="utf-8").splitlines()}
    return sorted(line for line in lines if len(line.split()) >= OPENING_WORDS + MIN_WORDS)


def split_of(prompt: str) -> str:
    """The split of an opening, by a hash of its text: no seed can leak a test opening into training."""
    place = crc32(prompt.encode()) % 100
    for name, percent in SPLITS.items():
        if place < percent:
            return name
        place -= percent
    raise AssertionError("`SPLITS` must add up to 100.")


def openings(paragraphs: Sequence[str], split: str) -> list[str]:
    """The different openings of a split, in a fixed random order."""
    found = sorted({opening(paragraph) for paragraph in paragraphs if _STORY.match(paragraph)})
    random.Random(0).shuffle(found)  # noqa: S311
    return [prompt for prompt in found if split_of(prompt) == split]


def prepare(
    data_dir: str | Path, output_dir: str | Path, *, effort: float = 1.0, num_test_prompts: int = 300
) -> StoriesPaths:
    """Writes the models and the prompts of the recipe, or finds them where an earlier call has written them.

    - strong: stories260K, untouched but for its end-of-sequence tokens (end of the paragraph, end of the story);
    - weak reference: a Llama of 107,000 parameters on the same tokenizer, trained on paragraphs of the corpora without
      those that begin like a held-out prompt;
    - weak policy: the weak reference after DPO on its own samples, the best against the worst of eight by gold reward.

    Args:
        data_dir (`str` or `Path`):
            The real data: `models/stories260K` and `corpora/tinystories`.
        output_dir (`str` or `Path`):
            Where to write.
        effort (`float`, *optional*, defaults to `1.0`):
            Multiplies the epochs of the weak reference and the prompts of its alignment.
        num_test_prompts (`int`, *optional*, defaults to `300`):
            Held-out prompts.

    Returns:
        [`StoriesPaths`]: what was written.

    Raises:
        FileNotFoundError: if the corpora are not there.
        ValueError: if `output_dir` holds the world of other settings.
    """
    root = Path(output_dir)
    names = ("strong", "weak_reference", "weak_policy", "train.jsonl", "test.jsonl")
    paths = StoriesPaths(*(root / name for name in names))
    complete, settings = root / "world.json", {"effort": effort, "num_test_prompts": num_test_prompts}
    if complete.exists():
        check_identity(settings, json.loads(complete.read_text(encoding="utf-8")), complete)
        return paths
    paragraphs = read_paragraphs(data_dir)
    for path, prompts in (
        (paths.train, openings(paragraphs, "train")),
        (paths.test, openings(paragraphs, "test")[:num_test_prompts]),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"prompt": prompts}).to_json(path)

    source = Path(data_dir, "models", "stories260K")
    tokenizer = AutoTokenizer.from_pretrained(source)
    stops = [tokenizer.bos_token_id, tokenizer.eos_token_id]  # BOS is also what stands between two stories
    tokenizer.eos_token = NEWLINE
    strong = AutoModelForCausalLM.from_pretrained(source)
    strong.generation_config.eos_token_id = [*stops, tokenizer.eos_token_id]
    strong.save_pretrained(paths.strong)
    for path in (paths.strong, paths.weak_reference, paths.weak_policy):
        tokenizer.save_pretrained(path)
    tokenizer = AutoTokenizer.from_pretrained(paths.strong)  # only a loaded one reads the new token in a text

    seen = [paragraph for paragraph in paragraphs if split_of(opening(paragraph)) != "test"]
    pretrain(
        tokenizer,
        seen,
        paths.weak_reference,
        epochs=4 * effort,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    rows = preferences(
        AutoModelForCausalLM.from_pretrained(paths.weak_reference),
        tokenizer,
        alignment_prompts(paragraphs, effort),
        paths.weak_policy / "samples",
    )
    align(tokenizer, rows, paths.weak_reference, paths.weak_policy)
    with replacing(complete) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")
    return paths


def alignment_prompts(paragraphs: Sequence[str], effort: float = 1.0) -> list[str]:
    """The openings whose samples the weak policy is aligned on."""
    prompts = openings(paragraphs, "align")
    return prompts[: round(len(prompts) * effort)]


def pretrain(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], output_dir: Path, *, epochs: float, **shape: int
) -> None:
    """Next-token training of a Llama of that shape from random weights."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        **shape,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,  # at the usual 0.02 a model this narrow learns slowly
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    args = SFTConfig(
        **_common(output_dir),
        learning_rate=6e-3,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        max_length=256,
        train_sampling_strategy="group_by_length",
    )
    dataset = Dataset.from_dict({"text": texts})
    SFTTrainer(model, args=args, train_dataset=dataset, processing_class=tokenizer).train()
    model.save_pretrained(output_dir)


def align(
    tokenizer: PreTrainedTokenizerBase, rows: Dataset, reference_dir: Path, output_dir: Path, *, epochs: float = 2
) -> None:
    """DPO of the reference on preferences."""
    model = AutoModelForCausalLM.from_pretrained(reference_dir)
    args = DPOConfig(
        **_common(output_dir),
        beta=0.1,
        learning_rate=5e-4,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        precompute_ref_log_probs=True,
    )
    DPOTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer).train()
    model.save_pretrained(output_dir)


def preferences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    output_dir: Path,
    gold: Callable[[str], float] = gold_reward,
) -> Dataset:
    """The best and the worst of some finished samples of each prompt; a prompt with fewer than two is left out."""
    candidates: dict[str, list[str]] = {prompt: [] for prompt in prompts}
    for seed in range(CANDIDATES):
        rows = generate_completions(
            prompts,
            model,
            tokenizer=tokenizer,
            output_dir=output_dir / f"{seed}",
            seed=seed,
            max_new_tokens=MAX_NEW_TOKENS,
            temperature=1.0,
            top_p=1.0,
            batch_size=64,
        )
        for row in rows:
            if row["finish_reason"] == "stop" and row["completion"].strip():
                candidates[row["prompt"]].append(row["completion"])
    ranked = {prompt: sorted(texts, key=gold) for prompt, texts in candidates.items() if len(texts) > 1}
    return Dataset.from_list(
        [{"prompt": prompt, "chosen": texts[-1], "rejected": texts[0]} for prompt, texts in ranked.items()]
    )


def _common(output_dir: Path) -> dict:
    """Settings of both trainings."""
    return {
        "output_dir": str(output_dir),
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "activation_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 50,
        "report_to": "none",
        "disable_tqdm": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    args = parser.parse_args()
    print(prepare(args.data_dir, args.output_dir))


if __name__ == "__main__":
    main()
