# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Configuration of a contrastive pair: two configurations, α and τ. And what configurations of several stacks share."""

import copy
from typing import ClassVar

from transformers import AutoConfig, PreTrainedConfig

from ..functional import check_alpha


class ContrastivePairConfig(PreTrainedConfig):
    r"""
    Configuration of a [`ContrastivePairForCausalLM`].

    Args:
        policy_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the policy, the model after alignment.
        reference_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the reference, the model before alignment. The same `model_type`; depth and width may
            differ.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy: F = log π − (1 − α)·log π_ref.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1): generation keeps the tokens with π ≥ τ·max π.
        kwargs (*optional*):
            Fields of [`~transformers.PreTrainedConfig`].

    Raises:
        ValueError: if α or τ is out of range, or the two members are of different model types.
    """

    model_type = "contrastive_pair"
    sub_configs: ClassVar = {"policy_config": AutoConfig, "reference_config": AutoConfig}

    def __init__(
        self,
        policy_config=None,
        reference_config=None,
        alpha: float = 0.4,
        plausibility_threshold: float = 0.1,
        **kwargs,
    ):
        check_alpha(alpha, plausibility_threshold)
        # transformers builds every configuration without arguments when it writes only what differs from the default
        self.policy_config, self.reference_config = build_config(policy_config), build_config(reference_config)
        check_one_family("ContrastiveLogitsProcessor", policy=self.policy_config, reference=self.reference_config)
        self.alpha, self.plausibility_threshold = alpha, plausibility_threshold
        super().__init__(**{**adopted(self, self.policy_config), **kwargs})

    @property
    def stacks(self) -> dict[str, PreTrainedConfig]:
        """The stacks in the order of their layers in the cache, by role."""
        return {
            "policy": self.policy_config.get_text_config(),
            "reference": self.reference_config.get_text_config(),
        }

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """What caches, masks and continuous batching size themselves by: one stack as deep as both, policy first."""
        return one_stack(self.stacks)

    @property
    def vocab_size(self) -> int:
        """Width of the logits: the narrower head, since padded heads are cut."""
        return self.get_text_config().vocab_size

    @property
    def hidden_size(self) -> int:
        return self.policy_config.get_text_config().hidden_size

    @property
    def num_hidden_layers(self) -> int:
        return self.get_text_config().num_hidden_layers


def build_config(config: PreTrainedConfig | dict | None) -> PreTrainedConfig:
    """A member's configuration, that of a default Llama if none is given."""
    if isinstance(config, PreTrainedConfig):
        return config
    return AutoConfig.for_model(**(config or {"model_type": "llama"}))


def one_stack(stacks: dict[str, PreTrainedConfig]) -> PreTrainedConfig:
    """The first of several text configurations, as deep as all of them together and as wide as their narrowest head."""
    first, *_ = stacks.values()
    whole = copy.copy(first)
    whole.num_hidden_layers = sum(config.num_hidden_layers for config in stacks.values())
    whole.vocab_size = min(config.vocab_size for config in stacks.values())
    if first.to_dict().get("layer_types") is not None:
        whole.layer_types = [kind for config in stacks.values() for kind in config.layer_types]
    # GPT-2 and others name it otherwise and map the attribute, so their dictionaries would not do.
    limits = [getattr(config, "max_position_embeddings", None) for config in stacks.values()]
    limits = [limit for limit in limits if limit is not None]
    if limits:
        whole.max_position_embeddings = min(limits)
    return whole


def key_value_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """Key-value heads and their width: what a layer of this text configuration keeps of a token."""
    heads = config.num_attention_heads
    return (
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def check_one_family(processor: str, **members: PreTrainedConfig):
    """
    Refuses members whose stacks cannot share masks and a cache.

    Args:
        processor (`str`): The logits processor that serves such members, for the message.
        members (`PreTrainedConfig`): Configurations by role.

    Raises:
        ValueError: if model types or attention windows differ.
    """
    (first, first_config), *others = members.items()
    for role, config in others:
        if first_config.model_type != config.model_type:
            raise ValueError(
                f"`{first}` is a {first_config.model_type!r} model and `{role}` a {config.model_type!r} one. The "
                "stacks of one model share masks and cache layout, so they must be of one model type; for two that "
                f"only share a tokenizer use `{processor}`."
            )
        for name in ("sliding_window", "attention_chunk_size"):
            windows = [c.get_text_config().to_dict().get(name) for c in (first_config, config)]
            if windows[0] != windows[1]:
                raise ValueError(
                    f"`{first}` and `{role}` have `{name}` {windows[0]} and {windows[1]}. The stacks of one model "
                    f"share their masks, so their windows must be equal; for these two use `{processor}`."
                )


def adopted(config: PreTrainedConfig, front: PreTrainedConfig) -> dict:
    """
    What a configuration of several stacks, whose members are set, takes from them: arguments of `PreTrainedConfig`.

    Without the two implementations, `PreTrainedConfig` would hand down a value that resets each member's own.

    Args:
        config (`PreTrainedConfig`): The configuration that is being made.
        front (`PreTrainedConfig`): The member whose special tokens it has.
    """
    text = front.get_text_config().to_dict()
    return {
        **{name: text.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tie_word_embeddings": False,  # each stack ties its own
        **{
            name: {"": getattr(front, f"_{name}"), **_below(config, f"_{name}")}
            for name in ("attn_implementation", "experts_implementation")
        },
    }


def _below(config: PreTrainedConfig, name: str) -> dict:
    """What the members of a configuration, and theirs, have under a name, in the form that is handed down."""
    members = {key: getattr(config, key) for key in config.sub_configs}
    return {
        key: {"": getattr(member, name), **_below(member, name)}
        for key, member in members.items()
        if member is not None
    }
