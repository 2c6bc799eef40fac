# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Engines given by the names of checkpoints, as a command line gives them: what is it, and how is it loaded?"""

from collections.abc import Callable

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from ..checkpoints import model_identity
from ..pair import ContrastiveLoraPairConfig, ContrastivePairConfig, ContrastivePairForCausalLM
from ..pair.modeling_stacks import load_tokenizer


def named_engine(
    policy: str,
    reference: str | None = None,
    *,
    alpha: float | None = None,
    plausibility_threshold: float | None = None,
    dtype: str = "auto",
) -> tuple[Callable[[], PreTrainedModel], dict, PreTrainedTokenizerBase]:
    """
    A pair of two checkpoints, of a LoRA adapter and its base, or saved as one; or one model alone.

    Args:
        policy (`str`): Path or Hub id of a model, a LoRA adapter or a saved pair.
        reference (`str`, *optional*): Path or Hub id of the model before alignment.
        alpha (`float`, *optional*): Weight kept on the policy. Defaults to a saved pair's own, else to 0.4.
        plausibility_threshold (`float`, *optional*): τ. Defaults to a saved pair's own, else to 0.1.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the weights.

    Returns:
        `tuple`: a function that loads the engine, what names it (its `engine_id`), and its tokenizer.

    Raises:
        ValueError: if a saved pair gets a reference, or one model alone an `alpha` or a `plausibility_threshold`.
    """
    given = {"alpha": alpha, "plausibility_threshold": plausibility_threshold}
    given = {name: value for name, value in given.items() if value is not None}
    engine_id = {"policy": model_identity(policy), "dtype": dtype}
    adapter, base = find_adapter_config_file(policy) is not None, reference
    config = None if adapter else AutoConfig.from_pretrained(policy)
    saved = isinstance(config, ContrastivePairConfig | ContrastiveLoraPairConfig)
    if saved and reference is not None:
        raise ValueError(f"`policy` {policy!r:.80} is a saved pair and has its reference. Leave `reference` out.")
    if given and not (saved or adapter or reference):
        raise ValueError(
            f"`{next(iter(given))}` is for a pair, and `policy` {policy!r:.80} is one model. Pass the model before "
            f"alignment as `reference`, or leave `{next(iter(given))}` out."
        )
    if adapter:
        base = reference or PeftConfig.from_pretrained(policy).base_model_name_or_path
    if saved:
        engine_id |= {"alpha": config.alpha, "plausibility_threshold": config.plausibility_threshold, **given}
    elif base is not None:
        given = {"alpha": 0.4, "plausibility_threshold": 0.1, **given}
        engine_id |= {"reference": model_identity(base), **given}

    def load() -> PreTrainedModel:
        # Each process of a `torchrun` has its own device; alone, the models may spread over all.
        state = PartialState(cpu=not torch.accelerator.is_available())
        device = "auto" if state.num_processes == 1 else state.device
        init = {"dtype": dtype, "device_map": device, "use_safetensors": True}
        if base is None:
            return AutoModelForCausalLM.from_pretrained(policy, **given, **init)
        return ContrastivePairForCausalLM.from_pair(policy, reference, **given, model_init_kwargs=init)

    beside = load_tokenizer(policy) if adapter else None  # PEFT saves an adapter without one
    return load, engine_id, beside or AutoTokenizer.from_pretrained(base if adapter and base else policy)
