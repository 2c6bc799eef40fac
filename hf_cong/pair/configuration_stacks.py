# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Configuration of several causal language models in one: what a pair and emulated fine-tuning have in common."""

import copy

from transformers import AutoConfig, PreTrainedConfig


class StacksConfig(PreTrainedConfig):
    """
    Configuration of several models, here called members, that read the same tokens and share one cache.

    A subclass sets its members, names them in `sub_configs`, says in `stacks` how they lie in the cache, and in
    `settings` what the formula needs.

    Args:
        front (`PreTrainedConfig`): The member whose special tokens these are.
        kwargs (*optional*): Fields of [`~transformers.PreTrainedConfig`].
    """

    def __init__(self, front: PreTrainedConfig, **kwargs):
        text = front.get_text_config().to_dict()
        adopted = {name: text.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        adopted["tie_word_embeddings"] = False  # each member ties its own
        # `super` hands these two down to the members, and without a value would reset theirs.
        for name in ("attn_implementation", "experts_implementation"):
            adopted[name] = {**_implementations(self, f"_{name}"), "": getattr(front, f"_{name}")}
        super().__init__(**{**adopted, **kwargs})

    @property
    def settings(self) -> dict[str, float]:
        """The numbers of the formula, by the names of its arguments."""
        raise NotImplementedError

    @property
    def stacks(self) -> dict[str, PreTrainedConfig]:
        """Text configurations of the stacks in the cache, in the order of their layers there, by role."""
        raise NotImplementedError

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """What caches, masks and continuous batching size themselves by: one stack as deep as all of them."""
        first, *_ = stacks = list(self.stacks.values())
        whole = copy.copy(first)
        whole.num_hidden_layers = sum(config.num_hidden_layers for config in stacks)
        whole.vocab_size = min(config.vocab_size for config in stacks)  # padded heads are cut
        if first.to_dict().get("layer_types") is not None:
            whole.layer_types = [kind for config in stacks for kind in config.layer_types]
        # GPT-2 and others name it otherwise and map the attribute, so their dictionaries would not do.
        limits = [getattr(config, "max_position_embeddings", None) for config in stacks]
        limits = [limit for limit in limits if limit is not None]
        if limits:
            whole.max_position_embeddings = min(limits)
        return whole

    @property
    def vocab_size(self) -> int:
        """Width of the logits: that of the narrowest head."""
        return self.get_text_config().vocab_size

    @property
    def max_position_embeddings(self) -> int:
        """The shortest context of all; `generate` warns beyond it."""
        return self.get_text_config().max_position_embeddings

    @property
    def hidden_size(self) -> int:
        return self.get_text_config().hidden_size

    @property
    def num_hidden_layers(self) -> int:
        return self.get_text_config().num_hidden_layers


def _implementations(config: PreTrainedConfig, name: str) -> dict:
    """What the members of a configuration, and theirs, have under a name, in the form that is handed down."""
    members = {key: getattr(config, key) for key in config.sub_configs}
    return {
        key: {**_implementations(member, name), "": getattr(member, name)}
        for key, member in members.items()
        if member is not None
    }


def build_config(config: PreTrainedConfig | dict | None) -> PreTrainedConfig:
    """The configuration of a member."""
    if isinstance(config, PreTrainedConfig):
        return config
    # transformers builds every configuration without arguments when it writes only what differs from the default
    return AutoConfig.for_model(**(config or {"model_type": "llama"}))


def key_value_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """What a layer keeps of a token, by its text configuration: key-value heads and their width."""
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
