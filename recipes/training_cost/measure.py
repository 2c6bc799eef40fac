# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What ConG's own code costs in training: its two stages beside plain `SFTTrainer` and `DPOTrainer`, on the same rows.

    python recipes/training_cost/measure.py --output_dir runs/training_cost

A random Qwen2; the runs of the two sides alternate in one process, and each pair of neighbours gives one ratio. Writes
`results.json` and `results.md`. The machine must do nothing else.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from hf_cong import ConGConfig, ConGTrainer
from hf_cong.memory import peak_gib, peak_is_of, reset_peak
from hf_cong.report.tables import render_table
from hf_cong.timing import hardware


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {"[PAD]": 0, "[EOS]": 1, **{f"w{index}": index for index in range(2, size)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[EOS]")  # noqa: S106


def random_model(args: argparse.Namespace) -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=args.vocab_size,
        hidden_size=args.hidden_size,
        intermediate_size=args.hidden_size * 8 // 3 // 32 * 32,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden_size // 64,
        num_key_value_heads=args.hidden_size // 64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(args.device)


def random_pairs(args: argparse.Namespace) -> Dataset:
    """Rows of like lengths, none the same."""
    generator = torch.Generator().manual_seed(0)

    def text(fewest: int, most: int) -> str:
        length = int(torch.randint(fewest, most + 1, (1,), generator=generator))
        return " ".join(f"w{n}" for n in torch.randint(2, args.vocab_size, (length,), generator=generator).tolist())

    prompt, completion = args.prompt_length, args.completion_length
    return Dataset.from_list(
        [
            {
                "prompt": text(prompt // 2, prompt),
                **{side: " " + text(completion // 2, completion) for side in ("chosen", "rejected")},
            }
            for _ in range(args.steps * args.batch_size)
        ]
    )


class Seen(TrainerCallback):
    """What stage I says at its end."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "sft/train_runtime" in logs:
            self.seconds, self.loss = logs["sft/train_runtime"], logs["sft/train_loss"]
            self.peak = logs["memory/sft_peak_gib"]


class TimesStageOne(ConGTrainer):
    """Times its stage I as a whole."""

    def _fine_tune(self, rows):
        begin = time.perf_counter()
        policy = super()._fine_tune(rows)
        self.seconds = time.perf_counter() - begin
        return policy


def settings(args: argparse.Namespace, directory: str) -> dict:
    return {
        "output_dir": directory,
        "per_device_train_batch_size": args.batch_size,
        "num_train_epochs": 1,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "max_length": 2048,
        "gradient_checkpointing": False,
        "bf16": args.bf16,
        "use_cpu": args.device == "cpu",
        "logging_steps": args.logging_steps,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def sft_alone(args: argparse.Namespace, pairs: Dataset, directory: str) -> dict:
    """`SFTTrainer`, and its model saved, as stage I saves it."""
    model, tokenizer = random_model(args), word_tokenizer(args.vocab_size)
    rows = pairs.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    reset_peak()
    begin = time.perf_counter()
    trainer = SFTTrainer(
        model, args=SFTConfig(**settings(args, directory)), train_dataset=rows, processing_class=tokenizer
    )
    found = trainer.train().metrics
    peak = peak_gib()
    trainer.save_model(f"{directory}/final")
    whole = time.perf_counter() - begin
    return {"training": found["train_runtime"], "whole": whole, "peak": peak, "loss": found["train_loss"]}


def sft_of_cong(args: argparse.Namespace, pairs: Dataset, directory: str) -> dict:
    """Stage I of a run whose other stages do next to nothing: one token of each prompt, one step of DPO."""
    seen = Seen()
    own = settings(args, directory)
    own |= {"sft_learning_rate": own["learning_rate"], "sft_num_train_epochs": 1, "max_steps": 1, "max_new_tokens": 1}
    trainer = TimesStageOne(
        random_model(args),
        args=ConGConfig(**own, generation_batch_size=256),
        train_dataset=pairs.select_columns(["prompt", "chosen"]),
        processing_class=word_tokenizer(args.vocab_size),
        callbacks=[seen],
    )
    trainer.train()
    return {"training": seen.seconds, "whole": trainer.seconds, "peak": seen.peak, "loss": seen.loss}


def dpo(cls: type, config: type, args: argparse.Namespace, pairs: Dataset, directory: str) -> dict:
    """Either trainer, given the pairs; both score them with the reference once, before."""
    model, tokenizer = random_model(args), word_tokenizer(args.vocab_size)
    reset_peak()
    begin = time.perf_counter()
    arguments = config(**settings(args, directory), beta=0.5, precompute_ref_log_probs=True)
    trainer = cls(model, args=arguments, train_dataset=pairs, processing_class=tokenizer)
    found = trainer.train().metrics
    peak, whole = peak_gib(), time.perf_counter() - begin
    return {"training": found["train_runtime"], "whole": whole, "peak": peak, "loss": found["train_loss"]}


SIDES: dict[str, tuple[Callable, Callable]] = {
    "I": (sft_alone, sft_of_cong),
    "II": (
        lambda *given: dpo(DPOTrainer, DPOConfig, *given),
        lambda *given: dpo(ConGTrainer, ConGConfig, *given),
    ),
}
NAMES = {"I": ("SFTTrainer", "ConG, stage I"), "II": ("DPOTrainer", "ConG, stage II")}


def once(side: Callable, args: argparse.Namespace, pairs: Dataset) -> dict:
    gc.collect()
    clear_device_cache(garbage_collection=True)
    with tempfile.TemporaryDirectory() as directory:
        return side(args, pairs, directory)


def measure(args: argparse.Namespace) -> dict:
    pairs, runs = random_pairs(args), {}
    for stage, sides in SIDES.items():
        for side in sides:  # what is compiled or cached at first use
            once(side, argparse.Namespace(**{**vars(args), "steps": 2}), pairs.select(range(2 * args.batch_size)))
        runs[stage] = []
        for repeat in range(args.repeats):
            first = repeat % 2  # A B, B A, A B, ...: what drifts favours neither
            two = {number: once(sides[number], args, pairs) for number in (first, 1 - first)}
            runs[stage].append([two[0], two[1]])
            print(f"stage {stage}, pair {repeat + 1} of {args.repeats}: {two}", flush=True)
    return {
        "settings": {name: value for name, value in vars(args).items() if name != "output_dir"},
        "hardware": hardware(torch.device(args.device)),
        "parameters": sum(parameter.numel() for parameter in random_model(args).parameters()),
        "memory is": peak_is_of(),
        "runs": runs,
        "comparisons": {stage: compare(found, args) for stage, found in runs.items()},
    }


def compare(found: list[list[dict]], args: argparse.Namespace) -> dict:
    """Medians of both sides, and of the ratios of neighbours; the range of n ratios is an interval of their median."""
    rows = args.steps * args.batch_size
    return {
        "rows per second": [statistics.median(rows / two[side]["training"] for two in found) for side in (0, 1)],
        "training": ratios(found, "training"),
        "whole": ratios(found, "whole"),
        "peak GiB": [statistics.median(two[side]["peak"] for two in found) for side in (0, 1)],
        "same loss": all(two[0]["loss"] == two[1]["loss"] for two in found),
        "covered": 1 - 2 ** (1 - len(found)),  # the median lies outside if all fall on one side of it
    }


def ratios(found: list[list[dict]], name: str) -> dict:
    each = [alone[name] / cong[name] for alone, cong in found]
    return {"median": statistics.median(each), "low": min(each), "high": max(each)}


def table(results: dict) -> str:
    rows = []
    for stage, found in results["comparisons"].items():
        for side, name in enumerate(NAMES[stage]):
            row = {"trainer": name, "rows per second": f"{found['rows per second'][side]:.2f}"}
            for kind, title in {"training": "throughput, ratio", "whole": "with set-up and saving, ratio"}.items():
                ratio = found[kind]
                row[title] = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if side else "1"
            rows.append({**row, "peak memory, GiB": f"{found['peak GiB'][side]:.2f}"})
    return render_table(rows, markdown=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU")
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--hidden_size", type=int, default=448)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompt_length", type=int, default=16, help="in tokens, at most")
    parser.add_argument("--completion_length", type=int, default=32, help="in tokens, at most")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16, help="of each run")
    parser.add_argument("--logging_steps", type=int, default=10)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=6, help="pairs of runs for each stage")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = measure(args)
    (output_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (output_dir / "results.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
