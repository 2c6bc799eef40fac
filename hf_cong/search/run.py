# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Searches over a dataset: journaled by batch, with everything that was found, a table by method and a picture."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import datasets
import torch
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints import content_key, tokenizer_identity
from ..engines import TransformersEngine
from ..journal import Journal, check_identity, check_manifest, read_manifest, replacing, write_manifest
from ..prompts import read_prompts
from ..rewards import ImplicitReward
from ..rewards.reward_accuracy import read_preferences, reward_accuracy
from .batches import SearchSettings, check_reward, search_batches
from .engine import reward_identity
from .report import plot_search, render_search, summarise
from .samplers import Sampler
from .search import as_sampler

METHODS = ("base", "best_of_n", "chunk_beam_search")
_RESULTS, _TABLE, _PICTURE, _MANIFEST = "results.jsonl", "search.md", "search.png", "manifest.json"
_FILES = (_RESULTS, _TABLE, _PICTURE)


def run_search(
    prompts: datasets.Dataset | list | str | Path,
    model: PreTrainedModel | PeftModel | str | Callable,
    reward: ImplicitReward | Callable,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    output_dir: str | Path,
    model_id: str | dict | None = None,
    reward_id: str | dict | None = None,
    methods: list[str] | tuple[str, ...] = ("base", "chunk_beam_search"),
    beam_width: int = 4,
    successors_per_beam: int = 4,
    chunk_length: int = 5,
    max_new_tokens: int = 128,
    temperature: float = 0.7,
    top_k: int = 50,
    top_p: float = 1.0,
    stop_strings: list[str] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    concurrency: int = 16,
    chat_template_kwargs: dict | None = None,
    preferences: datasets.Dataset | list | str | Path | None = None,
    invalid_prompts: str = "raise",
) -> list[dict]:
    """
    Searches a completion for every prompt of a dataset, by one or several methods, all kept in `output_dir`.

    Every finished batch is journaled, and so is every answer of a server. After a kill, the same command redoes at
    most the batch that was in work, without asking a server again for what it answered, and ends with the bytes of a
    run that was not interrupted; after the end it returns the stored results.

    Args:
        prompts (`datasets.Dataset`, `list`, `str` or `Path`):
            Plain strings or chat messages in the column `prompt`: see [`read_prompts`].
        model (`PreTrainedModel`, `PeftModel`, `str` or `Callable`):
            The model that samples, or the URL of a server, see [`EndpointSampler`]; or a function without arguments
            that returns a model, called only if work is left.
        reward ([`ImplicitReward`] or `Callable`):
            The weak pair; or a function without arguments that returns it, called only if work is left.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            The tokenizer of the model. `None` for a server and plain prompts.
        output_dir (`str` or `Path`):
            Receives `journal.jsonl`, for a server `answers-<method>.jsonl`, then `results.jsonl` (for every method and
            prompt all that [`SearchResult`] has), `search.md` (the table by method), `search.png` (the implicit reward
            by chunk) and, last, `manifest.json`.
        model_id, reward_id (`str` or `dict`, *optional*):
            Name everything in the model and in the pair that changes what is found (JSON values). Loaded models are
            known by hashes of their weights without it, a server by the names it gives its model; a function must have
            one.
        methods (`list[str]`, *optional*, defaults to `("base", "chunk_beam_search")`):
            `"base"` (one sample), `"best_of_n"` (of `beam_width * successors_per_beam` samples) and
            `"chunk_beam_search"`.
        beam_width, successors_per_beam, chunk_length, max_new_tokens, temperature, top_k, top_p, stop_strings, seed:
            See [`weak_to_strong_search`].
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts that are searched together. A run is resumed with the same.
        concurrency (`int`, *optional*, defaults to `16`):
            Most requests that are with a server at a time.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template of `tokenizer`.
        preferences (`datasets.Dataset`, `list`, `str` or `Path`, *optional*):
            Rows of `prompt`, `chosen` and `rejected`. The pair's reward accuracy on them is measured first, with a
            warning if it is not above chance.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`):
            `"raise"` refuses an invalid prompt by its row; `"drop"` leaves it out and counts it.

    Returns:
        `list[dict]`: the rows of `results.jsonl`, by method and then in the order of the prompts.

    Raises:
        TypeError: if an argument is of another type.
        ValueError: if a setting or a prompt is refused, or `output_dir` holds another run.
        BlockingIOError: if another process is writing to `output_dir`.
        RuntimeError: if one prompt alone does not fit in memory.
        ConnectionError: if a server is down, too slow or busy, or answers nonsense. What it answered is kept.

    Source: [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262).
    """
    settings = SearchSettings(
        beam_width=beam_width,
        successors_per_beam=successors_per_beam,
        chunk_length=chunk_length,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_strings=tuple(stop_strings or ()),
        seed=seed,
    )
    ways = _ways(methods, settings)
    rows, dropped = read_prompts(prompts, invalid_prompts=invalid_prompts)
    names, rows_in = rows["prompt_id"][:], len(rows) + sum(dropped.values())
    identity = {
        "prompts": content_key(names),
        "methods": list(methods),
        **asdict(settings),
        "stop_strings": list(settings.stop_strings),
        "chat_template_kwargs": chat_template_kwargs,
        "model": model_id or _model_identity(model, tokenizer, settings),
        "reward": reward_id or _reward_identity(reward),
    }
    plan = {**identity, "batch_size": batch_size}  # below float32 another batch is another rounding
    output_dir = Path(output_dir)
    check_manifest(output_dir / _MANIFEST, _FILES)
    if (output_dir / _MANIFEST).exists():
        check_identity(identity, read_manifest(output_dir / _MANIFEST)["identity"], output_dir / _MANIFEST)
        return _read_results(output_dir)

    with Journal(output_dir / "journal.jsonl", plan) as journal:
        reward, model = (one() if _is_function(one) else one for one in (reward, model))
        accuracy = None
        if preferences is not None:
            accuracy = asdict(reward_accuracy(reward, *read_preferences(preferences).values()))
        costs = {}
        for method, way in ways.items():
            sampler = as_sampler(model, tokenizer, way, chat_template_kwargs=chat_template_kwargs)
            with contextlib.ExitStack() as stack:
                if isinstance(model, str):
                    answers = Journal(output_dir / f"answers-{method}.jsonl", plan)
                    sampler.keep_answers(stack.enter_context(answers))
                    sampler.concurrency = concurrency
                _search(journal, method, way, sampler, reward, rows, batch_size)
            costs[method] = dict(sampler.cost) if isinstance(model, str) else None
        found = {
            (record["method"], result["prompt_id"]): {"method": record["method"], **result}
            for record in journal.records
            for result in record["results"]
        }
        results = [found[method, name] for method in ways for name in names]
        counts = {"rows_in": rows_in, "kept": len(names), "dropped": dropped}
        _finish(output_dir, results, ways, costs, {"identity": plan, "counts": counts, "reward_accuracy": accuracy})
    return _read_results(output_dir)


def _ways(methods: list[str] | tuple[str, ...], settings: SearchSettings) -> dict[str, SearchSettings]:
    """The settings of each method: all sample as many rows at a time, but for the base."""
    if not methods or any(method not in METHODS for method in methods) or len(set(methods)) < len(methods):
        raise ValueError(f"`methods` must be some of {', '.join(METHODS)}, each once, got {repr(methods)[:80]}.")
    single = replace(settings, beam_width=1, chunk_length=None)
    of_method = {
        "base": replace(single, successors_per_beam=1),
        "best_of_n": replace(single, successors_per_beam=settings.first_rows),
        "chunk_beam_search": settings,
    }
    return {method: of_method[method] for method in methods}


def _search(
    journal: Journal,
    method: str,
    way: SearchSettings,
    sampler: Sampler,
    reward: ImplicitReward,
    rows: datasets.Dataset,
    batch_size: int,
) -> None:
    """Searches by one method what the journal does not hold; a record is a batch, so that none is half there."""
    done = {
        result["prompt_id"] for record in journal.records if record["method"] == method for result in record["results"]
    }
    left = rows.select([index for index, name in enumerate(rows["prompt_id"]) if name not in done])
    batches = search_batches(sampler, reward, left["prompt_id"][:], left["prompt"][:], way, batch_size=batch_size)
    with tqdm(total=len(rows), initial=len(done), desc=method, unit="prompt") as progress:
        for results in batches:
            journal.append([{"method": method, "results": [asdict(result) for result in results]}])
            progress.update(len(results))


def _model_identity(model, tokenizer: PreTrainedTokenizerBase | None, settings: SearchSettings) -> dict:
    if _is_function(model):
        raise ValueError(
            "`model` is a function, so it takes `model_id` to tell one run from another: name its weights."
        )
    sampler = as_sampler(model, tokenizer, settings)
    if isinstance(model, str):
        return sampler.identity
    return {**TransformersEngine(model).describe()["identity"], "tokenizer": tokenizer_identity(tokenizer)}


def _reward_identity(reward: ImplicitReward | Callable) -> dict:
    if _is_function(reward):
        raise ValueError("`reward` is a function, so it takes `reward_id` to tell runs apart: name its weights.")
    check_reward(reward)
    return reward_identity(reward)


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, torch.nn.Module)


def _finish(output_dir: Path, results: list[dict], ways: dict, costs: dict, facts: dict) -> None:
    """Writes the results, the table and the picture, then the manifest that says they are whole."""
    widths = {
        method: {name: getattr(way, name) for name in ("beam_width", "successors_per_beam", "chunk_length")}
        for method, way in ways.items()
    }
    with replacing(output_dir / _RESULTS) as temporary:
        temporary.write_text("".join(json.dumps(result) + "\n" for result in results), encoding="ascii")
    summary = summarise(results, widths, costs)
    with replacing(output_dir / _TABLE) as temporary:
        temporary.write_text(render_search(summary, facts), encoding="utf-8")
    plot_search(output_dir / _PICTURE, results, widths)
    write_manifest(output_dir / _MANIFEST, {**facts, "summary": summary}, files=_FILES)


def _read_results(output_dir: Path) -> list[dict]:
    with open(output_dir / _RESULTS, encoding="ascii") as file:
        return [json.loads(line) for line in file]
