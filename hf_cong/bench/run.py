# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The bench: warm up and compare tokens, then rounds in which all contestants take turns, then the tables.

A round is the unit of work and of the journal: a ratio needs both its sides from one moment.
"""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoints import model_identity
from ..functional import check_alpha, contrastive_scores
from ..journal import Journal, read_journal, write_manifest
from ..timing import cache_bytes, hardware, time_decode, timed, weight_bytes
from .contestants import SHAPES, Contestant, Members, given_members, make_contestants, random_members
from .summary import plot_bench, render_bench, summarise

_DEVICES = ("cpu", "cuda")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CONTRAST_CALLS = 20


def run_bench(
    output_dir: str | Path,
    *,
    shape: str = "qwen2-110m",
    policy: str | None = None,
    reference: str | None = None,
    batch_sizes: Sequence[int] = (1, 8, 32),
    prompt_length: int = 64,
    new_tokens: int = 48,
    rounds: int = 5,
    device: str = "cpu",
    dtype: str = "float32",
    compile: bool = False,
    continuous_batching: bool = False,
    alpha: float = 0.4,
    plausibility_threshold: float = 0.1,
    seed: int = 0,
) -> dict:
    """
    Measures greedy decoding of a weak pair, every way side by side.

    Contestants are the policy alone, a loop in the style of ConG's released code, the processor, the pair and the LoRA
    pair, both also with speculation. Before anything is timed, each writes its tokens once, and they are compared.
    The same call goes on where a killed one stopped.

    Args:
        output_dir (`str` or `Path`):
            Where `bench.json` (all samples), `bench.md`, `bench.png` and the journal go.
        shape (`str`, *optional*, defaults to `"qwen2-110m"`):
            Key of `contestants.SHAPES`: random weights of that configuration. Without effect when models are given.
        policy, reference (`str`, *optional*):
            Models to run instead: paths or Hub ids. They have no LoRA pair.
        batch_sizes (`Sequence[int]`, *optional*, defaults to `(1, 8, 32)`):
            Rows decoded together.
        prompt_length (`int`, *optional*, defaults to `64`):
            Tokens of a prompt, drawn at random.
        new_tokens (`int`, *optional*, defaults to `48`):
            Tokens written after it, at least 2.
        rounds (`int`, *optional*, defaults to `5`):
            Measurements of each contestant at each batch size.
        device (`str`, *optional*, defaults to `"cpu"`):
            `"cpu"` or `"cuda"`.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Dtype of the weights.
        compile (`bool`, *optional*, defaults to `False`):
            Whether to add the compiled forms: static cache, and CUDA graphs on a GPU.
        continuous_batching (`bool`, *optional*, defaults to `False`):
            Whether to add continuous batching.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1).
        seed (`int`, *optional*, defaults to `0`):
            Seed of weights and prompts.

    Returns:
        `dict`: what `bench.json` holds.

    Raises:
        ValueError: if an argument is out of range, there is no such device, or `output_dir` holds another bench.
    """
    _check(shape, policy, reference, batch_sizes, prompt_length, new_tokens, rounds, device, dtype)
    check_alpha(alpha, plausibility_threshold)
    where, kind = torch.device(device), _DTYPES[dtype]
    if policy is None:
        weights = {"shape": shape}
    else:
        weights = {"policy": model_identity(policy), "reference": model_identity(reference)}
    settings = {
        **weights,
        "batch_sizes": list(batch_sizes),
        "prompt_length": prompt_length,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "device": device,
        "dtype": dtype,
        "compile": compile,
        "continuous_batching": continuous_batching,
        "alpha": alpha,
        "plausibility_threshold": plausibility_threshold,
        "seed": seed,
        "hardware": hardware(where),
    }
    output_dir = Path(output_dir)
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    with Journal(output_dir / "bench.jsonl", settings, {"command": command}) as journal:
        if _owed(journal, settings):
            if policy is None:
                members = random_members(shape, dtype=kind, device=where, seed=seed)
            else:
                members = given_members(policy, reference, dtype=kind, device=where)
            _measure(journal, members, settings)
        header, records = read_journal(journal.path)
    summary = summarise(records, settings)
    title = f"{shape if policy is None else f'{policy} and {reference}'}, {dtype}, {device}"
    (output_dir / "bench.md").write_text(render_bench(summary, settings, title=title), encoding="utf-8")
    plot_bench(output_dir / "bench.png", summary, title=title)
    content = {
        "settings": settings,
        "command": header["provenance"]["command"],
        "summary": summary,
        "records": records,
    }
    return write_manifest(output_dir / "bench.json", content, files=("bench.md", "bench.png"))


def _owed(journal: Journal, settings: dict) -> list[tuple[int, int]]:
    """Batch size and number of every round that is not in the journal yet."""
    done = {(record["batch_size"], record["round"]) for record in journal.records if "round" in record}
    every = [(batch_size, number) for batch_size in settings["batch_sizes"] for number in range(settings["rounds"])]
    return [key for key in every if key not in done]


def _measure(journal: Journal, members: Members, settings: dict) -> None:
    contrast = {name: settings[name] for name in ("alpha", "plausibility_threshold")}
    forms = {"compiled": settings["compile"], "continuous": settings["continuous_batching"]}
    width, new_tokens = settings["prompt_length"], settings["new_tokens"]
    generator = torch.Generator().manual_seed(settings["seed"])
    vocabulary = members.policy.config.get_text_config().vocab_size
    prompts = torch.randint(vocabulary, (max(settings["batch_sizes"]), width), generator=generator)
    prompts = prompts.to(members.policy.device)
    owed = _owed(journal, settings)
    with tqdm(owed, desc="bench", unit="round") as progress:
        for batch_size in sorted({batch_size for batch_size, _ in owed}):
            # Compiled code, graphs and static caches of another batch size must not be in the way.
            torch.compiler.reset()
            every = make_contestants(members, **forms, **contrast)
            contestants = [one for one in every if batch_size == 1 or not one.single_row]
            rows = prompts[:batch_size]
            checks = check_tokens(contestants, rows, new_tokens)
            for contestant in contestants:
                time_decode(contestant.decode, rows, new_tokens)  # the last warm-up, thrown away
            if not any(record["batch_size"] == batch_size for record in journal.records):
                journal.append([{"batch_size": batch_size, **check} for check in checks])
            for number in (number for size, number in owed if size == batch_size):
                samples = run_round(contestants, rows, new_tokens, number)
                samples += _time_contrast(members, rows, **contrast, compiled=settings["compile"])
                journal.append([{"batch_size": batch_size, "round": number, **sample} for sample in samples])
                progress.update()


def check_tokens(contestants: list[Contestant], prompts: Tensor, new_tokens: int) -> list[dict]:
    """
    Lets every contestant decode once: the first warm-up, which compiles, and the proof that it does the same work.

    Args:
        contestants (`list[Contestant]`): With those whose tokens the others must write.
        prompts (`torch.LongTensor` of shape `(B, T)`): The prompts.
        new_tokens (`int`): Tokens to write.

    Returns:
        `list[dict]`: for each contestant how many rows have the tokens they should, the first position at which one
        has not (`None` if all have), new tokens per forward of its first model, and bytes: of the weights, of the
        cache when full, and the peak (weights and all that was allocated above what was there before; `None` on a CPU,
        where it is known of the whole process only).
    """
    written, checks = {}, []
    cuda = prompts.is_cuda
    for contestant in contestants:
        forwards = 0

        def count(*_):
            nonlocal forwards
            forwards += 1

        if cuda:
            gc.collect()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        hook = contestant.models[0].register_forward_pre_hook(count) if contestant.speculates else None
        written[contestant.name] = contestant.decode(prompts, new_tokens).cpu()
        if hook is not None:
            hook.remove()
        weights = weight_bytes(contestant.models)
        checks.append(
            {
                "contestant": contestant.name,
                "writes": contestant.writes,
                "baseline": contestant.baseline,
                "rows": len(prompts),
                "tokens_per_forward": new_tokens / forwards if forwards else None,
                "weight_bytes": weights,
                "cache_bytes": cache_bytes(contestant.models, len(prompts), prompts.shape[1] + new_tokens),
                "peak_bytes": weights + torch.cuda.max_memory_allocated() - before if cuda else None,
            }
        )
    for check in checks:
        differs = written[check["contestant"]] != written[check["writes"]]
        check["rows_equal"] = int((~differs.any(-1)).sum())
        check["first_difference"] = int(differs.any(0).nonzero()[0]) if differs.any() else None
    return checks


def run_round(contestants: list[Contestant], prompts: Tensor, new_tokens: int, number: int) -> list[dict]:
    """
    One sample of every contestant, right after one another; each round begins with the next of them.

    Args:
        contestants (`list[Contestant]`): Those that take part.
        prompts (`torch.LongTensor` of shape `(B, T)`): The prompts.
        new_tokens (`int`): At least 2.
        number (`int`): The round's number from 0.

    Returns:
        `list[dict]`: `"contestant"`, and the seconds `"first_token"` and `"total"`.
    """
    first = number % len(contestants)
    order = contestants[first:] + contestants[:first]
    return [{"contestant": one.name, **time_decode(one.decode, prompts, new_tokens)} for one in order]


@torch.no_grad()
def _time_contrast(members: Members, prompts: Tensor, *, compiled: bool, **contrast) -> list[dict]:
    """What the contrast alone costs on the two heads' logits of one step, of shape `(B, V)` each."""
    last = prompts[:, -1:]
    logits = [model(last, use_cache=False).logits[:, -1] for model in (members.policy, members.reference)]
    forms = {"pair": contrastive_scores}
    if compiled:
        forms["pair, compiled"] = torch.compile(contrastive_scores)
    samples = []
    for contestant, function in forms.items():

        def repeat(function=function):
            for _ in range(_CONTRAST_CALLS):
                function(*logits, **contrast)

        repeat()  # warm-up
        _, seconds = timed(repeat, device=prompts.device)
        samples.append({"contrast_of": contestant, "seconds": seconds / _CONTRAST_CALLS})
    return samples


def _check(shape, policy, reference, batch_sizes, prompt_length, new_tokens, rounds, device, dtype):
    if (policy is None) != (reference is None):
        raise ValueError("`policy` and `reference` make a pair: give both, or neither to run random weights.")
    if policy is None and shape not in SHAPES:
        raise ValueError(f"`shape` is {repr(shape)[:80]}; it must be one of {', '.join(SHAPES)}.")
    if not batch_sizes or min(batch_sizes) < 1 or len(set(batch_sizes)) < len(batch_sizes):
        raise ValueError(f"`batch_sizes` must be different numbers of at least 1, got {list(batch_sizes)}.")
    for name, value, least in (
        ("prompt_length", prompt_length, 1),
        ("new_tokens", new_tokens, 2),  # one comes from the prompt's forward, a step begins with the second
        ("rounds", rounds, 1),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    for name, value, known in (("device", device, _DEVICES), ("dtype", dtype, _DTYPES)):
        if value not in known:
            raise ValueError(f"`{name}` is {repr(value)[:80]}; it must be one of {', '.join(known)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is 'cuda', and torch finds no GPU. Pass `device='cpu'`, or install torch for CUDA.")
