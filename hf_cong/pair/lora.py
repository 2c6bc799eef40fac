# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Reads a PEFT adapter: what it is, whether one forward covers it, its base and its matrices."""

import os
from pathlib import Path

from peft import PeftConfig, PeftModel, PeftType
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME, AuxiliaryTrainingWrapper
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file

from ..compatibility import check_decoder_model
from .configuration_contrastive_lora_pair import TARGETS
from .modeling_contrastive_lora_pair import is_target, share
from .modeling_stacks import load_member, load_tokenizer, lookup

# Fields of `LoraConfig` that change more than `weight + scaling · B @ A` of some linear layers.
_UNCOVERED = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "layer_replication",
)
# Values of `init_lora_weights` that subtract the first adapter from the base, or quantise it.
_MOVING_INITS = ("pissa", "corda", "olora", "loftq", "lora_ga")


def load_adapter(
    policy: str | os.PathLike | nn.Module,
    reference: str | os.PathLike | PreTrainedModel | None,
    model_init_kwargs: dict | None,
) -> tuple[PeftModel, PreTrainedTokenizerBase | None]:
    """
    The adapter on its base, and the tokenizer beside the adapter, else beside the base, if there is one.

    Args:
        policy (`str` or `peft.PeftModel`): The adapter.
        reference (`str` or `PreTrainedModel`, *optional*): The base of an adapter given by name.
        model_init_kwargs (`dict`, *optional*): Arguments of `from_pretrained`.

    Raises:
        TypeError: if `policy` is no adapter.
        ValueError: if it is of a kind that is not covered, or its base is not known.
        OSError: if there are no weights in safetensors.
    """
    if isinstance(policy, PeftModel):
        if reference is not None:
            raise TypeError(
                "`policy` is a PeftModel, which has its own base: leave out `reference`. To contrast it with another "
                "model, merge it first: `peft_model.merge_and_unload()`."
            )
        return policy, load_tokenizer(policy.get_base_model().name_or_path)
    if not isinstance(policy, str | os.PathLike):
        raise TypeError(
            f"`policy` is a {type(policy).__name__} and `reference` is missing. Pass the model before alignment as "
            "`reference`, or pass a LoRA adapter alone: a PeftModel, a path or a Hub id."
        )
    name, where = os.fspath(policy), lookup(model_init_kwargs)
    if find_adapter_config_file(name, **where) is None:
        cached_file(name, CONFIG_NAME, **where)  # raises OSError if the repository cannot be read
        raise ValueError(
            f"`policy` {name!r:.80} is no adapter and `reference` is missing. Pass the model before alignment as "
            "`reference`; a saved pair is loaded with `AutoModelForCausalLM.from_pretrained`."
        )
    config = PeftConfig.from_pretrained(name, **where)
    check_adapter_config(config)
    base, init = reference or config.base_model_name_or_path, dict(model_init_kwargs or {})
    if not base:
        raise ValueError(f"The adapter {name!r:.80} does not name its base model. Pass it as `reference`.")
    if reference is None:
        init["revision"] = config.revision
    weights = cached_file(name, SAFETENSORS_WEIGHTS_NAME, **where)  # raises OSError if there is none
    with safe_open(weights, framework="pt") as file:
        stored = set(file.keys())
    model, tokenizer = load_member(base, "reference", init)
    # PEFT works in place and freezes the base: a model given as an object stays as it is.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adapted = PeftModel.from_pretrained(share(model, {}), Path(weights).parent, autocast_adapter_dtype=False)
    for parameter in trainable:
        parameter.requires_grad_(True)
    # PEFT passes over what it does not find, in the file or in the model.
    layers = [path for path, module in adapted.named_modules() if isinstance(module, lora.LoraLayer)]
    for key in sorted(stored ^ {f"{path}.lora_{matrix}.weight" for path in layers for matrix in "AB"}):
        _refuse(f"its file holds `{key}`, for which the base has no place" if key in stored else f"it lacks `{key}`")
    return adapted, load_tokenizer(name, **where) or tokenizer


def check_adapter_config(config: PeftConfig):
    """Raises `ValueError`, naming the field, for an adapter that is more than `weight + scaling · B @ A`."""
    if config.peft_type != PeftType.LORA:
        _refuse(f"it is of type {config.peft_type.value}, not LORA")
    for field in _UNCOVERED:
        if getattr(config, field):
            _refuse(f"its `{field}` is {getattr(config, field)!r:.80}")
    # These move a part of the base's weights into the adapter, so what is left is not the model before alignment.
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower().startswith(_MOVING_INITS):
        _refuse(f"its `init_lora_weights` is {init!r:.80}, which changed the weights of the base itself")
    if config.bias != "none":
        _refuse(f"its `bias` is {config.bias!r}")


def read_adapter(model: PeftModel) -> tuple[PreTrainedModel, dict[str, tuple[Tensor, Tensor]]]:
    """
    The base without PEFT's layers, sharing all its weights, and the active adapter by path of the layer.

    Args:
        model (`peft.PeftModel`): A causal language model with a LoRA adapter. It is left as it is.

    Returns:
        `tuple`: the base; and for every adapted layer `lora_A` of shape `(r, in_features)` and `lora_B` of shape
        `(out_features, r)`, the scaling folded into `lora_B`.

    Raises:
        ValueError: if the adapter is not covered: another method, another kind of layer, merged, disabled, several.
    """
    if len(model.active_adapters) != 1:
        raise ValueError(
            f"`policy` must have one active adapter, got {model.active_adapters!r:.80}. Choose one: "
            "`peft_model.set_adapter(name)`."
        )
    active = model.active_adapters[0]
    check_adapter_config(model.peft_config[active])
    adapted = model.get_base_model()
    check_decoder_model(adapted, "policy")
    plain, matrices = {}, {}
    for path, module in adapted.named_modules():
        if isinstance(module, BaseTunerLayer) and module.merged:
            raise ValueError(
                "An adapter is merged into the base of `policy`. First call `peft_model.unmerge_adapter()`."
            )
        if isinstance(module, AuxiliaryTrainingWrapper):  # of another adapter
            plain[module] = module.original_module
        elif isinstance(module, lora.LoraLayer):
            plain[module] = module.get_base_layer()
            if active in module.lora_A or active in module.lora_embedding_A:
                _check_layer(path, module, active)
                scaled = module.lora_B[active].weight.detach().float() * module.scaling[active]
                matrices[path] = module.lora_A[active].weight.detach(), scaled
    base = share(adapted, plain)
    del base.peft_config
    return base, matrices


def _check_layer(path: str, module: BaseTunerLayer, active: str):
    base = module.get_base_layer()
    if not is_target(path):
        _refuse(f"it adapts `{path}`, and covered are {', '.join(TARGETS)} of a decoder layer")
    if type(module) is not lora.Linear or type(base) is not nn.Linear:
        _refuse(f"`{path}` is a {type(base).__name__} (quantised, or no linear layer)")
    if active in module.lora_variant:
        _refuse(f"`{path}` uses {type(module.lora_variant[active]).__name__}")
    if module.disable_adapters:
        raise ValueError("The adapter of `policy` is disabled. First call `peft_model.enable_adapter_layers()`.")


def _refuse(what: str):
    raise ValueError(
        f"`policy` is an adapter that cannot share one forward with its base: {what}. If PEFT can "
        "merge it, do so on a copy of its base, `peft_model.merge_and_unload()`, and pass both models: "
        "`from_pair(merged, base)`."
    )
