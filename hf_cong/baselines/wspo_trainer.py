# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-Strong Preference Optimization over [`~trl.SFTTrainer`], with everything that is fixed computed once."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import pad

from ..adapters import stay_trainable
from ..compatibility import check_same_vocabulary
from ..pair.modeling_stacks import inspect_member, load_member
from ..rewards.likelihood import Scorer, check_finite, check_rows, row_logps
from .losses import wspo_loss, wspo_targets
from .wspo_config import WSPOConfig


@dataclass
class TargetCollator(DataCollatorForLanguageModeling):
    """[`~trl.trainer.sft_trainer.DataCollatorForLanguageModeling`] that also pads the column `target_logps`."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        targets = [torch.tensor(example["target_logps"]) for example in examples]
        batch["target_logps"] = pad(targets, padding_value=0.0, pad_to_multiple_of=self.pad_to_multiple_of)
        return batch


class WSPOTrainer(SFTTrainer):
    r"""
    Trainer for Weak-to-Strong Preference Optimization (WSPO): asks the strong model for the log-ratio of a weak pair.

        L = mean over sequences of  1/|y| Σ_t [β (log π − log π_ref) − (log π_weak − log π_weak_ref)]²

    All but log π is fixed: the reference is the strong model as it is given. So every token's target is computed once,
    when the trainer is made; one model is on the device beside the strong one at a time, and none in training. The
    released code runs all four models at every step, also on rejected completions that its loss does not use.

    The mean is over the sequences of a whole step, whatever their lengths and however they are spread over batches and
    processes. All models share one vocabulary. Each launch computes the targets anew, also one that resumes: give it
    the same `model`, not a checkpoint of it.

    Overrides `compute_loss` and `_get_num_items_in_batch`, and `_prepare_dataset` to refuse data that comes later than
    the weak models. Logs what [`~trl.SFTTrainer`] logs.

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`):
            The strong model, and the reference as it is now. See [`~trl.SFTTrainer`], also for the arguments not
            listed here.
        args ([`WSPOConfig`]):
            Configuration of the run.
        train_dataset (`datasets.Dataset`):
            Prompts and completions, as for [`~trl.SFTTrainer`]: in the paper the chosen ones of the weak model's
            alignment data.
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
            The same for evaluation.
        weak_model (`str` or `PreTrainedModel`):
            The weak model after alignment.
        weak_reference_model (`str` or `PreTrainedModel`):
            The weak model before alignment.

    Raises:
        TypeError: if `args` is not a [`WSPOConfig`], or a dataset is not a map-style `Dataset`.
        ValueError: if a vocabulary differs from that of `model`, or a row is longer than a model's context.
        NotImplementedError: if the model is sharded, or rows are split over devices.

    Example:

    ```python
    >>> from hf_cong import WSPOConfig, WSPOTrainer

    >>> trainer = WSPOTrainer(
    ...     "Qwen/Qwen2.5-7B-Instruct",
    ...     WSPOConfig("qwen-wspo"),
    ...     train_dataset=rows,
    ...     weak_model="org/qwen2.5-3b-dpo",
    ...     weak_reference_model="Qwen/Qwen2.5-3B-Instruct",
    ... )
    >>> trainer.train()
    ```

    Source: [WSPO](https://huggingface.co/papers/2410.18640), the loss of its released code.
    """

    _tag_names = ["trl", "sft", "wspo"]  # noqa: RUF012
    _name = "WSPO"
    _paper = {  # noqa: RUF012
        "title": "Weak-to-Strong Preference Optimization: Stealing Reward from Weak Aligned Model",
        "id": "2410.18640",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @inproceedings{zhu2025weak,
                title     = {Weak-to-Strong Preference Optimization: Stealing Reward from Weak Aligned Model},
                author    = {Zhu, Wenhong and He, Zhiwei and Wang, Xiaofeng and Liu, Pengfei and Wang, Rui},
                booktitle = {The Thirteenth International Conference on Learning Representations},
                year      = {2025}
            }"""),
    }
    loss_is_scaled_for_ga = True  # by `_get_num_items_in_batch`, for every model

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: WSPOConfig,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        weak_model: str | PreTrainedModel,
        weak_reference_model: str | PreTrainedModel,
    ):
        if not isinstance(args, WSPOConfig):
            raise TypeError(f"`args` must be a `WSPOConfig`, got {type(args).__name__}.")
        for name, dataset in {"train": train_dataset, **_by_name(eval_dataset)}.items():
            if not isinstance(dataset, Dataset):
                raise TypeError(
                    f"The dataset {name!r} must be a `datasets.Dataset`, got {type(dataset).__name__}: targets are "
                    "computed once, for whole datasets."
                )
        self._targets_made = False
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        stay_trainable(self.model)
        parallelism = self.accelerator.parallelism_config
        split = parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or self.is_distributed_loading_by_transformers or split:
            raise NotImplementedError(
                "WSPOTrainer scores its reference before a model is sharded, and its loss needs whole rows. Launch it "
                "with DDP, or with LoRA on one GPU."
            )
        self._signature_columns = ["input_ids", "labels", "target_logps"]
        self.data_collator = TargetCollator(self._tokenizer.pad_token_id, pad_to_multiple_of=args.pad_to_multiple_of)
        evals = _by_name(self.eval_dataset)
        self.train_dataset, *made = self._with_targets(
            [self.train_dataset, *evals.values()], weak_model, weak_reference_model
        )
        evals = dict(zip(evals, made, strict=True))
        self.eval_dataset = evals if isinstance(self.eval_dataset, dict) else evals.get("eval")
        self._targets_made = True

    def _with_targets(
        self, datasets: list[Dataset], weak: str | PreTrainedModel, weak_reference: str | PreTrainedModel
    ) -> list[Dataset]:
        """The datasets with the column `target_logps`: one number per token, 0 before the first label."""
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else torch.float32
        init = {"dtype": dtype, "trust_remote_code": self.args.trust_remote_code}
        members = {"weak_model": weak, "weak_reference_model": weak_reference}
        for role, model in members.items():
            _, tokenizer = inspect_member(model, role, init)
            if tokenizer is not None:
                check_same_vocabulary(self._tokenizer, tokenizer, roles=("model", role))

        splits = [
            [_split(row["input_ids"], row["labels"]) for row in dataset.select_columns(["input_ids", "labels"])]
            for dataset in datasets
        ]
        scores = [self._score(self.model, splits)]
        scores += [self._score_weak(model, role, init, splits) for role, model in members.items()]
        made = []
        for dataset, rows, *logps in zip(datasets, splits, *scores, strict=True):
            mine = {}
            for index, *own in zip(self._share(range(len(rows))), *logps, strict=True):
                targets = wspo_targets(*own, beta=self.args.beta)
                check_finite(index, targets.tolist())
                before, _ = rows[index]
                mine[index] = [0.0] * len(before) + targets.tolist()
            column = dict(gather_object(list(mine.items())))
            made.append(dataset.add_column("target_logps", [column[index] for index in range(len(rows))]))
        return made

    def _score_weak(self, model: str | PreTrainedModel, role: str, init: dict, splits: list) -> list:
        loaded, _ = load_member(model, role, init)
        home = loaded.device
        scores = self._score(loaded.to(self.accelerator.device), splits)
        loaded.to(home)  # the caller's own goes back to where it was
        del loaded
        clear_device_cache(garbage_collection=True)
        return scores

    def _score(self, model: PreTrainedModel | PeftModel, splits: list) -> list[list[torch.Tensor]]:
        """Log-probabilities of this process's share of the rows of each dataset."""
        scorer = Scorer(model)
        for rows in splits:
            check_rows(scorer, rows)
        with self.accelerator.autocast():
            scored = [row_logps(scorer, self._share(rows), self.args.per_device_eval_batch_size) for rows in splits]
        return [[logps for (logps,) in rows] for rows in scored]

    def _share(self, rows: Sequence) -> Sequence:
        return rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if self._targets_made and "target_logps" not in dataset.column_names:
            raise ValueError(
                "`evaluate` got a dataset without targets, and the weak models that make them are gone. Pass it as "
                '`eval_dataset` when the trainer is made, under a name: `{"name": dataset}`.'
            )
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """The sequences of a step: what the loss is a mean over."""
        sequences = torch.tensor(sum(len(batch["input_ids"]) for batch in batch_samples), device=device)
        if self.args.average_tokens_across_devices:
            sequences = self.accelerator.gather(sequences).sum()
        return sequences

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        target_logps = inputs.pop("target_logps")[:, 1:]

        def scored(fused_lm_head=False, **inputs):
            outputs = model(fused_lm_head=fused_lm_head, **inputs)
            if fused_lm_head:
                mask = outputs.label_mask
                losses = wspo_loss(outputs.log_probs, target_logps, mask, beta=self.args.beta)
                # In an evaluation, SFTTrainer divides by the tokens of the batch.
                scale = 1 if num_items_in_batch is not None else mask.sum() / len(mask)
                outputs.log_probs = -losses * scale
            return outputs

        return super().compute_loss(scored, inputs, return_outputs, num_items_in_batch)


def _by_name(eval_dataset: Dataset | dict[str, Dataset] | None) -> dict[str, Dataset]:
    if eval_dataset is None:
        return {}
    return eval_dataset if isinstance(eval_dataset, dict) else {"eval": eval_dataset}


def _split(input_ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
    """What comes before the first label, at least one token, and the rest."""
    first = max(1, next((index for index, label in enumerate(labels) if label != -100), len(labels)))
    return input_ids[:first], input_ids[first:]
