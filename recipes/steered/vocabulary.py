# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A model under another vocabulary: the same text has the same probability, and no id is the same token."""

import json
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong.checkpoints import damage, seal


def renumbered(source: Path, directory: Path) -> Path:
    """
    Saves a model in whose vocabulary every token has the id after its own, the last one the first.

    Args:
        source (`Path`): Folder of a model and its tokenizer.
        directory (`Path`): Where it is saved, if it is not there yet.

    Returns:
        `Path`: `directory`.
    """
    if damage(directory) is None:
        return directory
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    size = len(tokenizer)

    def moved(ids: int | list[int] | None) -> int | list[int] | None:
        return ids if ids is None else (ids + 1) % size if isinstance(ids, int) else [*map(moved, ids)]

    for weight in {id(each): each for each in (model.get_input_embeddings().weight, model.lm_head.weight)}.values():
        weight.data[:size] = weight.data[:size].roll(1, 0)
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, moved(getattr(config, name)))

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Added tokens too: those that the model of the tokenizer does not know would be numbered after it.
    state["model"]["vocab"] = {token: moved(own) for token, own in tokenizer.get_vocab().items()}
    for token in state["added_tokens"]:
        token["id"] = moved(token["id"])
    for token in (state["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = moved(token["ids"])
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")
    seal(directory)
    return directory
