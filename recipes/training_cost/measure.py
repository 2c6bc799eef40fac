# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What ConG's own code costs in training: its two stages beside plain `SFTTrainer` and `DPOTrainer`, on the same rows.

    python recipes/training_cost/measure.py --output_dir runs/training_cost

A random Qwen2. Each side trains in a process of its own, and the two take turns, a few steps each, so that whatever
else slows the machine down for a while slows both. Writes `results.json` and `results.md`.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier, Semaphore
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from hf_cong import ConGConfig, ConGTrainer
from hf_cong.memory import peak_gib, peak_is_of, reset_peak
from hf_cong.report.statistics import mean_interval
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


class Turns:
    """Lets one of two processes work at a time."""

    def __init__(self, own: Semaphore, other: Semaphore):
        self.own, self.other, self.waited = own, other, 0.0

    def pass_on(self) -> None:
        begin = time.perf_counter()
        self.other.release()
        self.own.acquire()
        self.waited += time.perf_counter() - begin

    def now(self) -> float:
        """Seconds, of which those that this process waited do not count."""
        return time.perf_counter() - self.waited


class PassesOn(TrainerCallback):
    """Times a training from one line of its log to the next, and passes on there. Its last line says how it was."""

    def __init__(self, turns: Turns, prefix: str = ""):
        self.turns, self.prefix, self.times = turns, prefix, []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if f"{self.prefix}loss" in logs:
            self.times.append(self.turns.now())
            self.turns.pass_on()
        if f"{self.prefix}train_loss" in logs:
            self.loss = logs[f"{self.prefix}train_loss"]

    def seconds(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.times)]


class TimesStageOne(ConGTrainer):
    """Measures its stage I as a whole."""

    def _fine_tune(self, rows):
        begin = self.turns.now()
        policy = super()._fine_tune(rows)
        self.found = {"whole": self.turns.now() - begin, "peak": peak_gib()}
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


def sft_alone(args: argparse.Namespace, pairs: Dataset, directory: str, turns: Turns) -> dict:
    """`SFTTrainer`, and its model saved, as stage I saves it."""
    model, tokenizer, training = random_model(args), word_tokenizer(args.vocab_size), PassesOn(turns)
    rows = pairs.select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    reset_peak()
    begin = turns.now()
    trainer = SFTTrainer(
        model,
        args=SFTConfig(**settings(args, directory)),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[training],
    )
    trainer.train()
    peak = peak_gib()
    trainer.save_model(f"{directory}/final")
    return {"seconds": training.seconds(), "loss": training.loss, "whole": turns.now() - begin, "peak": peak}


def sft_of_cong(args: argparse.Namespace, pairs: Dataset, directory: str, turns: Turns) -> dict:
    """Stage I of a run whose other stages do next to nothing: one token of each prompt, one step of DPO."""
    training = PassesOn(turns, "sft/")
    own = settings(args, directory)
    own |= {"sft_learning_rate": own["learning_rate"], "sft_num_train_epochs": 1, "max_steps": 1, "max_new_tokens": 1}
    trainer = TimesStageOne(
        random_model(args),
        args=ConGConfig(**own, generation_batch_size=256),
        train_dataset=pairs.select_columns(["prompt", "chosen"]),
        processing_class=word_tokenizer(args.vocab_size),
        callbacks=[training],
    )
    trainer.turns = turns
    trainer.train()
    return {"seconds": training.seconds(), "loss": training.loss, **trainer.found}


def dpo(cls: type, config: type, args: argparse.Namespace, pairs: Dataset, directory: str, turns: Turns) -> dict:
    """Either trainer, given the pairs; both score them with the reference once, before."""
    model, tokenizer, training = random_model(args), word_tokenizer(args.vocab_size), PassesOn(turns)
    reset_peak()
    begin = turns.now()
    arguments = config(**settings(args, directory), beta=0.5, precompute_ref_log_probs=True)
    trainer = cls(model, args=arguments, train_dataset=pairs, processing_class=tokenizer, callbacks=[training])
    trainer.train()
    return {"seconds": training.seconds(), "loss": training.loss, "whole": turns.now() - begin, "peak": peak_gib()}


SIDES: dict[str, tuple[Callable, Callable]] = {
    "I": (sft_alone, sft_of_cong),
    "II": (functools.partial(dpo, DPOTrainer, DPOConfig), functools.partial(dpo, ConGTrainer, ConGConfig)),
}
NAMES = {"I": ("SFTTrainer", "ConG, stage I"), "II": ("DPOTrainer", "ConG, stage II")}


def work(
    side: Callable, args: argparse.Namespace, ready: Barrier, own: Semaphore, other: Semaphore, answer: Connection
) -> None:
    """One side, in its process."""
    torch.set_num_threads(args.threads)
    pairs = random_pairs(args)
    ready.wait()
    own.acquire()
    with tempfile.TemporaryDirectory() as directory:
        answer.send(side(args, pairs, directory, Turns(own, other)))
    other.release()


def side_by_side(sides: tuple[Callable, Callable], args: argparse.Namespace, first: int) -> list[dict]:
    """Both sides in turns; `first` begins."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    turns = [context.Semaphore(int(side == first)) for side in (0, 1)]
    answers, processes = [], []
    for number, side in enumerate(sides):
        receive, send = context.Pipe(duplex=False)
        given = (side, args, ready, turns[number], turns[1 - number], send)
        processes.append(context.Process(target=work, args=given, daemon=True))
        processes[-1].start()
        send.close()  # so that the answer of a process that fails ends, too
        answers.append(receive)
    found = {}
    while waiting := [answer for answer in answers if answer not in found]:
        for answer in wait(waiting):
            found[answer] = answer.recv()  # EOFError: that side failed, and said why
    for process in processes:
        process.join()
    return [found[answer] for answer in answers]


def measure(args: argparse.Namespace) -> dict:
    runs = {stage: [] for stage in SIDES}
    for repeat in range(args.repeats):
        for stage, sides in SIDES.items():
            runs[stage].append(side_by_side(sides, args, first=repeat % 2))
            print(
                f"Stage {stage}, {repeat + 1} of {args.repeats}: throughput, ratio {ratio(runs[stage][-1]):.3f}",
                flush=True,
            )
    return {
        "settings": {name: value for name, value in vars(args).items() if name != "output_dir"},
        "hardware": hardware(torch.device(args.device)),
        "parameters": sum(parameter.numel() for parameter in random_model(args).parameters()),
        "memory is": peak_is_of(),
        "runs": runs,
        "comparisons": {stage: compare(found, args) for stage, found in runs.items()},
    }


def ratio(two: list[dict]) -> float:
    """Throughput of ConG, as a share of the other's."""
    alone, cong = (sum(side["seconds"]) for side in two)
    return alone / cong


def compare(found: list[list[dict]], args: argparse.Namespace) -> dict:
    """Medians of both sides; the means of the ratios over pairs of processes, with intervals of 95%."""
    steps = args.logging_steps * len(found[0][0]["seconds"])
    return {
        "rows per second": [
            steps * args.batch_size / statistics.median(sum(two[side]["seconds"]) for two in found) for side in (0, 1)
        ],
        "throughput": mean_interval([ratio(two) for two in found])._asdict(),
        "whole": mean_interval([alone["whole"] / cong["whole"] for alone, cong in found])._asdict(),
        "peak GiB": [statistics.median(two[side]["peak"] for two in found) for side in (0, 1)],
        "same loss": all(two[0]["loss"] == two[1]["loss"] for two in found),
    }


def table(results: dict) -> str:
    rows = []
    for stage, found in results["comparisons"].items():
        for side, name in enumerate(NAMES[stage]):
            row = {"trainer": name, "rows per second": f"{found['rows per second'][side]:.2f}"}
            for kind, title in {"throughput": "throughput, ratio", "whole": "with set-up and saving, ratio"}.items():
                row[title] = "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**found[kind]) if side else "1"
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
    parser.add_argument("--steps", type=int, default=48, help="of each run")
    parser.add_argument("--logging_steps", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--repeats", type=int, default=6, help="pairs of processes for each stage")
    args = parser.parse_args()
    if args.steps < 2 * args.logging_steps or args.repeats < 2:
        parser.error("take `--steps` of at least twice `--logging_steps`, and at least two `--repeats`")

    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    results = measure(args)
    (output_dir / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (output_dir / "results.md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
