# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Settings of [`ConGTrainer`]: those of TRL's [`DPOConfig`], and the few that ConG adds."""

import difflib
import math
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from transformers.utils import is_torch_bf16_gpu_available
from trl import DPOConfig, SFTConfig

from .functional import check_alpha
from .hub.secrets import find_secret

# In the order in which they run; "all" is every one of them in one launch.
STAGES = ("all", "decode", "sft", "sample", "dpo")

# Stage I gets these from the fields of `ConGConfig`, or shares them with stage II because both run in one process.
_SFT_RESERVED = {
    "output_dir": "it lies below `output_dir/_cong`",
    "learning_rate": "use `sft_learning_rate`",
    "num_train_epochs": "use `sft_num_train_epochs`",
    "report_to": "stage I logs to the trackers of the run, under `sft/`",
    "eos_token": "it would change the tokenizer of stage II; set it on `processing_class`",
    "chat_template_path": "it would change the template of stage II; set it on `processing_class`",
    "hub_token": "log in with `hf auth login` or set `HF_TOKEN`",
    "push_to_hub": "use `push_stages_to_hub`",
    "load_best_model_at_end": "stage I ends with its last step",
    **dict.fromkeys(("bf16", "fp16", "use_cpu", "fsdp", "fsdp_config", "deepspeed", "seed"), "both stages share it"),
}
# Fields of the same meaning in `DPOConfig` and `SFTConfig`, beyond those of `TrainingArguments`.
_SHARED = ("activation_offloading", "dataset_num_proc", "max_length", "pad_to_multiple_of", "router_aux_loss_coef")
# Fields of `TrainingArguments` that are about stage II or the run as a whole.
_STAGE_TWO = {
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "greater_is_better",
    "learning_rate",
    "load_best_model_at_end",
    "max_steps",
    "metric_for_best_model",
    "num_train_epochs",
    "output_dir",
    "push_to_hub",
    "report_to",
    "resume_from_checkpoint",
    "run_name",
}


@dataclass
class ConGConfig(DPOConfig):
    r"""
    Configuration class for the [`ConGTrainer`].

    This class includes only the parameters that are specific to ConG. For a full list of training arguments, please
    refer to the [`~trl.DPOConfig`] and [`~transformers.TrainingArguments`] documentation: they apply to both stages,
    except `learning_rate`, `num_train_epochs`, `max_steps` and those of the preference loss, which are stage II's.

    Parameters:
        stage (`str`, *optional*, defaults to `"all"`):
            `"all"` runs every stage in one launch. `"decode"`, `"sft"`, `"sample"` and `"dpo"` run one stage each, for
            `hf-cong train`: see [`StagedRun`]. [`ConGTrainer`] itself is `"all"`.
        engine (`str`, *optional*, defaults to `"transformers"`):
            `"vllm"` lets vLLM write in the stages `"decode"` and `"sample"` (one process; needs the package vllm). It
            is no part of a run's identity: what either engine has finished is taken as it is, what it has begun only
            it can finish. The samples of the two differ, their greedy completions but for rounding do not.

        > Parameters that control the weak pair

        weak_model_name_or_path (`str`, *optional*):
            Path or Hub id of the weak model after alignment (the pair's policy).
        weak_reference_model_name_or_path (`str`, *optional*):
            Path or Hub id of the weak model before alignment (the pair's reference).
        weak_model_init_kwargs (`dict[str, Any]`, *optional*):
            Keyword arguments of [`~transformers.AutoModelForCausalLM.from_pretrained`] for both weak models. Their
            `dtype` defaults to `bfloat16` when training in bf16, else to `float32`.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the weak policy: F = log π_post − (1 − α)·log π_pre.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1): tokens with π_post ≥ τ·max π_post are plausible.

        > Parameters that control who writes

        chosen_from (`str`, *optional*, defaults to `"weak"`):
            `"weak"`: the pair writes the chosen completions by itself, as in the paper. `"steered"`: the strong model,
            as it is before stage I, writes them under the pair's implicit reward, on its own plausible set: see
            [`Steering`]. `plausibility_threshold` is then the strong model's, and `alpha` is not used.
        rejected_from (`str`, *optional*, defaults to `"policy"`):
            `"policy"`: the strong model as stage I leaves it writes the rejected completions, as in the paper.
            `"base"`: the untouched strong model does. `"worst"`: the one of the `num_chosen_samples` with the lowest
            reward; nothing is sampled, and a prompt whose best and worst are one text has no pair.
        steering_beta (`float`, *optional*, defaults to `2.0`):
            β, at least 0, of `"steered"`: F = log π_strong + β·(log π_post − log π_pre). More reward and less variety
            the larger it is: see `recipes/steered`.
        beam_width, successors_per_beam, chunk_length (`int`, *optional*, default to `4`, `4` and `5`):
            W, K and L of [`weak_to_strong_search`], by which `"steered"` writes where pair and strong model cannot be
            one model: other tokenizers, or other families. β and τ have no part in it.

        > Parameters that rank and filter by the weak pair's implicit reward: see [`Refinement`]

        num_chosen_samples (`int`, *optional*, defaults to `1`):
            n completions of each prompt by the writer of `chosen`; of several, the one with the highest
            length-controlled reward is kept.
        chosen_share (`float`, *optional*, defaults to `1.0`):
            In (0, 1]: the share of the chosen completions to keep, those with the highest length-controlled reward
            (of several samples, of the best), of evaluation data too.
        drop_contradicting (`bool`, *optional*, defaults to `False`):
            Whether to drop the pairs whose rejected completion has the higher length-controlled reward, of evaluation
            data too.
        reward_margin (`float`, *optional*, defaults to `0.0`):
            γ, at least 0. Stage II asks of each pair the margin m = γ·(r(chosen) − r(rejected)), of plain rewards in
            nats: its loss is −log σ(β·Δ − m). `rewards/chosen`, and so `rewards/margins` and `rewards/accuracies`, are
            then logged less m: what is gained beyond the margin. So it is with evaluation data.

        > Parameters that control decoding and sampling

        max_new_tokens (`int`, *optional*, defaults to `2048`):
            Longest completion, decoded by the pair or sampled from the strong model, in tokens of its writer.
        temperature (`float`, *optional*, defaults to `0.8`):
            Temperature of both.
        top_p (`float`, *optional*, defaults to `0.95`):
            Nucleus of both.
        top_k (`int`, *optional*, defaults to `0`):
            Top-k of both; `0` turns it off.
        generation_batch_size (`int`, *optional*, defaults to `8`):
            Prompts per `generate` call and process; vLLM takes 256 or more at a time in any case. In float32
            completions do not depend on it, in lower precision only up to rounding; so a stage that was killed is
            resumed with the same.
        drop_truncated (`bool`, *optional*, defaults to `True`):
            Whether to drop the rows whose chosen completion hit `max_new_tokens`: a text cut in the middle, followed
            by an end-of-turn token, teaches the model to stop anywhere.

        invalid_prompts (`str`, *optional*, defaults to `"raise"`):
            What to do with a prompt that is empty, a duplicate, or too long for a model that has to continue it:
            `"raise"` refuses the run, `"drop"` drops and counts the row.

        > Parameters that control stage I

        sft_learning_rate (`float`, *optional*, defaults to `1e-5`):
            Learning rate of the supervised fine-tuning.
        sft_num_train_epochs (`float`, *optional*, defaults to `2.0`):
            Epochs of the supervised fine-tuning; `0` skips it.
        sft_kwargs (`dict[str, Any]`, *optional*):
            Any other field of [`~trl.SFTConfig`], for stage I only.

        > Parameters that control the result, and what is seen of it

        merge_adapter (`bool`, *optional*, defaults to `False`):
            With an adapter, whether the result in `output_dir`, and the model of stage I, are merged models instead of
            adapters, in the dtype in which the base is loaded; one that was quantised is loaded again without.
            Checkpoints stay adapters, and the same run with another choice makes the other of its last one. By
            default the result is one adapter on the base as it was named.
        log_completions (`bool`, *optional*, defaults to `False`):
            Whether to show, at every evaluation, what the policy writes to the first eight prompts of each evaluation
            data set, beside their pairs: on the terminal, in W&B, Trackio and Comet, and in
            `output_dir/_cong/completions`. Needs `eval_dataset` and `eval_strategy`; changes no weight.

        > Parameters that control publishing, beside `push_to_hub` and `hub_model_id`

        push_stages_to_hub (`bool`, *optional*, defaults to `False`):
            With `push_to_hub`, whether every stage is published when it ends: the dataset `<hub_model_id>-data` after
            decoding and again after sampling, the model of stage I as `<hub_model_id>-S`, at the end the model itself,
            and a Collection of them. Training waits for every push, those of `hub_strategy="every_save"` too. One that
            fails is logged, repeated after the next stage and at the end, and only there an error.

    > [!NOTE]
    > These parameters have default values different from [`~trl.DPOConfig`]; they are the paper's:
    > - `beta`: Defaults to `0.5` instead of `0.1`.
    > - `learning_rate`: Defaults to `6e-7` instead of `1e-6`.
    > - `num_train_epochs`: Defaults to `1.0` instead of `3.0`.
    > - `lr_scheduler_type`: Defaults to `"cosine"` instead of `"linear"`, for both stages.
    > - `warmup_steps`: Defaults to `0.1` (a tenth of the steps) instead of `0`, for both stages.
    > - `max_length`: Defaults to `2048` instead of `1024`. Rows written by the trainer that are longer are dropped and
    >   counted, never cut.
    >
    > and these for reasons of their own:
    > - `precompute_ref_log_probs`: Defaults to `True`: the reference is the strong model as stage I leaves it, so its
    >   log-probabilities are computed once and no second strong model is held.
    > - `bf16`: Defaults to `True` where the GPU supports it, and to `False` on CPU.
    > - `ddp_timeout`: Defaults to 6 hours instead of 30 minutes: processes may finish writing far apart.
    > - `hub_private_repo`: Defaults to `True`: a new repository is private until you open it.

    Raises:
        TypeError: if one of these parameters is to be a number and is not.
        ValueError: if a value is out of range or holds a token, `sft_kwargs` holds an unknown or reserved key, or
            other files than the result's were to be pushed, or to another branch.

    Source: [ConG](https://huggingface.co/papers/2510.07884), experimental settings.
    """

    _VALID_DICT_FIELDS = [*DPOConfig._VALID_DICT_FIELDS, "weak_model_init_kwargs", "sft_kwargs"]  # noqa: RUF012

    # Parameters whose default values are overridden from DPOConfig
    beta: float = field(default=0.5, metadata={"help": "How strongly stage II holds the policy to its reference."})
    learning_rate: float = field(default=6e-7, metadata={"help": "The initial learning rate of stage II."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Epochs of stage II."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule of both stages."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up of both stages: steps, or a share of the steps if below 1."}
    )
    max_length: int | None = field(
        default=2048,
        metadata={"help": "Longest prompt and completion, in tokens. Longer rows are dropped and counted."},
    )
    precompute_ref_log_probs: bool = field(
        default=True, metadata={"help": "Whether to score the pairs with the reference once, before stage II."}
    )
    ddp_timeout: int = field(default=21600, metadata={"help": "Seconds that a process waits for the others."})

    stage: str = field(default="all", metadata={"help": "Run all stages, or this one alone.", "choices": list(STAGES)})

    engine: str = field(
        default="transformers",
        metadata={"help": "What writes in the stages decode and sample.", "choices": ["transformers", "vllm"]},
    )

    # Parameters that control the weak pair
    weak_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Path or Hub id of the weak model after alignment."}
    )
    weak_reference_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Path or Hub id of the weak model before alignment."}
    )
    weak_model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Keyword arguments of `from_pretrained` for both weak models."}
    )
    alpha: float = field(
        default=0.4, metadata={"help": "Weight in [0, 1] kept on the weak policy: log p_post - (1 - alpha) log p_pre."}
    )
    plausibility_threshold: float = field(
        default=0.1, metadata={"help": "Tokens with p_post >= plausibility_threshold * max p_post are plausible."}
    )

    # Parameters that control who writes
    chosen_from: str = field(
        default="weak",
        metadata={
            "help": "Who writes the chosen completions: the pair, or the strong model steered by it.",
            "choices": ["weak", "steered"],
        },
    )
    rejected_from: str = field(
        default="policy",
        metadata={
            "help": "Who writes the rejected ones: the strong model after stage I, or before it; or the worst sample.",
            "choices": ["policy", "base", "worst"],
        },
    )
    steering_beta: float = field(
        default=2.0, metadata={"help": "Weight of the pair that steers: log p_strong + beta (log p_post - log p_pre)."}
    )
    beam_width: int = field(default=4, metadata={"help": "Steering across vocabularies: hypotheses kept."})
    successors_per_beam: int = field(default=4, metadata={"help": "Steering across vocabularies: samples of each."})
    chunk_length: int = field(default=5, metadata={"help": "Steering across vocabularies: tokens per selection."})

    # Parameters that rank and filter by the weak pair's implicit reward
    num_chosen_samples: int = field(
        default=1, metadata={"help": "Completions of each prompt by the writer of `chosen`; the best is kept."}
    )
    chosen_share: float = field(
        default=1.0, metadata={"help": "Share in (0, 1] of the chosen completions to keep, by implicit reward."}
    )
    drop_contradicting: bool = field(
        default=False, metadata={"help": "Whether to drop pairs whose implicit rewards contradict the label."}
    )
    reward_margin: float = field(
        default=0.0, metadata={"help": "Weight of the weak pair's reward margin inside the DPO loss; 0 turns it off."}
    )

    # Parameters that control decoding and sampling
    max_new_tokens: int = field(default=2048, metadata={"help": "Longest completion, decoded or sampled, in tokens."})
    temperature: float = field(default=0.8, metadata={"help": "Temperature of decoding and sampling."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus of decoding and sampling."})
    top_k: int = field(default=0, metadata={"help": "Top-k of decoding and sampling; 0 turns it off."})
    generation_batch_size: int = field(default=8, metadata={"help": "Prompts per `generate` call and process."})
    drop_truncated: bool = field(
        default=True, metadata={"help": "Whether to drop rows whose chosen completion hit `max_new_tokens`."}
    )

    invalid_prompts: str = field(
        default="raise",
        metadata={"help": "Refuse or drop invalid prompts.", "choices": ["raise", "drop"]},
    )

    # Parameters that control stage I
    sft_learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate of stage I."})
    sft_num_train_epochs: float = field(default=2.0, metadata={"help": "Epochs of stage I; 0 skips it."})
    sft_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Any other field of `SFTConfig`, for stage I only."}
    )

    # Parameters that control the result, and what is seen of it
    merge_adapter: bool = field(
        default=False, metadata={"help": "Whether the result is the merged model instead of the adapter."}
    )
    log_completions: bool = field(
        default=False, metadata={"help": "Whether to log a table of completions at every evaluation."}
    )

    # Parameters that control publishing
    hub_private_repo: bool | None = field(
        default=True, metadata={"help": "Whether repositories are private when they are made."}
    )
    push_stages_to_hub: bool = field(
        default=False, metadata={"help": "With `push_to_hub`, whether every stage is published when it ends."}
    )

    def __post_init__(self):
        self._check_hub()
        if self.bf16 is None and not self.fp16:
            self.bf16 = is_torch_bf16_gpu_available() and not self.use_cpu
        if self.use_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"):
            # transformers hands `ddp_timeout` to processes on accelerators only; the first to join them says it.
            PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
        super().__post_init__()  # reads arguments that are given as JSON
        self.check_secrets()
        if self.stage not in STAGES:
            raise ValueError(f"`stage` must be one of {', '.join(STAGES)}, got {repr(self.stage)[:80]}.")
        if self.engine not in ("transformers", "vllm"):
            raise ValueError(f"`engine` must be 'transformers' or 'vllm', got {repr(self.engine)[:80]}.")
        if self.engine == "vllm" and self.stage not in ("decode", "sample"):
            raise ValueError(
                f"`engine='vllm'` is for the stages 'decode' and 'sample', got `stage={self.stage!r}`. Launch the "
                "stages one by one, and leave `engine` out of the others."
            )
        self._check_numbers()
        self._check_writers()
        self._check_refinements()
        self._check_sft_kwargs()

    def _check_hub(self):
        if self.hub_strategy in ("checkpoint", "all_checkpoints"):
            raise ValueError(
                f"`hub_strategy={str(self.hub_strategy)!r}` uploads optimizer states and pickled arguments, which are "
                'never published. Use "end" or "every_save"; a run is resumed from `output_dir`.'
            )
        if self.hub_revision is not None:
            raise ValueError(
                f"`hub_revision` is {self.hub_revision[:80]!r}, but a run is published on the main branch. Leave it "
                "unset, and make a branch or tag of what is there."
            )
        if self.push_stages_to_hub and not self.push_to_hub:
            raise ValueError("`push_stages_to_hub` needs `push_to_hub=True`, which says that anything leaves at all.")
        if self.hub_private_repo is None:
            self.hub_private_repo = True

    def check_secrets(self) -> None:
        """Refuses tokens, wherever they stand: `training_args.bin`, `_cong/run.json` and trackers get every value."""
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if kind := "a token" if _gives_token({name: value}) else find_secret(repr(value)):
                raise ValueError(
                    f"`{name}` holds {kind}, which would be written to disk in plain text. Take it out, and log in "
                    "with `hf auth login`, or set the environment variable `HF_TOKEN`."
                )

    def _check_numbers(self):
        numbers = {
            **dict.fromkeys(("alpha", "plausibility_threshold", "steering_beta"), int | float),
            **dict.fromkeys(("temperature", "top_p"), int | float),
            **dict.fromkeys(("sft_learning_rate", "sft_num_train_epochs"), int | float),
            **dict.fromkeys(("max_new_tokens", "generation_batch_size", "top_k"), int),
            **dict.fromkeys(("beam_width", "successors_per_beam", "chunk_length", "num_chosen_samples"), int),
            **dict.fromkeys(("chosen_share", "reward_margin"), int | float),
        }
        for name, kind in numbers.items():
            value = getattr(self, name)
            if not isinstance(value, kind):
                required = "an integer" if kind is int else "a number"
                raise TypeError(f"`{name}` must be {required}, got {repr(value)[:80]}. Pass the number itself.")
        check_alpha(self.alpha, self.plausibility_threshold)
        if not 0 <= self.steering_beta < math.inf:
            raise ValueError(f"`steering_beta` must be finite and at least 0, got {self.steering_beta!r}.")
        widths = ("beam_width", "successors_per_beam", "chunk_length", "num_chosen_samples")
        for name in ("max_new_tokens", "generation_batch_size", *widths):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}.")
        for name in ("top_k", "sft_learning_rate", "sft_num_train_epochs", "reward_margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be finite and at least 0, got {getattr(self, name)!r}.")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"`temperature` must be finite and above 0, got {self.temperature!r}. ConG samples; 0.01 is nearly "
                "greedy."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"`top_p` must lie in (0, 1], got {self.top_p!r}. 1 turns it off.")
        if not 0 < self.chosen_share <= 1:
            raise ValueError(f"`chosen_share` must lie in (0, 1], got {self.chosen_share!r}. 1 keeps all of them.")

    def _check_writers(self):
        writers = {"chosen_from": ("weak", "steered"), "rejected_from": ("policy", "base", "worst")}
        for name, known in writers.items():
            if getattr(self, name) not in known:
                choice = " or ".join(map(repr, known))
                raise ValueError(f"`{name}` must be {choice}, got {repr(getattr(self, name))[:80]}.")
        # A setting that has no effect is a mistake; its default cannot be told from none.
        default = {f.name: f.default for f in fields(self)}
        if self.chosen_from == "steered" and self.alpha != default["alpha"]:
            raise ValueError(
                f"`alpha` is {self.alpha!r}, the weight of a pair that writes by itself; with `chosen_from='steered'` "
                "it is not used. Leave it out, and set `steering_beta`."
            )
        if self.chosen_from == "weak":
            for name in ("steering_beta", "beam_width", "successors_per_beam", "chunk_length"):
                if getattr(self, name) != default[name]:
                    raise ValueError(
                        f"`{name}` is {getattr(self, name)!r}, and nothing is steered. Set `chosen_from='steered'`, "
                        f"or leave `{name}` out."
                    )

    def _check_refinements(self):
        if self.rejected_from == "worst" and self.num_chosen_samples < 2:
            raise ValueError(
                f"`rejected_from='worst'` needs several samples to choose from, got `num_chosen_samples="
                f"{self.num_chosen_samples}`. Set it to 2 or more."
            )
        if self.rejected_from == "worst" and self.drop_contradicting:
            raise ValueError(
                "`drop_contradicting` has nothing to drop: with `rejected_from='worst'` the rewards made the order. "
                "Leave it out."
            )
        if self.reward_margin == 0:
            return
        if not self.precompute_ref_log_probs:
            raise ValueError(
                "`reward_margin` is added to the precomputed log-probabilities of the reference. Leave "
                "`precompute_ref_log_probs=True`."
            )
        if set(self.loss_type) - {"sft"} != {"sigmoid"} or self.f_divergence_type != "reverse_kl" or self.beta <= 0:
            raise ValueError(
                f"`reward_margin` is a margin inside the loss 'sigmoid' (beside it, 'sft') with "
                f"`f_divergence_type='reverse_kl'` and `beta` above 0, got {repr(self.loss_type)[:80]}, "
                f"{self.f_divergence_type!r} and {self.beta!r}. Use these, or leave `reward_margin` out."
            )

    def _check_sft_kwargs(self):
        known = {f.name for f in fields(SFTConfig) if f.init}
        for key in self.sft_kwargs or {}:
            if key in _SFT_RESERVED:
                raise ValueError(f"`sft_kwargs` cannot set `{key}`: {_SFT_RESERVED[key]}.")
            if key not in known:
                near = ", ".join(f"`{name}`" for name in difflib.get_close_matches(key, known)) or "none"
                raise ValueError(f"`sft_kwargs` has the unknown key `{key}`. Fields of `SFTConfig` near it: {near}.")

    def sft_settings(self) -> dict[str, Any]:
        """Arguments of stage I's `SFTConfig`: what both stages share, the `sft_` fields, then `sft_kwargs`."""
        names = [f.name for f in fields(TrainingArguments) if f.init and f.name not in _STAGE_TWO]
        settings = {name: getattr(self, name) for name in (*names, *_SHARED)}
        if self.save_strategy == "best":
            settings["save_strategy"] = "no"  # the metric is stage II's
        settings |= {
            "report_to": "none",
            "learning_rate": self.sft_learning_rate,
            "num_train_epochs": self.sft_num_train_epochs,
            **(self.sft_kwargs or {}),
        }
        if settings.get("padding_free") and not settings.get("packing"):
            settings["max_length"] = None  # TRL would not hold it; longer rows are dropped before
        return settings


def _gives_token(value: Any) -> bool:
    """Whether keyword arguments hold a token, which may look like anything."""
    if not isinstance(value, dict):
        return False
    tokens = [inner for name, inner in value.items() if name in ("token", "use_auth_token", "hub_token")]
    return any(isinstance(inner, str) for inner in tokens) or any(map(_gives_token, value.values()))
