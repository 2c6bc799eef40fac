# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""An adapter as a part of the weights under it: the merged model, and the trainer that leaves one."""

import copy
import shutil
from pathlib import Path

from accelerate.utils import is_peft_model
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.utils import create_model_from_path

from .adapters import load_adapter
from .cong_config import ConGConfig

_OF_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
_OF_MODELS = ("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json")


class MergesItsAdapter:
    """
    Of a trainer that saves its adapter or, with `args.merge_adapter`, the model that it is merged into.

    What is in memory, and in checkpoints, stays an adapter. Overrides `_save`.
    """

    def _save(self, output_dir=None, state_dict=None):
        result = Path(self.args.output_dir)
        directory, kept = Path(output_dir or result), result / "_cong" / "adapter"
        merge = self.args.merge_adapter and (directory.parent, directory.name[:11]) != (result, "checkpoint-")
        super()._save(str(kept if merge else directory), state_dict)
        if not (is_peft_model(self.model) and self.args.should_save):
            return
        # The reference adapter is stage I's; it is set again on a resume and is no part of the result.
        shutil.rmtree((kept if merge else directory) / "ref", ignore_errors=True)
        if merge:
            self._merge(kept, directory)
        elif directory == result and kept.exists():  # what was merged here by an earlier launch
            remove_result(directory, "model")
            shutil.rmtree(kept)

    def _merge(self, adapter: Path, directory: Path):
        """Saves the model with an adapter that was saved as one model; the one in memory stays as it is."""
        by_name = self._sharded or is_quantised(self.model)
        base = load_base(adapter, self.args) if by_name else copy_base(self.model)
        save_merged(adapter, base, directory, self.processing_class)


def load_base(adapter: Path, args: ConGConfig) -> PreTrainedModel:
    """
    Loads the model under an adapter, in memory of the CPU, and not quantised.

    Args:
        adapter (`Path`): Where the adapter was saved; it knows its base.
        args ([`ConGConfig`]): Says how the base is loaded.
    """
    config = PeftConfig.from_pretrained(adapter)
    init = {"revision": config.revision, "use_safetensors": True, "device_map": None}
    init |= {name: value for name, value in (args.model_init_kwargs or {}).items() if name in ("dtype", "cache_dir")}
    base = create_model_from_path(config.base_model_name_or_path, trust_remote_code=args.trust_remote_code, **init)
    if is_quantised(base):  # it is published so
        base = base.dequantize()
        base._weight_conversions = None  # of quantised files, which saving would undo, and cannot
    return base


def copy_base(model: PeftModel) -> PreTrainedModel:
    """Copies the model under an adapter, in memory of the CPU."""
    memo = {}
    for tensor in (*model.parameters(), *model.buffers()):
        there = tensor.detach().cpu().clone()
        memo[id(tensor)] = nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there
    return copy.deepcopy(model, memo).unload()


def is_quantised(model: PreTrainedModel | PeftModel) -> bool:
    return model.config.to_dict().get("quantization_config") is not None


def save_merged(
    adapter: Path, base: PreTrainedModel, directory: Path, processing_class: PreTrainedTokenizerBase
) -> None:
    """
    Saves a model with its adapter as one model, in the dtype of the model.

    Args:
        adapter (`Path`): Where the adapter was saved.
        base (`PreTrainedModel`): The model under it, which becomes the merged one.
        directory (`Path`): Where the merged model goes, in the place of any adapter there.
        processing_class (`PreTrainedTokenizerBase`): Its tokenizer.

    Raises:
        ValueError: if a weight is no number.
    """
    merged = merge(load_adapter(adapter, base, trainable=False))
    remove_result(directory, "adapter")
    merged.save_pretrained(directory)
    processing_class.save_pretrained(directory)


def merge(model: PeftModel) -> PreTrainedModel:
    """The model under an adapter, with the adapter in its weights. Raises `ValueError` if one is no number."""
    base = model.get_base_model()
    inputs, head = base.get_input_embeddings(), base.get_output_embeddings()
    if isinstance(inputs, BaseTunerLayer) and inputs.get_base_layer().weight is head.weight:
        # The head of the adapted model has the weights of the base.
        head.weight, base.config.tie_word_embeddings = nn.Parameter(head.weight.detach().clone()), False
    return model.merge_and_unload(safe_merge=True)


def remove_result(directory: Path, kind: str) -> None:
    """Removes what was saved before as the other kind, `"adapter"` or `"model"`: both in one place load as neither."""
    for pattern in _OF_ADAPTERS if kind == "adapter" else _OF_MODELS:
        for path in directory.glob(pattern):
            path.unlink()
