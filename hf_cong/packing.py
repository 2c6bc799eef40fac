# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Rows side by side in one sequence: whether a model keeps them apart."""

from typing import Any

import torch
from transformers import Trainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

_TOKENS = 8  # of a row


def check_rows_apart(trainer: Trainer, settings: dict[str, Any]) -> None:
    """
    Refuses rows side by side with a model that would read one row while it predicts the next.

    It is tried on two rows of a few tokens, as TRL's collator lays them together: no score in the second may have a
    gradient with respect to the first. What a mask keeps out has one of exactly zero, in any precision. On a model in
    shards it is not tried.

    Args:
        trainer (`transformers.Trainer`): Has the model, on its device.
        settings (`dict[str, Any]`): Arguments of [`~trl.SFTConfig`].

    Raises:
        ValueError: if the second row depends on the first.
    """
    packed = settings.get("packing") and settings.get("packing_strategy") != "wrapped"  # which cuts rows anywhere
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.is_distributed_loading_by_transformers
    if sharded or not (packed or settings.get("padding_free")):
        return
    model = trainer.model
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    rows = (torch.arange(2 * _TOKENS) % model.config.get_text_config().vocab_size).split(_TOKENS)
    batch = collate([{"input_ids": row.tolist()} for row in rows])
    del batch["labels"]
    batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
    read = []

    def watch(module, inputs, output):
        read.append(output.detach().requires_grad_())
        return read[-1]

    training = model.training
    hook = model.get_input_embeddings().register_forward_hook(watch)
    model.eval()
    with torch.enable_grad(), trainer.accelerator.autocast():
        second = model(**batch, use_cache=False).logits[0, -_TOKENS:]
        (gradient,) = torch.autograd.grad(second.float().square().sum(), read)
    hook.remove()
    model.train(training)
    if gradient[0, :_TOKENS].any():
        raise ValueError(
            f"`sft_kwargs` lays rows side by side in one sequence, and `model` ({model.config.model_type!r} with "
            f"attention {model.config._attn_implementation!r}) does not keep them apart: each would be learnt as "
            "what follows the one before it. Take out `packing` and `padding_free`, or load `model` with another "
            "`attn_implementation`, such as 'flash_attention_2'."
        )
