# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Several causal language models as one: the same tokens in, one cache, one distribution out.

Because it is an ordinary `PreTrainedModel`, whatever takes a model takes it. `save_pretrained` writes this file and
the others named in `_sources`, so that what is saved loads without hf_cong.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RemoteEntryNotFoundError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple, find_adapter_config_file

from ..compatibility import check_decoder_model, check_decoder_only
from .configuration_stacks import key_value_shape


class _LaterLayers(Cache):
    """A cache without its first layers: a member counts its own from 0."""

    def __init__(self, cache: Cache, first: int):
        self.cache, self.first = cache, first

    @property
    def layers(self):
        return self.cache.layers[self.first :]

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        return self.cache.update(key_states, value_states, layer_idx + self.first, *args, **kwargs)


class _LaterPages(PagedAttentionCache):
    """The same for the paged cache of continuous batching, of which attention calls nothing but `update`."""

    def __init__(self, cache, first: int):
        self.cache, self.first = cache, first

    def update(self, key_states, value_states, layer_idx, kwargs):
        return self.cache.update(key_states, value_states, layer_idx + self.first, kwargs)


class StacksForCausalLM(PreTrainedModel, GenerationMixin):
    """
    What a pair and emulated fine-tuning have in common; see [`ContrastivePairForCausalLM`].

    A subclass builds its members (`_build_members`), names them (`members`), runs them on one input (`member_logits`)
    and makes one distribution of their logits (`scores`, the formula). `_front` is the member that stands for all
    where only one can: in the preparation of inputs, for example.
    """

    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Modules of this directory that `save_pretrained` writes; the last two hold the class and its configuration.
    _sources: tuple[str, ...] = ("configuration_stacks", "modeling_stacks")
    scores: Callable[..., Tensor]

    def __init__(self, config):
        super().__init__(config)
        self._build_members(config)
        self._no_split_modules = self._front._no_split_modules
        self._tokenizer = None
        self._adopt_attention()
        self.post_init()

    def _build_members(self, config):
        raise NotImplementedError

    @property
    def members(self) -> dict[str, PreTrainedModel]:
        """The models, by role."""
        raise NotImplementedError

    @property
    def _front(self) -> PreTrainedModel:
        raise NotImplementedError

    def member_logits(self, past_key_values, paged_cache, **inputs) -> tuple[Tensor, ...]:
        """Raw logits of every member for one input, in the order of `scores`."""
        raise NotImplementedError

    def _adopt_attention(self):
        # Continuous batching reads the attention here, and only the members know what their family supports. The
        # internal name, because the public one would set it on the members.
        self.config._attn_implementation_internal = self._front.config._attn_implementation

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """
        Loads what was saved, and refuses a checkpoint that lacks a weight, which transformers would fill at random.

        The arguments are those of [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: naming the weights that are missing.
        """
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"The checkpoint {str(pretrained_model_name_or_path)!r:.80} lacks {len(missing)} weights, such as "
                f"`{missing[0]}`. Save it again with `save_pretrained`."
            )
        return (model, info) if output_loading_info else model

    def get_input_embeddings(self):
        return self._front.get_input_embeddings()

    def set_input_embeddings(self, value):
        raise ValueError("Each member has its own embeddings: change those, then call `from_pair` again.")

    def resize_token_embeddings(self, *args, **kwargs):
        raise ValueError("Each member has its own embeddings: resize those, then call `from_pair` again.")

    def get_output_embeddings(self):
        return self._front.get_output_embeddings()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for a decorator in the source of this file; the experts are the members', who have it.
        return True

    @classmethod
    def is_backend_compatible(cls) -> bool:
        # Engines that drive the modules of a transformers model themselves ask this first, and would drive these
        # without their cache and their formula. vLLM gets here, by way of remote code, when it lacks the plugin.
        raise ValueError(
            f"An engine tried to run {cls.__name__} as an ordinary transformers model. vLLM needs the plugin for it: "
            "install hf_cong in vLLM's environment, and name `hf_cong` in VLLM_PLUGINS if that is set."
        )

    def prepare_inputs_for_generation(self, *args, **kwargs):
        # `generate` calls this before every forward and scoring never does: it is where writing and scoring part. A
        # member prepares, because some families have a way of their own (Phi-3 at the end of its short context).
        return {**self._front.prepare_inputs_for_generation(*args, **kwargs), "plausible_only": True}

    def _get_static_cache_init_shape(self):
        # For layers of one shape. Others get theirs when they are first used.
        if len({key_value_shape(config) for config in self.config.stacks.values()}) > 1:
            return None
        return super()._get_static_cache_init_shape()

    def init_continuous_batching(self, generation_config=None, continuous_batching_config=None, workload_hints=None):
        """Continuous batching, `generate_batch` included. Its pages have one size, so all key-value heads must."""
        shapes = {role: key_value_shape(config) for role, config in self.config.stacks.items()}
        if len(set(shapes.values())) > 1:
            found = ", ".join(f"{heads} of width {width} in the {role}" for role, (heads, width) in shapes.items())
            raise ValueError(
                f"Continuous batching needs members with equal key-value heads, got {found}. Use `generate`."
            )
        continuous_batching_config = self._paged_config(continuous_batching_config)
        return super().init_continuous_batching(generation_config, continuous_batching_config, workload_hints)

    def _paged_config(self, config):
        """What continuous batching is configured with, for members with wishes of their own."""
        return config

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        plausible_only: bool = False,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        r"""
        Runs every member and returns the log-probabilities that the formula makes of them.

        Args:
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Labels of the causal language-modelling loss, which is the negative log-likelihood.
            plausible_only (`bool`, *optional*, defaults to `False`):
                Whether to restrict the distribution to the plausible set. `generate` and `generate_batch` do.

        The other arguments are those of every causal language model. `inputs_embeds` is refused.

        Returns:
            [`~transformers.modeling_outputs.CausalLMOutputWithPast`]: `logits` are log-probabilities in float32, of
            shape `(B, T, vocab_size)`; `past_key_values` is one cache with the layers of all members.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError(
                f"{type(self).__name__} needs `input_ids`: its members embed them differently, so `inputs_embeds` "
                "cannot serve them all."
            )
        paged_cache = kwargs.pop("cache", None)
        if use_cache is None:
            use_cache = paged_cache is None and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        first, *others = self.member_logits(
            past_key_values,
            paged_cache,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        logits = self.scores(
            first,
            *(other.to(first.device) for other in others),
            **self.config.settings,
            mask=plausible_only or paged_cache is not None,  # continuous batching only ever generates
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def save_pretrained(self, save_directory, **kwargs):
        """
        Saves the weights, the tokenizer when it is known, and the code that loads the directory without hf_cong.

        The directory loads with `AutoModelForCausalLM.from_pretrained` after `import hf_cong`, or without hf_cong
        under `trust_remote_code=True`.

        Args:
            save_directory (`str` or `os.PathLike`): Where to save.
            kwargs: Arguments of [`~transformers.PreTrainedModel.save_pretrained`].
        """
        self.save_description(save_directory)
        super().save_pretrained(save_directory, **kwargs)

    def save_description(self, save_directory: str | os.PathLike) -> None:
        """Saves all but the weights: configurations, tokenizer, code."""
        configuration, modeling = self._sources[-2:]
        self.config.auto_map = {
            "AutoConfig": f"{configuration}.{self.config_class.__name__}",
            "AutoModelForCausalLM": f"{modeling}.{type(self).__name__}",
        }
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(save_directory)
        self.generation_config.save_pretrained(save_directory)
        tokenizer = self._tokenizer or load_tokenizer(self.name_or_path)
        if tokenizer is not None:
            tokenizer.save_pretrained(save_directory)
        for name, code in self.source_code().items():
            (Path(save_directory) / name).write_text(code, encoding="utf-8")

    @classmethod
    def source_code(cls) -> dict[str, str]:
        """The modules that load a saved directory without hf_cong, by file name."""
        here = Path(__file__).parent
        package = here.parent if (here.parent / "functional.py").exists() else here
        sources = [here / f"{name}.py" for name in cls._sources]
        sources += [package / "functional.py", package / "compatibility.py"]
        return {source.name: source.read_text(encoding="utf-8").replace("from ..", "from .") for source in sources}


def grow(cache: Cache | None, config: PreTrainedConfig):
    """Gives a bare `DynamicCache()`, which grows by itself only from layer 0 upwards, all its layers."""
    if cache is not None and not cache.layers:
        cache.layers.extend(DynamicLayer() for _ in range(config.num_hidden_layers))


def later(cache: Cache | PagedAttentionCache | None, first: int) -> Cache | PagedAttentionCache | None:
    """A cache as the member sees it whose layers begin at `first`."""
    if cache is None:
        return None
    return _LaterPages(cache, first) if isinstance(cache, PagedAttentionCache) else _LaterLayers(cache, first)


def logits_of(member: PreTrainedModel, past_key_values, paged_cache, **inputs) -> Tensor:
    """The logits of one member."""
    if paged_cache is not None:
        inputs["cache"] = paged_cache
    return member(past_key_values=past_key_values, **inputs).logits


def inspect_member(
    model: str | os.PathLike | PreTrainedModel, role: str, model_init_kwargs: dict | None
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase | None]:
    """What is known of a member before its weights are read: its configuration and, by name, its tokenizer."""
    if isinstance(model, PreTrainedModel):
        check_decoder_model(model, role)
        return model.config, load_tokenizer(model.name_or_path)
    if not isinstance(model, str | os.PathLike):
        raise TypeError(
            f"`{role}` must be a transformers model, a path or a Hub id, got {type(model).__name__}. To contrast an "
            "adapter with its own base, pass it as `policy` without a `reference`; for any other use, merge it first: "
            "`peft_model.merge_and_unload()`."
        )
    name, init = os.fspath(model), model_init_kwargs or {}
    where = {key: init[key] for key in ("revision", "trust_remote_code", "cache_dir") if key in init}
    if is_adapter(name, init):
        raise ValueError(f"`{role}` is an adapter, {name!r}. Merge it into its base model and save that first.")
    config = AutoConfig.from_pretrained(name, **where)
    check_decoder_only(config, role)
    return config, load_tokenizer(name, **where)


def load_member(
    model: str | os.PathLike | PreTrainedModel, role: str, model_init_kwargs: dict | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model and, when it is known by name, its tokenizer."""
    _, tokenizer = inspect_member(model, role, model_init_kwargs)
    if not isinstance(model, PreTrainedModel):
        init = {"use_safetensors": True, **(model_init_kwargs or {})}
        model = AutoModelForCausalLM.from_pretrained(os.fspath(model), **init)
        check_decoder_model(model, role)
    return model, tokenizer


def lookup(model_init_kwargs: dict | None) -> dict:
    """The arguments of `from_pretrained` that say where a name is looked up."""
    return {key: value for key, value in (model_init_kwargs or {}).items() if key in ("revision", "cache_dir")}


def is_adapter(name: str | os.PathLike, model_init_kwargs: dict | None) -> bool:
    return find_adapter_config_file(os.fspath(name), **lookup(model_init_kwargs)) is not None


def load_tokenizer(name: str, **where) -> PreTrainedTokenizerBase | None:
    """
    The tokenizer beside a model, `None` if the model has no name or was saved without one.

    Raises:
        OSError: if it cannot be told whether there is one: nobody answers, or the repository may not be read.
        ValueError: if there is one that cannot be loaded.
    """
    # Asked first, since transformers makes up an empty one for some families, and also when it cannot read the files.
    if not name or not any(_is_there(name, file, **lookup(where)) for file in _TOKENIZER_FILES):
        return None
    # Said, since transformers would ask at the terminal where a directory has remote code.
    return AutoTokenizer.from_pretrained(name, **{"trust_remote_code": False, **where})


# Every tokenizer has one of these, the first if it was saved in the last years.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def _is_there(name: str, file: str, **where) -> bool:
    """Whether a directory or a repository of the Hub holds a file. What cannot be told is raised."""
    if os.path.isdir(name):
        return Path(name, file).is_file()
    try:
        hf_hub_download(name, file, **where)
    except (RemoteEntryNotFoundError, HFValidationError):  # no such file, or a directory that is gone
        return False
    except LocalEntryNotFoundError:
        if not is_offline_mode():  # there, what was downloaded is all there is
            raise
        return False
    return True
