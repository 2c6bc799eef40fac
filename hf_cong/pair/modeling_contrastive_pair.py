# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A contrastive pair as one causal language model: two stacks, one cache, log p_α out.

Because it is an ordinary `PreTrainedModel`, whatever takes a model takes the pair. This file, its configuration,
`functional.py` and `compatibility.py` are also what `save_pretrained` writes for use without hf_cong.
"""

import copy
import logging
import os
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple, find_adapter_config_file

from ..compatibility import check_decoder_model, check_decoder_only, check_same_vocabulary, warn_if_identical
from ..functional import check_alpha, contrastive_scores
from .configuration_contrastive_pair import ContrastivePairConfig

logger = logging.getLogger(__name__)

_HEADS = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


class _ReferenceCache(Cache):
    """The reference's layers of a cache that holds the policy's first: the reference counts its layers from 0."""

    def __init__(self, cache: Cache, offset: int):
        self.cache, self.offset = cache, offset

    @property
    def layers(self):
        return self.cache.layers[self.offset :]

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        return self.cache.update(key_states, value_states, layer_idx + self.offset, *args, **kwargs)


class _ReferencePagedCache(PagedAttentionCache):
    """The same for the paged cache of continuous batching, of which attention calls nothing but `update`."""

    def __init__(self, cache, offset: int):
        self.cache, self.offset = cache, offset

    def update(self, key_states, value_states, layer_idx, kwargs):
        return self.cache.update(key_states, value_states, layer_idx + self.offset, kwargs)


class ContrastivePairForCausalLM(PreTrainedModel, GenerationMixin):
    r"""
    A weak pair, the policy after alignment and the reference before it, as one model that does contrastive decoding.

    `forward` returns log p_α, normalised and **unmasked**: a likelihood, so perplexity and lm-eval score rightly.
    `generate`, `generate_batch` and `pipeline` sample from p_α on the plausible set, π ≥ τ·max π. Every mode of
    `generate` works: sampling, beams, left-padded batches, static cache and compile, assisted and prompt-lookup
    decoding, streaming. Penalties and warpers of the generation configuration act after the contrast, on log p_α.

    The two members must be of one decoder-only family and share a tokenizer. Generation configuration, special tokens
    and tokenizer are the policy's. The KV cache holds the layers of both stacks, the policy's first.

    Args:
        config ([`ContrastivePairConfig`]):
            Configuration of the pair. To build a pair from two models, use [`~ContrastivePairForCausalLM.from_pair`].

    Example:

    ```python
    >>> from hf_cong import ContrastivePairForCausalLM

    >>> pair = ContrastivePairForCausalLM.from_pair("org/weak-dpo", "org/weak-instruct", alpha=0.4)
    >>> pair.generate(**inputs, max_new_tokens=256, do_sample=True, temperature=0.8, top_p=0.95)
    >>> pair.save_pretrained("weak-pair")  # one directory, loads with AutoModelForCausalLM
    ```

    Source: [ConG](https://huggingface.co/papers/2510.07884); see [`contrastive_scores`] for the formula.
    """

    config_class = ContrastivePairConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Modules of this directory that `save_pretrained` writes; the last two hold this class and its configuration.
    _sources = ("configuration_contrastive_pair", "modeling_contrastive_pair")

    def __init__(self, config: ContrastivePairConfig):
        check_alpha(config.alpha, config.plausibility_threshold)
        super().__init__(config)
        self._build_members(config)
        self._no_split_modules = self._front._no_split_modules
        self._tokenizer = None
        self._adopt_attention()
        self.post_init()

    def _build_members(self, config):
        check_decoder_only(config.policy_config, "policy")
        check_decoder_only(config.reference_config, "reference")
        self.policy = AutoModelForCausalLM.from_config(config.policy_config)
        self.reference = AutoModelForCausalLM.from_config(config.reference_config)

    @property
    def _front(self) -> PreTrainedModel:
        """The member that stands for the pair where only one can: embeddings, head, preparation of inputs."""
        return self.policy

    def _adopt_attention(self):
        # Continuous batching reads the attention here, and only the members know what their family supports. The
        # internal name, because the public one would set it on the members.
        self.config._attn_implementation_internal = self._front.config._attn_implementation

    @classmethod
    def from_pair(
        cls,
        policy: str | os.PathLike | torch.nn.Module,
        reference: str | os.PathLike | PreTrainedModel | None = None,
        *,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        model_init_kwargs: dict | None = None,
    ) -> "ContrastivePairForCausalLM":
        """
        Makes a pair of two models, or of a LoRA adapter and its base. Models given as objects are adopted, not copied.

        Args:
            policy (`str`, `PreTrainedModel` or `peft.PeftModel`):
                The model after alignment: a model, a path or a Hub id. A LoRA adapter, as a `PeftModel` or by name,
                makes a [`ContrastiveLoraPairForCausalLM`], which reads the base's weights once.
            reference (`str` or `PreTrainedModel`, *optional*):
                The model before alignment: a model, a path or a Hub id. When both are given by name (or were loaded by
                name and their tokenizers are at hand), their vocabularies are compared token by token. Left out for an
                adapter: its base is the reference.
            alpha (`float`, *optional*, defaults to `0.4`):
                α in [0, 1], the weight kept on the policy: F = log π − (1 − α)·log π_ref.
            plausibility_threshold (`float`, *optional*, defaults to `0.1`):
                τ in [0, 1): generation keeps the tokens with π ≥ τ·max π.
            model_init_kwargs (`dict`, *optional*):
                Arguments of `from_pretrained` for the members given by name: `dtype`, `device_map`, `revision`, ...

        Returns:
            [`ContrastivePairForCausalLM`]: the pair, in eval mode.

        Raises:
            ValueError: if the models cannot be contrasted token by token: another vocabulary, another model type, an
                encoder-decoder, a recurrent state; if an adapter is of a kind that one forward does not cover; or if α
                or τ is out of range.
        """
        check_alpha(alpha, plausibility_threshold)
        if reference is None or (isinstance(policy, str | os.PathLike) and _is_adapter(policy, model_init_kwargs)):
            # Not `from .module`: transformers would want the file beside every two-stack pair that it loads.
            from . import modeling_contrastive_lora_pair as lora

            return lora.ContrastiveLoraPairForCausalLM.from_pair(
                policy,
                reference,
                alpha=alpha,
                plausibility_threshold=plausibility_threshold,
                model_init_kwargs=model_init_kwargs,
            )
        policy, policy_tokenizer = load_member(policy, "policy", model_init_kwargs)
        reference, reference_tokenizer = load_member(reference, "reference", model_init_kwargs)
        config = ContrastivePairConfig(
            policy.config, reference.config, alpha, plausibility_threshold, dtype=policy.dtype
        )
        if policy_tokenizer is not None and reference_tokenizer is not None:
            check_same_vocabulary(policy_tokenizer, reference_tokenizer)
        else:
            widths = [member.config.get_text_config().vocab_size for member in (policy, reference)]
            if widths[0] != widths[1]:
                logger.warning(
                    "The heads of `policy` and `reference` are %d and %d wide and their tokenizers are not at hand to "
                    "be compared: both are cut to %d.",
                    *widths,
                    min(widths),
                )
        with torch.device("meta"):
            pair = cls(config)
        pair.policy, pair.reference, pair._tokenizer = policy, reference, policy_tokenizer
        pair._adopt_attention()
        pair.generation_config = copy.deepcopy(policy.generation_config)
        pair.eval()
        warn_if_identical(policy, reference)
        return pair

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """
        Loads a saved pair, and refuses one that lacks a weight, which transformers would fill at random.

        The arguments are those of [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: naming the weights that are missing.
        """
        pair, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(
                f"The pair {str(pretrained_model_name_or_path)!r:.80} lacks {len(missing)} weights, such as "
                f"`{missing[0]}`. Save it again with `save_pretrained`."
            )
        return (pair, info) if output_loading_info else pair

    def get_input_embeddings(self):
        return self._front.get_input_embeddings()

    def set_input_embeddings(self, value):
        raise ValueError("A pair has two embeddings: change those of its members, then call `from_pair` again.")

    def resize_token_embeddings(self, *args, **kwargs):
        raise ValueError("A pair has two embeddings: resize those of its members, then call `from_pair` again.")

    def get_output_embeddings(self):
        return self._front.get_output_embeddings()

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for a decorator in the source of this file; the experts are the members', who have it.
        return True

    @classmethod
    def is_backend_compatible(cls) -> bool:
        # Engines that drive the modules of a transformers model themselves ask this first, and would drive the pair's
        # without its cache and its contrast. vLLM gets here, by way of remote code, when it lacks the plugin.
        raise ValueError(
            f"An engine tried to run {cls.__name__} as an ordinary transformers model. vLLM needs the plugin for it: "
            "install hf_cong in vLLM's environment, and name `hf_cong` in VLLM_PLUGINS if that is set."
        )

    def prepare_inputs_for_generation(self, *args, **kwargs):
        # `generate` calls this before every forward and scoring never does: it is where writing and scoring part. The
        # policy prepares, because some families have a way of their own (Phi-3 at the end of its short context).
        return {**self._front.prepare_inputs_for_generation(*args, **kwargs), "plausible_only": True}

    def init_continuous_batching(self, *args, **kwargs):
        """Continuous batching, `generate_batch` included."""
        self._check_pages()
        return super().init_continuous_batching(*args, **kwargs)

    def _check_pages(self):
        # All pages have one size, so both members' heads must.
        policy, reference = (
            {name: config.get_text_config().to_dict().get(name) for name in _HEADS}
            for config in (self.config.policy_config, self.config.reference_config)
        )
        if policy != reference:
            raise ValueError(
                f"Continuous batching needs members with equal attention heads, got {policy} and {reference}. Use "
                "`generate`."
            )

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
        Runs both stacks and returns log p_α.

        Args:
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Labels of the causal language-modelling loss, which is the negative log-likelihood under p_α.
            plausible_only (`bool`, *optional*, defaults to `False`):
                Whether to restrict p_α to the policy's plausible set. `generate` and `generate_batch` do.

        The other arguments are those of every causal language model. `inputs_embeds` is refused.

        Returns:
            [`~transformers.modeling_outputs.CausalLMOutputWithPast`]: `logits` is log p_α in float32, of shape
            `(B, T, vocab_size)`; `past_key_values` is one cache with the layers of both stacks.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError(
                "A pair needs `input_ids`: its two stacks embed them differently, `inputs_embeds` cannot serve both."
            )
        paged_cache = kwargs.pop("cache", None)
        if use_cache is None:
            use_cache = paged_cache is None and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        policy_logits, reference_logits = self.member_logits(
            past_key_values,
            paged_cache,
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        logits = contrastive_scores(
            policy_logits,
            reference_logits.to(policy_logits.device),
            alpha=self.config.alpha,
            plausibility_threshold=self.config.plausibility_threshold,
            mask=plausible_only or paged_cache is not None,  # continuous batching only ever generates
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def member_logits(self, past_key_values, paged_cache, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the policy and of the reference, raw, for one input."""
        policy_layers = self.config.policy_config.get_text_config().num_hidden_layers
        policy_caches, reference_caches = {}, {}
        if past_key_values is not None:
            if not past_key_values.layers:  # a bare `DynamicCache()` grows by itself only from layer 0 upwards
                past_key_values.layers.extend(DynamicLayer() for _ in range(self.config.num_hidden_layers))
            policy_caches = {"past_key_values": past_key_values}
            reference_caches = {"past_key_values": _ReferenceCache(past_key_values, policy_layers)}
        if paged_cache is not None:
            policy_caches["cache"] = paged_cache
            reference_caches["cache"] = _ReferencePagedCache(paged_cache, policy_layers)
        return self.policy(**inputs, **policy_caches).logits, self.reference(**inputs, **reference_caches).logits

    def save_pretrained(self, save_directory, **kwargs):
        """
        Saves the weights, the policy's tokenizer when it is known, and the code that loads the directory without
        hf_cong.

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
        here = Path(__file__).parent
        package = here.parent if (here.parent / "functional.py").exists() else here
        sources = [here / f"{name}.py" for name in self._sources]
        for source in (*sources, package / "functional.py", package / "compatibility.py"):
            code = source.read_text(encoding="utf-8").replace("from ..", "from .")
            (Path(save_directory) / source.name).write_text(code, encoding="utf-8")


def load_member(model: str | os.PathLike | PreTrainedModel, role: str, model_init_kwargs: dict | None):
    """The model and, when it is known by name, its tokenizer."""
    if isinstance(model, str | os.PathLike):
        name, init = os.fspath(model), {"use_safetensors": True, **(model_init_kwargs or {})}
        where = {key: init[key] for key in ("revision", "trust_remote_code", "cache_dir") if key in init}
        if _is_adapter(name, init):
            raise ValueError(f"`{role}` is an adapter, {name!r}. Merge it into its base model and save that first.")
        check_decoder_only(AutoConfig.from_pretrained(name, **where), role)  # before the weights are read
        model = AutoModelForCausalLM.from_pretrained(name, **init)
    elif isinstance(model, PreTrainedModel):
        name, where = model.name_or_path, {}
    else:
        raise TypeError(
            f"`{role}` must be a transformers model, a path or a Hub id, got {type(model).__name__}. To contrast an "
            "adapter with its own base, pass it alone: `from_pair(peft_model)`; with another reference, merge it "
            "first: `peft_model.merge_and_unload()`."
        )
    check_decoder_model(model, role)
    return model, load_tokenizer(name, **where)


def lookup(model_init_kwargs: dict | None) -> dict:
    """The arguments of `from_pretrained` that say where a name is looked up."""
    return {key: value for key, value in (model_init_kwargs or {}).items() if key in ("revision", "cache_dir")}


def _is_adapter(name: str | os.PathLike, model_init_kwargs: dict | None) -> bool:
    return find_adapter_config_file(os.fspath(name), **lookup(model_init_kwargs)) is not None


def load_tokenizer(name: str, **where) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model, `None` if the model has no name or was saved without one."""
    try:
        return AutoTokenizer.from_pretrained(name, **where) if name else None
    except (OSError, ValueError):
        return None
