# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-strong search and its relatives on two settings of sentiment, and on pairs that get worse step by step.

    python -m recipes.search_sentiment.run --data_dir DIR --output_dir runs/search_sentiment

The same command goes on where a killed run stopped: every trained model, and the completions of every method and seed,
are kept.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import scipy
import sklearn
import torch
import transformers
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong import ImplicitReward
from hf_cong.journal import check_identity, replacing
from hf_cong.rewards.reward_accuracy import reward_accuracy
from hf_cong.sandbox.workers import run_jobs

from . import reviews
from .measure import CBS, GUIDED, METHODS, SAMPLER, read_samples, sample
from .summary import draw_front, draw_robustness, summarise, tables
from .worlds import FULL, MAX_NEW_TOKENS, PAIRS, REVIEWS, STORIES, WORSE, World, degrade, gold_reward, prepare_stories

TITLES = {STORIES: "stories260K, steered by a pair of 107K", REVIEWS: "Film reviews, all models from scratch"}


def run(
    data_dir: str | Path,
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    num_test_prompts: int = 200,
    effort: float = 1.0,
    num_workers: int = 2,
) -> dict:
    """
    Runs the recipe; prints the tables and writes them to `output_dir`.

    Args:
        data_dir (`str` or `Path`):
            The real data: `models/stories260K`, `corpora/tinystories`, `corpora/movie_reviews.zip` and
            `corpora/sentence_polarity.zip`.
        output_dir (`str` or `Path`):
            Receives a folder for each setting, `results.json`, `results.md` and four pictures.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`):
            Seeds of the samples; worse pairs guide the first only. The models are the same for all.
        num_test_prompts (`int`, *optional*, defaults to `200`):
            Held-out prompts of each setting.
        effort (`float`, *optional*, defaults to `1.0`):
            Multiplies the training of everything that is trained here.
        num_workers (`int`, *optional*, defaults to `2`):
            Processes at once, of one thread each.

    Returns:
        `dict`: the content of `results.json`.

    Raises:
        FileNotFoundError: if the data are not there.
        ValueError: if `output_dir` holds a run of other settings.
    """
    start = time.monotonic()
    output_dir = Path(output_dir)
    settings = {"num_test_prompts": num_test_prompts, "effort": effort, **SAMPLER, "max_new_tokens": MAX_NEW_TOKENS}
    _claim(output_dir / "settings.json", settings)
    worlds = [World(name, output_dir / name) for name in (STORIES, REVIEWS)]
    options = {"num_workers": num_workers, "log": output_dir / "run.log"}
    print(f"What the libraries say: {options['log']}", flush=True)

    texts = (reviews.prepare, data_dir, worlds[1].root, effort, num_test_prompts)
    run_jobs([texts], description="Texts", **options)
    models = [
        (reviews.train_strong, worlds[1].root),
        (prepare_stories, data_dir, worlds[0].root, effort, num_test_prompts),
        (reviews.train_weak, data_dir, worlds[1].root),
    ]
    run_jobs(models, description="Models", **options)
    run_jobs([(degrade, world, pair) for world in worlds for pair in WORSE], description="Worse pairs", **options)
    jobs = [(FULL, method, seed) for method in METHODS for seed in seeds]
    jobs += [(pair, method, seeds[0]) for pair in PAIRS if pair != FULL for method in GUIDED]
    jobs.sort(key=lambda job: job[1] not in CBS)  # the long ones first: no worker is left alone with them
    run_jobs(
        [(sample, world, *job) for job in jobs for world in worlds],
        description="Methods and seeds",
        **options,
    )

    results = {
        "settings": {
            **settings,
            "seeds": list(seeds),
            "versions": {each.__name__: each.__version__ for each in (torch, transformers, trl, sklearn, scipy)},
        }
    }
    for world in worlds:
        records = [row for job in jobs for row in read_samples(world, *job)]
        golds = gold_reward(world.name, data_dir)([record["completion"] for record in records])
        for record, gold in zip(records, golds, strict=True):
            record["gold"] = gold
        results[world.name] = summarise(records, {pair: check(world, pair) for pair in PAIRS})
        draw_front(results[world.name], output_dir / f"{world.name}_front.png", TITLES[world.name])
        draw_robustness(results[world.name], output_dir / f"{world.name}_robustness.png", TITLES[world.name])
    (output_dir / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    text = {markdown: _report(results, markdown) for markdown in (True, False)}
    (output_dir / "results.md").write_text(text[True] + "\n", encoding="utf-8")
    print(f"{text[False]}\n\n{time.monotonic() - start:.0f} s. Tables and pictures: {output_dir}", flush=True)
    return results


def check(world: World, pair: str) -> dict:
    """How often the reward of a pair prefers the chosen completion of held-out preferences."""
    policy, reference = (AutoModelForCausalLM.from_pretrained(path).eval() for path in world.pair(pair))
    reward = ImplicitReward(policy, reference, AutoTokenizer.from_pretrained(world.strong))
    columns = (list(world.preferences("held-out")[name]) for name in ("prompt", "chosen", "rejected"))
    return asdict(reward_accuracy(reward, *columns, batch_size=64))


def _claim(path: Path, settings: dict) -> None:
    """Writes the settings of a new run; refuses the folder of a run of others."""
    if path.exists():
        check_identity(settings, json.loads(path.read_text(encoding="utf-8")), path)
        return
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings), encoding="utf-8")


def _report(results: dict, markdown: bool) -> str:
    return "\n\n".join(
        f"{'## ' * markdown}{TITLES[name]}\n\n{tables(results[name], markdown=markdown)}"
        for name in (STORIES, REVIEWS)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default=os.environ.get("HF_CONG_REAL_DATA"), help="default: $HF_CONG_REAL_DATA")
    parser.add_argument("--output_dir", default="runs/search_sentiment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_test_prompts", type=int, default=200)
    parser.add_argument("--effort", type=float, default=1.0, help="multiplies the training of the models")
    parser.add_argument("--num_workers", type=int, default=2)
    args = vars(parser.parse_args())
    if args["data_dir"] is None:
        parser.error("pass `--data_dir` or set HF_CONG_REAL_DATA: the recipe needs a real model and real text")
    run(**args)


if __name__ == "__main__":
    main()
