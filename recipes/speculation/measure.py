# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""How many drafted tokens a pair accepts, and how many forwards that saves; counts only, no clock.

    python recipes/speculation/measure.py --policy DIR --reference DIR --prompts test.jsonl --output_dir runs/drafts

Writes `results.json`, `results.md` and `speculation.png`. Counts depend on the models and prompts, not on the machine.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_cong import ContrastivePairForCausalLM
from hf_cong.prompts import encode_prompt
from hf_cong.report.drawing import COLOURS, MARKERS
from hf_cong.report.tables import render_table

POLICY, SIBLING, LOOKUP = "policy", "sibling", "prompt lookup"
GREEDY, SAMPLING = "greedy", "T = 0.8"
DECODING = {GREEDY: {"do_sample": False}, SAMPLING: {"do_sample": True, "temperature": 0.8, "top_k": 0}}
TABLE = {
    "α": "alpha",
    "decoding": "decoding",
    "draft by": "drafter",
    "draft length": "draft_length",
    "P(same argmax)": "same_argmax",
    "accepted / drafted": "accepted_per_drafted",
    "accepted / checked": "accepted_per_checked",
    "tokens / target forward": "tokens_per_target_forward",
    "policy forwards / token": "cost_per_token",
}


@dataclass
class Counts:
    """Forwards of one drafter, counted by hooks on the modules."""

    tokens: int = 0
    target_forwards: int = 0
    draft_forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    checked: int = 0  # drafted tokens up to and with the first that was refused; what follows it is never looked at
    steps: list[tuple[int, int]] = field(default_factory=list)  # of one prompt: tokens before the draft, and drafted

    def close(self, prompt_length: int, total_length: int) -> None:
        """Ends one prompt: a forward keeps what the next one finds before its own draft, less a token of its own.

        The end of the text cuts the last draft, so that one says nothing about acceptance.
        """
        for (before, drafted), (after, _) in pairwise(self.steps):
            accepted = after - before - 1
            self.drafted += drafted
            self.accepted += accepted
            self.checked += min(accepted + 1, drafted)
        self.target_forwards += len(self.steps)
        self.tokens += total_length - prompt_length
        self.steps.clear()


@contextmanager
def counting(pair: PreTrainedModel, drafter: PreTrainedModel | None, counts: Counts) -> Iterator[None]:
    """Counts the pair's forwards and, outside of them, the drafter's."""
    inside = [False]

    def enter(_, args, kwargs):
        inside[0] = True
        new, past = kwargs["input_ids"].shape[1], kwargs["past_key_values"].get_seq_length()
        # A forward takes the last token that stands (the first one: the prompt) and the draft, and `logits_to_keep`
        # names one row more than the draft has.
        drafted = kwargs["logits_to_keep"] - 1
        counts.steps.append((past + new - drafted, drafted))

    def leave(*_):
        inside[0] = False

    def draft(*_):
        counts.draft_forwards += not inside[0]

    hooks = [pair.register_forward_pre_hook(enter, with_kwargs=True), pair.register_forward_hook(leave)]
    if drafter is not None:
        hooks.append(drafter.register_forward_hook(draft))
    yield
    for hook in hooks:
        hook.remove()


def write(pair, ids: list[int], seed: int, max_new_tokens: int, **kwargs) -> list[int]:
    torch.manual_seed(seed)
    row = torch.tensor([ids])
    output = pair.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=max_new_tokens, **kwargs)
    return output[0].tolist()


@torch.no_grad()
def agreement(pair, texts: list[list[int]], prompts: list[list[int]], temperature: float) -> dict:
    """P(argmax p_α = argmax π), and the overlap Σ min(p_α, π): what a draft by π is accepted with when sampling."""
    same, overlap, n = 0, 0.0, 0
    for ids, prompt in zip(texts, prompts, strict=True):
        row, here = torch.tensor([ids]), slice(len(prompt) - 1, len(ids) - 1)
        contrast, policy = pair(row, plausible_only=True).logits[0, here], pair.policy(row).logits[0, here]
        same += (contrast.argmax(-1) == policy.argmax(-1)).sum().item()
        p, q = ((logits / temperature).softmax(-1) for logits in (contrast, policy))
        overlap += torch.minimum(p, q).sum().item()
        n += len(contrast)
    return {"same_argmax": same / n, "overlap": overlap / n}


def measure(pair, siblings: dict[str, PreTrainedModel], prompts: list[list[int]], args) -> Iterator[dict]:
    """One row for every α, way of decoding, drafter and draft length."""
    size = {model: sum(p.numel() for p in model.parameters()) for model in (pair.policy, pair, *siblings.values())}
    drafters = {POLICY: pair.policy, **siblings, LOOKUP: None}
    for alpha in args.alphas:
        pair.config.alpha = alpha
        for mode, decoding in DECODING.items():
            plain = [write(pair, ids, seed, args.max_new_tokens, **decoding) for seed, ids in enumerate(prompts)]
            agree = agreement(pair, plain, prompts, decoding.get("temperature", 1.0))
            for name, drafter in drafters.items():
                weight = 0.0 if drafter is None else size[drafter] / size[pair.policy]
                for length in args.num_assistant_tokens:
                    settings = {"assistant_model": drafter}
                    if drafter is None:
                        settings = {"prompt_lookup_num_tokens": length}
                    else:
                        drafter.generation_config.num_assistant_tokens = length
                        drafter.generation_config.num_assistant_tokens_schedule = "constant"
                        drafter.generation_config.assistant_confidence_threshold = args.confidence
                    counts, texts = Counts(), []
                    with counting(pair, drafter, counts):
                        for seed, ids in enumerate(prompts):
                            texts.append(write(pair, ids, seed, args.max_new_tokens, **decoding, **settings))
                            counts.close(len(ids), len(texts[-1]))
                    work = size[pair] / size[pair.policy] * counts.target_forwards + weight * counts.draft_forwards
                    yield {
                        "alpha": alpha,
                        "decoding": mode,
                        "drafter": name,
                        "draft_length": length,
                        "same_argmax": agree["same_argmax"],
                        "overlap": agree["overlap"],
                        "accepted_per_drafted": counts.accepted / max(counts.drafted, 1),
                        "accepted_per_checked": counts.accepted / max(counts.checked, 1),
                        "tokens_per_target_forward": counts.tokens / counts.target_forwards,
                        "target_forwards_per_token": counts.target_forwards / counts.tokens,
                        "draft_forwards_per_token": counts.draft_forwards / counts.tokens,
                        "cost_per_token": work / counts.tokens,
                        "same_texts": sum(map(list.__eq__, texts, plain)) / len(plain) if mode == GREEDY else None,
                        "tokens": counts.tokens,
                        "drafted": counts.drafted,
                        "accepted": counts.accepted,
                    }


def best(rows: list[dict]) -> list[dict]:
    """The draft length that costs least, for every α, way of decoding and drafter."""
    found: dict[tuple, dict] = {}
    for row in rows:
        key = (row["alpha"], row["decoding"], row["drafter"])
        if key not in found or row["cost_per_token"] < found[key]["cost_per_token"]:
            found[key] = row
    return list(found.values())


def draw(rows: list[dict], path: Path, title: str) -> None:
    """Acceptance and cost by α, greedy to the left and sampled to the right."""
    figure = Figure(figsize=(8, 6.6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    figure.suptitle(title, fontsize=12)
    for column, mode in enumerate(DECODING):
        for number, name in enumerate(dict.fromkeys(row["drafter"] for row in rows)):
            points = sorted(
                (r for r in rows if (r["decoding"], r["drafter"]) == (mode, name)), key=lambda r: r["alpha"]
            )
            for line, key in enumerate(("accepted_per_checked", "cost_per_token")):
                panels[line, column].plot(
                    [point["alpha"] for point in points],
                    [point[key] for point in points],
                    marker=MARKERS[number],
                    color=COLOURS[number],
                    label=f"draft by {name}",
                )
        panels[0, column].set_title(mode, loc="left", fontsize=12)
        for height, label, style in ((2, "pair, no draft", "--"), (1, "policy alone", ":")):
            panels[1, column].axhline(height, color="black", linestyle=style, linewidth=1.2, label=label)
        panels[1, column].set_xlabel("α")
    panels[0, 0].set_ylabel("P(a drafted token is accepted)")
    panels[1, 0].set_ylabel("policy forwards per token\n(best draft length)")
    for axes in panels.flat:
        axes.grid(color="#DDDDDD", linewidth=0.8)
        axes.set_ylim(bottom=0)
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--reference", required=True)
    parser.add_argument("--siblings", nargs="*", default=[], help="smaller models of the same tokenizer: name=path")
    parser.add_argument("--prompts", required=True, help="JSON lines with a column `prompt`")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--title", default="Speculative contrastive decoding")
    parser.add_argument("--num_prompts", type=int, default=20)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.3, 0.4, 0.5, 0.7, 1.0])
    parser.add_argument("--num_assistant_tokens", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--confidence", type=float, default=0.0, help="`assistant_confidence_threshold`; 0 is off")
    args = parser.parse_args()

    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.policy)
    pair = ContrastivePairForCausalLM.from_pair(args.policy, args.reference)
    siblings = {
        name: AutoModelForCausalLM.from_pretrained(path).eval()
        for name, path in (sibling.split("=", 1) for sibling in args.siblings)
    }
    texts = Dataset.from_json(args.prompts)["prompt"][: args.num_prompts]
    prompts = [encode_prompt(tokenizer, prompt) for prompt in texts]
    rows = []
    for row in measure(pair, siblings, prompts, args):
        rows.append(row)
        print(render_table([row]).splitlines()[-1], flush=True)
    settings = {key: value for key, value in vars(args).items() if key not in ("policy", "reference", "output_dir")}
    settings |= {"siblings": list(siblings), "prompts": len(prompts)}
    settings["versions"] = {library.__name__: library.__version__ for library in (torch, transformers)}
    results = {"settings": settings, "rows": rows}
    (output_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    table = [{title: row[key] for title, key in TABLE.items()} for row in best(rows)]
    (output_dir / "results.md").write_text(render_table(table, markdown=True) + "\n", encoding="utf-8")
    draw(best(rows), output_dir / "speculation.png", args.title)


if __name__ == "__main__":
    main()
