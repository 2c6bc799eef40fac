# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The main job in the sandbox: ConG and what it is compared with, on held-out requests, over several seeds.

The world was chosen without regard to the method: sizes and training of its models by a few looks at their own gold
reward (the weak base fails often, alignment helps it clearly and leaves much to do, the strong base lies between). One
fault of the test was mended after a first comparison: the judge had not been shown texts that never end. What wins and
what does not is in `recipes/sandbox/README.md`.

The settings of ConG are the paper's, except the learning rates, which so small a model needs larger: stage I has that
of the weak model's own SFT; stage II has the paper's ratio to it (6e-7 to 1e-5) and, beside it, five times as much.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer

from ..cong_config import ConGConfig
from ..cong_trainer import ConGTrainer
from ..generation import generate_completions
from ..pair import ContrastivePairForCausalLM
from ..preferences import build_sft_dataset
from ..rewards import ImplicitReward, completion_logps
from .gold import grade
from .models import MAX_NEW_TOKENS, SandboxPaths, build_sandbox
from .summary import (
    ALPHA,
    ALPHAS,
    CONG,
    CONG_FAST,
    CONG_S,
    COOLED,
    STRONG,
    TEMPERATURE,
    WEAK_POST,
    WEAK_PRE,
    WEAK_SFT,
    decoded,
    draw,
    summarise,
    tables,
)
from .workers import run_jobs
from .world import prompts

SFT_LEARNING_RATE, DPO_LEARNING_RATE = 1e-3, 6e-5


def run_demo(
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    num_prompts: int = 1000,
    num_test_prompts: int = 300,
    effort: float = 1.0,
    num_workers: int = 2,
) -> dict:
    """Runs ConG and its baselines in the sandbox, prints the comparison and writes it to `output_dir`.

    The world's models are made once. Each seed draws other training prompts and other samples, and trains again.

    Args:
        output_dir (`str` or `Path`):
            Receives the models, `samples.jsonl` (one row per sample), `results.json`, `results.md` and four pictures.
            What the same demo left there earlier is used again.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`):
            Seeds of the comparison.
        num_prompts (`int`, *optional*, defaults to `1000`):
            Training prompts of ConG and of WeakSFT.
        num_test_prompts (`int`, *optional*, defaults to `300`):
            Held-out prompts, the same for all seeds and systems.
        effort (`float`, *optional*, defaults to `1.0`):
            See [`build_sandbox`].
        num_workers (`int`, *optional*, defaults to `2`):
            Processes at once, of one thread each.

    Returns:
        `dict`: the content of `results.json`.

    Raises:
        ValueError: if `seeds` is empty or repeats itself, or `output_dir` holds another demo.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"`seeds` must be different numbers, at least one, got {list(seeds)}.")
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    log = output_dir / "demo.log"
    start = time.monotonic()

    print("Building the world: a tokenizer, a weak pair, a strong base ...", flush=True)
    world = build_sandbox(output_dir / "world", effort=effort, num_workers=num_workers)
    print(f"Training and sampling with {len(seeds)} seeds; details: {log} ...", flush=True)
    jobs = [
        (job, world, output_dir / f"seed-{seed}", seed, num_prompts, num_test_prompts)
        for job in (_trained, _untrained)
        for seed in seeds
    ]
    done = run_jobs(jobs, num_workers=num_workers, log=log, description="Seeds, trained and untrained systems")
    records = [record for rows in done for record in rows]
    with open(output_dir / "samples.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    results = {
        "settings": {
            "seeds": list(seeds),
            "num_prompts": num_prompts,
            "num_test_prompts": num_test_prompts,
            "effort": effort,
            "alpha": ALPHA,
            "sft_learning_rate": SFT_LEARNING_RATE,
            "dpo_learning_rate": DPO_LEARNING_RATE,
            "versions": {library.__name__: library.__version__ for library in (torch, transformers, trl)},
        },
        **summarise(records),
        "seconds": round(time.monotonic() - start, 1),
    }
    (output_dir / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    (output_dir / "results.md").write_text(tables(results, markdown=True) + "\n", encoding="utf-8")
    draw(results, records, output_dir)
    print(f"\n{tables(results)}\n\n{results['seconds']:.0f} s. Tables, samples and pictures: {output_dir}", flush=True)
    return results


def _untrained(world: SandboxPaths, output_dir: Path, seed: int, _: int, num_test_prompts: int) -> list[dict]:
    """Samples of everything that no step of ConG has trained."""

    def pair(alpha: float) -> ContrastivePairForCausalLM:
        return ContrastivePairForCausalLM.from_pair(str(world.weak_policy), str(world.weak_reference), alpha=alpha)

    return _sample_and_score(
        {
            WEAK_PRE: lambda: _load(world.weak_reference),
            WEAK_POST: lambda: _load(world.weak_policy),
            **{decoded(alpha): lambda alpha=alpha: pair(alpha) for alpha in ALPHAS},
            COOLED: lambda: pair(ALPHA),
            STRONG: lambda: _load(world.strong),
        },
        world,
        output_dir,
        seed,
        num_test_prompts,
    )


def _trained(world: SandboxPaths, output_dir: Path, seed: int, num_prompts: int, num_test_prompts: int) -> list[dict]:
    """Trains ConG and WeakSFT on the same prompts with the same budget, then samples them."""
    tokenizer = AutoTokenizer.from_pretrained(world.tokenizer)
    train_dataset = prompts(num_prompts, seed)
    final = {CONG: output_dir / "cong", CONG_FAST: output_dir / "cong-5x-lr"}
    for label, factor in ((CONG, 1), (CONG_FAST, 5)):
        # The second trainer finds the stages before DPO done: they do not depend on stage II's learning rate.
        args = cong_config(output_dir / "training", seed, learning_rate=factor * DPO_LEARNING_RATE)
        trainer = ConGTrainer(
            str(world.strong),
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
            weak_model=str(world.weak_policy),
            weak_reference_model=str(world.weak_reference),
        )
        trainer.train()
        trainer.save_model(str(final[label]))
    (stage_one,) = (output_dir / "training" / "_cong").glob("sft-*/final")
    weak_sft = output_dir / "weak-sft"
    _train_weak_sft(world, weak_sft, train_dataset, tokenizer, args)
    return _sample_and_score(
        {
            WEAK_SFT: lambda: _load(weak_sft),
            CONG_S: lambda: _load(stage_one),
            **{label: lambda path=path: _load(path) for label, path in final.items()},
        },
        world,
        output_dir,
        seed,
        num_test_prompts,
    )


def cong_config(output_dir: Path, seed: int, *, learning_rate: float = DPO_LEARNING_RATE) -> ConGConfig:
    """The demo's settings of ConG; `recipes/sandbox/cong.yaml` holds the same."""
    return ConGConfig(
        output_dir=str(output_dir),
        alpha=ALPHA,
        max_new_tokens=MAX_NEW_TOKENS,
        generation_batch_size=64,
        sft_learning_rate=SFT_LEARNING_RATE,
        learning_rate=learning_rate,
        per_device_train_batch_size=32,
        max_length=128,
        activation_checkpointing=False,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _train_weak_sft(
    world: SandboxPaths,
    output_dir: Path,
    train_dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    args: ConGConfig,
) -> None:
    """SFT of the strong base on plain samples of the aligned weak model: ConG-S without the contrast."""
    completions = _sample(
        lambda: _load(world.weak_policy), tokenizer, train_dataset, output_dir / "completions", args.seed
    )
    rows, _ = build_sft_dataset(completions)
    trainer = SFTTrainer(
        _load(world.strong),
        SFTConfig(output_dir=str(output_dir), **{**args.sft_settings(), "eval_strategy": "no"}),
        train_dataset=rows.select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
    )
    set_seed(args.seed)  # the sampler takes torch's seed, which sampling may have changed; stage I does the same
    trainer.train()
    trainer.save_model(str(output_dir))


def _load(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def _sample(
    engine: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    dataset: datasets.Dataset,
    output_dir: Path,
    seed: int,
    temperature: float = TEMPERATURE,
) -> datasets.Dataset:
    """Samples as ConG does in training, with top-p 0.95."""
    return generate_completions(
        dataset,
        engine(),
        tokenizer=tokenizer,
        output_dir=output_dir,
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        batch_size=100,
    )


def _sample_and_score(
    systems: dict[str, Callable[[], PreTrainedModel]],
    world: SandboxPaths,
    output_dir: Path,
    seed: int,
    num_test_prompts: int,
) -> list[dict]:
    """One record per system and held-out prompt."""
    tokenizer = AutoTokenizer.from_pretrained(world.tokenizer)
    strong = _load(world.strong)
    reward = ImplicitReward(_load(world.weak_policy), _load(world.weak_reference), tokenizer)
    test = prompts(num_test_prompts, split="test")
    records = []
    for label, engine in systems.items():
        folder = output_dir / "samples" / re.sub(r"\W+", "-", label)
        temperature = TEMPERATURE * ALPHA if label == COOLED else TEMPERATURE
        rows = _sample(engine, tokenizer, test, folder, seed, temperature)
        # Scored with the end-of-sequence token where it was written: stopping is part of the answer.
        end = {"stop": [tokenizer.eos_token_id], "length": []}
        ids = [row["completion_ids"] + end[row["finish_reason"]] for row in rows]
        implicit = reward.score(list(rows["prompt"]), ids, batch_size=100)
        logps = completion_logps(strong, tokenizer, list(rows["prompt"]), ids, batch_size=100)
        graded = [grade(row["prompt"], row["completion"]) for row in rows]
        records += [
            {
                "system": label,
                "seed": seed,
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"][-1]["content"],
                "completion": row["completion"],
                "finish_reason": row["finish_reason"],
                "gold": grades.reward,
                "truth": grades.truth,
                "manner": grades.manner,
                "focus": grades.focus,
                "implicit": score,
                "nll": -row_logps.mean().item(),
                "tokens": len(row_ids),
                "finished": float(row["finish_reason"] == "stop"),
            }
            for row, row_ids, score, row_logps, grades in zip(rows, ids, implicit, logps, graded, strict=True)
        ]
    return records
