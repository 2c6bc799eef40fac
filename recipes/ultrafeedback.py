# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The paper's prompts, UltraFeedback's, as files; and its preferences, to align a weak model on and to check a pair.

python recipes/ultrafeedback.py                                                       # all 61,000
python recipes/ultrafeedback.py --num_prompts 8000 --output_dir runs/ultrafeedback-8000   # for qwen2.5-small
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from datasets import load_dataset

from hf_cong.journal import replacing

NAME = "HuggingFaceH4/ultrafeedback_binarized"


def main(output_dir: str, num_prompts: int | None = None) -> None:
    """
    Writes `prompts.jsonl` (`prompt`) and below `preferences` a `train.jsonl` and a `test.jsonl` (`prompt`, `chosen`,
    `rejected`), all as messages and sorted by prompt. No prompt of `test.jsonl` is one of the others.

    Args:
        output_dir (`str`): Where they go.
        num_prompts (`int`, *optional*): Most rows to train on, evenly spread; all by default.
    """
    train, test = (_preferences(load_dataset(NAME, split=split)) for split in ("train_prefs", "test_prefs"))
    texts = sorted(train)
    number = min(num_prompts or len(texts), len(texts))
    kept = [train[texts[index * len(texts) // number]] for index in range(number)]
    directory = Path(output_dir)
    _write(directory / "prompts.jsonl", [{"prompt": row["prompt"]} for row in kept])
    _write(directory / "preferences" / "train.jsonl", [row for row in kept if row["chosen"] != row["rejected"]])
    held_out = [test[text] for text in sorted(test.keys() - train.keys())]
    _write(directory / "preferences" / "test.jsonl", [row for row in held_out if row["chosen"] != row["rejected"]])


def _preferences(rows: Iterable[dict]) -> dict[str, dict]:
    """The first row of each prompt that is not empty, by the prompt's text."""
    read = {}
    for row in rows:
        text = row["prompt"].strip()
        prompt = [{"role": "user", "content": text}]
        if text:  # the completions repeat the prompt as their first message
            read.setdefault(text, {"prompt": prompt, "chosen": row["chosen"][-1:], "rejected": row["rejected"][-1:]})
    return read


def _write(path: Path, rows: list[dict]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows are in {path}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", default="runs/ultrafeedback", help="where the files go")
    parser.add_argument("--num_prompts", type=int, help="most rows to train on")
    main(**vars(parser.parse_args()))
