# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A whole run in which the strong model is steered, token by token or by search: to be killed, or under torchrun."""

import sys
from pathlib import Path

import torch

from tests.tiny import tiny_tokenizer

from .run_cong import LONG, prompts, strong_model, trainer, weak_pair, weights

STEERED = {"chosen_from": "steered", "rejected_from": "base"}
SEARCH = {"beam_width": 2, "successors_per_beam": 2, "chunk_length": 3}


def strong(family="llama", **overrides):
    """Deeper than the pair."""
    depth = "n_layer" if family == "gpt2" else "num_hidden_layers"
    return strong_model(family, **{depth: 3, **overrides})


def steered_trainer(output_dir, kind, train_dataset=None, *, settings=None, **kwargs):
    """`kind`: a family, which pair and strong model share; or `"search"`, across vocabularies."""
    if kind == "search":
        tokenizer = tiny_tokenizer(4)
        weak = dict(zip(("weak_model", "weak_reference_model"), weak_pair("gpt2", tokenizer), strict=True))
        kwargs = {"model": strong(), **weak, "weak_processing_class": tokenizer, **kwargs}
        settings = {**SEARCH, **(settings or {})}
    else:
        weak = dict(zip(("weak_model", "weak_reference_model"), weak_pair(kind), strict=True))
        kwargs = {"model": strong(kind), **weak, **kwargs}
    return trainer(output_dir, train_dataset, settings={**STEERED, **(settings or {})}, **kwargs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    output_dir, kind = Path(sys.argv[1]), sys.argv[2]
    batch = {"per_device_train_batch_size": int(sys.argv[3])}
    made = steered_trainer(output_dir, kind, prompts(), settings={**LONG, **batch})
    made.train(resume_from_checkpoint=True)
    print(f"process {made.accelerator.process_index} weights {weights(made)} sum 0", flush=True)
    made.end()
