# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Facts to make cards of, a card of every kind made of them, and what a reader of the Hub sees in a card."""

import io
import re
from collections import Counter

import datasets
from markdown_it import MarkdownIt

from hf_cong.cards import (
    Result,
    dataset_card,
    model_card,
    pair_card,
)

REPO_ID = "org/strong-cong"


def source(
    name: str, commit: str | None = "0" * 40, license: tuple | None = ("apache-2.0",), language=("en",)
) -> dict:
    stated = None if license is None else dict(zip(("id", "name", "link"), (*license, None, None), strict=False))
    return {"name": name, "commit": commit, "license": stated, "language": list(language)}


QWEN_RESEARCH = ("other", "qwen-research", "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE")
MANIFEST = {
    "run": "0123456789abcdef",
    "method": "ConG",
    "sources": {
        "model": source("Qwen/Qwen2.5-7B-Instruct", "a" * 40, ("apache-2.0",)),
        "weak_model": source("org/weak-dpo", "b" * 40, QWEN_RESEARCH),
        "weak_reference_model": source("Qwen/Qwen2.5-3B-Instruct", "c" * 40, QWEN_RESEARCH),
        "prompts": source("org/prompts", "d" * 40, ("mit",)),
    },
    "settings": {
        "alpha": 0.4,
        "plausibility_threshold": 0.1,
        "max_new_tokens": 2048,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 0,
        "seed": 42,
        "sft_learning_rate": 1e-5,
        "sft_num_train_epochs": 2.0,
        "beta": 0.5,
        "learning_rate": 6e-7,
        "num_train_epochs": 1.0,
        "drop_truncated": True,
        "max_steps": None,
    },
    "adapter": None,
    "stages": {
        "decode": {"train": "decode-train-0"},
        "sft": "sft-0/final",
        "sample": {"train": "sample-train-0"},
        "pairs": {"train": "pairs-train-0"},
        "dpo": "finished",
    },
    "counts": {
        "sft/train": {"rows_in": 1000, "kept": 950, "dropped": {"empty": 3, "truncated": 40, "too_long": 7}},
        "dpo/train": {"rows_in": 950, "kept": 945, "dropped": {"identical": 5}},
    },
    "measures": {"sft": {"loss": 1.234567}, "dpo": {"loss": 0.61, "rewards/accuracies": 0.71}},
    "versions": {"python": "3.11.7", "torch": "2.13.0", "hf-cong": "0.1.0"},
    "files": {},
}
ADAPTER = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
RESULTS = [
    Result(
        system="ConG",
        task="gsm8k",
        metric="exact_match",
        filter="strict-match",
        value=0.71234,
        stderr=0.0125,
        documents=1319,
        num_fewshot=5,
        higher_is_better=True,
        dataset="openai/gsm8k",
        config="main",
        split="test",
        model="/runs/strong-cong",
        difference={"mean": 0.02, "low": -0.01, "high": 0.05},
        reading="undecided",
        baseline="strong base",
    ),
    Result(
        system="strong base",
        task="gsm8k",
        metric="exact_match",
        filter="strict-match",
        value=0.69,
        stderr=0.013,
        documents=1319,
        num_fewshot=5,
        dataset="openai/gsm8k",
        baseline="strong base",
    ),
]


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


PROMPT = [{"role": "user", "content": "Tell me about a cat"}]
ANSWER, OTHER = [{"role": "assistant", "content": "kind"}], [{"role": "assistant", "content": "rude"}]
FILES = {
    "sft/train.parquet": parquet([{"prompt_id": f"{n}", "prompt": PROMPT, "completion": ANSWER} for n in range(3)]),
    "preferences/train.parquet": parquet(
        [{"prompt_id": f"{n}", "prompt": PROMPT, "chosen": ANSWER, "rejected": OTHER} for n in range(2)]
    ),
    "preferences/eval.parquet": parquet([{"prompt_id": "9", "prompt": PROMPT, "chosen": ANSWER, "rejected": OTHER}]),
}
STEERED = {"alpha": None, "beta": 2.0, "plausibility_threshold": 0.1}
# Of every kind of card, how it is made of a manifest and of results of the system "ConG".
KINDS = {
    "model": lambda facts, results, **more: model_card(facts, repo_id=REPO_ID, results=results, **more),
    "sft": lambda facts, results, **more: model_card(facts, repo_id=REPO_ID, stage="sft", results=results, **more),
    "adapter": lambda facts, results, **more: model_card(
        {**facts, "adapter": facts.get("adapter") or ADAPTER}, repo_id=REPO_ID, kind="adapter", results=results, **more
    ),
    "pair": lambda facts, results, **more: pair_card(facts, repo_id="org/pair", results=results, **more),
    "steered": lambda facts, results, **more: pair_card(
        facts, repo_id="org/steered", model_type="emulated_fine_tuning", results=results, **more
    ),
    "data": lambda facts, results, **more: dataset_card(facts, repo_id="org/data", files=FILES, **more),
}


def python_blocks(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


def body(card: str) -> str:
    return card.split("\n---\n", 1)[1]


def tokens(card: str) -> list:
    """What Markdown makes of a card, inline parts too."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    found = []
    for token in parser.parse(body(card)):
        found += [token, *(token.children or ())]
    return found


def structure(card: str) -> Counter:
    """How many of each kind of element a reader sees, and where its links lead."""
    seen = tokens(card)
    links = Counter(token.attrGet("href") for token in seen if token.type == "link_open")
    return Counter(token.type for token in seen) + links
