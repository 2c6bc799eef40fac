# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Prompts to completions: batched by length, sharded over processes, journaled.

A completion is a function of the engine, the prompt, the settings and the seed. In float32 it does not depend on the
batch, so neither on the order of the prompts. In lower precision that holds up to rounding, which can tip a draw: so a
run that was killed goes on with its own batches, on any number of processes, and ends with the same bytes.

Prompts, ids, seeds, journal and columns are the same for every engine. Each samples in its own way, though: only the
greedy completions of two engines agree. So what an engine of one kind has begun, another does not go on with.
"""

import contextlib
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow.parquet
import torch
from accelerate import PartialState
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .engines import Engine, Request, TransformersEngine, as_engine
from .journal import Journal, check_identity, check_manifest, read_journal, read_manifest, replacing, write_manifest
from .prompts import completion_text, encode_prompt, prompts_origin, read_prompts
from .sampling import Decoding, row_seed

logger = logging.getLogger(__name__)

_COMPLETIONS, _MANIFEST, _JOURNALS = "completions.parquet", "manifest.json", "journal-*.jsonl"


def generate_completions(
    prompts: datasets.Dataset | list | str | Path,
    engine: "PreTrainedModel | PeftModel | vllm.LLM | str | Engine | Callable",  # noqa: F821
    *,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    engine_id: str | dict | None = None,
    seed: int = 0,
    max_new_tokens: int = 512,
    temperature: float = 0.8,
    top_p: float = 0.95,
    top_k: int = 0,
    do_sample: bool = True,
    repetition_penalty: float = 1.0,
    batch_size: int | None = None,
    chat_template_kwargs: dict | None = None,
    invalid_prompts: str = "raise",
    watch: Callable[[int, int], None] | None = None,
) -> datasets.Dataset:
    """
    Writes one completion for every prompt, and keeps them in `output_dir`.

    Every finished batch is journaled. After a kill, the same command redoes at most the batch that was in work on each
    process, and ends with the bytes of a run that was not interrupted; after the end it returns the stored result.
    Under `torchrun` or `accelerate launch` the batches are shared out; another number of processes may resume.

    Each prompt has its own random numbers. With an engine in float32, a completion is the same in whatever batch it is
    written; in lower precision only up to rounding, so there `batch_size` can change some completions.

    The decoding settings of the engine's own generation configuration are set aside; its special tokens are kept. The
    repetition penalty acts on the engine's scores, then temperature, `top_k` and `top_p`, in the order of `generate`.

    Args:
        prompts (`datasets.Dataset`, `list`, `str` or `Path`):
            Plain strings or chat messages in the column `prompt`: see [`read_prompts`].
        engine (`PreTrainedModel`, `PeftModel`, `vllm.LLM`, `str`, [`Engine`] or `Callable`):
            A model, such as a [`ContrastivePairForCausalLM`] or an [`EmulatedFineTuningForCausalLM`]; a vLLM engine;
            the URL of an OpenAI-compatible server such as `vllm serve` (`"http://localhost:8000/v1"`, see
            [`ServerEngine`]); a model under continuous batching, `ContinuousEngine(model)`; or a function without
            arguments that returns one of these. The function is called only if work is left.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of the engine.
        output_dir (`str` or `Path`):
            Receives `journal-*.jsonl`, `completions.parquet` and, last, `manifest.json`.
        engine_id (`str` or `dict`, *optional*):
            Names everything in the engine that changes what it writes (JSON values). A model is known by a hash of its
            weights (and α, β, τ) without it, a vLLM engine by its checkpoint (and α, β, τ, dtype), a server by the
            names it gives its model, which tell nothing of α; a function must have one.
        seed (`int`, *optional*, defaults to `0`):
            With the content of a prompt, it determines the random numbers of that prompt's completion.
        max_new_tokens (`int`, *optional*, defaults to `512`):
            Most tokens of a completion.
        temperature (`float`, *optional*, defaults to `0.8`):
            Divides the scores before sampling.
        top_p (`float`, *optional*, defaults to `0.95`):
            Samples from the smallest set of tokens with this much probability; `1.0` is off.
        top_k (`int`, *optional*, defaults to `0`):
            Samples from this many most probable tokens; `0` is off.
        do_sample (`bool`, *optional*, defaults to `True`):
            `False` takes the most probable token at every step.
        repetition_penalty (`float`, *optional*, defaults to `1.0`):
            Penalty on tokens of the prompt and of the completion so far; `1.0` is off.
        batch_size (`int`, *optional*):
            Prompts per batch, 8 for a model or a function and 256 for a vLLM engine. A run that has written
            completions is resumed with the same; a finished run is returned for any. For a server, how many prompts
            are with it at a time: 64, or any other number, at every start.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template: see [`encode_prompt`].
        invalid_prompts (`str`, *optional*, defaults to `"raise"`):
            `"raise"` refuses an invalid or over-long prompt by its row; `"drop"` leaves it out and counts it.
        watch (`Callable`, *optional*):
            Is called in every process with a number of prompts and of tokens: when writing begins, with the prompts
            that are done already and 0, and after every batch with its own.

    Returns:
        `datasets.Dataset`: in the order of the prompts, with the columns `prompt_id`, `prompt`, `completion` (`str`),
        `completion_ids` (without the end-of-sequence token), `finish_reason` (`"stop"` or `"length"`), `seed` (of that
        row), `alpha` (of a pair), `beta` (of emulated fine-tuning), `plausibility_threshold` (of both) and `model`.

    Raises:
        TypeError: if `engine` is none of these, or a whole number is not an `int`.
        ValueError: if a prompt is invalid or too long for the engine, a setting is out of range, the engine is an
            encoder-decoder or has fewer embeddings than the tokenizer has tokens, or `output_dir` holds another run
            or is not one for all processes.
        BlockingIOError: if another process is writing to `output_dir`.
        RuntimeError: if one prompt alone does not fit in memory.
        ConnectionError: if a server is down, too slow, or answers with errors or nonsense. What it answered is kept.

    Source: the sampling steps of [ConG](https://huggingface.co/papers/2510.07884).
    """
    loaded = None if callable(engine) and not isinstance(engine, torch.nn.Module) else as_engine(engine)
    if batch_size is None:
        batch_size = (loaded or TransformersEngine).batch_size
    integers = {"seed": seed, "max_new_tokens": max_new_tokens, "top_k": top_k, "batch_size": batch_size}
    for name, value in integers.items():
        if not isinstance(value, int):
            raise TypeError(f"`{name}` must be an int, got {repr(value)[:80]}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    decoding = Decoding(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    rows, dropped = read_prompts(prompts, invalid_prompts=invalid_prompts)
    rows_in = len(rows) + sum(dropped.values())
    names = rows["prompt_id"][:]
    texts = rows["prompt"][:]
    ids = [encode_prompt(tokenizer, prompt, chat_template_kwargs=chat_template_kwargs) for prompt in texts]

    if engine_id is None and loaded is None:
        raise ValueError(
            "`engine` is a function, so it takes `engine_id` to tell one run from another without calling it: name "
            "the weights, and everything else in the engine that changes what it writes."
        )
    facts = loaded.describe() if engine_id is None else None
    identity = {"prompts": _hash_prompts(names, ids), "seed": seed, **decoding.settings()}
    identity["engine"] = facts["identity"] if engine_id is None else engine_id
    plan = identity
    if loaded is None or not loaded.independent_rows:
        plan = {**identity, "batch_size": batch_size}  # below float32 another batch is another rounding

    # Without an accelerator, only `cpu=True` makes accelerate see the other processes.
    state, output_dir = PartialState(cpu=not torch.accelerator.is_available()), Path(output_dir)
    check_manifest(output_dir / _MANIFEST, (_COMPLETIONS,))
    if (output_dir / _MANIFEST).exists():
        return _read_finished(output_dir, identity)
    header, done = _read_journals(output_dir, plan)

    if any(name not in done for name in names):
        loaded = loaded or as_engine(engine())
        facts = {**(facts or loaded.describe()), "writer": loaded.writer}
        # Journals that were begun before there was this check do not say what writes them.
        if header is not None and "writer" in header["provenance"]["engine"]:
            check_identity({"writer": facts["writer"]}, header["provenance"]["engine"], output_dir)
        special = loaded.prepare(tokenizer, ids, decoding)
        lengths = [len(row) for row in ids]
        limit = (loaded.context_length or torch.inf) - max_new_tokens
        unreadable = loaded.unreadable(texts)
        fitting = _fitting(lengths, limit, unreadable, max_new_tokens, invalid_prompts)
        if len(fitting) < len(rows):
            dropped["too_long"] = len(rows) - len(fitting)
        columns = {name: facts[name] for name in ("alpha", "beta", "plausibility_threshold", "model")}

        batches = _batches(fitting, lengths, batch_size)[state.process_index :: state.num_processes]
        total = sum(map(len, batches))
        journal = Journal(
            output_dir / f"journal-{state.process_index:05d}.jsonl",
            plan,
            {"engine": facts, "generation": {**decoding.settings(), **special}, "prompts": prompts_origin(rows)},
        )
        with journal:
            done |= {record["prompt_id"]: record for record in journal.records}
            if loaded.independent_rows:
                left = [index for batch in batches for index in batch if names[index] not in done]
                batches = _batches(left, lengths, batch_size)
            else:
                # The whole batch, though a kill may have left part of it: the same batch gives the same bits.
                batches = [batch for batch in batches if any(names[index] not in done for index in batch)]
            requests = [
                [Request(ids[index], row_seed(seed, names[index]), texts[index]) for index in batch]
                for batch in batches
            ]
            answers = contextlib.closing(loaded.complete(requests))
            with answers as answers, _progress(total, total - sum(map(len, batches)), state, watch) as progress:
                for batch, asked, answered in zip(batches, requests, answers, strict=True):
                    records = [
                        {
                            "prompt_id": names[index],
                            "completion": completion_text(tokenizer, request.prompt_ids, answer.completion_ids),
                            "completion_ids": answer.completion_ids,
                            "finish_reason": answer.finish_reason,
                            "seed": request.seed,
                            **columns,
                        }
                        for index, request, answer in zip(batch, asked, answered, strict=True)
                        if answer is not None
                    ]
                    journal.append([record for record in records if record["prompt_id"] not in done])
                    progress(len(records), sum(len(record["completion_ids"]) for record in records))
    state.wait_for_everyone()  # every journal is complete

    if state.is_main_process:
        _finish(output_dir, rows, rows_in, dropped, plan)
    state.wait_for_everyone()  # and so are the files
    return _read_finished(output_dir, identity)


def _fitting(
    lengths: list[int], limit: int | float, unreadable: dict[int, str], max_new_tokens: int, invalid: str
) -> list[int]:
    """Indices of the prompts that leave room for `max_new_tokens`, also to those who only read."""
    too_long = [index for index, length in enumerate(lengths) if length > limit]
    if too_long and invalid == "raise":
        first = too_long[0]
        raise ValueError(
            f"Row {first} of the prompts has {lengths[first]} tokens ({len(too_long)} rows are too long); with "
            f"`max_new_tokens={max_new_tokens}` the engine's context leaves {limit}. Shorten the prompts, lower "
            '`max_new_tokens`, or drop and count such rows with `invalid_prompts="drop"`.'
        )
    if unreadable and invalid == "raise":
        first = min(unreadable)
        raise ValueError(
            f"Row {first} of the prompts {unreadable[first]} ({len(unreadable)} such rows). Shorten the prompts, "
            'lower `max_new_tokens`, or drop and count such rows with `invalid_prompts="drop"`.'
        )
    fitting = [index for index in range(len(lengths)) if index not in {*too_long, *unreadable}]
    if not fitting:
        raise ValueError(
            f"All {len(lengths)} prompts are too long; with `max_new_tokens={max_new_tokens}` the engine's context "
            f"leaves {limit} tokens. Lower `max_new_tokens` or shorten the prompts."
        )
    return fitting


def _batches(indices: list[int], lengths: list[int], batch_size: int) -> list[list[int]]:
    """Prompts of like length together, the longest first: what does not fit in memory fails at once."""
    ordered = sorted(indices, key=lambda index: (-lengths[index], index))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


@contextlib.contextmanager
def _progress(
    total: int, done: int, state: PartialState, watch: Callable[[int, int], None] | None
) -> Iterator[Callable[[int, int], None]]:
    """A bar of this process's prompts with tokens/s; yields `advance(prompts, tokens)`."""
    start, written = time.perf_counter(), 0
    options = {"desc": "Writing completions", "unit": "prompt", "disable": not state.is_main_process}
    watch = watch or (lambda prompts, tokens: None)
    watch(done, 0)
    with tqdm(total=total, initial=done, **options) as bar:

        def advance(prompts: int, tokens: int) -> None:
            nonlocal written
            written += tokens
            bar.set_postfix_str(f"{written / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
            bar.update(prompts)
            watch(prompts, tokens)

        yield advance


def _hash_prompts(names: list[str], ids: list[list[int]]) -> str:
    """Prompts, their order, and how this tokenizer and chat template encode them."""
    return hashlib.sha256(json.dumps([list(names), ids]).encode("ascii")).hexdigest()[:16]


def _read_journals(output_dir: Path, plan: dict) -> tuple[dict | None, dict[str, dict]]:
    """A header and all records of the journals of every process, of this launch and of earlier ones."""
    header, records = None, {}
    for path in sorted(output_dir.glob(_JOURNALS)):
        this_header, lines = read_journal(path)
        if lines:  # without records, it belongs to no run yet
            check_identity(plan, this_header["identity"], path)
            header = header or this_header
        records |= {record["prompt_id"]: record for record in lines}
    return header, records


def _finish(output_dir: Path, rows: datasets.Dataset, rows_in: int, dropped: dict, plan: dict) -> None:
    """Writes `completions.parquet`, then the manifest that says it is whole."""
    header, done = _read_journals(output_dir, plan)
    kept = [index for index, name in enumerate(rows["prompt_id"]) if name in done]
    if len(kept) + sum(dropped.values()) < rows_in:
        raise ValueError(
            f"The journals in {output_dir} hold {len(kept)} completions of {rows_in - sum(dropped.values())}. All "
            "processes must see one `output_dir`: put it where all machines share it, and repeat the command."
        )
    # Journals that were begun before there was emulated fine-tuning know nothing of beta.
    records = [{"beta": None, **done[name]} for name in rows[kept]["prompt_id"]]
    features = datasets.Features(
        {
            "prompt_id": datasets.Value("string"),
            "prompt": rows.features["prompt"],
            "completion": datasets.Value("string"),
            "completion_ids": datasets.List(datasets.Value("int32")),
            "finish_reason": datasets.Value("string"),
            "seed": datasets.Value("int64"),
            "alpha": datasets.Value("float64"),
            "beta": datasets.Value("float64"),
            "plausibility_threshold": datasets.Value("float64"),
            "model": datasets.Value("string"),
        }
    )
    columns = {name: [record[name] for record in records] for name in features if name != "prompt"}
    columns = {name: columns.get(name, rows[kept]["prompt"]) for name in features}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    with replacing(output_dir / _COMPLETIONS) as temporary:
        dataset.to_parquet(temporary)
    counts = {
        "rows_in": rows_in,
        "kept": len(records),
        "dropped": dropped,
        "finish_reason": dict(sorted(Counter(record["finish_reason"] for record in records).items())),
        "tokens": sum(len(record["completion_ids"]) for record in records),
    }
    write_manifest(
        output_dir / _MANIFEST,
        {"identity": header["identity"], **header["provenance"], "counts": counts},
        files=(_COMPLETIONS,),
    )
    logger.log(logging.WARNING if dropped else logging.INFO, "%s: %s", output_dir / _COMPLETIONS, counts)


def _read_finished(output_dir: Path, identity: dict) -> datasets.Dataset:
    check_identity(identity, read_manifest(output_dir / _MANIFEST)["identity"], output_dir / _MANIFEST)
    return datasets.Dataset(pyarrow.parquet.read_table(output_dir / _COMPLETIONS))
