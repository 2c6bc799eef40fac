# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a search costs: against sampling its rows and no more, against the original's way, and by length.

    python recipes/search_speed/measure.py --output_dir runs/search_speed

Random Llamas, a base and a pair with five times fewer parameters; no row ends early, so every row costs its whole
length. Writes `results.json`, `results.md` and `search_speed.png`. Only ratios within one run mean anything, and only
on a machine that does nothing else.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from hf_cong import ImplicitReward
from hf_cong.functional import token_logps
from hf_cong.report.drawing import COLOURS, MARKERS
from hf_cong.report.tables import render_table
from hf_cong.sampling import warpers
from hf_cong.search.batches import SearchSettings
from hf_cong.search.samplers import Row
from hf_cong.search.search import as_sampler, weak_to_strong_search
from hf_cong.timing import hardware, timed

SAMPLING = {"temperature": 0.7, "top_k": 50, "top_p": 1.0}


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One token per word, no end of sequence."""
    vocabulary = {"[PAD]": 0, **{f"w{index}": index for index in range(1, size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w1"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", padding_side="left")  # noqa: S106


def random_model(hidden: int, layers: int, args: argparse.Namespace, seed: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=args.vocab_size,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).to(args.device, getattr(torch, args.dtype)).eval()


def parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def generate_rows(base, tokenizer, prompts: list[str], rows: int, tokens: int) -> Tensor:
    """The rows as `generate` samples them, each with its own copy of the prompt."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(base.device)
    return base.generate(**inputs, do_sample=True, num_return_sequences=rows, max_new_tokens=tokens, **SAMPLING)


def sample_rows(base, tokenizer, prompts: list[str], rows: int, tokens: int) -> list:
    """The rows as a search samples them, in one chunk and without a pair: every prompt is read once."""
    settings = SearchSettings(beam_width=1, successors_per_beam=rows, max_new_tokens=tokens, **SAMPLING)
    sampler = as_sampler(base, tokenizer, settings)
    sampler.start(prompts, tokens)
    return sampler.extend([Row(parent, slot) for parent in range(len(prompts)) for slot in range(rows)], tokens)


@torch.no_grad()
def original_search(base, pair, tokenizer, prompt: str, width: int, successors: int, length: int, tokens: int) -> str:
    """
    One prompt as the paper's released code searches it: at every chunk each hypothesis becomes text, and both small
    models read the whole of it again.

    Source: the algorithm of [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262), at its released code's
    cost, written anew.
    """
    prompt_ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(base.device)
    ids, cache, chain = prompt_ids.repeat(width * successors, 1), DynamicCache(config=base.config), warpers(**SAMPLING)
    for step in range(1, tokens + 1):
        fed = ids if step == 1 else ids[:, -1:]
        scores = base(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        for warper in chain:
            scores = warper(ids, scores)
        ids = torch.cat([ids, torch.multinomial(scores.softmax(-1), 1)], dim=1)
        if step % length == 0 or step == tokens:
            texts = tokenizer.batch_decode(ids[:, prompt_ids.shape[1] :])
            whole = tokenizer([f"{prompt} {text}" for text in texts], return_tensors="pt", padding=True)
            whole = whole["input_ids"].to(base.device)
            rewards = [token_logps(model(whole).logits[:, :-1].float(), whole[:, 1:]).sum(-1) for model in pair]
            best = (rewards[0] - rewards[1]).topk(width).indices.repeat(successors)
            cache.reorder_cache(best)
            ids = ids[best]
    return tokenizer.decode(ids[0, prompt_ids.shape[1] :])


def score_in_chunks(reward, prompts: list[str], completions: Tensor, length: int, *, incremental: bool) -> None:
    """Rewards of random completions after every chunk: each from the one before, or each whole again."""
    scorer, rows = reward.incremental(prompts), completions.tolist()
    for end in range(length, completions.shape[1] + 1, length):
        so_far = [row[:end] for row in rows]
        if incremental:
            scorer.score(list(range(len(rows))), so_far, [False] * len(rows))
        else:
            reward.score(prompts, so_far, batch_size=len(rows))


def fastest(function: Callable, args: argparse.Namespace) -> float:
    """Seconds of the fastest of several runs."""
    return min(timed(function, device=torch.device(args.device))[1] for _ in range(args.repeats))


def measure(args: argparse.Namespace) -> dict:
    tokenizer = word_tokenizer(args.vocab_size)
    base = random_model(args.base_hidden, args.base_layers, args, seed=0)
    pair = [random_model(args.pair_hidden, args.pair_layers, args, seed=seed) for seed in (1, 2)]
    reward = ImplicitReward(*pair, tokenizer)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(1, args.vocab_size, (args.prompts, args.prompt_length), generator=generator)
    prompts = [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]
    width, successors, length = args.beam_width, args.successors_per_beam, args.chunk_length
    shape = {"beam_width": width, "successors_per_beam": successors, "chunk_length": length}

    def search(tokens: int) -> list:
        return weak_to_strong_search(
            base, tokenizer, prompts, reward, **shape, **SAMPLING, max_new_tokens=tokens, batch_size=args.batch_size
        )

    def original(tokens: int) -> None:
        for prompt in prompts[: args.original_prompts]:
            original_search(base, pair, tokenizer, prompt, width, successors, length, tokens)

    rows, (short, long) = width * successors, args.tokens
    for warm_up in (search, original, partial(sample_rows, base, tokenizer, prompts, rows)):
        warm_up(length + 1)
    seconds = {
        "search": fastest(lambda: search(short), args),
        "the same rows, sampled only": fastest(lambda: sample_rows(base, tokenizer, prompts, rows, short), args),
        "the same rows from `generate`": fastest(lambda: generate_rows(base, tokenizer, prompts, rows, short), args),
    }
    print(seconds, flush=True)
    seconds_long = {
        "search": fastest(lambda: search(long), args),
        # Prompt after prompt, so its time is in proportion to them.
        "the original's way": fastest(lambda: original(long), args) * args.prompts / args.original_prompts,
    }
    print(seconds_long, flush=True)
    scored = prompts[: args.scored_rows]
    completions = torch.randint(1, args.vocab_size, (len(scored), max(args.lengths)), generator=generator)
    by_length = {"incremental": {}, "whole texts again": {}}
    for tokens in args.lengths:
        for name, seconds_of in by_length.items():
            grow = partial(score_in_chunks, reward, scored, completions[:, :tokens], length)
            seconds_of[tokens] = fastest(partial(grow, incremental=name == "incremental"), args)
    return {
        "settings": {**vars(args), "output_dir": None},
        "hardware": hardware(torch.device(args.device)),
        "parameters": {"base": parameters(base), "each of the pair": parameters(pair[0])},
        f"seconds at {short} tokens": seconds,
        f"seconds at {long} tokens": seconds_long,
        "scoring seconds by length": by_length,
        "search over sampling": seconds["search"] / seconds["the same rows, sampled only"],
        "search over generate": seconds["search"] / seconds["the same rows from `generate`"],
        "original over search": seconds_long["the original's way"] / seconds_long["search"],
    }


def tables(results: dict, args: argparse.Namespace) -> str:
    rows = []
    for tokens in args.tokens:
        seconds = results[f"seconds at {tokens} tokens"]
        rows += [
            {"way": name, "new tokens": tokens, "seconds": value, "over search": value / seconds["search"]}
            for name, value in seconds.items()
        ]
    by_length = results["scoring seconds by length"]
    lengths = [
        {"tokens": tokens, **{f"{name}, s": seconds[tokens] for name, seconds in by_length.items()}}
        for tokens in args.lengths
    ]
    return f"{render_table(rows, markdown=True)}\n\n{render_table(lengths, markdown=True)}\n"


def draw(results: dict, args: argparse.Namespace, path: Path) -> None:
    figure = Figure(figsize=(8, 6.4), dpi=150, layout="constrained")
    bars, lines = figure.subplots(2, 1, height_ratios=(1, 1.3))
    named = [
        (f"{name}, {tokens} tokens", seconds)
        for tokens in args.tokens
        for name, seconds in results[f"seconds at {tokens} tokens"].items()
    ]
    drawn = bars.barh([name for name, _ in named], [seconds for _, seconds in named], color=COLOURS[0])
    bars.bar_label(drawn, fmt="%.0f", padding=4)
    bars.margins(x=0.12)
    bars.invert_yaxis()
    bars.set_xlabel(f"seconds, {args.prompts} prompts")
    for number, (name, seconds) in enumerate(results["scoring seconds by length"].items()):
        lines.plot(list(seconds), list(seconds.values()), marker=MARKERS[number], color=COLOURS[number], label=name)
    lines.set_xlabel("tokens of a completion")
    lines.set_ylabel(f"seconds to score {args.scored_rows} rows\nevery {args.chunk_length} tokens")
    lines.set_ylim(bottom=0)
    lines.legend(frameon=False)
    for axes in (bars, lines):
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.savefig(path, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--base_hidden", type=int, default=384)
    parser.add_argument("--base_layers", type=int, default=6)
    parser.add_argument("--pair_hidden", type=int, default=192)
    parser.add_argument("--pair_layers", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=32, help="prompts that are searched together")
    parser.add_argument("--prompt_length", type=int, default=16)
    parser.add_argument("--tokens", type=int, nargs=2, default=[64, 256], help="for sampling, and for the original")
    parser.add_argument("--beam_width", type=int, default=4)
    parser.add_argument("--successors_per_beam", type=int, default=4)
    parser.add_argument("--chunk_length", type=int, default=5)
    parser.add_argument("--original_prompts", type=int, default=2, help="prompts that the original's way is timed on")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--scored_rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = measure(args)
    (output_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (output_dir / "results.md").write_text(tables(results, args), encoding="utf-8")
    draw(results, args, output_dir / "search_speed.png")
    print(tables(results, args))


if __name__ == "__main__":
    main()
