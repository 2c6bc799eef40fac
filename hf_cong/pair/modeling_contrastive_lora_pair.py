# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A LoRA pair in one forward: the base's weights are read once for both members.

Every row runs twice, side by side: row 2b is the policy's, row 2b + 1 the reference's, and only even rows get the
adapter. Neighbouring rows make the two streams a pure view: hidden states (2B, T, H) are (B, 2, T, H), and keys
(2B, heads, T, D) are (B, 2 · heads, T, D). So the cache that `generate` sees is an ordinary one of B rows with twice
the heads, and beams, cropping and pages need to know nothing.
"""

import copy
import os
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.utils.generic import is_flash_attention_requested

from ..compatibility import check_decoder_only, warn_if_identical
from ..functional import check_alpha
from .configuration_contrastive_lora_pair import TARGETS, ContrastiveLoraPairConfig
from .modeling_contrastive_pair import ContrastivePairForCausalLM
from .modeling_stacks import logits_of


class TwoStreamLinear(nn.Linear):
    """
    A linear layer whose usual input is two rows, those of one token of one prompt.

    Args:
        base (`torch.nn.Linear`):
            The layer whose `weight` and `bias` are shared, not copied.
    """

    def __init__(self, base: nn.Linear):
        nn.Module.__init__(self)  # `nn.Linear` would allocate a weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        two_rows = hidden_states.numel() == 2 * self.in_features
        if not two_rows or hidden_states.device.type != "cpu" or hidden_states.dtype != torch.float32:
            return F.linear(hidden_states, self.weight, self.bias)
        # BLAS on a CPU reads the weight twice for two rows on its left, and once for two columns on its right.
        output = torch.mm(self.weight, hidden_states.reshape(2, -1).T).T.reshape(*hidden_states.shape[:-1], -1)
        return output.contiguous() if self.bias is None else output + self.bias


class LoraLinear(TwoStreamLinear):
    """
    A linear layer for both streams: the low-rank delta goes to the policy's rows, in place.

    Args:
        base (`torch.nn.Linear`):
            The layer whose `weight` and `bias` are shared, not copied.
        lora_A (`torch.nn.Parameter` of shape `(rank, in_features)`): The down projection.
        lora_B (`torch.nn.Parameter` of shape `(out_features, rank)`): The up projection, all scaling folded in.
        policy_rows (`slice`, *optional*, defaults to the even rows): Rows that get the delta.
    """

    def __init__(self, base: nn.Linear, lora_A: nn.Parameter, lora_B: nn.Parameter, policy_rows=slice(0, None, 2)):
        super().__init__(base)
        self.lora_A, self.lora_B = lora_A, lora_B
        self.policy_rows = policy_rows

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.ndim != 3:
            raise ValueError(
                f"A projection with an adapter got hidden states of shape {tuple(hidden_states.shape)}, not (rows, "
                "tokens, width), so the two streams of a LoRA pair cannot be told apart. Merge the adapter and use "
                "`ContrastivePairForCausalLM`."
            )
        output = super().forward(hidden_states)
        delta = F.linear(F.linear(hidden_states[self.policy_rows], self.lora_A), self.lora_B)
        output[self.policy_rows].add_(delta)
        return output


class _TwoStreamCache(Cache):
    """A cache of B rows and twice the heads, as attention sees it: 2B rows."""

    def __init__(self, cache: Cache):
        self.cache = cache

    @property
    def layers(self):
        return self.cache.layers

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        states = self.cache.update(_as_heads(key_states), _as_heads(value_states), layer_idx, *args, **kwargs)
        return tuple(map(_as_rows, states))


class _TwoStreamPagedCache(PagedAttentionCache):
    """The same for the paged cache of continuous batching, of which attention calls nothing but `update`."""

    def __init__(self, cache):
        self.cache = cache

    def update(self, key_states, value_states, layer_idx, kwargs):
        states = self.cache.update(_as_heads(key_states), _as_heads(value_states), layer_idx, kwargs)
        return tuple(map(_as_rows, states))


class ContrastiveLoraPairForCausalLM(ContrastivePairForCausalLM):
    r"""
    A [`ContrastivePairForCausalLM`] whose policy is its reference plus a LoRA adapter, run as one stack.

    Overrides how the two members' logits are made (`member_logits`): one forward with every row doubled, so the
    base's weights are read once per step instead of twice. The adapter may sit on any of `q_proj`, `k_proj`, `v_proj`,
    `o_proj`, `gate_proj`, `up_proj`, `down_proj` of the decoder layers; other kinds are refused by name. The cache has
    the rows and layers of a plain model and twice the heads.

    `policy` and `reference` are ordinary causal language models that share these weights, built anew at each access.

    Args:
        config ([`ContrastiveLoraPairConfig`]):
            Configuration of the pair. To build one from an adapter, use
            [`~ContrastiveLoraPairForCausalLM.from_pair`].

    Example:

    ```python
    >>> from hf_cong import ContrastivePairForCausalLM

    >>> pair = ContrastivePairForCausalLM.from_pair("org/dpo-lora-adapter", alpha=0.4)  # or a `PeftModel`
    >>> pair.generate(**inputs, max_new_tokens=256, assistant_model=pair.policy)
    >>> pair.save_pretrained("weak-pair")  # base and adapter, once
    ```

    Source: [ConG](https://huggingface.co/papers/2510.07884); [LoRA](https://huggingface.co/papers/2106.09685).
    """

    config_class = ContrastiveLoraPairConfig
    _sources = (
        *ContrastivePairForCausalLM._sources,
        "configuration_contrastive_lora_pair",
        "modeling_contrastive_lora_pair",
    )

    def _build_members(self, config):
        check_decoder_only(config.reference_config, "reference")
        self.stack = AutoModelForCausalLM.from_config(config.reference_config)
        insert_lora(self.stack, config.target_modules, config.lora_rank)

    @property
    def _front(self) -> PreTrainedModel:
        return self.stack

    @property
    def policy(self) -> PreTrainedModel:
        """The policy alone: the base with the adapter on every row."""
        layers = {
            layer: LoraLinear(layer, layer.lora_A, layer.lora_B, policy_rows=slice(None))
            for layer in _lora_layers(self.stack)
        }
        policy = share(self.stack, layers)
        policy.generation_config = copy.deepcopy(self.generation_config)
        policy.name_or_path = ""  # the name is the base's
        return policy

    @property
    def reference(self) -> PreTrainedModel:
        """The reference alone: the base without the adapter."""
        return share(self.stack, {layer: plain_linear(layer) for layer in _lora_layers(self.stack)})

    @classmethod
    def from_pair(
        cls,
        policy: str | os.PathLike | nn.Module,
        reference: str | os.PathLike | PreTrainedModel | None = None,
        *,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        model_init_kwargs: dict | None = None,
    ) -> "ContrastiveLoraPairForCausalLM":
        """
        Makes a pair of a LoRA adapter and its base.

        The base's weights are shared with the given model, which goes on working; the adapter's are copied, their
        scaling folded in, in the dtype of the layer they belong to.

        Args:
            policy (`str` or `peft.PeftModel`):
                The adapter: a `PeftModel` with one active LoRA adapter, a path or a Hub id. By name, only safetensors
                are read.
            reference (`str` or `PreTrainedModel`, *optional*):
                The base of an adapter given by name. Defaults to the one that the adapter's configuration names.
            alpha (`float`, *optional*, defaults to `0.4`):
                α in [0, 1], the weight kept on the policy: F = log π − (1 − α)·log π_ref.
            plausibility_threshold (`float`, *optional*, defaults to `0.1`):
                τ in [0, 1): generation keeps the tokens with π ≥ τ·max π.
            model_init_kwargs (`dict`, *optional*):
                Arguments of `from_pretrained` for models given by name: `dtype`, `device_map`, ... `revision` is the
                adapter's; the base's is the one that the adapter's configuration names.

        Returns:
            [`ContrastiveLoraPairForCausalLM`]: the pair, in eval mode.

        Raises:
            TypeError: if `policy` is no adapter.
            ValueError: if the adapter is of a kind that one forward does not cover; or if α or τ is out of range.
        """
        from . import lora  # it imports peft, which a saved pair does not need

        check_alpha(alpha, plausibility_threshold)
        adapted, tokenizer = lora.load_adapter(policy, reference, model_init_kwargs)
        stack, matrices = lora.read_adapter(adapted)
        targets = sorted({path.rpartition(".")[2] for path in matrices})
        rank = max(len(lora_A) for lora_A, _ in matrices.values())
        insert_lora(stack, targets, rank)
        with torch.no_grad():
            for path, (lora_A, lora_B) in matrices.items():
                layer = stack.get_submodule(path)
                layer.lora_A[: len(lora_A)], layer.lora_B[:, : len(lora_A)] = lora_A, lora_B
        config = ContrastiveLoraPairConfig(
            stack.config, rank, targets, alpha, plausibility_threshold, dtype=stack.dtype
        )
        with torch.device("meta"):
            pair = cls(config)
        pair.stack, pair._tokenizer = stack, tokenizer
        pair._adopt_attention()
        pair.generation_config = copy.deepcopy(stack.generation_config)
        pair.eval()
        warn_if_identical(pair.policy, pair.reference)
        return pair

    def set_input_embeddings(self, value):
        raise ValueError("Change the embeddings of the base model, then call `from_pair` again.")

    def resize_token_embeddings(self, *args, **kwargs):
        raise ValueError("Resize the embeddings of the base model, then call `from_pair` again.")

    def _paged_config(self, config: ContinuousBatchingConfig | None) -> ContinuousBatchingConfig:
        if is_flash_attention_requested(self.config):
            raise ValueError(
                f"Continuous batching of a LoRA pair does not work with {self.config._attn_implementation!r}, which "
                "packs all rows into one and would mix policy and reference. First call "
                "`model.set_attn_implementation('sdpa')`."
            )
        config = copy.copy(config or ContinuousBatchingConfig())
        config.auto_switch_to_flash = False
        return config

    def member_logits(self, past_key_values, paged_cache, **inputs) -> tuple[Tensor, Tensor]:
        inputs |= {name: _both(inputs[name]) for name in ("input_ids", "attention_mask", "position_ids")}
        if past_key_values is not None:
            past_key_values = _TwoStreamCache(past_key_values)
        if paged_cache is not None:
            paged_cache = _TwoStreamPagedCache(paged_cache)
        logits = logits_of(self.stack, past_key_values, paged_cache, **inputs)
        return logits[0::2], logits[1::2]


def insert_lora(model: PreTrainedModel, target_modules: list[str], rank: int):
    """
    Makes a model's linear layers those of two streams, in place: every target a [`LoraLinear`] of zeros.

    Args:
        model (`PreTrainedModel`): The base.
        target_modules (`list[str]`): Names of projections, such as `"q_proj"`.
        rank (`int`): Rank of the adapter.

    Raises:
        ValueError: if the model has no such projection.
    """
    found = set()
    for path, layer in list(model.named_modules()):
        name = path.rpartition(".")[2]
        if type(layer) is not nn.Linear:
            continue
        if name not in target_modules or not is_target(path):
            model.set_submodule(path, TwoStreamLinear(layer))
        else:
            found.add(name)
            like = {"dtype": layer.weight.dtype, "device": layer.weight.device}
            lora_A = nn.Parameter(torch.zeros(rank, layer.in_features, **like))
            lora_B = nn.Parameter(torch.zeros(layer.out_features, rank, **like))
            model.set_submodule(path, LoraLinear(layer, lora_A, lora_B))
    if missing := sorted(set(target_modules) - found):
        raise ValueError(
            f"A {model.config.model_type!r} model has no linear layer {', '.join(missing)} in its attention or dense "
            "feed-forward, so an adapter on it is not covered. Merge the adapter and use `ContrastivePairForCausalLM`."
        )


def is_target(path: str) -> bool:
    """
    Whether the module at `path` is a projection of a decoder layer's attention or of its dense feed-forward.

    Those are called on (rows, tokens, width). The experts and the shared expert of a mixture are one level deeper, and
    may be called on the tokens of all rows at once.
    """
    return re.search(rf"(^|\.)layers\.\d+\.\w+\.({'|'.join(TARGETS)})$", path) is not None


def share(model: nn.Module, replacements: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy of the module tree with the very same parameters and buffers, some modules replaced."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    memo |= {id(module): replacement for module, replacement in replacements.items()}
    return copy.deepcopy(model, memo)


def plain_linear(layer: nn.Linear) -> nn.Linear:
    """A `torch.nn.Linear` with the very same weight and bias."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight, plain.bias = layer.weight, layer.bias
    return plain


def _lora_layers(model: nn.Module) -> list[LoraLinear]:
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


def _both(rows: Tensor | dict[str, Tensor] | None) -> Tensor | dict[str, Tensor] | None:
    """Each row twice, side by side; one row is expanded, not copied."""
    if rows is None:
        return None
    if isinstance(rows, dict):  # masks by layer type
        return {name: _both(mask) for name, mask in rows.items()}
    return rows.unsqueeze(1).expand(-1, 2, *rows.shape[1:]).flatten(0, 1)


def _as_heads(states: Tensor) -> Tensor:
    """(2B, heads, T, D) to (B, 2 · heads, T, D): a view while decoding, when T is 1."""
    rows, heads, tokens, width = states.shape
    return states.reshape(rows // 2, 2 * heads, tokens, width)


def _as_rows(states: Tensor) -> Tensor:
    """(B, 2 · heads, T, D) to (2B, heads, T, D)."""
    rows, heads, tokens, width = states.shape
    return states.reshape(2 * rows, heads // 2, tokens, width)
