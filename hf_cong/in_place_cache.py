# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Keys and values with room behind them, for many rows that grow and branch.

The dynamic cache of transformers copies everything that it holds into new memory at every token, which is most of the
time that hundreds of rows take on a CPU. Here a token is written behind those before it, and where rows branch, they
are copied into memory that is there already.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class InPlaceLayer(DynamicLayer):
    """
    A layer of a cache whose memory is longer than what it holds.

    It overrides `update` and `reorder_cache`, and holds what [`~transformers.DynamicLayer`] would hold.

    Args:
        keys (`torch.Tensor` of shape `(B, heads, capacity, head_dim)`):
            Memory of the keys. Kept and written to.
        values (`torch.Tensor` of shape `(B, heads, capacity, head_dim)`):
            That of the values.
        length (`int`):
            Tokens that are in them already.
        spares (`dict`):
            Shared by the layers of a cache: memory that one layer has left when its rows moved, for the next to move
            into.
    """

    def __init__(self, keys: Tensor, values: Tensor, length: int, spares: dict):
        super().__init__()
        self.lazy_initialization(keys, values)
        self.memory, self.spares = (keys, values), spares
        self._show(len(keys), length)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        rows, length, new = len(self.keys), self.keys.shape[-2], key_states.shape[-2]
        for memory, states in zip(self.memory, (key_states, value_states), strict=True):
            memory[:rows].narrow(-2, length, new).copy_(states)
        self._show(rows, length + new)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor):
        beam_idx, length = beam_idx.to(self.device), self.keys.shape[-2]
        self.memory = tuple(self._moved(memory, beam_idx, length) for memory in self.memory)
        self._show(len(beam_idx), length)

    def _moved(self, memory: Tensor, rows: torch.LongTensor, length: int) -> Tensor:
        kind = (memory.shape[1:], memory.dtype, memory.device)
        moved = self.spares.pop(kind, None)
        if moved is None or len(moved) < len(rows):
            moved = memory.new_empty(len(rows), *memory.shape[1:])
        torch.index_select(memory[:, :, :length], 0, rows, out=moved[: len(rows), :, :length])
        self.spares[kind] = memory
        return moved

    def _show(self, rows: int, length: int):
        self.keys, self.values = (memory[:rows, :, :length] for memory in self.memory)


def write_in_place(cache: Cache, capacity: int):
    """
    Gives the layers of a cache room for `capacity` tokens in all.

    Layers that are not plain attention, such as those of a sliding window, which hold no more than it, stay as they
    are.

    Args:
        cache (`Cache`): A filled cache; changed in place.
        capacity (`int`): Most tokens that it will hold.
    """
    spares = {}
    for number, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            memory = []
            for states in (layer.keys, layer.values):
                memory.append(states.new_empty(*states.shape[:-2], capacity, states.shape[-1]))
                memory[-1][:, :, : states.shape[-2]] = states
            cache.layers[number] = InPlaceLayer(*memory, layer.keys.shape[-2], spares)
