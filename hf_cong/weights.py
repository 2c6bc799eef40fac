# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The weights of a checkpoint on disk, a tensor or a block of rows at a time. Nothing is ever loaded whole.

Knows the files of transformers and nothing of what the tensors are for.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
# Weights, configuration, tokenizer: no code, nothing pickled.
_DOWNLOADED = ("model*.safetensors", "*.json", "*.jinja")
_FLOATS = ("F64", "F32", "F16", "BF16")
_BLOCK = 1 << 22  # elements


class Weights:
    """
    The tensors of a safetensors checkpoint, in one file or in shards with an index.

    Files are opened for one read and closed again: as long as one is open, every page that was read counts as memory.

    Args:
        model (`str` or `os.PathLike`):
            Directory or Hub id. From the Hub come safetensors and JSON files alone.
        role (`str`):
            What the model is here, for messages: `"policy"` or `"reference"`.

    Attributes:
        directory (`Path`): where the files are.
        config (`PreTrainedConfig`): the model's configuration.
        shapes (`dict[str, tuple[int, ...]]`): names of the tensors, in natural order, and their shapes.

    Raises:
        FileNotFoundError: if a shard is missing.
        ValueError: if the checkpoint is an adapter, not in safetensors, damaged, or quantised.
    """

    def __init__(self, model: str | os.PathLike, role: str):
        self.directory = Path(model)
        if not self.directory.is_dir():
            self.directory = Path(snapshot_download(os.fspath(model), allow_patterns=_DOWNLOADED))
        if (self.directory / "adapter_config.json").exists():
            raise ValueError(
                f"`{role}` is an adapter, {os.fspath(model)!r}: it is of low rank already. Make a pair of it with "
                "`ContrastivePairForCausalLM.from_pair(adapter)`."
            )
        self.config = AutoConfig.from_pretrained(self.directory)
        if "quantization_config" in self.config.to_dict():
            raise ValueError(
                f"`{role}` is quantised, {os.fspath(model)!r}: its numbers are codes that cannot be subtracted. Pass "
                "the checkpoint in bfloat16, float16 or float32."
            )
        self._places: dict[str, tuple[Path, str]] = {}  # file, name in it
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self._files(role):
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    tensor = tensors.get_slice(name)
                    if tensor.get_dtype() not in _FLOATS:
                        raise ValueError(
                            f"`{role}` holds {name!r} as {tensor.get_dtype()}; weights to subtract must be floating "
                            f"({', '.join(_FLOATS)}). Pass a checkpoint that is not quantised."
                        )
                    self._places[name], self.shapes[name] = (file, name), tuple(tensor.get_shape())
        self.shapes = dict(sorted(self.shapes.items(), key=lambda item: _natural(item[0])))

    def _files(self, role: str) -> list[Path]:
        index = self.directory / _INDEX
        if index.exists():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if any(Path(name).name != name for name in names):
                raise ValueError(f"{index} names a file outside its directory. Take the checkpoint from its source.")
        else:
            names = [_SINGLE]
        missing = [name for name in names if not (self.directory / name).exists()]
        if not missing:
            return [self.directory / name for name in names]
        if not index.exists():
            found = sorted(path.name for path in self.directory.glob("*.bin"))
            raise ValueError(
                f"`{role}` has neither {_SINGLE} nor {_INDEX} in {str(self.directory)!r}"
                f"{f', but {found[0]}' if found else ''}; only safetensors are read. Load the model and save it with "
                "`save_pretrained`."
            )
        raise FileNotFoundError(f"`{role}` lacks the shard {self.directory / missing[0]}, which its index names.")

    def tie(self) -> None:
        """Forgets the copy of a tied head that some checkpoints hold."""
        self.shapes.pop(_HEAD, None)

    def untie(self) -> None:
        """Gives a tied head, which is stored as the embeddings, its own name."""
        if _HEAD not in self.shapes:
            self._places[_HEAD], self.shapes[_HEAD] = self._places[_EMBEDDINGS], self.shapes[_EMBEDDINGS]

    def tensor(self, name: str) -> Tensor:
        """A tensor as stored, in memory of its own."""
        file, stored = self._places[name]
        with _opened(file) as tensors:
            return tensors.get_tensor(stored).clone()

    def blocks(self, name: str) -> Iterator[Tensor]:
        """A tensor in float32, a few rows at a time: an embedding can be larger than a layer."""
        file, stored = self._places[name]
        rows, *rest = self.shapes[name] or (1,)
        step = max(1, _BLOCK // max(1, torch.Size(rest).numel()))
        for start in range(0, rows, step):
            with _opened(file) as tensors:
                yield tensors.get_slice(stored)[start : start + step].float()


def check_same_tensors(policy: Weights, reference: Weights) -> None:
    """
    Makes the two name the same tensors, tied heads included, and refuses them if names or shapes differ.

    Raises:
        ValueError: naming the first tensor that differs.
    """
    tied = [weights.config.tie_word_embeddings for weights in (policy, reference)]
    for weights, own in zip((policy, reference), tied, strict=True):
        if all(tied):
            weights.tie()
        elif own:
            weights.untie()
    for name in sorted({**policy.shapes, **reference.shapes}, key=_natural):
        shapes = [weights.shapes.get(name) for weights in (policy, reference)]
        if shapes[0] != shapes[1]:
            there = [f"of shape {shape}" if shape is not None else "absent" for shape in shapes]
            raise ValueError(
                f"`policy` and `reference` must be one architecture: {name!r} is {there[0]} in `policy` and "
                f"{there[1]} in `reference`. Pass two checkpoints of one model, before and after alignment."
            )


def _natural(name: str) -> list:
    """Sorts layer 10 after layer 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


@contextlib.contextmanager
def _opened(file: Path):
    """`safe_open`, whose own error names no file and is no `ValueError`."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read ({error}). Take the checkpoint from its source.") from None
