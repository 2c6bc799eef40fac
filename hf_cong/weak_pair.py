# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The weak pair of a run: what names it, where its weights come from, and when they have to go."""

import functools
import os
import weakref
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from .adapters import adapter_base
from .checkpoints import commit_of, model_identity, tokenizer_identity
from .compatibility import check_same_vocabulary
from .cong_config import ConGConfig
from .pair import ContrastivePairForCausalLM
from .pair.modeling_stacks import load_member, load_tokenizer, lookup


class WeakPair:
    """
    A weak model and its reference, each a model, a path or a Hub id. Its weights are there only while they are used.

    Args:
        args ([`ConGConfig`]): α, τ, and how the models are found and loaded.
        policy (`str` or `PreTrainedModel`, *optional*): The weak model after alignment.
        reference (`str` or `PreTrainedModel`, *optional*): The one before. Defaults to the base of a LoRA adapter.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Of both.

    Attributes:
        models (`tuple`): Both, as they were given; `None` twice after [`release`].
        names (`tuple[str, str]`): What they are called.
        tokenizer (`PreTrainedTokenizerBase` or `None`): Theirs, if it was given, or after [`require`].

    Raises:
        TypeError: if `policy` is a `PeftModel`.
    """

    def __init__(
        self,
        args: ConGConfig,
        policy: str | PreTrainedModel | None,
        reference: str | PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        self.args, self.tokenizer = args, tokenizer
        policy, reference = (
            os.fspath(model) if isinstance(model, os.PathLike) else model for model in (policy, reference)
        )
        if isinstance(policy, PeftModel):
            raise TypeError("`weak_model` is a PeftModel. Save it, and pass the directory: an adapter knows its base.")
        where = lookup(args.weak_model_init_kwargs)
        self._where = where, where
        if isinstance(policy, str) and reference is None:
            reference, revision = adapter_base(policy, where)
            self._where = where, {**where, "revision": revision}  # an adapter says which base it fits
        self.models = policy, reference
        in_memory = [model for model in self.models if isinstance(model, PreTrainedModel)]
        self.names = tuple(model.name_or_path if model in in_memory else model for model in self.models)
        # Of models in memory, which are the caller's: without a claim on them.
        self._homes = [(weakref.ref(model), model.device) for model in in_memory]
        self._named = len(in_memory) < 2

    def require(self, what: str) -> None:
        """
        Finds the tokenizer beside the models.

        Args:
            what (`str`): What needs the pair, in words.

        Raises:
            ValueError: if a model is missing, or was not loaded by name, or the two tokenizers differ.
        """
        if None in self.models:
            raise ValueError(
                f"{what} needs the weak pair: `weak_model` (after alignment) and `weak_reference_model` (before). "
                "Pass both, a LoRA adapter by its name, or a dataset with the column `chosen`: what "
                "`generate_completions` writes with any pair."
            )
        if self.tokenizer is None:
            self.tokenizer = self._find_tokenizer()

    def _find_tokenizer(self) -> PreTrainedTokenizerBase:
        if "" in self.names:
            raise ValueError(
                "A weak model was not loaded by name, so its tokenizer is unknown: pass `weak_processing_class`."
            )
        found = list(zip(self.names, self._where, strict=True))
        (policy, where), _ = found
        if find_adapter_config_file(policy, **where) and load_tokenizer(policy, **where) is None:
            del found[0]  # PEFT saves an adapter without one; its base has it
        trust = self.args.trust_remote_code
        tokenizers = [AutoTokenizer.from_pretrained(name, **where, trust_remote_code=trust) for name, where in found]
        check_same_vocabulary(tokenizers[0], tokenizers[-1])
        return tokenizers[0]

    def config(self) -> PreTrainedConfig:
        """The configuration of the reference."""
        reference, where = self.models[1], self._where[1]
        if isinstance(reference, PreTrainedModel):
            return reference.config
        return AutoConfig.from_pretrained(reference, **where, trust_remote_code=self.args.trust_remote_code)

    @functools.cached_property
    def id(self) -> tuple[str | None, str | None]:
        """What names the weights of the weak model and of its reference: see [`model_identity`]."""
        pairs = zip(self.models, self._where, strict=True)
        return tuple(None if model is None else model_identity(model, **where) for model, where in pairs)

    def identity(self) -> dict[str, Any]:
        """What names the pair and everything in it that changes what it decodes: its `engine_id`."""
        policy, reference = self.id
        init = {name: str(value) for name, value in self._init_kwargs.items()} if self._named else {}
        return {"policy": policy, "reference": reference, **self._contrast, **init}

    def reward_identity(self) -> dict[str, Any]:
        """What names the implicit reward: the pair but for α and τ, and how it reads text."""
        pair = {name: value for name, value in self.identity().items() if name not in self._contrast}
        return {**pair, "tokenizer": tokenizer_identity(self.tokenizer)}

    def load(self) -> ContrastivePairForCausalLM:
        """The pair on the device of this process."""
        # What is loaded is what `id` names, though a branch may have moved since.
        own = [{**self._init_kwargs, **commit_of(name)} for name in self.id]
        policy, reference = self.models
        if isinstance(reference, str):
            reference, _ = load_member(reference, "reference", own[1])
        pair = ContrastivePairForCausalLM.from_pair(policy, reference, **self._contrast, model_init_kwargs=own[0])
        return pair.to(PartialState().device)

    def send_away(self) -> None:
        """Moves those of the caller's models that are still there to the CPU."""
        self._move(torch.device("cpu"))

    def release(self) -> None:
        """The same, and makes no claim on them any more: the pair cannot be loaded again."""
        self.models = (None, None)
        self.send_away()

    def bring_home(self) -> None:
        """Moves them back to where they were."""
        self._move(None)

    def _move(self, device: torch.device | None):
        for reference, home in self._homes:
            model = reference()
            if model is not None:
                model.to(device or home)

    @property
    def _contrast(self) -> dict[str, float]:
        return {"alpha": self.args.alpha, "plausibility_threshold": self.args.plausibility_threshold}

    @property
    def _init_kwargs(self) -> dict[str, Any]:
        args = self.args
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        defaults = {"dtype": dtype, "trust_remote_code": args.trust_remote_code}
        return {**defaults, **(args.weak_model_init_kwargs or {})}
