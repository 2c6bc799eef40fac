# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Prompts to completions: batched by length, sharded over processes, journaled.

A completion is a function of the engine, the prompt, the settings and the seed. In float32 it does not depend on the
batch, so neither on the order of the prompts. In lower precision that holds up to rounding, which can tip a draw: so a
run that was killed goes on with its own batches, on any number of processes, and ends with the same bytes.
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
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from .compatibility import context_length, eos_token_ids
from .engines import check_engine, check_vocabulary, describe_engine
from .journal import Journal, check_identity, check_manifest, read_journal, read_manifest, replacing, write_manifest
from .prompts import encode_prompt, read_prompts
from .sampling import DrawToken, row_seed, warpers

logger = logging.getLogger(__name__)

_COMPLETIONS, _MANIFEST, _JOURNALS = "completions.parquet", "manifest.json", "journal-*.jsonl"


def generate_completions(
    prompts: datasets.Dataset | list | str | Path,
    engine: PreTrainedModel | PeftModel | Callable[[], PreTrainedModel | PeftModel],
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
    batch_size: int = 8,
    chat_template_kwargs: dict | None = None,
    invalid_prompts: str = "raise",
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
        engine (`PreTrainedModel`, `PeftModel` or `Callable`):
            A model, such as a [`ContrastivePairForCausalLM`], or a function without arguments that returns one. The
            function is called only if work is left.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of the engine.
        output_dir (`str` or `Path`):
            Receives `journal-*.jsonl`, `completions.parquet` and, last, `manifest.json`.
        engine_id (`str` or `dict`, *optional*):
            Names everything in the engine that changes what it writes (JSON values). A model is known by a hash of its
            weights (and α, τ) without it; a function must have one.
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
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts per batch. A run that has written completions is resumed with the same; a finished run is returned
            for any.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template: see [`encode_prompt`].
        invalid_prompts (`str`, *optional*, defaults to `"raise"`):
            `"raise"` refuses an invalid or over-long prompt by its row; `"drop"` leaves it out and counts it.

    Returns:
        `datasets.Dataset`: in the order of the prompts, with the columns `prompt_id`, `prompt`, `completion` (`str`),
        `completion_ids` (without the end-of-sequence token), `finish_reason` (`"stop"` or `"length"`), `seed` (of that
        row), `alpha` and `plausibility_threshold` (`None` unless the engine is a pair) and `model`.

    Raises:
        TypeError: if `engine` is neither a model nor a function, or a whole number is not an `int`.
        ValueError: if a prompt is invalid or too long for the engine, a setting is out of range, the engine is an
            encoder-decoder or has fewer embeddings than the tokenizer has tokens, or `output_dir` holds another run.
        RuntimeError: if another process is writing to `output_dir`.

    Source: the sampling steps of [ConG](https://huggingface.co/papers/2510.07884).
    """
    integers = {"seed": seed, "max_new_tokens": max_new_tokens, "top_k": top_k, "batch_size": batch_size}
    for name, value in integers.items():
        if not isinstance(value, int):
            raise TypeError(f"`{name}` must be an int, got {repr(value)[:80]}.")
    if isinstance(engine, torch.nn.Module) or not callable(engine):
        check_engine(engine)
    rows, dropped = read_prompts(prompts, invalid=invalid_prompts)
    rows_in = len(rows) + sum(dropped.values())
    if batch_size < 1 or max_new_tokens < 1:
        raise ValueError(
            f"`batch_size` and `max_new_tokens` must be at least 1, got {batch_size} and {max_new_tokens}."
        )
    if repetition_penalty <= 0:
        raise ValueError(f"`repetition_penalty` must be above 0, got {repetition_penalty}; 1.0 is off.")
    chain = warpers(temperature, top_k, top_p) if do_sample else None
    ids = [encode_prompt(tokenizer, prompt, chat_template_kwargs=chat_template_kwargs) for prompt in rows["prompt"]]

    settings = {"max_new_tokens": max_new_tokens, "do_sample": do_sample, "repetition_penalty": repetition_penalty}
    if do_sample:
        settings |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    identity = {"prompts": _hash_prompts(rows["prompt_id"], ids), "seed": seed, **settings}
    facts = describe_engine(engine) if isinstance(engine, torch.nn.Module) else None
    if engine_id is None and facts is None:
        raise ValueError(
            "`engine` is a function, so it takes `engine_id` to tell one run from another without calling it: name "
            "the weights, and everything else in the engine that changes what it writes."
        )
    identity["engine"] = facts["identity"] if engine_id is None else engine_id
    plan = {**identity, "batch_size": batch_size}  # below float32 another batch is another rounding

    # Without an accelerator, only `cpu=True` makes accelerate see the other processes.
    state, output_dir = PartialState(cpu=not torch.accelerator.is_available()), Path(output_dir)
    check_manifest(output_dir / _MANIFEST, (_COMPLETIONS,))
    if (output_dir / _MANIFEST).exists():
        return _read_finished(output_dir, identity)
    _, done = _read_journals(output_dir, plan)

    if any(name not in done for name in rows["prompt_id"]):
        if facts is None:
            engine = engine()
            check_engine(engine)
            facts = describe_engine(engine)
        check_vocabulary(engine, tokenizer, max(map(max, ids)))
        lengths = [len(row) for row in ids]
        limit = (context_length(engine) or torch.inf) - max_new_tokens
        fitting = _fitting(lengths, limit, max_new_tokens, invalid_prompts)
        if len(fitting) < len(rows):
            dropped["too_long"] = len(rows) - len(fitting)
        config = _generation_config(engine, tokenizer, max_new_tokens, repetition_penalty)
        special = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        columns = {name: facts[name] for name in ("alpha", "plausibility_threshold", "model")}

        batches = _batches(fitting, lengths, batch_size)[state.process_index :: state.num_processes]
        journal = Journal(
            output_dir / f"journal-{state.process_index:05d}.jsonl",
            plan,
            {"engine": facts, "generation": {**settings, **special}},
        )
        with journal, _decoding(engine, config), _progress(sum(map(len, batches)), state) as progress:
            done |= {record["prompt_id"]: record for record in journal.records}
            for batch in batches:
                names = rows[batch]["prompt_id"]
                if all(name in done for name in names):
                    progress(len(batch), 0)
                    continue
                # The whole batch, though a kill may have left part of it: the same batch gives the same bits.
                seeds = [row_seed(seed, name) for name in names]
                written = _complete(engine, tokenizer, [ids[index] for index in batch], seeds, config, chain)
                records = [
                    {"prompt_id": name, **completion, "seed": number, **columns}
                    for name, completion, number in zip(names, written, seeds, strict=True)
                ]
                journal.append([record for record in records if record["prompt_id"] not in done])
                progress(len(batch), sum(len(record["completion_ids"]) for record in records))
    state.wait_for_everyone()  # every journal is complete

    if state.is_main_process:
        _finish(output_dir, rows, rows_in, dropped, plan)
    state.wait_for_everyone()  # and so are the files
    return _read_finished(output_dir, identity)


def _generation_config(engine, tokenizer, max_new_tokens: int, repetition_penalty: float) -> GenerationConfig:
    """Everything `generate` is told. It is greedy: with `do_sample`, `DrawToken` is what it follows."""
    eos = sorted({*eos_token_ids(engine), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        repetition_penalty=float(repetition_penalty),
        bos_token_id=engine.generation_config.bos_token_id,
        eos_token_id=eos,
        pad_token_id=pad if pad is not None else (eos or [0])[0],
    )


@contextlib.contextmanager
def _decoding(engine: PreTrainedModel | PeftModel, config: GenerationConfig) -> Iterator[None]:
    """Eval mode, and `config` in the place of the model's own, from which `generate` would fill in what is unset."""
    model = engine.get_base_model() if isinstance(engine, PeftModel) else engine
    own, training = model.generation_config, engine.training
    model.generation_config = config
    engine.eval()
    try:
        yield
    finally:
        model.generation_config = own
        engine.train(training)


def _complete(engine, tokenizer, prompt_ids, seeds, config, chain) -> list[dict]:
    """One batch: text, ids and finish reason of each row, with nothing after an end-of-sequence token."""
    length = max(map(len, prompt_ids))
    padding = [length - len(row) for row in prompt_ids]
    input_ids = [[config.pad_token_id] * n + row for n, row in zip(padding, prompt_ids, strict=True)]
    mask = [[0] * n + [1] * (length - n) for n in padding]
    processors = []
    if chain is not None:
        processors = [*chain, DrawToken(seeds, length, config.max_new_tokens)]
    output = engine.generate(
        input_ids=torch.tensor(input_ids, device=engine.device),
        attention_mask=torch.tensor(mask, device=engine.device),
        generation_config=config,
        logits_processor=LogitsProcessorList(processors),
    )
    completions = []
    for prompt, ids in zip(prompt_ids, output[:, length:].tolist(), strict=True):
        stop = next((position for position, token in enumerate(ids) if token in config.eos_token_id), None)
        ids = ids[:stop]
        reason = "length" if stop is None else "stop"
        completions.append(
            {"completion": _decode(tokenizer, prompt, ids), "completion_ids": ids, "finish_reason": reason}
        )
    return completions


def _decode(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], completion_ids: list[int]) -> str:
    """The completion's text as it stands after the prompt: alone, SentencePiece would lose its leading space."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    prompt = tokenizer.decode(prompt_ids, **options)
    both = tokenizer.decode(prompt_ids + completion_ids, **options)
    if both.startswith(prompt):
        return both[len(prompt) :]
    return tokenizer.decode(completion_ids, **options)  # the prompt ended within a character


def _fitting(lengths: list[int], limit: int | float, max_new_tokens: int, invalid: str) -> list[int]:
    """Indices of the prompts that leave room for `max_new_tokens`."""
    too_long = [index for index, length in enumerate(lengths) if length > limit]
    if too_long and invalid == "raise":
        first = too_long[0]
        raise ValueError(
            f"Row {first} of the prompts has {lengths[first]} tokens ({len(too_long)} rows are too long); with "
            f"`max_new_tokens={max_new_tokens}` the engine's context leaves {limit}. Shorten the prompts, lower "
            '`max_new_tokens`, or drop and count such rows with `invalid_prompts="drop"`.'
        )
    if len(too_long) == len(lengths):
        raise ValueError(
            f"All {len(lengths)} prompts are too long; with `max_new_tokens={max_new_tokens}` the engine's context "
            f"leaves {limit} tokens. Lower `max_new_tokens` or shorten the prompts."
        )
    return [index for index, length in enumerate(lengths) if length <= limit]


def _batches(indices: list[int], lengths: list[int], batch_size: int) -> list[list[int]]:
    """Prompts of like length together, the longest first: what does not fit in memory fails at once."""
    ordered = sorted(indices, key=lambda index: (-lengths[index], index))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


@contextlib.contextmanager
def _progress(total: int, state: PartialState) -> Iterator[Callable[[int, int], None]]:
    """A bar of this process's prompts with tokens/s; yields `advance(prompts, tokens)`."""
    start, written = time.perf_counter(), 0
    with tqdm(total=total, desc="Writing completions", unit="prompt", disable=not state.is_main_process) as bar:

        def advance(prompts: int, tokens: int) -> None:
            nonlocal written
            written += tokens
            bar.set_postfix_str(f"{written / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
            bar.update(prompts)

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
    records = [done[name] for name in rows[kept]["prompt_id"]]
    features = datasets.Features(
        {
            "prompt_id": datasets.Value("string"),
            "prompt": rows.features["prompt"],
            "completion": datasets.Value("string"),
            "completion_ids": datasets.List(datasets.Value("int32")),
            "finish_reason": datasets.Value("string"),
            "seed": datasets.Value("int64"),
            "alpha": datasets.Value("float64"),
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
