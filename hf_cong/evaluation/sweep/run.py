# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which α? A pair writes at every α, threshold and temperature of a grid, and all that can be measured is.

The pair is loaded once; α and τ change in place. Completions and measures are journaled, so that neither a kill nor a
judge that fails half-way loses anything.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import torch
from transformers import PreTrainedTokenizerBase

from ...checkpoints import content_key, tokenizer_identity
from ...engines import TransformersEngine
from ...engines.named import named_engine
from ...generation import generate_completions
from ...journal import check_identity, read_manifest, write_manifest
from ...pair import ContrastivePairForCausalLM
from ...prompts import read_prompts
from ...sampling import Decoding
from .measures import ScoringJudge, by_judge, by_other_model, by_pair, join, measure
from .pictures import file_name
from .recommendation import recommend
from .report import COLUMNS, summarise, write_report
from .settings import Setting, all_settings, sweep_settings

_MANIFEST = "manifest.json"
_FORMULA = ("alpha", "plausibility_threshold")
_RESULTS = ("recommendation", "summary", "counts")


def run_sweep(
    prompts: datasets.Dataset | list | str | Path,
    pair: ContrastivePairForCausalLM | Callable[[], ContrastivePairForCausalLM],
    *,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    pair_id: dict | None = None,
    alphas: Sequence[float] = (0.3, 0.4, 0.5, 0.7, 1.0),
    plausibility_thresholds: Sequence[float] = (0.1,),
    temperatures: Sequence[float] | None = None,
    temperatures_times_alpha: Sequence[float] | None = None,
    judges: Sequence[ScoringJudge] = (),
    perplexity_model: str | None = None,
    num_prompts: int | None = None,
    seed: int = 0,
    max_new_tokens: int = 512,
    top_p: float = 0.95,
    top_k: int = 0,
    batch_size: int = 8,
    chat_template_kwargs: dict | None = None,
    invalid_prompts: str = "raise",
) -> dict:
    """
    Writes a completion for every prompt at every setting of a pair, measures them, and recommends an α or says that
    the evidence is too thin to.

    Every setting answers the same prompts with the same random numbers, and all comparisons are paired by `prompt_id`.
    [`recommend`] states the rule. After a kill, or a judge that failed, the same command goes on where that was. A
    finished sweep can be asked for other settings and judges: only what is new is written and measured, and tables and
    pictures are those of the latest command.

    Args:
        prompts (`datasets.Dataset`, `list`, `str` or `Path`):
            Plain strings or chat messages in the column `prompt`: see [`read_prompts`].
        pair ([`ContrastivePairForCausalLM`] or `Callable`):
            The pair, whose own α and τ are put back in the end; or a function without arguments that returns it,
            called at most once and only if work is left.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of the pair.
        output_dir (`str` or `Path`):
            Receives `completions/` (a folder for each setting), `measures/` (a journal for each), then `rows.csv` (all
            measures of each completion), `summary.csv` (of each setting), `win_rates.csv`, `sweep.md`, pictures and,
            last, `manifest.json`.
        pair_id (`dict`, *optional*):
            Names everything but α and τ in the pair that changes what it writes (JSON values). A loaded pair is known
            by hashes of its weights; a function must have one.
        alphas (`Sequence[float]`, *optional*, defaults to `(0.3, 0.4, 0.5, 0.7, 1.0)`):
            Weights kept on the policy, in [0, 1]. With 1, the policy alone, differences to it are reported.
        plausibility_thresholds (`Sequence[float]`, *optional*, defaults to `(0.1,)`):
            τ of the plausible set.
        temperatures (`Sequence[float]`, *optional*):
            Temperatures that are the same for every α. With neither these nor the next, 0.8 is taken both ways.
        temperatures_times_alpha (`Sequence[float]`, *optional*):
            Temperatures that are multiplied by α, which undoes that a small α flattens the distribution. α = 0 has
            none of these.
        judges (`Sequence[ScoringJudge]`, *optional*):
            Explicit rewards, each with a `name`, an `identity` and `score(prompts, completions)`. The first one
            decides what is recommended.
        perplexity_model (`str`, *optional*):
            Path or Hub id of the model under which perplexity is measured, which may have another tokenizer. Defaults
            to the reference of the pair.
        num_prompts (`int`, *optional*):
            How many of the prompts to take, from the first on; all by default.
        seed (`int`, *optional*, defaults to `0`):
            With the content of a prompt, it determines the random numbers of that prompt's completions.
        max_new_tokens (`int`, *optional*, defaults to `512`):
            Most tokens of a completion.
        top_p (`float`, *optional*, defaults to `0.95`):
            Nucleus; `1.0` is off.
        top_k (`int`, *optional*, defaults to `0`):
            Top-k; `0` is off.
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts per batch. A run is resumed with the same.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template of `tokenizer`.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`):
            `"raise"` refuses an invalid or over-long prompt by its row; `"drop"` leaves it out and counts it.

    Returns:
        `dict`: `recommendation` (see [`recommend`]), `summary` (the rows of `summary.csv`) and `counts`.

    Raises:
        TypeError: if `pair` is no pair, or a judge cannot score.
        ValueError: if a setting is out of range or comes twice, a prompt is refused, a judge gives no finite number,
            or `output_dir` holds another run.
        BlockingIOError: if another process is writing to `output_dir`.

    Source: the analysis of implicit and explicit reward over α of [ConG](https://huggingface.co/papers/2510.07884).
    """
    if temperatures is None and temperatures_times_alpha is None:
        temperatures = temperatures_times_alpha = (0.8,)
    series = sweep_settings(
        alphas,
        plausibility_thresholds,
        () if temperatures is None else temperatures,
        () if temperatures_times_alpha is None else temperatures_times_alpha,
    )
    settings = all_settings(series)
    decoding = {"max_new_tokens": max_new_tokens, "top_p": top_p, "top_k": top_k}
    for setting in settings:  # refused before anything is written
        Decoding(**decoding, do_sample=True, repetition_penalty=1.0, temperature=setting.temperature)
    names = _judge_names(judges)
    rows, dropped = read_prompts(prompts, invalid_prompts=invalid_prompts)
    rows_in = len(rows) + sum(dropped.values())
    if num_prompts is not None:
        if num_prompts < 1:
            raise ValueError(f"`num_prompts` must be at least 1, got {num_prompts}.")
        left_out = max(len(rows) - num_prompts, 0)
        dropped |= {"beyond_num_prompts": left_out} if left_out else {}
        rows = rows.select(range(len(rows) - left_out))
    load_other, other_id, other_tokenizer = None, "the reference", None
    if perplexity_model is not None:
        load_other, other_id, other_tokenizer = named_engine(perplexity_model)

    pair_id = _pair_identity(pair, pair_id)
    writing = {
        "prompts": content_key(rows["prompt_id"][:]),
        "pair": pair_id,
        "tokenizer": tokenizer_identity(tokenizer),
        "seed": seed,
        **decoding,
        "chat_template_kwargs": chat_template_kwargs,
    }
    identity = {
        **writing,
        "settings": [list(setting) for setting in settings],
        "perplexity": other_id,
        "judges": {judge.name: judge.identity for judge in judges},
    }
    output_dir = Path(output_dir)
    manifest = output_dir / _MANIFEST
    earlier = read_manifest(manifest) if manifest.exists() else None
    if earlier is not None:
        check_identity(writing, earlier["identity"], manifest)
        if all(earlier["identity"].get(name) == value for name, value in identity.items()):
            return {name: earlier[name] for name in _RESULTS}

    with _changing(pair) as at:
        written = {
            setting: generate_completions(
                rows,
                functools.partial(at, setting),
                engine_id={**pair_id, **{name: getattr(setting, name) for name in _FORMULA}},
                tokenizer=tokenizer,
                output_dir=output_dir / "completions" / setting.name,
                seed=seed,
                temperature=setting.temperature,
                batch_size=batch_size,
                chat_template_kwargs=chat_template_kwargs,
                invalid_prompts=invalid_prompts,
                **decoding,
            )
            for setting in settings
        }
        plan = {**writing, "batch_size": batch_size}  # another batch is another rounding
        measure_all = functools.partial(measure, output_dir / "measures", written, batch_size)
        found = [measure_all("pair", plan, by_pair(at, tokenizer, chat_template_kwargs, batch_size))]
    if load_other is not None:
        by_other = by_other_model(load_other, other_tokenizer, batch_size)
        found.append(measure_all("perplexity", {**plan, "perplexity": other_id}, by_other))
    for judge in judges:
        of_judge = {**plan, "judge": {judge.name: judge.identity}}
        found.append(measure_all(f"judge-{file_name(judge.name)}", of_judge, functools.partial(by_judge, judge)))
    records = join(written, found)

    kept = len(records[settings[0]])
    if kept < len(rows):
        dropped["too_long"] = len(rows) - kept
    facts = {
        "identity": {**identity, "batch_size": batch_size},
        "counts": {"rows_in": rows_in, "kept": kept, "dropped": dropped},
        "recommendation": recommend(records, series, names),
        "summary": summarise(records, series, names),
    }
    manifest.unlink(missing_ok=True)
    for name in earlier["files"] if earlier is not None else ():
        (output_dir / name).unlink()  # of other settings or judges
    files = write_report(output_dir, records, series, names, facts)
    write_manifest(manifest, facts, files=files)
    return {name: facts[name] for name in _RESULTS}


def _judge_names(judges: Sequence[ScoringJudge]) -> list[str]:
    for judge in judges:
        if not isinstance(judge, ScoringJudge):
            raise TypeError(
                f"`judges` holds {repr(judge)[:80]}; each needs `name`, `identity` and `score(prompts, completions)`. "
                "Wrap a function in `FunctionJudge(name, function)`; what only compares two texts cannot judge here."
            )
    names = [judge.name for judge in judges]
    files = [file_name(name) for name in names]
    if len(set(files)) < len(files) or set(names) & set(COLUMNS):
        raise ValueError(
            f"`judges` are named {repr(names)[:80]}; each needs a name of its own, and none of {', '.join(COLUMNS)}."
        )
    return names


def _pair_identity(pair: object, pair_id: dict | None) -> dict:
    """What names the pair, whatever its α and τ."""
    if isinstance(pair, torch.nn.Module) or not callable(pair):
        _check_pair(pair)
        pair_id = pair_id or TransformersEngine(pair).describe()["identity"]
    elif pair_id is None:
        raise ValueError("`pair` is a function, so it takes `pair_id` to tell one run from another: name its weights.")
    return {name: value for name, value in pair_id.items() if name not in _FORMULA}


def _check_pair(pair: object):
    if not isinstance(pair, ContrastivePairForCausalLM):
        raise TypeError(
            f"`pair` must be a ContrastivePairForCausalLM, got {type(pair).__name__}. Make one of the models after "
            "and before alignment: `ContrastivePairForCausalLM.from_pair(policy, reference)`."
        )


@contextlib.contextmanager
def _changing(pair: object) -> Iterator[Callable[[Setting], ContrastivePairForCausalLM]]:
    """Yields what gives the pair at a setting, loaded when it is first needed; α and τ are put back in the end."""

    @functools.cache
    def load() -> tuple[ContrastivePairForCausalLM, dict]:
        loaded = pair if isinstance(pair, torch.nn.Module) else pair()
        _check_pair(loaded)
        return loaded, loaded.config.settings

    def set_formula(values: dict) -> ContrastivePairForCausalLM:
        loaded, _ = load()
        for name in _FORMULA:
            setattr(loaded.config, name, values[name])
        return loaded

    try:
        yield lambda setting: set_formula(setting._asdict())
    finally:
        if load.cache_info().currsize:
            set_formula(load()[1])
            load.cache_clear()  # room for the models that come next
