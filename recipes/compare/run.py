# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""ConG beside its baselines: the same prompts, decoding and settings, what each costs, over several seeds.

    python -m recipes.compare.run --world sandbox --output_dir runs/compare/sandbox
    python -m recipes.compare.run --world stories --output_dir runs/compare/stories    # needs HF_CONG_REAL_DATA

The same command goes on where a killed run stopped: every completion and every trained model is kept.
"""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from hf_cong.journal import check_identity, replacing

from .methods import PLAIN_DPO, SAMPLES, SFT, STAGE_TWO, run_trial
from .summary import draw, summarise, table
from .trials import read_arguments, run_settings, run_trials, write_results
from .worlds import World

WORLDS = {"sandbox": ("worlds", "Sandbox"), "stories": ("stories", "Stories")}
NOTE = (
    "Mean ± half of the 95% interval over {seeds} seeds (Student's t), each seed's value a mean over {test} held-out "
    "prompts. Gold reward and finished are in [0, 1]; nll is in nats per token under the strong base; distinct-2 is "
    "over one sample of each prompt; implicit reward is in nats per completion. The last three columns are completion "
    "tokens per seed: written by weak models (twice for the pair, which is two), written by the strong model, and "
    "trained on (epochs counted, both sides of a pair)."
)


def run(
    world: str,
    output_dir: str | Path,
    *,
    world_dir: str | Path | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    num_prompts: int | None = None,
    num_test_prompts: int | None = None,
    effort: float = 1.0,
    num_workers: int = 2,
) -> dict:
    """
    Runs the recipe; prints the table and writes it to `output_dir`.

    Args:
        world (`str`):
            `"sandbox"` or `"stories"`.
        output_dir (`str` or `Path`):
            Receives a folder for each seed, `samples.jsonl` (one row per sample), `results.json`, `results.md` and
            three pictures.
        world_dir (`str` or `Path`, *optional*):
            Where the world's models are, or are made: by default `world` in `output_dir`. That of `hf-cong demo` or of
            `recipes/stories` can be used again.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`):
            Seeds of prompts, samples and training. The models of the world are the same for all.
        num_prompts (`int`, *optional*):
            Training prompts; all by default.
        num_test_prompts (`int`, *optional*):
            Held-out prompts; all by default.
        effort (`float`, *optional*, defaults to `1.0`):
            Multiplies the training of the world's models.
        num_workers (`int`, *optional*, defaults to `2`):
            Processes at once, of one thread each.

    Returns:
        `dict`: the content of `results.json`.

    Raises:
        ValueError: if there are fewer than two different seeds, or `output_dir` holds a run of other settings.
    """
    if len(set(seeds)) < max(2, len(seeds)):
        raise ValueError(
            f"`seeds` must be at least two different numbers, got {list(seeds)}: intervals are over seeds."
        )
    output_dir = Path(output_dir)
    made = load_world(world, Path(world_dir or output_dir / "world"), effort, num_workers)
    settings = {
        **run_settings(world, made, seeds, num_prompts, num_test_prompts, effort),
        "samples": SAMPLES,
        "sft": SFT,
        "stage_two": STAGE_TWO,
        "plain_dpo": PLAIN_DPO,
    }
    _claim(output_dir / "settings.json", settings)
    trials = (made, output_dir, seeds, num_prompts, num_test_prompts, num_workers)
    records, budgets = run_trials(run_trial, *trials)

    systems = summarise(records, budgets)
    results = {"settings": {"seeds": list(seeds), **settings}, "systems": systems}
    note = NOTE.format(seeds=len(seeds), test=settings["num_test_prompts"])
    write_results(output_dir, results, f"{table(systems, markdown=True)}\n\n{note}")
    draw(systems, world, output_dir)
    print(f"\n{table(systems)}\n\n{note}\n\nTable, samples and pictures: {output_dir}", flush=True)
    return results


def load_world(name: str, root: Path, effort: float, num_workers: int) -> World:
    """The models and prompts of a world, made in `root` if they are not there."""
    module, kind = WORLDS[name]  # the stories need packages that the sandbox does not
    return getattr(import_module(f".{module}", __package__), kind).make(root, effort=effort, num_workers=num_workers)


def _claim(path: Path, settings: dict) -> None:
    """Refuses a folder of another run."""
    if path.exists():
        check_identity(settings, json.loads(path.read_text(encoding="utf-8")), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def main() -> None:
    run(**read_arguments(__doc__, seeds=(0, 1, 2)))


if __name__ == "__main__":
    main()
