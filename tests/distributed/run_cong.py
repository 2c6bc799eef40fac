# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A whole ConG run on tiny models: in this process, killed in another, or under torchrun."""

import argparse
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from trl.trainer.utils import hash_module

from hf_cong import ConGConfig, ConGTrainer
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer


def strong_model(family="qwen2", seed=3, **overrides):
    tokenizer = tiny_tokenizer()
    model = tiny_model(
        family,
        seed,
        **{
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.05,
            **overrides,
        },
    )
    model.generation_config.eos_token_id = model.config.eos_token_id
    return model


def weak_pair(family="llama", tokenizer=None):
    tokenizer = tokenizer or tiny_tokenizer()
    pair = tiny_pair(
        family,
        1,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    for model in pair:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    return pair


def prompts(n=24):
    return Dataset.from_list([{"prompt": [{"role": "user", "content": f"tell me about cat {i}"}]} for i in range(n)])


def message(text):
    return [{"role": "assistant", "content": text}]


def chosen_rows(n=12):
    return prompts(n).map(lambda row, i: {"chosen": message(f"kind cat {i % 5} is kind")}, with_indices=True)


def pairs(n=12):
    return chosen_rows(n).map(lambda row, i: {"rejected": message(f"rude dog {i % 3}")}, with_indices=True)


def config(output_dir, **overrides):
    return ConGConfig(
        output_dir=str(output_dir),
        **{
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "max_new_tokens": 8,
            "max_length": 128,
            "drop_truncated": False,
            "sft_learning_rate": 1e-3,
            "sft_num_train_epochs": 1,
            "learning_rate": 1e-3,
            **overrides,
        },
    )


def lora(**overrides):
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **overrides})


def trainer(output_dir, train_dataset=None, *, model=None, cls=ConGTrainer, weak=True, settings=None, **kwargs):
    if weak:
        kwargs = dict(zip(("weak_model", "weak_reference_model"), weak_pair(), strict=True)) | kwargs
        kwargs.setdefault("weak_processing_class", tiny_tokenizer())
    return cls(
        strong_model() if model is None else model,
        args=config(output_dir, **(settings or {})),
        train_dataset=prompts() if train_dataset is None else train_dataset,
        processing_class=kwargs.pop("processing_class", None) or tiny_tokenizer(),
        **kwargs,
    )


def weights(trainer):
    return hash_module(trainer.accelerator.unwrap_model(trainer.model))


# Every stage takes long enough to be killed in its middle; stages of training end with step 24.
LONG = {
    "save_strategy": "steps",
    "save_steps": 2,
    "sft_num_train_epochs": 2,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "generation_batch_size": 1,
    "max_new_tokens": 16,
}


def long_run(output_dir, train_dataset=None, *, with_lora=False, resume=False, settings=None):
    made = trainer(
        output_dir,
        train_dataset,
        settings={**LONG, **(settings or {})},
        peft_config=lora() if with_lora else None,
    )
    made.train(resume_from_checkpoint=resume)
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--batch-size", type=int, default=2)
    options = parser.parse_args()
    settings = {"per_device_train_batch_size": options.batch_size}
    given = pairs() if options.pairs else None
    made = long_run(options.output_dir, given, with_lora=options.lora, resume=options.resume, settings=settings)
    total = sum(p.double().abs().sum() for p in made.accelerator.unwrap_model(made.model).parameters()).item()
    print(f"process {made.accelerator.process_index} weights {weights(made)} sum {total:.12f}", flush=True)
    made.end()
