# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the policy writes at each evaluation, beside the pairs: the same prompts and random numbers every time."""

from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import Trainer, TrainerCallback
from transformers.utils import is_rich_available
from trl.trainer.utils import log_table_to_comet_experiment, print_prompt_completions_sample

from ..engines import Request, TransformersEngine
from ..prompts import completion_text, prompt_id
from ..sampling import Decoding, row_seed

NUM_PROMPTS = 8


class LogCompletions(TrainerCallback):
    """
    Logs a table after every evaluation, once for each step: `step`, `prompt`, the policy's `completion`, its
    `finish_reason`, `chosen`, `rejected`, and the tokens of the three, `tokens`, `chosen_tokens`, `rejected_tokens`.

    The prompts are the first eight of each evaluation data set. The table is printed, as TRL's trainers do, sent to
    Weights & Biases, Trackio and Comet, and kept as `output_dir/_cong/completions/completions_<step>.parquet`. Nothing
    of it draws from the random numbers that training uses. Every process writes the same completions: so it is right
    for a model in shards too.

    Args:
        trainer (`Trainer`): A [`~trl.DPOTrainer`] with a [`ConGConfig`]; its evaluation data has pairs.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self._step = trainer, None

    def on_train_begin(self, args, state, control, **kwargs):
        self._step = None

    def on_evaluate(self, args, state, control, **kwargs):
        if state.global_step == self._step:  # of another evaluation data set
            return
        self._step = state.global_step
        table = pd.DataFrame(self._rows(args))
        table.insert(0, "step", state.global_step)
        if state.is_world_process_zero:
            self._publish(args, table)

    def _rows(self, args) -> list[dict[str, Any]]:
        data = self.trainer.eval_dataset
        datasets = data.values() if isinstance(data, dict) else [data]
        pairs = list(chain(*(dataset.select(range(min(NUM_PROMPTS, len(dataset)))) for dataset in datasets)))
        tokenizer = self.trainer._tokenizer
        requests = [
            Request(list(row["prompt_ids"]), row_seed(args.seed, prompt_id(row["prompt"])), row["prompt"])
            for row in pairs
        ]
        writing = ("max_new_tokens", "temperature", "top_p", "top_k")
        decoding = Decoding(do_sample=True, repetition_penalty=1.0, **{name: getattr(args, name) for name in writing})
        engine = TransformersEngine(self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped))
        with self.trainer.accelerator.autocast():
            engine.prepare(tokenizer, [request.prompt_ids for request in requests], decoding)
            size = args.generation_batch_size
            batches = [requests[start : start + size] for start in range(0, len(requests), size)]
            answers = list(chain(*engine.complete(batches)))
        return [
            {
                "prompt": row["prompt"],
                "completion": completion_text(tokenizer, request.prompt_ids, answer.completion_ids),
                "finish_reason": answer.finish_reason,
                "chosen": _text(row["chosen"]),
                "rejected": _text(row["rejected"]),
                "tokens": len(answer.completion_ids),
                "chosen_tokens": len(row["chosen_ids"]),
                "rejected_tokens": len(row["rejected_ids"]),
            }
            for row, request, answer in zip(pairs, requests, answers, strict=True)
        ]

    def _publish(self, args, table: pd.DataFrame):
        step = int(table["step"][0])
        path = Path(args.output_dir) / "_cong" / "completions" / f"completions_{step:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
        columns = table.to_dict(orient="list")
        if is_rich_available():
            extra = {name: columns[name] for name in ("chosen", "rejected")}
            print_prompt_completions_sample(columns["prompt"], columns["completion"], {}, None, step, extra=extra)
        if "wandb" in args.report_to:
            import wandb

            wandb.log({"completions": wandb.Table(dataframe=table)})
        if "trackio" in args.report_to:
            import trackio

            trackio.log({"completions": trackio.Table(dataframe=table)})
        if "comet_ml" in args.report_to:
            log_table_to_comet_experiment("completions.csv", table)


def _text(completion: str | list[dict]) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
