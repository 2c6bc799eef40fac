# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which files of a folder may leave this machine, by what the folder is. Everything else stays, and is named.

Allowed is what `from_pretrained` and `load_dataset` read, by name: nothing that runs when it is read, no state of a
trainer, no journal, and no code but the modules of a pair, as this package has them.
"""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..pair import ContrastiveLoraPairForCausalLM, ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from .secrets import redact

logger = logging.getLogger(__name__)

_TOKENIZER = (
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|"
    r"additional_chat_templates/[\w-]+\.jinja|vocab\.(json|txt)|merges\.txt|tokenizer\.model|spiece\.model|"
    r"sentencepiece\.bpe\.model|tekken\.json|processor_config\.json|(video_)?preprocessor_config\.json|"
    r"chat_template\.json"
)
_MODEL = r"config\.json|generation_config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
_RIGHTS = r"(LICENSE|LICENCE|NOTICE|USE_POLICY)(\.md|\.txt)?"
_IN_FOLDER = {
    "model": f"{_MODEL}|{_TOKENIZER}|{_RIGHTS}",
    "adapter": rf"adapter_config\.json|adapter_model\.safetensors|{_TOKENIZER}|{_RIGHTS}",
    "pair": rf"{_MODEL}|{_TOKENIZER}|{_RIGHTS}|\w+\.py",
    "dataset": rf"([^/._][^/]*/)*[^/._][^/]*\.parquet|{_RIGHTS}",
    "decoding": _RIGHTS,
}
# What is not copied from a folder but made for the repository.
_MADE = r"\.eval_results/[\w.-]+\.yaml|custom_generate/(\w+\.py|requirements\.txt)"
_PAIRS = {
    model.config_class.model_type: model
    for model in (ContrastivePairForCausalLM, ContrastiveLoraPairForCausalLM, EmulatedFineTuningForCausalLM)
}
# Where versions of transformers wrote down what something was loaded from, which none of them reads.
_LOADED_FROM = (
    *("_name_or_path", "name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "merges_file"),
    "cache_dir",
)
# Why something stays: the first that fits.
_REASONS = {
    r"(.*/)?\..*": "hidden",
    r"README\.md": "the card is written anew",
    r".*\.(bin|pt|pth|ckpt|pkl|joblib|npy|npz|h5|msgpack)": "loading it can run code",
    r".*\.py": "code of others",
    r"checkpoint-\d+/|_.*|.*journal.*\.jsonl": "for a restart",
    r".*(optimizer|scheduler|rng_state|trainer_state|global_step).*": "for a restart",
    r".*": "nothing that loads the repository reads it",
}
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


class Selection(NamedTuple):
    """What of a folder is published, by its path in the repository, and what is not."""

    files: dict[str, Path | bytes]
    left: tuple[str, ...]


def select_files(folder: str | Path, kind: str, *, base_model: str | None = None) -> Selection:
    """
    Picks the files of a folder that may be published.

    A path of this machine does not leave it: in the configuration of a model, where nothing reads it, it is removed,
    and in that of an adapter it becomes `base_model`.

    Args:
        folder (`str` or `Path`):
            What `save_pretrained` wrote, or a folder of Parquet files.
        kind (`str`):
            `"model"`, `"adapter"`, `"pair"` or `"dataset"`.
        base_model (`str`, *optional*):
            The Hub id of the model that an adapter adapts, for an adapter that was trained on a local copy of it.

    Returns:
        `Selection`: a local file, or new content, by path; and the paths that stay, a folder ending with `/`.

    Raises:
        FileNotFoundError: if there is no such folder, or it lacks what makes it one of its kind.
        ValueError: if a file that would be published is a link out of the folder, code is not that of this package,
            an index names files that are not there, or a path of this machine would be published.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"`folder` must be a directory, got {str(folder)!r:.80}.")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    found = {path.relative_to(folder).as_posix(): path for path in paths}
    files: dict[str, Path | bytes] = {
        name: _inside(path, folder) for name, path in found.items() if re.fullmatch(_IN_FOLDER[kind], name)
    }
    if kind in ("model", "pair"):
        _check_weights(files, folder)
    if kind == "pair":
        _check_code(files, folder)
    if kind == "model":
        _tell_of_code(files, folder)
    if kind == "adapter":
        _require(files, folder, "adapter_config.json", "adapter_model.safetensors")
        files["adapter_config.json"] = _with_base(files["adapter_config.json"], base_model)
    for name in {"config.json", "tokenizer_config.json"} & files.keys():
        files[name] = _without_local_names(files[name])
    if kind == "dataset" and not any(name.endswith(".parquet") for name in files):
        raise FileNotFoundError(f"{folder} has no Parquet file: there is nothing to publish as a dataset.")
    return Selection(files, _left(found, files))


def check_path(path: str, kind: str) -> None:
    """
    Refuses a path in a repository that could lead out of a folder on some system, or that its kind must not hold.

    Raises:
        ValueError: naming the path and the reason.
    """
    parts = path.split("/")
    if not path or not path.isprintable():
        reason = "it is empty or has characters that cannot be printed"
    elif re.search(r'[\\:*?"<>|]', path):
        reason = 'it has one of \\ : * ? " < > |, which mean something to some systems'
    elif any(part in ("", ".", "..", ".git", ".cache") or part != part.rstrip(" .") for part in parts):
        reason = "a part of it is empty, reserved, or ends with a dot or a space"
    elif any(_RESERVED.fullmatch(part) for part in parts) or parts[0].startswith("~"):
        reason = "it is the name of a device or of somebody's home"
    elif not re.fullmatch(f"{_IN_FOLDER[kind]}|{_MADE}", path):
        reason = f"a repository of the kind {kind!r} holds no such file"
    else:
        return
    raise ValueError(
        f"`files` has the path {redact(path)!r:.80}, which is not published: {reason}. Rename it or leave it out."
    )


def check_clashes(paths: Iterable[str]) -> None:
    """
    Refuses paths that some system takes for one file, or of which one is a file and a folder of another.

    Raises:
        ValueError: naming two of them.
    """
    seen = {}
    for path in paths:
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            here = ("/".join(parts[:end]), end == len(parts))
            other = seen.setdefault(normalize("NFC", here[0]).casefold(), here)
            if other != here:
                raise ValueError(
                    f"`files` has {redact(other[0])!r:.80} and {redact(here[0])!r:.80}, which cannot be beside each "
                    "other on every system. Rename one."
                )


def why_it_stays(path: str) -> str:
    """In words, why a path of [`Selection.left`] is not published."""
    return next(reason for pattern, reason in _REASONS.items() if re.fullmatch(pattern, path, re.DOTALL))


def is_local(name: str) -> bool:
    """Whether the name of a model means a folder of this machine and not a repository of the Hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return True
    return Path(name).is_dir()


def _inside(path: Path, folder: Path) -> Path:
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()) or not real.is_file():
        raise ValueError(
            f"{path} is a link out of its folder, or no ordinary file; what it shows is not published. Put a copy of "
            "the file in its place."
        )
    return real


def _require(files: dict[str, Path | bytes], folder: Path, *names: str) -> None:
    if lacking := [name for name in names if name not in files]:
        raise FileNotFoundError(
            f"{folder} has no {lacking[0]}. Pass a folder that `save_pretrained` wrote to its end."
        )


def _check_weights(files: dict[str, Path | bytes], folder: Path) -> None:
    """Leaves the weights that `from_pretrained` would load, and makes sure that they are all there."""
    _require(files, folder, "config.json")
    shards = {name for name in files if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)}
    if "model.safetensors" in files:
        named = set()
        files.pop("model.safetensors.index.json", None)
    elif "model.safetensors.index.json" not in files:
        raise FileNotFoundError(
            f"{folder} has no model.safetensors. Pass a folder that `save_pretrained` wrote to its end: weights leave "
            "this machine as safetensors only."
        )
    else:
        index = files["model.safetensors.index.json"]
        weights = _load(index).get("weight_map")
        named = set(map(str, weights.values())) if isinstance(weights, dict) else set()
        if not named or named - shards:
            raise FileNotFoundError(f"{folder} does not have the weights that its {index.name} names. Save it again.")
    for name in shards - named:
        del files[name]


def _check_code(files: dict[str, Path | bytes], folder: Path) -> None:
    """Leaves the modules that `save_pretrained` of a pair wrote, which must be those of this package."""
    model_type = _load(folder / "config.json").get("model_type")
    if model_type not in _PAIRS:
        raise ValueError(
            f"{folder} holds a model of the type {model_type!r:.80}, which is no pair; those are {', '.join(_PAIRS)}. "
            "Publish it as a model."
        )
    expected = _PAIRS[model_type].source_code()
    _require(files, folder, *expected)
    for name, code in expected.items():
        if files[name].read_bytes() != code.encode():
            raise ValueError(
                f"{folder / name} is not the code of this version of hf_cong, and other code is not published. Load "
                "the pair and save it again with `save_pretrained`."
            )
    for name in [name for name in files if name.endswith(".py") and name not in expected]:
        del files[name]


def _tell_of_code(files: dict[str, Path | bytes], folder: Path) -> None:
    """Says which code the model and its tokenizer need and the repository will lack."""
    configs = [_load(files[name]) for name in ("config.json", "tokenizer_config.json") if name in files]
    names = re.findall(r'"([^"]+)"', json.dumps([config.get("auto_map") for config in configs]))
    modules = {f"{name.split('.')[0]}.py" for name in names if "." in name and "--" not in name}
    if modules:
        logger.warning(
            "The model in %s needs %s, which is not published: code leaves this machine by your own hand only. Upload "
            "it after you have read it; later pushes keep it.",
            folder,
            redact(", ".join(sorted(modules))),
        )


def _without_local_names(config: Path) -> Path | bytes:
    content = _load(config)
    return _dump(content) if _forget_local_names(content) else config


def _forget_local_names(value: object) -> bool:
    """Removes every path that something was loaded from, however deep; whether there was one."""
    if isinstance(value, list):
        return any([_forget_local_names(inner) for inner in value])
    if not isinstance(value, dict):
        return False
    names = {key: value[key] for key in _LOADED_FROM if isinstance(value.get(key), str)}
    local = [key for key, name in names.items() if name and is_local(name)]
    for key in local:
        del value[key]
    return any([bool(local), *(_forget_local_names(inner) for inner in value.values())])


def _with_base(config: Path, base_model: str | None) -> Path | bytes:
    content = _load(config)
    base = content.get("base_model_name_or_path")
    if base_model is not None:
        validate_repo_id(base_model)
        content["base_model_name_or_path"] = base_model
        return config if base == base_model else _dump(content)
    if not isinstance(base, str) or is_local(base):
        raise ValueError(
            f"The base of the adapter is {'a folder of this machine' if base else 'not named'}, which nobody "
            "else can load. Pass the Hub id of the same weights as `base_model`, or publish the base first."
        )
    return config


def _left(found: dict[str, Path], files: dict[str, Path | bytes]) -> tuple[str, ...]:
    """What stays: a file by its path, a folder of which nothing is published by its name."""
    folders = {name.split("/")[0] for name in files if "/" in name}
    left = {
        name if "/" not in name or name.split("/")[0] in folders else f"{name.split('/')[0]}/"
        for name in found
        if name not in files
    }
    return tuple(sorted(left))


def _load(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it must hold one JSON object. Save it again.")
    return content


def _dump(content: dict) -> bytes:
    # ASCII escapes carry what UTF-8 cannot.
    return (json.dumps(content, indent=2) + "\n").encode("ascii")
