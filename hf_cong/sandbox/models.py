# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The sandbox's tokenizer and models: a weak base, the weak base after alignment, and a stronger base."""

import hashlib
import json
import math
import random
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)
from trl import DPOConfig, DPOTrainer

from ..journal import replacing
from . import gold, world
from .workers import run_jobs

MAX_NEW_TOKENS = 48
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)


class SandboxPaths(NamedTuple):
    """Directories written by [`build_sandbox`]; each model's directory holds the tokenizer too."""

    tokenizer: Path
    weak_reference: Path
    weak_policy: Path
    strong: Path


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the world, a ChatML-like template, left padding; decoding and encoding are inverse."""
    # The other special tokens are no words, so that one typed by a user is an unknown word.
    words = {word: i for i, word in enumerate(["<|unk|>", *world.vocabulary()])}
    backend = Tokenizer(WordLevel(words, unk_token="<|unk|>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",  # noqa: S106
        unk_token="<|unk|>",  # noqa: S106
        eos_token="<|im_end|>",  # noqa: S106
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _shape(tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        # At the usual 0.02 a model this narrow needs ten times the steps before it attends to the animal asked about.
        "initializer_range": 0.8 / hidden_size**0.5,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    dialogues: list[list[dict[str, str]]],
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
) -> None:
    """Next-token training on the answers of `dialogues`, drawn with replacement (AdamW, cosine schedule)."""

    def encode(messages, **kwargs) -> list[list[int]]:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
        return tokenizer(rendered, add_special_tokens=False)["input_ids"]

    questions = encode([messages[:1] for messages in dialogues], add_generation_prompt=True)
    ids = [torch.tensor(row) for row in encode(dialogues)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        drawn = torch.randint(len(ids), (batch_size,), generator=generator).tolist()
        input_ids = pad_sequence([ids[i] for i in drawn], batch_first=True, padding_value=tokenizer.pad_token_id)
        attention_mask = (input_ids != tokenizer.pad_token_id).long()
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        for row, i in enumerate(drawn):
            labels[row, : len(questions[i])] = -100
        loss = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def _sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list) -> list[str | None]:
    """One sample per prompt at temperature 1; `None` where it did not end in time.

    The time is longer than any answer in the text: a judge that never sees a ramble cannot dislike it.
    """
    inputs = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=2 * MAX_NEW_TOKENS)
    completions = output[:, inputs["input_ids"].shape[1] :]
    ended = (completions == tokenizer.eos_token_id).any(dim=1).tolist()
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    return [text if stop else None for text, stop in zip(texts, ended, strict=True)]


def noisy_preferences(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int, seed: int) -> Dataset:
    """The best against the worst of four own samples, in the eyes of a noisy judge.

    The judge adds Gumbel noise of scale 1/4 to the gold reward, which makes it a Bradley-Terry judge of two samples:
    P(a > b) = sigmoid(4 · (gold(a) − gold(b))). Samples that did not end are no candidates.
    """
    prompts = list(world.prompts(n, seed, split="align")["prompt"])
    torch.manual_seed(seed)
    rng = random.Random(f"judge {seed}")  # noqa: S311
    rows = []
    for prompt, *samples in zip(prompts, *(_sample(model, tokenizer, prompts) for _ in range(4)), strict=True):
        score = {
            text: gold.gold_reward(prompt, text) - math.log(rng.expovariate(1.0)) / 4
            for text in samples
            if text is not None
        }
        if len(score) > 1:
            best, worst = max(score, key=score.get), min(score, key=score.get)
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in (best, worst))
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return Dataset.from_list(rows)


def _build_weak(
    tokenizer: PreTrainedTokenizerFast, reference_dir: Path, policy_dir: Path, seed: int, effort: float
) -> None:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**_shape(tokenizer, hidden_size=64, layers=2)))
    fit(model, tokenizer, world.dialogues(round(12000 * effort), seed), steps=round(500 * effort), learning_rate=5e-3)
    model.save_pretrained(reference_dir)

    careful = world.dialogues(500, seed, least_care=0.3, split="align")
    fit(model, tokenizer, careful, steps=round(30 * effort), learning_rate=1e-3)
    model.save_pretrained(policy_dir)
    model = AutoModelForCausalLM.from_pretrained(policy_dir)  # DPOTrainer takes its reference from the policy's path
    args = DPOConfig(
        output_dir=str(policy_dir),
        beta=0.1,
        learning_rate=5e-4,
        per_device_train_batch_size=32,
        num_train_epochs=2,
        precompute_ref_log_probs=True,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=True,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    preferences = noisy_preferences(model, tokenizer, round(1200 * effort), seed)
    DPOTrainer(model, args=args, train_dataset=preferences, processing_class=tokenizer).train()
    model.save_pretrained(policy_dir)


def _build_strong(tokenizer: PreTrainedTokenizerFast, output_dir: Path, seed: int, effort: float) -> None:
    torch.manual_seed(seed)
    # Of the pair's family: for others, such as Qwen2, `AutoTokenizer` puts their own tokenizer in the place of ours.
    model = LlamaForCausalLM(LlamaConfig(**_shape(tokenizer, hidden_size=96, layers=3)))
    fit(
        model,
        tokenizer,
        world.dialogues(round(12000 * effort), seed + 1),
        steps=round(500 * effort),
        learning_rate=4e-3,
    )
    model.save_pretrained(output_dir)


def _identity(seed: int, effort: float) -> dict:
    """What decides the weights: the source of the world, the settings, and the libraries that train."""
    source = b"".join(Path(file).read_bytes() for file in (world.__file__, gold.__file__, __file__))
    versions = {library.__name__: library.__version__ for library in (torch, transformers, trl)}
    return {"seed": seed, "effort": effort, "source": hashlib.sha256(source).hexdigest()[:16], "versions": versions}


def build_sandbox(output_dir: str | Path, seed: int = 0, *, effort: float = 1.0, num_workers: int = 1) -> SandboxPaths:
    """Trains and saves the sandbox's models, or finds them where an earlier call has saved the same ones.

    - weak reference: a 2-layer Llama of width 64, trained on the answers of all writers;
    - weak policy: the same model after SFT on 500 answers of more careful writers and DPO on noisy preferences between
      its own samples;
    - strong: a 3-layer Llama of width 96, trained on other answers of all writers. Nothing has aligned it.

    About one minute of one core for each of the weak pair and the strong model.

    Args:
        output_dir (`str` or `Path`):
            Receives the models, `prompts.jsonl` (1,000 training prompts) and, last, `world.json`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the training text, the initial weights and the judge. The facts of the world stay the same.
        effort (`float`, *optional*, defaults to `1.0`):
            Multiplies the text, the training steps and the preferences. Small values give poor models quickly.
        num_workers (`int`, *optional*, defaults to `1`):
            `2` trains the weak pair and the strong model in two new processes at once.

    Returns:
        [`SandboxPaths`]: the directories of the tokenizer, `weak_reference`, `weak_policy` and `strong`; each model's
        holds the tokenizer too.

    Raises:
        ValueError: if `output_dir` holds a world that was built otherwise.
    """
    output_dir = Path(output_dir)
    paths = SandboxPaths(*(output_dir / name for name in SandboxPaths._fields))
    complete, identity = output_dir / "world.json", _identity(seed, effort)
    if complete.exists():
        found = json.loads(complete.read_text(encoding="utf-8"))["identity"]
        if found != identity:
            raise ValueError(
                f"{output_dir} holds a world made of {found}; yours is {identity}. Delete it or name another folder."
            )
        return paths
    tokenizer = build_tokenizer()
    for path in paths:
        tokenizer.save_pretrained(path)
    with open(output_dir / "prompts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in world.prompts(1000))
    jobs = [
        (_build_strong, tokenizer, paths.strong, seed, effort),
        (_build_weak, tokenizer, paths.weak_reference, paths.weak_policy, seed, effort),
    ]
    run_jobs(jobs, num_workers=num_workers, log=output_dir / "build.log", description="World models")
    facts = {f"{animal} {attribute}": value for (animal, attribute), value in world.FACTS.items()}
    with replacing(complete) as temporary:
        temporary.write_text(json.dumps({"identity": identity, "facts": facts}, indent=1), encoding="utf-8")
    return paths
