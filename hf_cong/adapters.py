# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The adapter of a strong model: what is refused, how it is loaded, and its copy that is the reference."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import cached_file, find_adapter_config_file, is_bitsandbytes_available
from trl.trainer.utils import create_model_from_path

from .cong_config import ConGConfig

# Of LoRA: ways to begin that take something out of the base's weights, by the beginning of their names.
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_adapter(config: PeftConfig | None, args: ConGConfig, *, fresh: bool, pairs_missing: bool) -> None:
    """
    Refuses an adapter that could not be published, be copied as the reference, or be told from the model under it.

    Args:
        config (`PeftConfig` or `None`): The adapter, if there is one.
        args ([`ConGConfig`]): Says whether it is to be merged.
        fresh (`bool`): Whether it is put on the strong model now; else it was trained before.
        pairs_missing (`bool`): Whether there are stages before DPO. DPO alone is TRL's.

    Raises:
        ValueError: naming what of it is in the way, or if there is none to merge.
        NotImplementedError: if it is to be merged under ZeRO stage 3.
    """
    if args.merge_adapter and config is None:
        raise ValueError("`merge_adapter` needs an adapter to merge. Pass `peft_config`, or leave it out.")
    if args.merge_adapter and is_deepspeed_zero3_enabled():
        raise NotImplementedError(
            "`merge_adapter` loads the base as a whole, which ZeRO stage 3 shards. Leave it out; and when the run has "
            "ended, repeat its last command with it in one process, without DeepSpeed: that only merges."
        )
    if config is None or not (pairs_missing or args.merge_adapter):
        return
    given, kind = config.to_dict(), config.peft_type.value
    if config.is_prompt_learning:
        raise ValueError(
            f"The adapter is {kind}: virtual tokens, no weights that could be merged, and whose copy is not the same "
            "model again. Use an adapter that changes weights, such as LoRA."
        )
    if given.get("bias", "none") != "none":
        raise ValueError(
            "The adapter must train no bias, because its copy is the reference, and all adapters of a model share its "
            f"biases; got `bias={given['bias']!r}`. Use `bias='none'`."
        )
    begins = {name: value for name, value in given.items() if name.startswith("init_") and name.endswith("weights")}
    for name, value in begins.items():
        if str(value).startswith(_CHANGING) or given.get("kasa_config"):
            raise ValueError(
                f"`{name}={value!r}`{', with `kasa_config`,' if given.get('kasa_config') else ''} takes a part of the "
                "base's weights away, and what is left is published nowhere: the adapter would fit no base. Use "
                "True, 'gaussian', 'orthogonal' or 'eva'."
            )
        if fresh and value is False:
            raise ValueError(
                f"`{name}=False` begins with a random adapter: before any stage, the strong model would not be the "
                "one that was named. Leave it out; an adapter that has learnt something is given as `model`."
            )
    if args.merge_adapter and given.get("alora_invocation_tokens"):
        raise ValueError(
            "`merge_adapter` is for an adapter of all tokens, and this one, with `alora_invocation_tokens`, is for "
            "those that follow an invocation. Leave `merge_adapter` out."
        )


def find_adapter(
    model: str | PreTrainedModel | PeftModel, peft_config: PeftConfig | None, where: dict[str, Any]
) -> PeftConfig | None:
    """
    The adapter that is trained: the one that comes with a model, or the one to put on it; `None` if neither.

    Args:
        model (`str`, `PreTrainedModel` or `PeftModel`): The model.
        peft_config (`PeftConfig`, *optional*): The adapter to put on it.
        where (`dict[str, Any]`): What says where a name is looked up.

    Raises:
        ValueError: if there are two, or one of another name than "default".
    """
    if isinstance(model, PeftModel):
        if "default" not in model.peft_config:
            raise ValueError(
                "The adapter of `model` must be named 'default', because its copy is the reference; got "
                f"{str(list(model.peft_config))[:80]}. Load it without `adapter_name`."
            )
        return model.peft_config["default"]
    if isinstance(model, str) and find_adapter_config_file(model, **where) is not None:
        if peft_config is not None:
            raise ValueError(
                f"`model` is the adapter {model[-80:]!r}, and `peft_config` another. Leave `peft_config` out to go on "
                "training this one; or merge it, save the merged model, and pass that."
            )
        return PeftConfig.from_pretrained(model, **where)
    return peft_config


def adapter_base(model: str, where: dict[str, Any]) -> tuple[str | None, str | None]:
    """The model that a LoRA adapter stands on, its reference, and its revision there; `None` twice if it is none."""
    if find_adapter_config_file(model, **where) is None:
        return None, None
    config = PeftConfig.from_pretrained(model, **where)
    return config.base_model_name_or_path, config.revision


def trained_base(
    model: str | PreTrainedModel | PeftModel, peft_config: PeftConfig | None, adapter: PeftConfig | None
) -> str | None:
    """The name of the model under the adapter that [`find_adapter`] found, if it found one."""
    if adapter is None:
        return None
    if peft_config is None:
        return adapter.base_model_name_or_path or ""
    return model if isinstance(model, str) else model.name_or_path


def check_adapted(model: PeftModel, *, merge: bool) -> None:
    """
    Refuses, before anything is written or trained, a model whose adapter would fail in a later stage.

    Args:
        model (`PeftModel`): The model with its adapter; its weights are not looked at.
        merge (`bool`): Whether the adapter is to be merged.

    Raises:
        ValueError: if TRL cannot train its head, or the adapter cannot be merged.
    """
    if isinstance(model.get_output_embeddings(), TrainableTokensWrapper):
        raise ValueError(
            "`trainable_token_indices` reaches the head of this model, which is tied to its embeddings, and TRL reads "
            "the head's own weights. Leave it out, or train the embeddings: `modules_to_save=['embed_tokens']`."
        )
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if merge and (not layers or any(type(layer).merge is BaseTunerLayer.merge for layer in layers)):
        raise ValueError(
            f"`merge_adapter` needs an adapter that can become a part of the weights, and "
            f"{model.peft_config['default'].peft_type.value} cannot. Use LoRA, or leave `merge_adapter` out."
        )


def set_reference(model: PeftModel) -> None:
    """Makes the adapter "ref" the copy of "default": TRL's own name for the reference of an adapter."""
    if "ref" not in model.peft_config:
        config = copy.deepcopy(model.peft_config["default"])
        config.inference_mode = True
        model.add_adapter("ref", config)
    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    set_peft_model_state_dict(model, state, adapter_name="ref")
    round_reference(model)


def round_reference(model: nn.Module) -> None:
    """
    Gives the adapter "ref" the dtypes of "default", so that the two compute the same.

    On a quantised base TRL trains in bfloat16, and PEFT adds adapters in float32.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        twin = parameters.get(f"{name}.".replace(".ref.", ".default.").removesuffix("."))
        if twin is not None and twin is not parameter:
            parameter.data = parameter.data.to(twin.dtype)


def prepare_adapter(model: nn.Module) -> None:
    """Makes a model that TRL has put together fit for training against its reference."""
    stay_trainable(model)
    round_reference(model)


class KeepsDtypes:
    """
    Of a trainer that loads checkpoints in the dtypes in which they were written: PEFT loads adapters in float32.

    Overrides `_load_from_checkpoint` and `_load_best_model`.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with _dtypes_kept(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        with _dtypes_kept(self.model):
            super()._load_best_model()


@contextlib.contextmanager
def _dtypes_kept(model: nn.Module) -> Iterator[None]:
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    yield
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def stay_trainable(model: nn.Module) -> None:
    """
    Lets gradients pass 4-bit weights on a CPU after the model was used in eval mode.

    Where the CPU has AVX512-BF16, bitsandbytes then packs them for good, and gradients do not pass packed ones:
    training goes on, without an error, in wrong directions.
    """
    if not is_bitsandbytes_available():
        return
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
        layer.state_dict()  # unpacks it


def load_adapter(
    adapter: str | Path, base: PreTrainedModel, *, trainable: bool = True, revision: str | None = None, **kwargs: Any
) -> PeftModel:
    """
    Puts an adapter on its base.

    Args:
        adapter (`str` or `Path`): Path or Hub id.
        base (`PreTrainedModel`): The model.
        trainable (`bool`, *optional*, defaults to `True`): Whether it is to be trained.
        revision (`str`, *optional*): Of the adapter.
        kwargs: Others of [`~peft.PeftModel.from_pretrained`].

    Raises:
        OSError: if it has no safetensors. PEFT would look for other weights.
    """
    cached_file(str(adapter), SAFETENSORS_WEIGHTS_NAME, revision=revision)
    return PeftModel.from_pretrained(
        base, str(adapter), is_trainable=trainable, revision=revision, use_safetensors=True, **kwargs
    )


def load_adapted(
    adapter: str, base: str, args: ConGConfig, quantization_config: BitsAndBytesConfig | None, **where: Any
) -> PeftModel:
    """
    Loads an adapter that goes on training, and its base.

    Args:
        adapter (`str`): Path or Hub id.
        base (`str`): The same, of the model under it.
        args ([`ConGConfig`]): Says how the base is loaded.
        quantization_config (`BitsAndBytesConfig`, *optional*): How the base is quantised.
        where: The `revision` of the adapter.
    """
    init = {**args.model_init_kwargs, "trust_remote_code": args.trust_remote_code}
    if quantization_config is not None:
        init["quantization_config"] = quantization_config
    if args.world_size > 1:
        init["device_map"] = None
    return load_adapter(adapter, create_model_from_path(base, **init), **where)
