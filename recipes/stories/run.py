# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""ConG and its baselines on a real pretrained model and real story openings, over several seeds.

    python recipes/stories/run.py --data_dir DIR --output_dir runs/stories

The same command goes on where a killed run stopped. The settings of ConG are those of `cong.yaml`.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from prepare import MAX_NEW_TOKENS, StoriesPaths, gold_reward, long_enough, prepare, sentiment
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer

from hf_cong import ConGConfig, ConGTrainer, ContrastivePairForCausalLM, ImplicitReward, build_sft_dataset
from hf_cong.generation import generate_completions
from hf_cong.recipes import parse
from hf_cong.rewards import completion_logps
from hf_cong.sandbox.summary import (
    ALPHA,
    ALPHAS,
    CONG,
    CONG_FAST,
    CONG_S,
    COOLED,
    STRONG,
    SYSTEMS,
    TEMPERATURE,
    WEAK_POST,
    WEAK_PRE,
    WEAK_SFT,
    decoded,
    draw,
    summarise,
    tables,
)
from hf_cong.sandbox.workers import run_jobs

STRONG_T1 = "strong base, T = 1, top-p 1"
LABELS = tuple(label for each in SYSTEMS for label in ((each, STRONG_T1) if each == STRONG else (each,)))
PARTS = ("long_enough", "sentiment")


def run(
    data_dir: str | Path,
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    num_prompts: int | None = None,
    num_test_prompts: int = 300,
    effort: float = 1.0,
    num_workers: int = 2,
) -> dict:
    """Runs the recipe; prints the comparison and writes it to `output_dir`.

    Args:
        data_dir (`str` or `Path`):
            The real data: see [`prepare`].
        output_dir (`str` or `Path`):
            Receives the world, the runs, `samples.jsonl` (one row per sample), `results.json`, `results.md` and four
            pictures.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`):
            Seeds of ConG and of all samples. The world is the same for all.
        num_prompts (`int`, *optional*):
            Training prompts of ConG and of WeakSFT; all by default.
        num_test_prompts (`int`, *optional*, defaults to `300`):
            Held-out prompts (at most).
        effort (`float`, *optional*, defaults to `1.0`):
            See [`prepare`].
        num_workers (`int`, *optional*, defaults to `2`):
            Processes at once, of one thread each.

    Returns:
        `dict`: the content of `results.json`.
    """
    start = time.monotonic()
    output_dir = Path(output_dir)
    print("Preparing the prompts and the weak pair ...", flush=True)
    world = output_dir / "world"
    world.mkdir(parents=True, exist_ok=True)
    log = output_dir / "run.log"
    (paths,) = run_jobs(
        [(_prepare, data_dir, world, effort, num_test_prompts)],
        num_workers=num_workers,
        log=log,
        description="World models",
    )
    print(f"  {time.monotonic() - start:.0f} s. Training and sampling; progress: {log} ...", flush=True)
    jobs = [
        (job, paths, output_dir / f"seed-{seed}", seed, num_prompts)
        for job in (_trained, _untrained)
        for seed in seeds
    ]
    done = run_jobs(jobs, num_workers=num_workers, log=log, description="Seeds, trained and untrained systems")
    records = [record for rows, _ in done for record in rows]
    with open(output_dir / "samples.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)

    results = {
        "settings": {
            "seeds": list(seeds),
            "num_prompts": len(_prompts(paths.train, num_prompts)),
            "num_test_prompts": len(_prompts(paths.test)),
            "effort": effort,
            "versions": {library.__name__: library.__version__ for library in (torch, transformers, trl)},
        },
        **summarise(records, LABELS, PARTS),
        "stage_counts": {str(seed): counts for seed, (_, counts) in zip(seeds, done, strict=False)},
        "seconds": round(time.monotonic() - start, 1),
    }
    (output_dir / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    (output_dir / "results.md").write_text(tables(results, markdown=True) + "\n", encoding="utf-8")
    draw(results, records, output_dir)
    print(f"\n{tables(results)}\n\n{results['seconds']:.0f} s. Tables, samples and pictures: {output_dir}", flush=True)
    return results


def _prepare(data_dir: Path, output_dir: Path, effort: float, num_test_prompts: int) -> StoriesPaths:
    return prepare(data_dir, output_dir, effort=effort, num_test_prompts=num_test_prompts)


def _untrained(paths: StoriesPaths, output_dir: Path, seed: int, _: int | None) -> tuple[list[dict], dict]:
    """Samples of everything that no step of ConG has trained."""
    pair = ContrastivePairForCausalLM.from_pair(str(paths.weak_policy), str(paths.weak_reference))
    records = []
    for label, path in ((WEAK_PRE, paths.weak_reference), (WEAK_POST, paths.weak_policy), (STRONG, paths.strong)):
        records += _sample_and_score(label, _load(path), paths, output_dir, seed)
    records += _sample_and_score(STRONG_T1, _load(paths.strong), paths, output_dir, seed, temperature=1.0, top_p=1.0)
    for alpha in ALPHAS:
        pair.config.alpha = alpha
        records += _sample_and_score(decoded(alpha), pair, paths, output_dir, seed)
    pair.config.alpha = ALPHA
    records += _sample_and_score(COOLED, pair, paths, output_dir, seed, temperature=TEMPERATURE * ALPHA)
    return records, {}


def _trained(paths: StoriesPaths, output_dir: Path, seed: int, num_prompts: int | None) -> tuple[list[dict], dict]:
    """Trains ConG and WeakSFT on the same prompts with the same settings, then samples them."""
    tokenizer = AutoTokenizer.from_pretrained(paths.strong)
    train_dataset = _prompts(paths.train, num_prompts)
    records = []
    for label, factor in ((CONG, 1), (CONG_FAST, 5)):
        # The second trainer finds the stages before DPO done: they do not depend on stage II's learning rate.
        args = cong_config(paths, output_dir / "cong", seed)
        args.learning_rate *= factor
        trainer = ConGTrainer(
            AutoModelForCausalLM.from_pretrained(paths.strong),
            args=args,
            train_dataset=train_dataset,
            processing_class=tokenizer,
        )
        trainer.train()
        records += _sample_and_score(label, trainer.model, paths, output_dir, seed)
    (stage_one,) = (output_dir / "cong" / "_cong").glob("sft-*/final")
    records += _sample_and_score(CONG_S, _load(stage_one), paths, output_dir, seed)
    weak_sft = _weak_sft(paths, output_dir / "weak-sft", train_dataset, tokenizer, args)
    records += _sample_and_score(WEAK_SFT, weak_sft, paths, output_dir, seed)
    return records, trainer.stage_counts


def cong_config(paths: StoriesPaths, output_dir: Path, seed: int) -> ConGConfig:
    """`cong.yaml`, with the paths and the seed of this run."""
    argv = {
        "config": Path(__file__).with_name("cong.yaml"),
        "output_dir": output_dir,
        "weak_model_name_or_path": paths.weak_policy,
        "weak_reference_model_name_or_path": paths.weak_reference,
        "seed": seed,
    }
    argv = [str(part) for key, value in argv.items() for part in (f"--{key}", value)]
    _, config, _ = parse((ScriptArguments, ConGConfig, ModelConfig), argv, prog="recipes/stories/run.py")
    return config


def _weak_sft(
    paths: StoriesPaths,
    output_dir: Path,
    train_dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    args: ConGConfig,
) -> PreTrainedModel:
    """The strong model after SFT on plain samples of the aligned weak model: ConG-S without the contrast."""
    completions = generate_completions(
        train_dataset,
        _load(paths.weak_policy),
        tokenizer=tokenizer,
        output_dir=output_dir / "completions",
        seed=args.seed,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=args.generation_batch_size,
    )
    rows, _ = build_sft_dataset(completions)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(paths.strong),
        SFTConfig(output_dir=str(output_dir), **args.sft_settings()),
        train_dataset=rows.select_columns(["prompt", "completion"]),
        processing_class=tokenizer,
    )
    set_seed(args.seed)  # the order of the rows follows torch's seed, which sampling may have changed
    trainer.train()
    return trainer.model


def _sample_and_score(
    label: str,
    engine: PreTrainedModel,
    paths: StoriesPaths,
    output_dir: Path,
    seed: int,
    *,
    temperature: float = TEMPERATURE,
    top_p: float = 0.95,
) -> list[dict]:
    """One record for each held-out prompt."""
    tokenizer = AutoTokenizer.from_pretrained(paths.strong)
    rows = generate_completions(
        _prompts(paths.test),
        engine,
        tokenizer=tokenizer,
        output_dir=output_dir / "samples" / re.sub(r"\W+", "-", label),
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=temperature,
        top_p=top_p,
        batch_size=64,
    )
    # Without the token that ended it: the untouched strong model has another one for the end of a story.
    ids, prompts = list(rows["completion_ids"]), list(rows["prompt"])
    reward = ImplicitReward(_load(paths.weak_policy), _load(paths.weak_reference), tokenizer)
    implicit = reward.score(prompts, ids, batch_size=64)
    logps = completion_logps(_load(paths.strong), tokenizer, prompts, ids, batch_size=64)
    return [
        {
            "system": label,
            "seed": seed,
            "prompt_id": row["prompt_id"],
            "prompt": row["prompt"],
            "completion": row["completion"],
            "finish_reason": row["finish_reason"],
            "gold": gold_reward(row["completion"]),
            "long_enough": long_enough(row["completion"]),
            "sentiment": sentiment(row["completion"]),
            "implicit": score,
            "nll": -row_logps.mean().item() if len(row_logps) else 0.0,
            "tokens": len(row_logps),
            "finished": float(row["finish_reason"] == "stop"),
        }
        for row, score, row_logps in zip(rows, implicit, logps, strict=True)
    ]


def _prompts(path: Path, n: int | None = None) -> Dataset:
    dataset = Dataset.from_json(str(path))
    return dataset if n is None else dataset.select(range(min(n, len(dataset))))


def _load(path: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=os.environ.get("HF_CONG_REAL_DATA"), help="default: $HF_CONG_REAL_DATA")
    parser.add_argument("--output_dir", default="runs/stories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_prompts", type=int, help="training prompts; all by default")
    parser.add_argument("--num_test_prompts", type=int, default=300)
    parser.add_argument("--effort", type=float, default=1.0, help="multiplies the training of the weak pair")
    parser.add_argument("--num_workers", type=int, default=2)
    args = vars(parser.parse_args())
    if args["data_dir"] is None:
        parser.error("pass `--data_dir` or set HF_CONG_REAL_DATA: the recipe needs a real model and real text")
    run(**args)


if __name__ == "__main__":
    main()
