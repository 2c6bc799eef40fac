# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Engines given by the names of checkpoints, as a command line gives them: what is it, and how is it loaded?"""

from collections.abc import Callable

import torch
from accelerate import PartialState
from peft import PeftConfig
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from ..checkpoints import commit_of, model_identity
from ..pair import (
    ContrastivePairForCausalLM,
    EmulatedFineTuningConfig,
    EmulatedFineTuningForCausalLM,
    StacksConfig,
)
from ..pair.modeling_stacks import load_member, load_tokenizer

_MISPLACED = {
    "alpha": "`alpha` is the weight of a pair that writes by itself. With a base it is `beta`: leave `alpha` out.",
    "beta": "`beta` is the weight of a pair that steers. Pass the large model as `base`, or leave `beta` out.",
}


def check_has_reward(policy: str, engine_id: dict):
    """Raises `ValueError` unless what [`named_engine`] calls so is a pair, which has an implicit reward."""
    if "alpha" not in engine_id:
        raise ValueError(
            f"`policy` {policy!r:.80} is no pair, so it has no implicit reward. Pass a LoRA adapter, a saved pair, or "
            "the models after and before alignment as `policy` and `reference`."
        )


def named_engine(
    policy: str,
    reference: str | None = None,
    *,
    base: str | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    plausibility_threshold: float | None = None,
    dtype: str = "auto",
    revisions: dict[str, str] | None = None,
    trust_remote_code: bool = False,
) -> tuple[Callable[..., PreTrainedModel], dict, PreTrainedTokenizerBase]:
    """
    A pair of two checkpoints, of a LoRA adapter and its base, or saved as one; a larger model steered by any of these;
    or one model alone.

    Args:
        policy (`str`): Path or Hub id of a model, a LoRA adapter, a saved pair, or a saved steered model.
        reference (`str`, *optional*): Path or Hub id of the model before alignment.
        base (`str`, *optional*): Path or Hub id of a large model, to be steered by the pair.
        alpha (`float`, *optional*): Weight kept on the policy of a pair. Defaults to a saved pair's own, else to 0.4.
        beta (`float`, *optional*): Weight of the pair that steers. Defaults to a saved model's own, else to 1.0.
        plausibility_threshold (`float`, *optional*): τ. Defaults to a saved model's own, else to 0.1; with a `base` to
            0.1, whatever the pair's own.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the weights.
        revisions (`dict[str, str]`, *optional*): Branches, tags or commits on the Hub by role: `policy`, `reference`,
            `base`. Defaults to the main branch; for an adapter's own base to the one that the adapter names.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether to run code that comes with a model.

    Returns:
        `tuple`: a function that loads the engine, whose keywords are arguments of `from_pretrained` that override
        ours; what names it (its `engine_id`); and its tokenizer.

    Raises:
        ValueError: if what is saved as one gets a reference or a base, one model alone a `base`, or if `alpha`, `beta`
            or `plausibility_threshold` has no place in the engine.
    """
    at = {role: {"revision": revision} for role, revision in (revisions or {}).items() if revision is not None}
    trust = {"trust_remote_code": trust_remote_code}
    engine_id = {"policy": model_identity(policy, **at.get("policy", {})), "dtype": dtype}
    of_policy = commit_of(engine_id["policy"])
    adapter = find_adapter_config_file(policy, **of_policy) is not None
    config = None if adapter else AutoConfig.from_pretrained(policy, **trust, **of_policy)
    saved, steered = isinstance(config, StacksConfig), isinstance(config, EmulatedFineTuningConfig)
    before, of_before = reference, at.get("reference", {})
    if adapter and reference is None:
        adapter_config = PeftConfig.from_pretrained(policy, **of_policy)
        before, of_before = adapter_config.base_model_name_or_path, {"revision": adapter_config.revision or "main"}
    if saved and reference is not None:
        raise ValueError(f"`policy` {policy!r:.80} is a saved pair and has its reference. Leave `reference` out.")
    if steered and base is not None:
        raise ValueError(f"`policy` {policy!r:.80} is saved together with its base. Leave `base` out.")
    if base is not None and not saved and before is None:
        raise ValueError(
            f"`base` is steered by a pair, and `policy` {policy!r:.80} is one model. Pass the model before alignment "
            "as `reference`."
        )

    defaults = {}  # what the engine has to be told, with its value if none is given
    if base is not None:
        defaults = {"beta": 1.0, "plausibility_threshold": 0.1}
    elif saved:
        defaults = config.settings
    elif before is not None:
        defaults = {"alpha": 0.4, "plausibility_threshold": 0.1}
    given = {"alpha": alpha, "beta": beta, "plausibility_threshold": plausibility_threshold}
    given = {name: value for name, value in given.items() if value is not None}
    if misplaced := [name for name in given if name not in defaults]:
        (name, *_) = misplaced
        if not defaults and name != "beta":
            raise ValueError(
                f"`{name}` is for a pair, and `policy` {policy!r:.80} is one model. Pass the model before alignment "
                f"as `reference`, or leave `{name}` out."
            )
        raise ValueError(_MISPLACED[name])
    settings = {**defaults, **given}
    engine_id |= settings
    if before is not None:
        engine_id["reference"] = model_identity(before, **of_before)
    if base is not None:
        engine_id["base"] = model_identity(base, **at.get("base", {}))
    # What is loaded later is what was named now, though a branch may have moved in between.
    pins = {role: commit_of(engine_id[role]) for role in ("policy", "reference", "base") if role in engine_id}

    def load(**init_kwargs) -> PreTrainedModel:
        # Each process of a `torchrun` has its own device; alone, the models may spread over all.
        state = PartialState(cpu=not torch.accelerator.is_available())
        device = "auto" if state.num_processes == 1 else state.device
        init = {"dtype": dtype, "device_map": device, "use_safetensors": True, **trust, **init_kwargs}

        def member(name: str | None, role: str) -> str | PreTrainedModel | None:
            # `from_pair` takes one revision, the policy's, for all that it loads by name.
            if name is None or pins[role] == of_policy:
                return name
            return load_member(name, role, {**init, **pins[role]})[0]

        own = {**init, **of_policy}
        before_it = member(before, "reference")
        if base is not None:
            return EmulatedFineTuningForCausalLM.from_pair(
                member(base, "base"), policy, before_it, **settings, model_init_kwargs=own
            )
        if before is not None:
            return ContrastivePairForCausalLM.from_pair(policy, before_it, **settings, model_init_kwargs=own)
        return AutoModelForCausalLM.from_pretrained(policy, **settings, **own)

    owners = {"base": base} if base is not None else {"policy": policy}
    if adapter and base is None and before:
        owners["reference"] = before  # PEFT saves an adapter without a tokenizer
    for role, name in owners.items():
        tokenizer = load_tokenizer(name, **trust, **pins[role])
        if tokenizer is not None:
            return load, engine_id, tokenizer
    raise ValueError(f"`{role}` {name!r:.80} has no tokenizer beside it. Save the tokenizer of the model there.")
