# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Completions of every test prompt by one method and one seed, with what they cost the large model.

Nothing here knows the gold reward.
"""

import json
import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_cong import (
    ContrastivePairForCausalLM,
    EmulatedFineTuningForCausalLM,
    ImplicitReward,
    best_of_n,
    generate_completions,
    weak_to_strong_search,
)
from hf_cong.journal import replacing
from hf_cong.prompts import encode_prompt
from hf_cong.rewards import completion_logps

from .worlds import World

# The temperature of the search paper. Its top-k of 50 is left out, so that every divergence is finite.
SAMPLER = {"temperature": 0.7, "top_k": 0, "top_p": 1.0}
BATCH = 400  # rows of a batch; the models are small

BASE, WEAK_PRE, WEAK_POST = "base", "weak model, before alignment", "weak model, after alignment"
CD = "contrastive decoding of the pair, α = 0.4"
BEST_OF = {f"best of {n}": n for n in (4, 8, 16)}
CBS = {f"search (W, K, L) = {shape}": shape for shape in ((4, 4, 5), (2, 4, 10))}
# β = 0 is the base on its own plausible set: what the constraint alone does.
EFT = {f"EFT, β = {beta:g}": beta for beta in (0.0, 0.5, 1.0, 2.0, 4.0)}
METHODS = (BASE, WEAK_PRE, WEAK_POST, CD, *BEST_OF, *CBS, *EFT)
GUIDED = ("search (W, K, L) = (4, 4, 5)", "EFT, β = 1")  # what the worse pairs guide

EXACT = "exact at every step, along the sample"


def samples_path(world: World, pair: str, method: str, seed: int) -> Path:
    folder, file = (re.sub(r"\W+", "-", name).strip("-") for name in (pair, method))
    return world.root / "samples" / folder / f"{file}-{seed}.jsonl"


def read_samples(world: World, pair: str, method: str, seed: int) -> list[dict]:
    lines = samples_path(world, pair, method, seed).read_text(encoding="utf-8").splitlines()
    return [{"method": method, "pair": pair, "seed": seed, **json.loads(line)} for line in lines]


def sample(world: World, pair: str, method: str, seed: int) -> None:
    """
    Writes `samples_path`, last and atomically; a file that is there stays.

    A row has `prompt_id`, `completion`, `finish_reason`, `tokens`, `implicit` (the pair's reward of the whole
    completion, nats), `nll` (nats per token under the large model as it is), `kl` (nats per completion, from the large
    model's sampler at the same temperature) and `kl_method`.
    """
    path = samples_path(world, pair, method, seed)
    if path.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(world.strong)
    strong, policy, reference = (_load(model) for model in (world.strong, *world.pair(pair)))
    prompts, reward = world.prompts(), ImplicitReward(policy, reference, tokenizer)
    settings = {**SAMPLER, "max_new_tokens": world.max_new_tokens, "seed": seed}
    if method in BEST_OF or method in CBS:
        rows = _search(strong, tokenizer, prompts, reward, method, settings)
    else:
        writer = _writer(method, strong, policy, reference)
        rows = [
            {**row, "kl_method": EXACT}
            for row in generate_completions(
                prompts, writer, tokenizer=tokenizer, output_dir=path.with_suffix(""), batch_size=BATCH, **settings
            )
        ]
        for row, kl in zip(rows, divergences(writer, strong, tokenizer, rows, SAMPLER["temperature"]), strict=True):
            row["kl"] = kl

    ids, prompts = [row["completion_ids"] for row in rows], [row["prompt"] for row in rows]
    finish_reasons = [row["finish_reason"] for row in rows]
    implicit = reward.score(prompts, ids, finish_reasons=finish_reasons, batch_size=64)
    logps = completion_logps(strong, tokenizer, prompts, ids, batch_size=64)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for row, score, row_logps in zip(rows, implicit, logps, strict=True):
            record = {name: row[name] for name in ("prompt_id", "completion", "finish_reason", "kl", "kl_method")}
            record |= {
                "tokens": len(row_logps),
                "implicit": score,
                "nll": -row_logps.mean().item() if len(row_logps) else 0.0,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _search(strong, tokenizer, prompts: list[str], reward: ImplicitReward, method: str, settings: dict) -> list[dict]:
    if method in BEST_OF:
        n = BEST_OF[method]
        results = best_of_n(strong, tokenizer, prompts, reward, n=n, batch_size=BATCH // n, **settings)
    else:
        beam_width, successors_per_beam, chunk_length = CBS[method]
        results = weak_to_strong_search(
            strong,
            tokenizer,
            prompts,
            reward,
            beam_width=beam_width,
            successors_per_beam=successors_per_beam,
            chunk_length=chunk_length,
            batch_size=BATCH // (beam_width * successors_per_beam),
            **settings,
        )
    columns = ("prompt_id", "prompt", "completion", "completion_ids", "finish_reason", "kl", "kl_method")
    return [{name: getattr(result, name) for name in columns} for result in results]


def _writer(method: str, strong, policy, reference) -> PreTrainedModel:
    """The model that samples from left to right."""
    if method == CD:
        return ContrastivePairForCausalLM.from_pair(policy, reference, alpha=0.4)
    if method in EFT:
        return EmulatedFineTuningForCausalLM.from_pair(strong, policy, reference, beta=EFT[method])
    return {BASE: strong, WEAK_PRE: reference, WEAK_POST: policy}[method]


@torch.no_grad()
def divergences(
    writer: PreTrainedModel,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    temperature: float,
    batch_size: int = 32,
) -> list[float]:
    """
    KL(writer's sampler ‖ base's sampler) of every completion: Σ over its steps of the exact divergence of the two
    next-token distributions at that temperature, which is an unbiased estimate of the divergence of whole completions.

    A completion that ended by itself has one step more than tokens: its end.

    Returns:
        `list[float]`: nats per completion.
    """
    found = [0.0] * len(rows)
    encoded = [(encode_prompt(tokenizer, row["prompt"]), row["completion_ids"]) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, encoded[i])))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        whole = [torch.tensor([*prompt, *completion]) for prompt, completion in (encoded[i] for i in batch)]
        # Right padding: a causal model never looks at it.
        ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)  # (B, T)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
        ours, theirs = (_sampler_logps(model, ids, mask, temperature) for model in (writer, base))  # (B, T, V)
        steps = (ours.exp() * (ours - theirs)).sum(-1)  # (B, T)
        for row, i in enumerate(batch):
            prompt, completion = encoded[i]
            first = len(prompt) - 1
            last = first + len(completion) + (rows[i]["finish_reason"] == "stop")
            found[i] = steps[row, first:last].sum().item()
    return found


def _sampler_logps(model: PreTrainedModel, ids: Tensor, mask: Tensor, temperature: float) -> Tensor:
    # A contrast samples on its plausible set only, which its likelihood leaves out.
    contrasts = isinstance(model, ContrastivePairForCausalLM | EmulatedFineTuningForCausalLM)
    masked = {"plausible_only": True} if contrasts else {}
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **masked).logits
    return (logits.float() / temperature).log_softmax(-1)


def _load(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path).eval()
