# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A cache that writes in place holds what the dynamic cache of transformers holds, and does not move."""

import pytest
import torch
from transformers import DynamicCache

from hf_cong import ContrastivePairForCausalLM
from hf_cong.in_place_cache import InPlaceLayer, write_in_place

from .tiny import tiny_model

FAMILIES = ["llama", "qwen3", "gpt2", "mistral", "gemma2", "gemma3", "mixtral"]
PARENTS = [[0, 0, 0, 1, 1, 1], [5, 4, 3, 2, 1, 0], [0, 0, 4], [2, 1, 1, 0, 2]]  # more rows, moved, fewer, more again


def a_model(family, kind):
    policy = tiny_model(family, seed=1)
    return policy if kind == "model" else ContrastivePairForCausalLM.from_pair(policy, tiny_model(family, seed=2))


@torch.no_grad()
def grow(model, *, in_place, capacity=20):
    """Logits of two prompts whose rows grow by one or three tokens and branch after each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (2, 5), generator=generator)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    cache = DynamicCache(config=model.config)
    outputs = [model(ids, attention_mask=mask, past_key_values=cache).logits[:, -1]]
    if in_place:
        write_in_place(cache, capacity)
    for step, parents in enumerate(PARENTS):
        parents = torch.tensor(parents)
        cache.reorder_cache(parents)
        new = torch.randint(3, 40, (len(parents), 1 if step % 2 else 3), generator=generator)
        mask = torch.nn.functional.pad(mask[parents], (0, new.shape[1]), value=1)
        outputs.append(model(new, attention_mask=mask, past_key_values=cache).logits.flatten(0, 1))
    return torch.cat(outputs), cache


@pytest.mark.parametrize("kind", ["model", "pair"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_grow_and_branch(family, kind):
    model = a_model(family, kind)
    expected, dynamic = grow(model, in_place=False)
    actual, cache = grow(model, in_place=True)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert any(isinstance(layer, InPlaceLayer) for layer in cache.layers) or family == "mistral"
    for layer, other in zip(cache.layers, dynamic.layers, strict=True):
        torch.testing.assert_close(layer.keys, other.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer.values, other.values, atol=1e-5, rtol=1e-5)


def test_control_rows_that_stay_where_they_were(monkeypatch):
    model = a_model("llama", "model")
    expected, _ = grow(model, in_place=False)
    stay = InPlaceLayer._moved
    monkeypatch.setattr(
        InPlaceLayer, "_moved", lambda self, memory, rows, length: stay(self, memory, rows.sort().values, length)
    )
    actual, _ = grow(model, in_place=True)
    assert not torch.allclose(actual, expected, atol=1e-3)


def test_memory_stays_where_it_is():
    keys, values = torch.zeros(2, 1, 8, 4), torch.zeros(2, 1, 8, 4)
    layer, where = InPlaceLayer(keys, values, 3, {}), keys.data_ptr()
    for _ in range(5):
        seen, _ = layer.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4))
        assert seen.data_ptr() == where
    assert layer.get_seq_length() == 8 and keys[:, :, 3:].eq(1).all() and keys[:, :, :3].eq(0).all()
    with pytest.raises(RuntimeError):
        layer.update(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4))


def test_layers_take_turns_with_one_spare_memory():
    spares = {}
    layers = [InPlaceLayer(torch.zeros(2, 1, 8, 4), torch.zeros(2, 1, 8, 4), 3, spares) for _ in range(3)]
    rows, before = torch.tensor([1, 0]), {memory.data_ptr() for layer in layers for memory in layer.memory}
    for layer in layers:
        layer.reorder_cache(rows)
    after = {memory.data_ptr() for layer in layers for memory in layer.memory}
    assert len(after - before) == 1 and len(spares) == 1


def test_cropped_and_written_again():
    model = a_model("llama", "model")
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[5, 6, 7, 8]]), past_key_values=cache)
    write_in_place(cache, 10)
    cache.crop(-2)
    actual = model(torch.tensor([[9, 10]]), past_key_values=cache).logits
    torch.testing.assert_close(actual, model(torch.tensor([[5, 6, 9, 10]])).logits[:, 2:], atol=1e-5, rtol=1e-5)
