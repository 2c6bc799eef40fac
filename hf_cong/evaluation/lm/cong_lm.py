# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A weak pair as a model of lm-eval."""

import difflib
import inspect
import os

import torch
from accelerate import PartialState
from lm_eval.api.model import CacheHook
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from ...checkpoints import model_identity, tokenizer_identity
from ...compatibility import check_same_vocabulary
from ...engines.named import named_engine
from ...pair import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM, StacksForCausalLM
from .response_cache import use_own_table

_QUANTIZED = "it would round every member, and what counts is the small difference of two of them"
# What `HFLM` takes and a pair does not, with the reason.
_REFUSED = {
    "peft": "pass the adapter as `pretrained`; its base is the reference",
    "delta": "add the weights up and save the model first",
    "autogptq": _QUANTIZED,
    "gptqmodel": _QUANTIZED,
    "gguf_file": _QUANTIZED,
    "quantization_config": _QUANTIZED,
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "tp_plan": "spread the members over devices with `parallelize=True`, or the documents with `accelerate launch`",
    "subfolder": "download the model and pass the folder as a path",
}


@register_model("cong")
class ConGLM(HFLM):
    """
    A weak pair, or a base steered by one, as a model of lm-evaluation-harness.

    The pair is one model whose `forward` is a likelihood, log p_α, normalised and unmasked, and whose `generate`
    decodes on the plausible set. So [`~lm_eval.models.huggingface.HFLM`] serves every type of request as it is, and
    this class overrides what is around: how the model is loaded (`_get_config`, `_create_tokenizer`,
    `_create_model`), what the results say of it (`get_model_info`), and where its answers are cached
    (`set_cache_hook`).

    A saved pair gives the same numbers under the stock `--model hf`, and under `--model vllm` where hf_cong is
    installed beside vLLM.

    `is_greedy`, which a few tasks turn into an accuracy, is of the likelihood, so it knows no plausible set.

    Args:
        pretrained (`str` or `PreTrainedModel`):
            The policy: path or Hub id of a model, of a LoRA adapter (whose base is the reference), or of a saved
            pair; or a loaded model, a pair among them.
        reference (`str` or `PreTrainedModel`, *optional*):
            The model before alignment.
        base (`str` or `PreTrainedModel`, *optional*):
            A large model to be steered by the pair.
        alpha (`float`, *optional*):
            Weight kept on the policy of a pair. Defaults to a saved pair's own, else to 0.4.
        beta (`float`, *optional*):
            Weight of the pair that steers a `base`. Defaults to a saved model's own, else to 1.0.
        plausibility_threshold (`float`, *optional*):
            τ of the plausible set that `generate_until` writes from. Defaults to a saved model's own, else to 0.1.
        revision (`str`, *optional*, defaults to `"main"`):
            Branch, tag or commit of `pretrained` on the Hub.
        reference_revision, base_revision (`str`, *optional*):
            The same of `reference` and of `base`. Default to the main branch.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*):
            Another tokenizer of the same vocabulary, for example with another chat template. Defaults to the
            policy's, with a `base` to the base's. Needed for loaded models that were not loaded by name.
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"auto"`):
            Dtype of the weights.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code that comes with a model.
        attn_implementation (`str`, *optional*):
            Attention of all members.
        kwargs (*optional*):
            Other arguments of `HFLM`: `batch_size` (`"auto"` too), `max_length`, `device`, `parallelize`,
            `add_bos_token`, `prefix_token_id`, `chat_template_args`, ... Under `accelerate launch` the documents are
            shared out over the processes.

    Raises:
        TypeError: for an unknown argument, or for names mixed with loaded models.
        ValueError: if the models make no pair, α, β or τ is out of range or has no place, the vocabularies differ, an
            argument cannot be served, or loaded models meet several processes.

    Example:

    ```python
    >>> import lm_eval
    >>> from hf_cong.evaluation.lm import ConGLM

    >>> lm = ConGLM("org/weak-dpo", reference="org/weak-instruct", alpha=0.4, batch_size=8)
    >>> lm_eval.simple_evaluate(model=lm, tasks=["arc_challenge", "gsm8k"])["results"]
    ```
    """

    def __init__(
        self,
        pretrained: str | os.PathLike | PreTrainedModel,
        reference: str | os.PathLike | PreTrainedModel | None = None,
        base: str | os.PathLike | PreTrainedModel | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        plausibility_threshold: float | None = None,
        *,
        revision: str = "main",
        reference_revision: str | None = None,
        base_revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        trust_remote_code: bool = False,
        attn_implementation: str | None = None,
        **kwargs,
    ):
        _check_arguments(kwargs)
        members = {"policy": pretrained, "reference": reference, "base": base}
        members = {role: os.fspath(it) if isinstance(it, os.PathLike) else it for role, it in members.items()}
        settings = {"alpha": alpha, "beta": beta, "plausibility_threshold": plausibility_threshold}
        self._engine_id, self._attn_implementation = None, attn_implementation
        if not any(isinstance(it, str) for it in members.values()):
            model = _pair_of(members, settings)
            self._own_tokenizer = model._tokenizer
        elif all(isinstance(it, str | None) for it in members.values()):
            model = members["policy"]
            revisions = {"policy": revision, "reference": reference_revision, "base": base_revision}
            revisions = {role: None if name is None else str(name) for role, name in revisions.items()}
            self._load, self._engine_id, self._own_tokenizer = named_engine(
                model,
                members["reference"],
                base=members["base"],
                **settings,
                dtype=str(dtype).removeprefix("torch."),
                revisions=revisions,
                trust_remote_code=bool(trust_remote_code),
            )
            if "plausibility_threshold" not in self._engine_id:
                raise ValueError(
                    f"`pretrained` {model!r:.80} is one model. Pass the model before alignment as `reference`, or "
                    "evaluate it alone with `--model hf`."
                )
            self._names = {
                role: {"model": name, "revision": revisions[role]} for role, name in members.items() if name
            }
        else:
            kinds = ", ".join(f"`{role}` a {type(it).__name__}" for role, it in members.items() if it is not None)
            raise TypeError(f"Pass all models by name or all of them loaded, got {kinds}. `policy` is `pretrained`.")
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        kwargs = {"device": accelerator.type if accelerator else "cpu", **kwargs}  # `HFLM` takes CUDA for granted
        kwargs |= {"backend": "causal", "dtype": dtype, "trust_remote_code": trust_remote_code}
        super().__init__(model, revision=revision, **kwargs)
        state = PartialState()
        if state.num_processes > 1:  # `HFLM` goes by the number of GPUs and lets processes on CPUs all do everything
            self._rank, self._world_size = state.process_index, state.num_processes

    def _get_config(self, pretrained: str, **kwargs) -> None:
        self._config = None  # the pair's, which it has when it is loaded

    def _create_tokenizer(self, pretrained, tokenizer, add_bos_token: bool | None = None, **kwargs) -> None:
        own = self._own_tokenizer
        if tokenizer is None and own is None:
            raise ValueError("The models were not loaded by name, so their tokenizer is not known. Pass `tokenizer`.")
        super()._create_tokenizer(pretrained, tokenizer or own, add_bos_token=add_bos_token, **kwargs)
        if tokenizer is None and add_bos_token is not None:
            self.tokenizer.add_bos_token = add_bos_token
        if tokenizer is not None and own is not None:
            check_same_vocabulary(self.tokenizer, own, roles=("tokenizer", "pretrained"))

    def _create_model(
        self,
        pretrained: str,
        *,
        parallelize: bool | None,
        gpus: int,
        max_memory_per_gpu: int | str | None = None,
        max_cpu_memory: int | str | None = None,
        offload_folder: str | None = "./offload",
        **kwargs,
    ) -> None:
        placement = self._get_accelerate_args(
            parallelize=parallelize and gpus > 0,  # without a GPU, accelerate would move the weights to the disk
            device_map=None,
            max_memory_per_gpu=max_memory_per_gpu,
            max_cpu_memory=max_cpu_memory,
            offload_folder=offload_folder,
            gpus=gpus,
        )
        if self._attn_implementation is not None:
            placement["attn_implementation"] = self._attn_implementation
        self._model = self._load(**placement)
        self._config = self._model.config

    @property
    def members(self) -> dict[str, dict]:
        """What was loaded, by role: `model`, `revision` where one was named, and `identity`, a commit or a hash."""
        if self._engine_id is None:
            return {
                role: {"model": member.name_or_path, "identity": model_identity(member)}
                for role, member in self.model.members.items()
            }
        # An adapter's base and the members of a saved pair were not named.
        roles = [role for role in ("policy", "reference", "base") if role in self._engine_id]
        return {role: {**self._names.get(role, {}), "identity": self._engine_id[role]} for role in roles}

    def get_model_info(self) -> dict:
        """Facts for `results["config"]`: `HFLM`'s, then α, β and τ, and all members with their revisions."""
        return {**super().get_model_info(), **self.model.config.settings, "members": self.members}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        identity = {
            "members": {role: member["identity"] for role, member in self.members.items()},
            **self.model.config.settings,
            "generation_config": self.model.generation_config.to_dict(),
            "dtype": self.model.dtype,
            "attention": self.model.config._attn_implementation,
            "tokenizer": tokenizer_identity(self.tokenizer),
            "prefix_token_id": self.prefix_token_id,
            **{name: getattr(self, name) for name in _CHANGE_ANSWERS},
        }
        use_own_table(cache_hook, identity)
        super().set_cache_hook(cache_hook)


# Attributes of `HFLM` that change its answers to the same requests.
_CHANGE_ANSWERS = (
    "max_length",
    "add_bos_token",
    "truncation",
    "softmax_dtype",
    "mixed_precision_dtype",
    "think_end_token",
)


def _check_arguments(kwargs: dict) -> None:
    """Refuses arguments that are unknown, or that a pair cannot serve."""
    for name, reason in _REFUSED.items():
        if kwargs.get(name):
            raise ValueError(f"`{name}` cannot be served: {reason}. Leave `{name}` out.")
    if kwargs.get("backend") == "seq2seq":
        raise ValueError("`backend` is 'seq2seq', and a pair is of decoder-only models. Leave `backend` out.")
    known = {*inspect.signature(HFLM).parameters, *inspect.signature(ConGLM).parameters} - {"kwargs"}
    for name in kwargs.keys() - known - _REFUSED.keys():
        close = difflib.get_close_matches(name, known, n=1)
        raise TypeError(
            f"There is no argument `{name}`" + (f"; did you mean `{close[0]}`?" if close else ".") + " See `ConGLM`."
        )


def _pair_of(members: dict, settings: dict) -> StacksForCausalLM:
    """The pair that loaded models make."""
    if PartialState().num_processes > 1:
        raise ValueError(
            "Loaded models cannot be shared out over several processes, each of which would evaluate all. Pass names, "
            "or start one process."
        )
    policy, reference, base = (members[role] for role in ("policy", "reference", "base"))
    settings = {name: value for name, value in settings.items() if value is not None}
    if base is not None:
        return EmulatedFineTuningForCausalLM.from_pair(base, policy, reference, **settings)
    if not isinstance(policy, StacksForCausalLM):
        return ContrastivePairForCausalLM.from_pair(policy, reference, **settings)
    if reference is not None or settings:
        extra = "reference" if reference is not None else next(iter(settings))
        raise ValueError(
            f"`pretrained` is a loaded pair, which has its own members and weights. Leave `{extra}` out; set α on the "
            "pair itself: `pair.config.alpha = 0.3`."
        )
    return policy
