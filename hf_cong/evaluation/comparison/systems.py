# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Systems to compare, as a recipe names them: one model, a pair, a steered model, or a search."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from ...engines.named import named_engine
from ...functional import check_alpha, check_beta
from ...rewards import ImplicitReward
from ...search.batches import SearchSettings
from ..lm import SearchLM

_NAMES = ("model", "policy", "reference", "base")
_SEARCH = ("beam_width", "successors_per_beam", "chunk_length", "temperature", "top_k", "top_p")
_KEYS = {
    "one model": ("model",),
    "a pair": ("policy", "reference", "base", "alpha", "beta", "plausibility_threshold"),
    "a search": ("model", "policy", "reference", *_SEARCH),
}
_LONGEST_NAME = 80


@dataclass(frozen=True)
class System:
    """
    One of the systems that are compared.

    Args:
        name (`str`): What tables and folders call it.
        identity (`dict`): Everything in it that changes its numbers (JSON values).
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of what writes.
        load (`Callable`): Loads it, given a batch size, as a model of lm-eval, whose `model` is ours.
        load_reward (`Callable`, *optional*): Loads the implicit reward of a pair, or of the pair of a search.
        search (`dict`, *optional*): Settings of a search, which writes and has no likelihood.
    """

    name: str
    identity: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    load: Callable[[int], LM]
    load_reward: Callable[[], ImplicitReward] | None = None
    search: dict[str, Any] | None = None


def read_systems(systems: Mapping[str, Mapping], dtype: str = "auto") -> dict[str, System]:
    """
    Systems by name, none of them loaded yet.

    Args:
        systems (`dict[str, dict]`):
            For every name one of

            - `model`: one model, path or Hub id. A LoRA adapter is the adapted model, a saved pair is that pair.
            - `policy`, and as they apply `reference`, `base`, `alpha`, `beta`, `plausibility_threshold`: a pair, or a
              base that it steers, as in [`named_engine`].
            - `model` with `policy`, and as they apply `reference`, `beam_width`, `successors_per_beam`,
              `chunk_length`, `temperature`, `top_k`, `top_p`: weak-to-strong search.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of all weights.

    Raises:
        TypeError, ValueError: as [`check_systems`], and if a pair is none.
    """
    check_systems(systems)
    return {name: _read_system(name, dict(settings), dtype) for name, settings in systems.items()}


def check_systems(systems: Mapping[str, Mapping]) -> None:
    """
    Refuses what [`read_systems`] cannot read, without a look at any file.

    Raises:
        TypeError: if a name or a setting is of another type.
        ValueError: if there is no system, a name cannot be a folder, or a system has an unknown, a missing or an
            impossible setting.
    """
    if not isinstance(systems, Mapping) or not systems:
        raise ValueError(f"`systems` must map names to settings, got {repr(systems)[:80]}. Name at least one.")
    for name, settings in systems.items():
        _check_name(name)
        _check_settings(name, settings)


def _check_name(name: str):
    if not isinstance(name, str):
        raise TypeError(f"A system is called {repr(name)[:80]}; its name must be text. Put it in quotes.")
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name[0] == "." or set("/\\") & set(name):
        raise ValueError(
            f"A system is called {name!r:.80}, and its name is that of a folder: 1 to {_LONGEST_NAME} printable "
            "characters, no slash, no dot at the front. Rename it."
        )


def _check_settings(name: str, settings: Mapping):
    if not isinstance(settings, Mapping):
        raise TypeError(f"The system {name!r} is {repr(settings)[:80]}; give it settings, such as `model: PATH`.")
    kind = _kind(settings)
    for key in settings:
        if key not in _KEYS[kind]:
            near = difflib.get_close_matches(str(key), _KEYS[kind], n=1)
            raise ValueError(
                f"The system {name!r} is {kind} and has no setting {str(key)[:80]!r}"
                + (f"; did you mean `{near[0]}`?" if near else f". It may have {', '.join(_KEYS[kind])}.")
            )
    if not settings.keys() & {"model", "policy"}:
        raise ValueError(f"The system {name!r} has neither `model` nor `policy`. Name a checkpoint.")
    for key in settings.keys() & set(_NAMES):
        value = settings[key]
        if key in ("reference", "base") and value is None:
            continue
        if not isinstance(value, str) or "://" in value:
            raise TypeError(f"`{key}` of the system {name!r} must be a path or a Hub id, got {repr(value)[:80]}.")
    given = {key: value for key, value in settings.items() if value is not None}
    check_alpha(given.get("alpha", 0.4), given.get("plausibility_threshold", 0.1))
    check_beta(given.get("beta", 1.0), 0.0)


def _kind(settings: Mapping) -> str:
    if "model" not in settings:
        return "a pair"
    return "a search" if "policy" in settings else "one model"


def _read_system(name: str, settings: dict, dtype: str) -> System:
    kind = _kind(settings)
    if kind == "a search":
        return _search(name, settings, dtype)
    given = {"policy": settings["model"]} if kind == "one model" else settings
    load, identity, tokenizer = named_engine(**given, dtype=dtype)
    if kind == "one model" and "reference" in identity:  # an adapter is a pair with its base: take the policy alone
        load, identity, tokenizer = named_engine(**given, alpha=1.0, plausibility_threshold=0.0, dtype=dtype)
    return System(
        name,
        identity,
        tokenizer,
        load=lambda batch_size: HFLM(load(), backend="causal", tokenizer=tokenizer, batch_size=batch_size),
        load_reward=(lambda: ImplicitReward(load(), None, tokenizer)) if "alpha" in identity else None,
    )


def _search(name: str, settings: dict, dtype: str) -> System:
    defaults = {field.name: field.default for field in fields(SearchSettings)}
    search = {key: settings.get(key, defaults[key]) for key in _SEARCH}
    SearchSettings(**search)  # refuses what cannot be
    _, model_id, tokenizer = named_engine(settings["model"], dtype=dtype)
    policy, reference = settings["policy"], settings.get("reference")
    load_pair, pair_id, weak_tokenizer = named_engine(policy, reference, dtype=dtype)
    if "alpha" not in pair_id:
        raise ValueError(
            f"`policy` of the system {name!r} is one model, so it has no implicit reward. Pass the model before "
            "alignment as `reference`."
        )
    return System(
        name,
        {"model": model_id, "reward": pair_id, **search},
        tokenizer,
        load=lambda batch_size: SearchLM(
            settings["model"], policy, reference, **search, batch_size=batch_size, dtype=dtype
        ),
        load_reward=lambda: ImplicitReward(load_pair(), None, weak_tokenizer),
        search=search,
    )
