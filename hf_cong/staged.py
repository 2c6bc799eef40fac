# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A ConG run as one launch per stage, so that a model may be sharded, or vLLM write, in the stages that gain by it.

Every launch leaves what [`ConGTrainer`] would have left, under the same names: each can go on where the other stopped.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from datasets import Dataset
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model

from .adapters import check_adapted, check_adapter, find_adapter, load_adapter, stay_trainable
from .chain import Chain
from .checkpoints import commit_of, content_key, damage, model_identity, seal
from .cong_config import ConGConfig
from .cong_trainer import ConGTrainer
from .engines import Engine
from .identity import strong_identity, untrained
from .lending import FineTuner, train_and_keep
from .manifest import RunRecord
from .merging import load_base, merge, save_merged
from .packing import check_rows_apart
from .pair.modeling_stacks import lookup
from .stages import check_prompt_lengths, check_strong_model, failing_in, reported, warn_of_rounding
from .watching.trackers import Trackers

_SHARDING = ("deepspeed", "fsdp", "fsdp_config")


class StagedRun:
    """
    The stages of a run, one at a time: `decode`, `sft`, `sample`, and the trainer of `dpo`.

    `decode` and `sample` copy their models to every process; `sft` and `dpo` are plain launches of
    [`~trl.SFTTrainer`] and [`ConGTrainer`], which FSDP and DeepSpeed may shard. A stage that was killed is repeated by
    its command and ends as if it had not been; one that is done is not done again.

    To the trackers each launch is a run, which logs what it would in one launch; `run_name` makes them one in Trackio.
    The log on disk is one.

    Args:
        model (`str`):
            The strong model: path or Hub id. See [`ConGTrainer`], also for the arguments not listed here.
        args ([`ConGConfig`]):
            Settings of the run, the same for every stage but for `stage`, `engine` and how processes share the work.
        processing_class (`PreTrainedTokenizerBase`, *optional*):
            Tokenizer of the strong model. Defaults to the one beside it.

    Attributes:
        stage_counts (`dict[str, dict]`): By stage and split: `rows_in`, `kept`, and `dropped` by reason.

    Raises:
        TypeError: if `model` is not a name.
        FileNotFoundError: by a stage, if one before it has not ended, or only that of another run.
        ValueError: by a stage, if it cannot run on what it is given.
    """

    def __init__(
        self,
        model: str,
        args: ConGConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        *,
        weak_model: str | PreTrainedModel | None = None,
        weak_reference_model: str | PreTrainedModel | None = None,
        weak_processing_class: PreTrainedTokenizerBase | None = None,
    ):
        if not isinstance(model, str):
            raise TypeError(
                f"`model` is a {type(model).__name__}; stages in launches of their own load it by name. Save it, and "
                "pass the directory."
            )
        self.model, self.args = model, args
        self.quantization_config = quantization_config
        _ = args.device  # joins the other processes
        weak = {"weak_model": weak_model, "weak_reference_model": weak_reference_model}
        self.chain = Chain(args, train_dataset, eval_dataset, **weak, weak_processing_class=weak_processing_class)
        self.stage_counts = self.chain.stage_counts
        where = lookup(args.model_init_kwargs)
        adapter = find_adapter(model, peft_config, where)
        check_adapter(adapter, args, fresh=peft_config is not None, pairs_missing=self.chain.pairs_missing)
        strong = strong_identity(model, args, peft_config, quantization_config)
        self._where = {**where, **commit_of(strong["model"])}
        # An adapter that goes on training, and its commit; the model is then its base.
        self._given = None
        self.peft_config = copy.deepcopy(adapter)
        if peft_config is not None:
            self.peft_config.revision = self._where.get("revision")  # who loads the adapter loads this base
        elif adapter is not None:
            self._given = model, commit_of(model_identity(model, **where))
            self.model = adapter.base_model_name_or_path
        self.tokenizer = processing_class or AutoTokenizer.from_pretrained(
            self.model, **self._where, trust_remote_code=args.trust_remote_code
        )
        if self.tokenizer.pad_token is None:  # as DPOTrainer does
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.identity = self.chain.identity(strong, self.tokenizer)
        self.chain.meet(self._config(), self.tokenizer)
        self.chain.trackers = Trackers(args)

    def launch(self, stage: str) -> None:
        """Runs the stage of this name but `dpo`, of which there is a [`trainer`]."""
        record = RunRecord(self.chain, None if self.peft_config is None else self.model)
        record.begin(self.identity, self.model, self.peft_config)
        with reported(stage, self.chain.trackers.log if stage != "sft" else None):
            {"decode": self.decode, "sft": self.sft, "sample": self.sample}[stage]()
        if "sft" in self.chain.stages:
            record.fine_tuned(self.chain.root / self.chain.stages["sft"].split("/")[0])
        record.ended("data")
        if stage == "sft":
            record.ended("sft")
        self.chain.weak.bring_home()

    def decode(self) -> None:
        """Writes the chosen completions with the weak pair, or with the strong model that it steers."""
        if not self._left("decode"):
            return
        self._check_replicated("decode")
        with torch.device("meta"):  # what is refused before hours of decoding takes no weights to see
            strong = AutoModelForCausalLM.from_config(self._config(), trust_remote_code=self.args.trust_remote_code)
            if self.peft_config is not None:
                adapted = get_peft_model(copy.deepcopy(strong), copy.deepcopy(self.peft_config))
                check_adapted(adapted, merge=self.args.merge_adapter)
        check_strong_model(strong, self.tokenizer, self.chain.splits, self.args)
        if self.args.invalid_prompts == "raise":
            check_prompt_lengths(strong, self.tokenizer, self.chain.splits, self.args.max_new_tokens)
        load = self._writer_in_vllm if self.args.engine == "vllm" else self._writer
        # The pair is in half precision itself; the strong model, as in `sample`, by autocast.
        half = _half(self.args) if self.chain.steering is not None else None
        with torch.autocast(self.args.device.type, half, enabled=half is not None):
            chosen = self.chain.chosen(load, self.identity)
        self.chain.sft_rows(chosen, self.tokenizer)  # those that are kept are published
        self.chain.trackers.end("decode", chosen, self.stage_counts)

    def sft(self) -> Path | None:
        """Fine-tunes the strong model on them. Returns where it is: a whole model, or an adapter, of its own worth."""
        if not self._left("sft"):
            return None
        rows = self.chain.sft_rows(self.chain.chosen(None, self.identity), self.tokenizer)
        directory = self.chain.begin_sft(self.identity, rows["train"])
        rows = {name: dataset.select_columns(["prompt", "completion"]) for name, dataset in rows.items()}
        names = ("model_init_kwargs", "trust_remote_code", *_SHARDING)
        settings = {**self.args.sft_settings(), **{name: getattr(self.args, name) for name in names}}
        settings["model_init_kwargs"] = self._init_kwargs(self.model) if self._given is None else None

        def build(**kwargs: Any) -> FineTuner:
            if self._given is None:
                kwargs["peft_config"] = copy.deepcopy(self.peft_config)  # PEFT fills it in
                kwargs["quantization_config"] = self.quantization_config
            model = self.model if self._given is None else self._policy(None, trainable=True)
            trainer = FineTuner(model, processing_class=self.tokenizer, **kwargs)
            stay_trainable(trainer.model)
            warn_of_rounding(trainer)
            check_rows_apart(trainer, settings)
            if self.args.disable_dropout:  # DPOTrainer's setting, and in one launch it had its effect here too
                disable_dropout_in_model(trainer.model)
            return trainer

        if damage(directory / "final") is not None:
            train_and_keep(build, settings, directory, rows, self.chain.trackers)
        self.chain.stages["sft"] = self._result(directory / "final").relative_to(self.chain.root).as_posix()
        return directory / "final"

    def sample(self) -> None:
        """
        Samples the strong model as `sft` left it: the rejected completions of the pairs.

        With `rejected_from="base"`, it is the strong model before `sft`, which then need not have ended.
        """
        if not self._left("sample"):
            return
        self._check_replicated("sample")
        chosen, sft, policy, final = self._stage_one(ended=self.args.rejected_from == "policy")
        load = self._policy_in_vllm if self.args.engine == "vllm" else self._policy
        with torch.autocast(self.args.device.type, _half(self.args), enabled=_half(self.args) is not None):
            pairs = self.chain.pairs(chosen, sft, policy, lambda: load(final), self.tokenizer, self.identity)
        self.chain.trackers.end("sample", pairs, self.stage_counts)

    @failing_in("dpo")
    def trainer(self, **kwargs: Any) -> ConGTrainer:
        """
        The trainer of stage `dpo`: its `train` is DPO on the pairs, against the strong model as `sft` left it.

        Args:
            kwargs: Other arguments of [`ConGTrainer`], such as `callbacks`.
        """
        args, model, data, final = self.args, self.model, dict(self.chain.splits), None
        if "distributed_config" in (args.model_init_kwargs or {}) and args.precompute_ref_log_probs:
            raise ValueError(
                "`precompute_ref_log_probs=True` reads the weights of the model one by one, which are in shards with "
                "`distributed_config`. Set it to `False`."
            )
        if self.chain.pairs_missing:
            chosen, sft, policy, final = self._stage_one()
            data = self.chain.pairs(chosen, sft, policy, None, self.tokenizer, self.identity)
        if final is not None and self.peft_config is None:
            model = str(final)
        elif final is not None or self._given is not None:
            model = self._policy(final, trainable=True)
        if isinstance(model, str):
            kwargs |= {"quantization_config": self.quantization_config, "peft_config": copy.deepcopy(self.peft_config)}
            args.model_init_kwargs = self._init_kwargs(model)
        evals = {name.removeprefix("eval_"): dataset for name, dataset in data.items() if name != "train"}
        trainer = ConGTrainer(
            model,
            args=args,
            train_dataset=data["train"],
            eval_dataset=evals.get("eval", evals) or None,
            processing_class=self.tokenizer,
            **kwargs,
        )
        trainer.model.config._name_or_path = self.model  # not the directory of stage I: it goes into the card
        trainer.take_over(self.chain, self.identity)
        set_seed(args.seed)  # the sampler's seed is torch's initial seed
        return trainer

    def _left(self, stage: str) -> bool:
        """Whether the data, or the settings, leave the stage anything to do."""
        reason = None
        if not self.chain.pairs_missing:
            reason = "the dataset has pairs; only `dpo` is left"
        elif stage == "decode" and not self.chain.decodes and not self.chain.refinement.ranks:
            reason = "the dataset has completions"
        elif stage == "sft" and self.args.sft_num_train_epochs == 0:
            reason = "`sft_num_train_epochs` is 0"
        if reason is not None:
            PartialState().print(f"ConG {stage}: nothing to do, {reason}.")
        return reason is None

    def _check_replicated(self, stage: str) -> None:
        if is_fsdp_enabled() or is_deepspeed_zero3_enabled():
            raise ValueError(
                f"Stage `{stage}` copies its models to every process, and this launch shards them. Launch it with "
                "`torchrun`, or with an accelerate configuration without FSDP and DeepSpeed."
            )

    def _stage_one(self, ended: bool = True) -> tuple[dict[str, Dataset], dict[str, Dataset], str, Path | None]:
        """Chosen completions, rows of `sft`, and the name and place of the weights that it left, if it `ended`."""
        chosen = self.chain.chosen(None, self.identity)
        sft = self.chain.sft_rows(chosen, self.tokenizer)
        final = None
        if ended and self.args.sft_num_train_epochs > 0:
            final = self.chain.fine_tuned(self.identity, sft["train"])
            self.chain.stages["sft"] = self._result(final).relative_to(self.chain.root).as_posix()
        return chosen, sft, self.chain.policy(self.identity, sft["train"]), final

    def _config(self) -> PreTrainedConfig:
        """The configuration of the strong model."""
        return AutoConfig.from_pretrained(self.model, **self._where, trust_remote_code=self.args.trust_remote_code)

    def _init_kwargs(self, model: str) -> dict[str, Any]:
        """How TRL is to load the strong model as it was named, or the weights that `sft` left."""
        given = {"use_safetensors": True, **(self.args.model_init_kwargs or {})}
        given.pop("revision", None)
        return {**given, **(self._where if model == self.model else {})}

    def _policy(
        self, final: Path | None, trainable: bool = False, quantised: bool = True
    ) -> PreTrainedModel | PeftModel:
        """The strong model as `sft` left it, whole on the device of this process."""
        name = self.model if final is None or self.peft_config is not None else str(final)
        init = {"trust_remote_code": self.args.trust_remote_code, **self._init_kwargs(name)}
        if quantised and self.quantization_config is not None:
            init["quantization_config"] = self.quantization_config
        if not trainable:
            init.pop("distributed_config", None)
        if PartialState().num_processes > 1:
            init["device_map"] = None if trainable else PartialState().device
        model = create_model_from_path(name, **init)
        model.name_or_path = self.model  # what completions say of their writer, as in one launch
        stay_trainable(model)
        if self.peft_config is None or (final is None and self._given is None):
            return model
        adapter, where = self._given if final is None else (final, {})
        # ZeRO-3 gathers weights of one dtype: as TRL, unless they are quantised.
        upcast = self.quantization_config is not None or not is_deepspeed_zero3_enabled()
        return load_adapter(adapter, model, trainable=trainable, autocast_adapter_dtype=upcast, **where)

    def _result(self, final: Path) -> Path:
        """What is published of stage I: `final`, or the model that it is merged into."""
        return self._merged(final) if self.args.merge_adapter else final

    def _merged(self, final: Path) -> Path:
        directory = final.with_name("merged")
        if PartialState().is_main_process and damage(directory) is not None:
            save_merged(final, load_base(final, self.args), directory, self.tokenizer)
            seal(directory)
        PartialState().wait_for_everyone()
        return directory

    def _writer(self) -> PreTrainedModel | Engine:
        return self.chain.writer(lambda: self._policy(None))

    # vLLM loads directories, and one process drives all devices.

    def _writer_in_vllm(self) -> "vllm.LLM":  # noqa: F821
        writer_id, tokenizer = self.chain.writer_identity(self.identity)
        directory = self.chain.root / f"pair-{content_key(writer_id)}"
        return self._saved_for_vllm(directory, lambda: self.chain.writer(self._untouched), tokenizer)

    def _policy_in_vllm(self, final: Path | None) -> "vllm.LLM":  # noqa: F821
        if final is not None:
            return self._vllm(final if self.peft_config is None else self._merged(final))
        if self._given is None:
            return self._vllm(None)
        directory = self.chain.root / f"strong-{untrained(self.identity)}"
        return self._saved_for_vllm(directory, self._untouched, self.tokenizer)

    def _untouched(self) -> PreTrainedModel:
        """The strong model before any stage as one model: not quantised, the adapter that it has in its weights."""
        model = self._policy(None, quantised=False)
        return merge(model) if isinstance(model, PeftModel) else model

    def _saved_for_vllm(
        self, directory: Path, load: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase
    ) -> "vllm.LLM":  # noqa: F821
        if damage(directory) is not None:
            load().cpu().save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            seal(directory)
        return self._vllm(directory)

    def _vllm(self, directory: Path | None) -> "vllm.LLM":  # noqa: F821
        import vllm

        clear_device_cache(garbage_collection=True)  # vLLM takes what is free
        return vllm.LLM(
            str(directory or self.model),
            revision=None if directory else self._where.get("revision"),
            load_format="safetensors",
            dtype=_half(self.args) or torch.float32,
            seed=self.args.seed,
            tensor_parallel_size=max(1, torch.accelerator.device_count()),
            trust_remote_code=self.args.trust_remote_code,
        )


def _half(args: ConGConfig) -> torch.dtype | None:
    """The dtype of mixed precision, if there is any."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
