# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""ConG's two stages as one [`~trl.DPOTrainer`] that first writes the columns its dataset lacks."""

import contextlib
import copy
import functools
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import is_peft_model
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset, DatasetDict
from peft import PeftConfig, PeftModel
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
from trl.trainer.utils import disable_dropout_in_model

from .adapters import (
    KeepsDtypes,
    check_adapted,
    check_adapter,
    find_adapter,
    load_adapted,
    prepare_adapter,
    set_reference,
    trained_base,
)
from .chain import Chain
from .checkpoints import (
    SealCheckpoints,
    check_resumable,
    commit_of,
    content_key,
    damage,
    last_whole_checkpoint,
    model_identity,
    seal,
)
from .cong_config import ConGConfig
from .grouping import GroupsByLength, add_lengths
from .identity import check_same_run, strong_identity
from .lending import fine_tune
from .manifest import RunRecord
from .memory import peak_gib
from .merging import MergesItsAdapter
from .packing import check_rows_apart
from .pair.modeling_stacks import lookup
from .publishing import PublishesItsRun
from .refinement import with_margin
from .stages import check_prompt_lengths, check_strong_model, reported, share, warn_of_cuts, warn_of_rounding
from .stopping import EndsOnce, SaveOnSigterm, check_loss, leave_if_stopped
from .watching.completions import LogCompletions
from .watching.pairs import LogsPairs
from .watching.trackers import Trackers


class ConGTrainer(PublishesItsRun, MergesItsAdapter, LogsPairs, GroupsByLength, KeepsDtypes, EndsOnce, DPOTrainer):
    r"""
    Trainer for Contrastive Weak-to-Strong Generalization (ConG): trains a strong model on what a weak pair knows.

    It is a [`~trl.DPOTrainer`] whose `train()` first runs the stages that the columns of the dataset leave to do:

    | columns | stages |
    |---|---|
    | `prompt` | decode with the weak pair, SFT, sample, DPO |
    | `prompt`, `chosen` (or `completion`) | SFT, sample, DPO |
    | `prompt`, `chosen`, `rejected` | DPO, exactly as [`~trl.DPOTrainer`] |

    Decoding writes `chosen`; the strong model after SFT writes `rejected`, and is the reference of DPO. With
    `chosen_from="steered"` the strong model itself writes `chosen` under the pair's implicit reward, and with
    `rejected_from="base"` it writes `rejected` before SFT. Every stage is
    kept below `output_dir/_cong/` under a name made of all it depends on, so the same command goes on where a killed
    run stopped; `resume_from_checkpoint=True` does so inside DPO. Runs that differ only in stage II can share the
    expensive stages before it in one directory; a directory with `checkpoint-*` of another run is refused. The pair
    and the strong model may differ in family, tokenizer and chat template: completions cross as text.

    All stages are one run in the trackers of `report_to`: `decode/...` and `sample/...` with their rows as steps,
    `sft/...` and, under TRL's names, DPO with steps of their own. All of it is kept in `output_dir/_cong/logs.jsonl`,
    which `hf-cong plot` draws.

    The result is saved to `output_dir`. What is pushed goes through `hf_cong.hub`: listed files only, private unless
    said otherwise, read again afterwards; with `push_stages_to_hub`, as soon as a stage ends.

    Overrides `train`, `training_step`, `log`, `evaluate`, the two hooks that prepare data, and those of
    [`PublishesItsRun`], [`MergesItsAdapter`], [`LogsPairs`], [`GroupsByLength`], [`KeepsDtypes`] and [`EndsOnce`];
    never the loss.

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
        PermissionError, ConnectionError: if `push_to_hub` is set and the Hub will not take what this run makes.

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
        weak = {"weak_model": weak_model, "weak_reference_model": weak_reference_model}
        chain = Chain(args, train_dataset, eval_dataset, **weak, weak_processing_class=weak_processing_class)
        self._chain, self.stage_counts = chain, chain.stage_counts
        # Until `train` has written the pairs, every dataset is left as it came.
        self._pairs_missing = chain.pairs_missing
        adapter = find_adapter(model, peft_config, lookup(args.model_init_kwargs))
        check_adapter(adapter, args, fresh=peft_config is not None, pairs_missing=self._pairs_missing)
        self._record = RunRecord(chain, trained_base(model, peft_config, adapter))
        if self._pairs_missing and args.stage != "all":
            raise ValueError(
                f"`stage` is {args.stage!r}, and `ConGTrainer` runs every stage that is left. Leave it out, or run "
                f"that stage alone: `hf-cong train --stage {args.stage}`, in Python `StagedRun`."
            )
        needs_copy = peft_config is None and not args.precompute_ref_log_probs
        if needs_copy and isinstance(model, PreTrainedModel) and not model.name_or_path:
            raise ValueError(
                "`precompute_ref_log_probs=False` loads a reference by the name of `model`, which was not loaded by "
                "name. Keep `precompute_ref_log_probs=True`, or pass `model` as a path."
            )

        # A model in memory is named by its weights, which DPOTrainer may hash: see `_identity`.
        self._strong = None
        if isinstance(model, str):
            self._strong = strong_identity(model, args, peft_config, quantization_config)
            # What is loaded is what was named, and safetensors only.
            given, named = args.model_init_kwargs or {}, commit_of(self._strong["model"])
            args.model_init_kwargs = {"use_safetensors": True, **given, **named}
            if peft_config is not None:
                peft_config = copy.deepcopy(peft_config)
                peft_config.revision = named.get("revision")  # who loads the adapter loads this base
            elif adapter is not None:
                where = commit_of(model_identity(model, **lookup(given)))
                model = load_adapted(model, adapter.base_model_name_or_path, args, quantization_config, **where)
                quantization_config = None

        stop_on_sigterm, args.enable_jit_checkpoint = args.enable_jit_checkpoint, False  # see `SaveOnSigterm`
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
            peft_config=copy.deepcopy(peft_config),  # PEFT fills it in
        )
        args.enable_jit_checkpoint = stop_on_sigterm
        if stop_on_sigterm:
            self.add_callback(SaveOnSigterm())
        self._sharded = (
            self.is_fsdp_enabled or self.is_deepspeed_enabled or self.is_distributed_loading_by_transformers
        )
        if self._pairs_missing and self._sharded:
            raise NotImplementedError(
                "A sharded model cannot pass from stage to stage in one process. Launch one stage at a time: "
                "`hf-cong train --stage decode`, then `sft`, `sample` and `dpo`."
            )
        prepare_adapter(self.model)
        if is_peft_model(self.model) and (self._pairs_missing or args.merge_adapter):
            check_adapted(self.model, merge=args.merge_adapter)
        warn_of_rounding(self)
        if not self._pairs_missing:
            warn_of_cuts(self.train_dataset, args.max_length)
        else:
            check_strong_model(self.model, self._tokenizer, chain.splits, args)
            if args.sft_num_train_epochs > 0:
                check_rows_apart(self, args.sft_settings())
            chain.meet(self.model.config, self._tokenizer)
        self._fine_tuning = False
        chain.trackers = Trackers(args, self.callback_handler)
        self.add_callback(SealCheckpoints())
        if args.log_completions:
            self.add_callback(LogCompletions(self))
        if args.push_to_hub and args.stage == "all":
            self._begin()

    # What DPOTrainer does with data at construction, put off until there are pairs.

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        if self._pairs_missing:
            return dataset
        # TRL keeps the scores of the reference beside the dataset: one in memory has no place in another process.
        if args.precompute_ref_log_probs and not dataset.cache_files:
            dataset = share(dataset, self._chain.root / f"given-{content_key(dataset.to_list())}")
        # TRL names those scores by all settings; the margin is added to them afterwards.
        plain = copy.copy(args)
        plain.reward_margin = 0.0
        dataset = super()._prepare_dataset(dataset, processing_class, plain, dataset_name)
        by_length = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        return add_lengths(dataset, args.length_column_name) if by_length else dataset

    def _precompute_ref_logps(self, dataset, name, batch_size):
        if self._pairs_missing:
            return dataset
        prepare_adapter(self.model)
        self.model.eval()  # TRL leaves it in training, in which an adapter's dropout would be in the scores
        dataset = super()._precompute_ref_logps(dataset, name, batch_size)
        args = self.args
        return with_margin(dataset, args.reward_margin, args.beta) if args.reward_margin > 0 else dataset

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        if self._pairs_missing:
            raise ValueError("`evaluate` needs pairs and their reference, which `train` makes. Call `train` first.")
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

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
            FloatingPointError: at a loss that is no number, naming the step and the `prompt_id`s of the batch.
            SystemExit: after SIGTERM, with `enable_jit_checkpoint`, once there is a checkpoint.
        """
        self.args.check_secrets()  # what was set since
        self._chain.claim(self._identity)
        self._begin()
        self._record.write()
        if self.args.stage == "dpo":  # what a launch before this one could not publish
            self._record.ended("data")
            self._record.ended("sft")
        if isinstance(resume_from_checkpoint, str | os.PathLike):
            resume_from_checkpoint = os.fspath(resume_from_checkpoint)
            check_resumable(resume_from_checkpoint)
            check_same_run(self._identity, Path(resume_from_checkpoint).resolve().parent, self.args)
        pairs = self._run_stages() if self._pairs_missing else None
        with reported("dpo"):
            if pairs is not None:
                self._take_pairs(pairs)
                # The sampler's seed is torch's initial seed, which anything that ran before may have changed.
                set_seed(self.args.seed)
            if resume_from_checkpoint is True:
                resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            result = super().train(resume_from_checkpoint or None, trial, ignore_keys_for_eval)
            leave_if_stopped(self)
        self._chain.weak.bring_home()
        self._chain.stages["dpo"] = "finished"
        if self.args.push_stages_to_hub:
            self.push_to_hub()
        else:
            self._keep()
        return result

    def training_step(self, model, inputs, num_items_in_batch=None):
        batch = dict(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        check_loss(self, loss, batch, self.train_dataset, ("prompt_ids", "chosen_ids"))
        return loss

    def log(self, logs, start_time=None):
        if "train_runtime" in logs:  # the last line while the trackers are open
            logs = {**logs, "memory/dpo_peak_gib": peak_gib()}
        super().log(logs, start_time)

    def take_over(self, chain: Chain, identity: dict) -> None:
        """Makes this stage II of the run whose other stages were launched one by one: see [`StagedRun`]."""
        self._chain, self._identity, self.stage_counts = chain, identity, chain.stage_counts
        self._record = RunRecord(chain, self._record.adapter_base)
        self._begin()

    @functools.cached_property
    def _identity(self) -> dict:
        """What makes this run this run. Taken before any training."""
        strong = self._strong
        if strong is None:
            weights = self.model.name_or_path if self._sharded else self._precompute_model_hash
            strong = strong_identity(self.model, self.args, weights=weights)
        return self._chain.identity(strong, self._tokenizer)

    def _run_stages(self) -> dict[str, Dataset]:
        """All but DPO. Returns its pairs, and leaves in the model its reference."""
        args, chain = self.args, self._chain
        if args.invalid_prompts == "raise":
            check_prompt_lengths(self.model, self._tokenizer, chain.splits, args.max_new_tokens)
        # The pair is in half precision itself; the strong model, as when it samples, by autocast.
        autocast = contextlib.nullcontext() if chain.steering is None else self.accelerator.autocast()
        with reported("decode", chain.trackers.log):
            with autocast:
                chosen = chain.chosen(lambda: chain.writer(lambda: self.model), self._identity)
            clear_device_cache(garbage_collection=True)  # the weak models are gone
            sft = chain.sft_rows(chosen, self._tokenizer)
            chain.trackers.end("decode", chosen, self.stage_counts)
            if chain.decodes:
                self._record.ended("data")
        if args.rejected_from != "policy":
            pairs = self._sample(chosen, sft)
        with reported("sft"):
            policy = self._fine_tune(sft)
        if args.rejected_from == "policy":
            pairs = self._sample(chosen, sft)
        chain.trackers.end("sample", pairs, self.stage_counts)
        self._record.ended("data")
        self._precompute_model_hash = policy  # names the weights of the reference; no need to read them again
        return pairs

    def _take_pairs(self, pairs: dict[str, Dataset]):
        """What DPOTrainer does with data at construction, against the strong model as it is now."""
        args = self.args
        self._set_reference()
        self._pairs_missing = False
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

    def _sample(self, chosen: dict[str, Dataset], sft: dict[str, Dataset]) -> dict[str, Dataset]:
        """Stage II, first half, with the strong model as it is now."""
        policy = self._chain.policy(self._identity, sft["train"])
        self.model.eval()
        with reported("sample", self._chain.trackers.log), self.accelerator.autocast():
            return self._chain.pairs(chosen, sft, policy, lambda: self.model, self._tokenizer, self._identity)

    def _fine_tune(self, rows: dict[str, Dataset]) -> str:
        """Stage I, second half. Returns the name of the weights that it leaves in the model."""
        policy = self._chain.policy(self._identity, rows["train"])
        if self.args.sft_num_train_epochs == 0:
            return policy
        directory = self._chain.begin_sft(self._identity, rows["train"])
        rows = {name: dataset.select_columns(["prompt", "completion"]) for name, dataset in rows.items()}
        if self._fine_tuning:
            raise RuntimeError(
                "Stage I of this trainer was interrupted and left its model half-trained. Make a new `ConGTrainer`: "
                "it goes on from the last checkpoint."
            )
        self._fine_tuning = True
        fine_tune(self, self.args.sft_settings(), directory, rows, self._chain.trackers)
        self._fine_tuning = False
        merged = directory / "merged"
        if self.args.merge_adapter and self.is_world_process_zero() and damage(merged) is not None:
            self._merge(directory / "final", merged)
            seal(merged)
        self._record.fine_tuned(directory)
        self._record.ended("sft")
        return policy

    def _set_reference(self):
        """Makes the strong model as it is now the reference of stage II."""
        if is_peft_model(self.model):
            set_reference(self.model)
            if self.args.disable_dropout:  # as DPOTrainer does, which saw no "ref" yet
                disable_dropout_in_model(self.model)
        elif self.ref_model is not None:
            self.accelerator.unwrap_model(self.ref_model).load_state_dict(self.model.state_dict())
