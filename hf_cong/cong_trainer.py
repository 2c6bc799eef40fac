# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""ConG's two stages as one [`~trl.DPOTrainer`] that first writes the columns its dataset lacks."""

import functools
import json
import logging
import os
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import is_peft_model
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset, DatasetDict
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import (
    BitsAndBytesConfig,
    DataCollator,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import TrainOutput
from trl import DPOTrainer
from trl.trainer.utils import hash_module

from .checkpoints import (
    SealCheckpoints,
    check_resumable,
    checkpoints,
    content_key,
    last_whole_checkpoint,
    model_identity,
    settings_identity,
    tokenizer_identity,
)
from .cong_config import ConGConfig
from .journal import check_identity, replacing
from .lending import fine_tune
from .pair.modeling_stacks import lookup
from .preferences import build_preference_dataset, build_sft_dataset
from .prompts import read_prompts
from .stages import (
    adapter_base,
    check_dataset,
    check_prompt_lengths,
    check_strong_model,
    data_rows,
    decode,
    drop_long_rows,
    given_completions,
    share,
    weak_tokenizer,
    write_completions,
)

logger = logging.getLogger(__name__)


class ConGTrainer(DPOTrainer):
    r"""
    Trainer for Contrastive Weak-to-Strong Generalization (ConG): trains a strong model on what a weak pair knows.

    It is a [`~trl.DPOTrainer`] whose `train()` first runs the stages that the columns of the dataset leave to do:

    | columns | stages |
    |---|---|
    | `prompt` | decode with the weak pair, SFT, sample, DPO |
    | `prompt`, `chosen` (or `completion`) | SFT, sample, DPO |
    | `prompt`, `chosen`, `rejected` | DPO, exactly as [`~trl.DPOTrainer`] |

    Decoding writes `chosen`; the strong model after SFT writes `rejected`, and is the reference of DPO. Every stage is
    kept below `output_dir/_cong/` under a name made of all it depends on, so the same command goes on where a killed
    run stopped; `resume_from_checkpoint=True` does so inside DPO. Runs that differ only in stage II can share the
    expensive stages before it in one directory; a directory with `checkpoint-*` of another run is refused. The pair
    and the strong model may differ in family, tokenizer and chat template: completions cross as text.

    Overrides `train`, `evaluate`, `_save` and the two hooks that prepare data; never the loss.

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`):
            The strong model. See [`~trl.DPOTrainer`], also for the arguments not listed here.
        ref_model:
            Must stay `None`: the reference is the strong model as stage I leaves it.
        args ([`ConGConfig`]):
            Configuration of the run.
        train_dataset (`datasets.Dataset`):
            Prompts, as text or as messages, and the columns that exist already.
        eval_dataset (`datasets.Dataset` or `dict[str, datasets.Dataset]`, *optional*):
            Goes through the same stages.
        peft_config (`PeftConfig`, *optional*):
            Trains one adapter through both stages.
        weak_model (`str` or `PreTrainedModel`, *optional*):
            The weak model after alignment, or by name a LoRA adapter. Defaults to `args.weak_model_name_or_path`.
        weak_reference_model (`str` or `PreTrainedModel`, *optional*):
            The weak model before alignment. Defaults to `args.weak_reference_model_name_or_path`, then to an adapter's
            base.
        weak_processing_class (`PreTrainedTokenizerBase`, *optional*):
            Tokenizer of the pair. Defaults to the one beside the weak model.

    Attributes:
        stage_counts (`dict[str, dict]`):
            For the data of each stage and split (`"sft/train"`, ...): `rows_in`, `kept`, and `dropped` by reason.

    Raises:
        TypeError: if `args` is not a [`ConGConfig`], a dataset is not a map-style `Dataset`, or `weak_model` is a
            `PeftModel`.
        ValueError: if a dataset is empty or lacks columns, weak models are missing or do not share a vocabulary,
            `ref_model` is given, or `output_dir` holds another run.
        NotImplementedError: if stages are to do on a sharded model, or on images, tools or per-row template arguments.

    Example:

    ```python
    >>> from hf_cong import ConGConfig, ConGTrainer

    >>> trainer = ConGTrainer(
    ...     model="Qwen/Qwen2.5-7B-Instruct",
    ...     args=ConGConfig(output_dir="qwen-cong", alpha=0.4),
    ...     weak_model="org/qwen2.5-3b-dpo",
    ...     weak_reference_model="Qwen/Qwen2.5-3B-Instruct",
    ...     train_dataset=prompts,
    ... )
    >>> trainer.train()
    ```

    Source: [ConG](https://huggingface.co/papers/2510.07884), algorithm 1.
    """

    _tag_names = ["trl", "dpo", "cong"]  # noqa: RUF012
    _name = "ConG"
    _paper = {  # noqa: RUF012
        "title": "Contrastive Weak-to-Strong Generalization",
        "id": "2510.07884",
        # docstyle-ignore
        "citation": textwrap.dedent("""\
            @inproceedings{jiang2026contrastive,
                title     = {Contrastive Weak-to-Strong Generalization},
                author    = {Jiang, Houcheng and Fang, Junfeng and Wu, Jiaxin and Zhang, Tianyu and Gao, Chen and
                             Wang, Xiang and He, Xiangnan and Deng, Yang},
                booktitle = {Proceedings of the 43rd International Conference on Machine Learning},
                year      = {2026}
            }"""),
    }

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        ref_model: None = None,
        args: ConGConfig | None = None,
        data_collator: DataCollator | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | DatasetDict | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        *,
        weak_model: str | PreTrainedModel | None = None,
        weak_reference_model: str | PreTrainedModel | None = None,
        weak_processing_class: PreTrainedTokenizerBase | None = None,
    ):
        if not isinstance(args, ConGConfig):
            raise TypeError(f"`args` must be a `ConGConfig`, got {type(args).__name__}.")
        if ref_model is not None:
            raise ValueError(
                "`ref_model` must not be passed: the reference of ConG is the strong model as stage I leaves it."
            )
        self._splits = {"train": train_dataset}
        if isinstance(eval_dataset, dict):
            self._splits |= {f"eval_{name}": dataset for name, dataset in eval_dataset.items()}
        elif eval_dataset is not None:
            self._splits["eval"] = eval_dataset
        for name, dataset in self._splits.items():
            check_dataset(dataset, "train_dataset" if name == "train" else "eval_dataset")
        missing = {name for name, data in self._splits.items() if "rejected" not in data.column_names}
        # Until `train` has written the pairs, every dataset is left as it came.
        self._pairs_missing = "train" in missing
        if missing and not self._pairs_missing:
            raise ValueError(
                f"`train_dataset` has pairs, but {sorted(missing)} has none. Pass evaluation data with the columns "
                "`prompt`, `chosen` and `rejected`."
            )
        self.stage_counts, self._dropped = {}, {}
        weak = (
            args.weak_model_name_or_path if weak_model is None else weak_model,
            args.weak_reference_model_name_or_path if weak_reference_model is None else weak_reference_model,
        )
        policy, reference = (os.fspath(model) if isinstance(model, os.PathLike) else model for model in weak)
        if isinstance(policy, PeftModel):
            raise TypeError("`weak_model` is a PeftModel. Save it, and pass the directory: an adapter knows its base.")
        where = lookup(args.weak_model_init_kwargs)
        self._weak_where = where, where
        if isinstance(policy, str) and reference is None:
            reference, revision = adapter_base(policy, where)
            self._weak_where = where, {**where, "revision": revision}  # an adapter says which base it fits
        self._weak = policy, reference
        self._weak_tokenizer = weak_processing_class
        if any(not {"chosen", "completion"} & set(data.column_names) for data in self._splits.values()):
            if None in self._weak:
                raise ValueError(
                    "A dataset without completions needs the weak pair: `weak_model` (after alignment) and "
                    "`weak_reference_model` (before). Pass both, a LoRA adapter by its name, or a dataset with the "
                    "column `chosen`: what `generate_completions` writes with any pair."
                )
            if weak_processing_class is None:
                self._weak_tokenizer = weak_tokenizer(self._weak, self._weak_where, args.trust_remote_code)
        needs_copy = peft_config is None and not args.precompute_ref_log_probs
        if needs_copy and isinstance(model, PreTrainedModel) and not model.name_or_path:
            raise ValueError(
                "`precompute_ref_log_probs=False` loads a reference by the name of `model`, which was not loaded by "
                "name. Keep `precompute_ref_log_probs=True`, or pass `model` as a path."
            )

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        self._sharded = (
            self.is_fsdp_enabled or self.is_deepspeed_enabled or self.is_distributed_loading_by_transformers
        )
        if self._pairs_missing and self._sharded:
            raise NotImplementedError(
                "A sharded model cannot pass from stage to stage in one process. Launch one stage at a time: "
                "`generate_completions`, `trl.SFTTrainer`, `generate_completions`, then `ConGTrainer` on the pairs."
            )
        if not self._pairs_missing and args.max_length is not None:
            columns = [self.train_dataset[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
            long = sum(len(p) + max(len(c), len(r)) > args.max_length for p, c, r in zip(*columns, strict=True))
            if long:
                logger.warning(
                    "%d of %d given pairs are longer than `max_length=%d` and are cut, as by `DPOTrainer`. Raise it, "
                    "or leave these rows out.",
                    long,
                    len(self.train_dataset),
                    args.max_length,
                )
        if self._pairs_missing:
            check_strong_model(self.model, self._tokenizer, self._splits, args)
        self._fine_tuning = False
        # Names that begin with an underscore are never uploaded by `push_to_hub`.
        self._stage_root = Path(self.args.output_dir) / "_cong"
        self.add_callback(SealCheckpoints())

    # What DPOTrainer does with data at construction, put off until there are pairs.

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        if self._pairs_missing:
            return dataset
        if args.world_size > 1 and args.precompute_ref_log_probs and not dataset.cache_files:
            dataset = share(dataset, Path(args.output_dir) / "_cong" / f"given-{content_key(data_rows(dataset))}")
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _precompute_ref_logps(self, dataset, name, batch_size):
        if self._pairs_missing:
            return dataset
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        if self._pairs_missing:
            raise ValueError("`evaluate` needs pairs and their reference, which `train` makes. Call `train` first.")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if is_peft_model(self.model) and self.args.should_save:
            # The reference adapter is stage I's; it is set again on a resume and is no part of the result.
            shutil.rmtree(Path(output_dir or self.args.output_dir) / "ref", ignore_errors=True)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial=None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        Runs the stages that are left, then DPO.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                `True` continues DPO from the latest whole checkpoint in `output_dir`, if there is one; a path, from
                that one. The stages before DPO continue in any case.

        Returns:
            [`~transformers.trainer_utils.TrainOutput`]: of DPO.

        Raises:
            ValueError: if `output_dir` holds checkpoints of another run, the given checkpoint is damaged, or a stage
                keeps no row.
        """
        self._claim_output_dir()
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
            check_resumable(resume_from_checkpoint)
            self._check_same_run(Path(resume_from_checkpoint).resolve().parent)
        if self._pairs_missing:
            self._run_stages()
            # The sampler's seed is torch's initial seed, which anything that ran before may have changed.
            set_seed(self.args.seed)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
        return super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)

    @functools.cached_property
    def _identity(self) -> dict:
        """What makes this run this run. Taken before any training."""
        settings = settings_identity(self.args.to_dict())
        adapters = {}
        if is_peft_model(self.model):
            adapters = {name: adapter.to_dict() for name, adapter in self.model.peft_config.items()}
        identity = {
            **{name: value for name, value in settings.items() if not name.endswith("_model_name_or_path")},
            "model": self.model.name_or_path
            if self._sharded
            else self._precompute_model_hash or hash_module(self.model),
            "adapters": content_key(adapters),
            "tokenizer": tokenizer_identity(self._tokenizer),
            "train_dataset": content_key(data_rows(self._splits["train"])),
        }
        if self._pairs_missing:
            roles = ("weak_model", "weak_reference_model")
            for role, model, where in zip(roles, self._weak, self._weak_where, strict=True):
                identity[role] = None if model is None else model_identity(model, **where)
            if self._weak_tokenizer is not None:
                identity["weak_tokenizer"] = tokenizer_identity(self._weak_tokenizer)
        return identity

    def _claim_output_dir(self):
        """Refuses to mix the checkpoints of two runs."""
        if checkpoints(self.args.output_dir):
            self._check_same_run(Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()  # all processes have looked before one writes
        if self.accelerator.is_main_process:
            with replacing(self._stage_root / "run.json") as temporary:
                temporary.write_text(json.dumps(self._identity, indent=2), encoding="utf-8")

    def _check_same_run(self, directory: Path):
        """Refuses checkpoints in `directory` that this run did not write."""
        try:
            found = json.loads((directory / "_cong" / "run.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            raise ValueError(
                f"The checkpoints in {directory} belong to another run, or to none: there is no whole record of it "
                "(`_cong/run.json`). Use another `output_dir`, or delete them."
            ) from None
        check_identity(self._identity, found, directory)

    def _run_stages(self):
        args = self.args
        if args.invalid_prompts == "raise":
            check_prompt_lengths(self.model, self._tokenizer, self._splits, args.max_new_tokens)
        chosen = self._chosen()
        clear_device_cache(garbage_collection=True)  # the weak models are gone
        sft = {name: self._sft_rows(name, completions) for name, completions in chosen.items()}
        policy = self._fine_tune(sft)
        self.model.eval()
        pairs = {name: self._pair_rows(name, chosen[name], rows, policy) for name, rows in sft.items()}
        self._set_reference()

        self._pairs_missing = False
        self._precompute_model_hash = policy  # names the weights of the reference; no need to read them again
        for name, dataset in pairs.items():
            dataset = self._prepare_dataset(dataset, self.processing_class, args, name)
            if self.precompute_ref_logps:
                default = args.per_device_train_batch_size if name == "train" else args.per_device_eval_batch_size
                dataset = self._precompute_ref_logps(dataset, name, args.precompute_ref_batch_size or default)
            pairs[name] = dataset
        self.train_dataset = pairs.pop("train")
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {name.removeprefix("eval_"): dataset for name, dataset in pairs.items()}
        elif pairs:
            self.eval_dataset = pairs["eval"]

    def _chosen(self) -> dict[str, Dataset]:
        """Stage I, first half: the chosen completions, given or decoded by the weak pair."""
        chosen, prompts = {}, {}
        for name, dataset in self._splits.items():
            rows, self._dropped[name] = read_prompts(dataset, invalid_prompts=self.args.invalid_prompts)
            given = [column for column in ("chosen", "completion") if column in rows.column_names]
            if given:
                chosen[name] = given_completions(rows, given[0])
            else:
                prompts[name] = rows
        if prompts:
            weak_id = self._identity["weak_model"], self._identity["weak_reference_model"]
            chosen |= decode(prompts, self._weak, weak_id, self._weak_tokenizer, args=self.args, root=self._stage_root)
        for name, rows in prompts.items():
            if len(chosen[name]) < len(rows):  # in the pair's context
                self._dropped[name]["too_long_for_pair"] = len(rows) - len(chosen[name])
        self._weak = (None, None)
        return {name: chosen[name] for name in self._splits}

    def _sft_rows(self, name: str, chosen: Dataset) -> Dataset:
        rows, counts = build_sft_dataset(chosen, drop_truncated=self.args.drop_truncated)
        dropped = self._dropped[name]
        counts = {
            "rows_in": counts["rows_in"] + sum(dropped.values()),
            "dropped": {**dropped, **counts["dropped"]},
        }
        max_length = (self.args.sft_kwargs or {}).get("max_length", self.args.max_length)
        return self._keep_short(f"sft/{name}", rows, counts, ("completion",), max_length)

    def _fine_tune(self, rows: dict[str, Dataset]) -> str:
        """Stage I, second half. Returns the name of the weights that it leaves in the model."""
        if self.args.sft_num_train_epochs == 0:
            return content_key("untrained", self._identity["model"], self._identity["adapters"])
        settings = self.args.sft_settings()
        who = [self._identity[name] for name in ("model", "adapters", "tokenizer")]
        key = content_key(who, data_rows(rows["train"]), settings_identity(settings))
        rows = {name: dataset.select_columns(["prompt", "completion"]) for name, dataset in rows.items()}
        if self._fine_tuning:
            raise RuntimeError(
                "Stage I of this trainer was interrupted and left its model half-trained. Make a new `ConGTrainer`: "
                "it goes on from the last checkpoint."
            )
        self._fine_tuning = True
        fine_tune(self, settings, self._stage_root / f"sft-{key}", rows)
        self._fine_tuning = False
        return key

    def _pair_rows(self, name: str, chosen: Dataset, kept: Dataset, policy: str) -> Dataset:
        """Stage II, first half: pairs each chosen completion that stage I kept with a sample of the strong model."""
        chosen = _select(chosen, kept["prompt_id"])
        if "rejected" in self._splits[name].column_names:
            rows, _ = read_prompts(self._splits[name])
            rejected = _select(given_completions(rows, "rejected"), kept["prompt_id"])
        else:
            with self.accelerator.autocast():
                rejected = write_completions(
                    chosen,
                    lambda: self.model,
                    policy,
                    self._tokenizer,
                    args=self.args,
                    prefix=self._stage_root / f"sample-{name}",
                    seed=self.args.seed + 1,
                )
        key = content_key(policy, data_rows(chosen), data_rows(rejected), self.args.max_length)
        directory = self._stage_root / f"pairs-{name}-{key}"
        pairs, counts = build_preference_dataset(
            chosen,
            rejected,
            output_dir=directory if self.accelerator.is_main_process else None,
            drop_truncated=self.args.drop_truncated,
        )
        pairs = self._keep_short(f"dpo/{name}", pairs, counts, ("chosen", "rejected"), self.args.max_length)
        return share(pairs, directory / "dataset")

    def _set_reference(self):
        """Makes the strong model as it is now the reference of stage II."""
        if is_peft_model(self.model):
            # TRL's own convention for an adapter that was trained before: its copy under the name "ref".
            if "ref" not in self.model.peft_config:
                self.model.add_adapter("ref", self.model.peft_config["default"])
            state = get_peft_model_state_dict(self.model, adapter_name="default", save_embedding_layers=False)
            set_peft_model_state_dict(self.model, state, adapter_name="ref")
        elif self.ref_model is not None:
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(self.model.state_dict())

    def _keep_short(
        self, stage: str, rows: Dataset, counts: dict, columns: tuple[str, ...], max_length: int | None
    ) -> Dataset:
        """Drops the rows that a trainer would cut, then reports what the stage keeps."""
        kept = drop_long_rows(rows, columns, self._tokenizer, max_length)
        rows_in, dropped = counts["rows_in"], dict(counts["dropped"])
        if len(kept) < len(rows):
            dropped["too_long"] = len(rows) - len(kept)
        self.stage_counts[stage] = {"rows_in": rows_in, "kept": len(kept), "dropped": dropped}
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items()) or "none"
        self.accelerator.print(f"ConG {stage}: {rows_in} rows in, {len(kept)} kept, dropped: {reasons}")
        logs = {"rows_in": rows_in, "kept": len(kept), **{f"dropped_{name}": n for name, n in dropped.items()}}
        logs = {f"{stage}/{name}": number for name, number in logs.items()}
        self.callback_handler.on_log(self.args, self.state, self.control, logs)
        if len(kept) == 0:
            raise ValueError(
                f"No row is left of {rows_in} for {stage}: dropped {dropped}. Raise `max_length` ({max_length})."
            )
        return kept


def _select(dataset: Dataset, prompt_ids: list[str]) -> Dataset:
    wanted = set(prompt_ids)
    return dataset.select([index for index, prompt_id in enumerate(dataset["prompt_id"]) if prompt_id in wanted])
