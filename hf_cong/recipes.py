# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Recipes: YAML files that fill the arguments of one Python call, and nothing else.

A recipe is data. It cannot set environment variables, run code or switch on `trust_remote_code`, hold a token, or make
public or replace what is on the Hub; an unknown key is an error. Any key can be overridden on the command line as
`--key value`.
"""

import argparse
import difflib
import json
import re
from collections import Counter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from trl import TrlParser

from .hub.secrets import find_secret

_MAX_BYTES = 100_000
_SERVER = "a server gets your prompts and your `OPENAI_API_KEY`"
_LOG_IN = "log in with `hf auth login`, or set `HF_TOKEN`; for servers, `OPENAI_API_KEY`"
_TOKEN = f"tokens do not belong in files: {_LOG_IN}"
_TOKENS = ("hub_token", "hf_token", "token", "access_token", "use_auth_token", "api_key", "password")
_KERNELS = "it runs compiled code of a repository on your machine: give it in Python yourself"
_PRIVATE = ("private", "hub_private_repo")
# What a file that somebody else wrote must not decide, wherever it stands in the recipe.
_BY_HAND_ONLY = {
    "trust_remote_code": "it runs code of a repository on your machine: pass `--trust_remote_code true` yourself",
    **dict.fromkeys(("allow_all_kernels", "kernel_config", "use_kernels"), _KERNELS),
    "use_safetensors": "weights are read from safetensors only, because others can hold code",
    **dict.fromkeys(_TOKENS, _TOKEN),
    "include_path": "task files can run code on your machine: pass `--include_path DIR` yourself",
    "env": "a recipe sets no environment variables: export them in your shell",
    "replace": "it overwrites what others pushed: pass `--replace true` yourself",
}


class _Loader(yaml.SafeLoader):
    """Overrides two steps of composing: what YAML would multiply, merge or overwrite without a word is refused."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise ValueError(f"it uses the alias `*{_shown(self.peek_event().anchor)}`. Write the value out.")
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if "<<" in keys:
            raise ValueError("it uses the merge key `<<`. Write the values out.")
        if repeated := [key for key, times in keys.items() if times > 1]:
            raise ValueError(f"it sets `{_shown(repeated[0])}` more than once. Keep one.")
        return node


class _Parser(TrlParser):
    """Overrides `error`: a bad value is refused as everything else is, instead of ending the process."""

    def error(self, message: str):
        raise ValueError(f"{message[0].upper()}{message[1:300]}. See `{self.prog} --help`.")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Overrides `_get_help_string`: what is required says so, and no key is said to have the default None."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None:
            return f"{action.help} (required)" if action.required else action.help
        return super()._get_help_string(action)


def read_recipe(path: str | Path, known: dict[str, Any]) -> dict:
    """
    Reads one recipe.

    Args:
        path (`str` or `Path`): A YAML file with one mapping.
        known (`dict[str, Any]`): The keys it may have, each with its type annotation.

    Returns:
        `dict`: the recipe's values.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no plain mapping, holds an unknown key (the nearest known ones are named), a
            repeated or merged key, a value of another type, an alias, what looks like a token (which is not shown), or
            something that only the user's own hand may set.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no recipe {str(path)!r}.")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a recipe has at most {_MAX_BYTES}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); a recipe must be. Save it as UTF-8.") from None
    if kind := find_secret(text):  # first of all: other refusals quote the file
        raise ValueError(f"{path} holds {kind}: {_TOKEN}.")
    try:
        recipe = _Loader(text).get_single_data()
        read = repr(recipe)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # the last of dates and of numbers without end
        raise ValueError(f"{path} is not plain YAML: {' '.join(str(error).split())[:300]}") from None
    if kind := find_secret(read):  # written with escapes, or over several lines
        raise ValueError(f"{path} holds {kind}: {_TOKEN}.")
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must hold one mapping `key: value`, got {type(recipe).__name__}.")
    _refuse_by_hand_only(recipe, path)
    for key, value in recipe.items():
        if key not in known:
            raise ValueError(f"{path}: {_unknown(str(key), list(known))}")
        if not _fits(value, known[key]):
            arrived = "null" if value is None else repr(value)[:80]
            kind = known[key].__name__ if isinstance(known[key], type) else known[key]
            raise ValueError(f"{path}: `{key}` is {arrived}; it must be {kind}. Correct the value, or remove the key.")
    return recipe


def check_command_line(argv: list[str]) -> None:
    """
    Refuses tokens on a command line, which other users of the machine see and the shell's history keeps.

    Args:
        argv (`list[str]`): Command-line arguments, without the program's name.

    Raises:
        ValueError: naming the key or what the token looks like, but not the token.
    """
    in_json = re.compile(rf'"({"|".join(_TOKENS)})"\s*:', re.IGNORECASE)
    for arg in argv:
        flag = arg[2:].split("=")[0].lower().replace("-", "_") if arg.startswith("--") else None
        key = flag if flag in _TOKENS else (in_json.search(arg) or [None, None])[1]
        if key is not None:
            raise ValueError(f"The command line sets `{key}`: tokens do not belong there: {_LOG_IN}.")
        if kind := find_secret(arg):
            raise ValueError(f"The command line holds {kind}: tokens do not belong there: {_LOG_IN}.")


def parse(dataclass_types: tuple, argv: list[str], *, prog: str, description: str | None = None) -> tuple:
    """
    Parses `--config recipe.yaml --key value ...` into dataclasses; the command line wins over the recipe.

    Args:
        dataclass_types (`tuple`): Dataclasses whose fields are the keys.
        argv (`list[str]`): Command-line arguments, without the program's name.
        prog (`str`): The command, for usage and errors.
        description (`str`, *optional*): What it is for, which `--help` shows.

    Returns:
        `tuple`: one instance of each dataclass.

    Raises:
        ValueError: for an unknown key in the recipe or on the command line, a value that is no choice of its key or
            not of its type, or a missing required key. See also [`read_recipe`].
    """
    usage = f"{prog} [--config recipe.yaml] [--key value ...]"
    about = {"prog": prog, "usage": usage, "description": description, "formatter_class": _Help}
    parser = _Parser(dataclass_types, allow_abbrev=False, **about)
    known = {name: kind for cls in dataclass_types for name, kind in get_type_hints(cls).items()}
    argv = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    if "--config" in argv:
        at = argv.index("--config")
        if at + 1 == len(argv):
            raise ValueError(f"`--config` needs the path of a recipe: {usage}.")
        path = argv[at + 1]
        recipe = read_recipe(path, known)
        del argv[at : at + 2]
        for action in parser._actions:  # argparse checks the choices of the command line only
            value = recipe.get(action.dest)
            if action.choices and value is not None and value not in action.choices:
                raise ValueError(
                    f"{path}: `{action.dest}` is {repr(value)[:80]}; it must be one of "
                    f"{', '.join(map(str, action.choices))}. Correct the value, or remove the key."
                )
        parser.set_defaults_with_config(**recipe)
    _, rest = parser.parse_known_args(argv)
    if rest:
        raise ValueError(f"On the command line: {_unknown(rest[0].lstrip('-').split('=')[0], list(known))}")
    return parser.parse_args_into_dataclasses(argv)


def _fits(value: object, kind: Any) -> bool:
    """Whether a recipe's value can be of an annotated type; the parser reads text as the command line's."""
    origin = get_origin(kind) or kind
    if origin in (Union, UnionType):
        return any(_fits(value, inner) for inner in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if isinstance(value, str):
        return origin not in (list, NoneType)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(origin, type) or isinstance(value, origin)


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"Known keys near it: {', '.join(f'`{name}`' for name in near)}." if near else "No known key is near it."
    return f"unknown key `{_shown(key)}`. {hint}"


def _shown(key: object) -> str:
    """A key as a message shows it: short, and without what a terminal would obey."""
    return repr(str(key))[1:-1][:80]


def _refuse_by_hand_only(value: object, path: Path):
    if isinstance(value, dict):
        for key, inner in value.items():
            name = str(key).strip().lower().replace("-", "_")  # `HF_TOKEN` too
            if name in _BY_HAND_ONLY:
                raise ValueError(f"{path} sets `{_shown(key)}`: {_BY_HAND_ONLY[name]}.")
            if name in _PRIVATE and inner is not True:
                raise ValueError(
                    f"{path} sets `{key}` to {repr(inner)[:80]}: only your own hand makes something public. Write "
                    f"`true`, or pass `--{key} false` yourself."
                )
            if name.endswith("attn_implementation") and "/" in str(inner):
                raise ValueError(f"{path} sets `{_shown(key)}` to {repr(inner)[:80]}: {_KERNELS}.")
            if name == "engine" and inner not in ("transformers", "vllm"):  # the URL of a server
                raise ValueError(f"{path} sets `{key}`: {_SERVER}: pass `--engine URL` yourself.")
            if name in ("model", "judge") and isinstance(inner, str) and "://" in inner:
                raise ValueError(f"{path} sets `{key}` to a URL: {_SERVER}: pass `--{key} URL` yourself.")
            _refuse_by_hand_only(inner, path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_by_hand_only(inner, path)
    elif isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        try:  # a mapping may be given as JSON, as on the command line
            inner = json.loads(value)
        except RecursionError:
            raise ValueError(f"{path} holds JSON that is nested too deeply: {value[:80]}. Correct it.") from None
        except json.JSONDecodeError:
            return  # whoever reads it says what is wrong
        _refuse_by_hand_only(inner, path)
