# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Continuous batching writes what static batches write, greedy and sampled."""

import pytest
import torch
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching import continuous_api

from hf_cong import generate_completions
from hf_cong.engines.continuous_engine import ContinuousEngine
from hf_cong.prompts import encode_prompt
from tests.test_generation import ENGINES, PROMPTS, SETTINGS, TOKENIZER, make_model, make_pair, tokens, written

FAMILIES = {name: make for name, make in ENGINES.items() if name != "gemma3"}
SETTINGS = {**SETTINGS, "batch_size": 12}


@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {}, {"temperature": 1.3, "top_k": 30, "top_p": 0.9}], ids=str
)
@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_the_same_bytes_as_static_batches(tmp_path, make, options):
    model = make()
    own = model.generation_config
    generate_completions(PROMPTS, model, output_dir=tmp_path / "static", **SETTINGS, **options)
    generate_completions(PROMPTS, ContinuousEngine(model), output_dir=tmp_path / "continuous", **SETTINGS, **options)
    assert written(tmp_path / "continuous") == written(tmp_path / "static")
    assert model.generation_config is own
    assert model.config._attn_implementation == make().config._attn_implementation


def test_stock_continuous_batching_does_not_sample_by_row(tmp_path):
    """The negative control of the test above."""
    model = make_model()
    expected = tokens(generate_completions(PROMPTS, model, output_dir=tmp_path, **SETTINGS))
    model.generation_config.update(do_sample=True, temperature=0.8, top_p=0.95, max_new_tokens=12)
    torch.manual_seed(3)
    small = ContinuousBatchingConfig(page_size=32, num_blocks=64, max_batch_tokens=256)
    ids = [encode_prompt(TOKENIZER, prompt) for prompt in PROMPTS]
    output = model.generate_batch(ids, continuous_batching_config=small)
    drawn = [result.generated_tokens for result in output.values()]
    assert sum(ids[: len(wanted)] != wanted for ids, wanted in zip(drawn, expected.values(), strict=True)) > 6


def test_rows_that_make_room_for_others_lose_no_draw(tmp_path, monkeypatch):
    """With room for three rows at a time, and pages so few that rows are put off and taken up again."""
    import hf_cong.engines.continuous_engine as module

    stock = module.ContinuousBatchingConfig
    tight = {"page_size": 8, "num_blocks": 24, "max_batch_tokens": 32, "max_requests_per_batch": 8}
    monkeypatch.setattr(module, "ContinuousBatchingConfig", lambda **options: stock(**{**options, **tight}))
    pair = make_pair()
    settings = {**SETTINGS, "max_new_tokens": 60}
    static = generate_completions(PROMPTS, pair, output_dir=tmp_path / "static", **settings)
    together = generate_completions(PROMPTS, ContinuousEngine(pair), output_dir=tmp_path / "continuous", **settings)
    assert tokens(static) == tokens(together)


def test_a_repetition_penalty_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`repetition_penalty` must be 1.0 under continuous batching, got 1.1"):
        generate_completions(
            PROMPTS, ContinuousEngine(make_model()), output_dir=tmp_path, repetition_penalty=1.1, **SETTINGS
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_raised_and_what_was_written_kept(tmp_path):
    model = make_model()
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 15:
            torch.ones(2) @ torch.ones(3)

    model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="Continuous batching failed.*inconsistent tensor size"):
        generate_completions(
            PROMPTS, ContinuousEngine(model), output_dir=tmp_path / "a", **{**SETTINGS, "batch_size": 4}
        )
    assert (tmp_path / "a" / "journal-00000.jsonl").read_text().count("\n") - 1 == 4
    model = make_model()
    for name, engine in (("a", ContinuousEngine(model)), ("b", model)):
        generate_completions(PROMPTS, engine, output_dir=tmp_path / name, **{**SETTINGS, "batch_size": 4})
    assert written(tmp_path / "a") == written(tmp_path / "b")


def test_out_of_memory_halves_the_batch(tmp_path, caplog):
    model = make_model()
    full = []

    def overflow(_, args, kwargs):
        if kwargs["input_ids"].shape[1] > 90:  # the tokens of all prompts in one row
            full.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.register_forward_pre_hook(overflow, with_kwargs=True)
    generate_completions(PROMPTS, ContinuousEngine(model), output_dir=tmp_path / "tight", **SETTINGS)
    assert full
    assert "12 rows do not fit in memory; going on with 6." in caplog.text
    generate_completions(PROMPTS, make_model(), output_dir=tmp_path / "roomy", **SETTINGS)
    assert written(tmp_path / "tight") == written(tmp_path / "roomy")


@pytest.mark.slow
def test_pages_that_do_not_fit_halve_the_batch_too(tmp_path, monkeypatch, caplog):
    """They are allocated at once, before there is a row that could fail."""
    stock = continuous_api.PagedAttentionCache

    def allocate(*args, continuous_batching_config, **kwargs):
        if continuous_batching_config.num_blocks > 7:
            torch.empty(1 << 46)  # of torch's own making
        return stock(*args, continuous_batching_config=continuous_batching_config, **kwargs)

    monkeypatch.setattr(continuous_api, "PagedAttentionCache", allocate)
    generate_completions(PROMPTS, ContinuousEngine(make_model()), output_dir=tmp_path / "tight", **SETTINGS)
    assert "12 rows do not fit in memory; going on with 6." in caplog.text
    generate_completions(PROMPTS, make_model(), output_dir=tmp_path / "roomy", **SETTINGS)
    assert written(tmp_path / "tight") == written(tmp_path / "roomy")
    monkeypatch.setattr(continuous_api, "PagedAttentionCache", lambda *args, **kwargs: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="Continuous batching failed: inconsistent tensor size"):
        generate_completions(PROMPTS, ContinuousEngine(make_model()), output_dir=tmp_path / "other", **SETTINGS)
