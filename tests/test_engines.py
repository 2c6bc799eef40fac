# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Which engine is meant, what is known of it, and what a transformers model does when its memory is full."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_cong import ContrastivePairForCausalLM, generate_completions
from hf_cong.engines import TransformersEngine, as_engine
from tests.test_generation import PROMPTS, SETTINGS, make_model, make_pair, tokens, written


def full_above(model, rows, overflow):
    """Lets the memory overflow in every forward of more than so many rows; returns the rows of those that fitted."""
    fitted = []

    def check(_, args, kwargs):
        if len(kwargs["input_ids"]) > rows:
            overflow()
        fitted.append(len(kwargs["input_ids"]))

    model.register_forward_pre_hook(check, with_kwargs=True)
    return fitted


def on_cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def on_cpu():
    torch.empty(1 << 46)  # of torch's own making


@pytest.mark.parametrize("overflow", [on_cuda, on_cpu])
@pytest.mark.parametrize("make", [make_model, make_pair])
def test_out_of_memory_halves_the_batch_and_changes_nothing(tmp_path, make, overflow, caplog):
    settings = {**SETTINGS, "batch_size": 12}
    expected = generate_completions(PROMPTS, make(), output_dir=tmp_path / "roomy", **settings)
    model = make()
    fitted = full_above(model, 4, overflow)
    caplog.clear()
    halved = generate_completions(PROMPTS, model, output_dir=tmp_path / "tight", **settings)
    assert set(fitted) == {3}
    assert written(tmp_path / "tight") == written(tmp_path / "roomy")
    assert [record.message for record in caplog.records if "memory" in record.message] == [
        "12 rows do not fit in memory; going on with 6.",
        "6 rows do not fit in memory; going on with 3.",
    ]
    one_by_one = generate_completions(PROMPTS, make(), output_dir=tmp_path / "1", **{**settings, "batch_size": 1})
    assert tokens(one_by_one) == tokens(halved) == tokens(expected)


def test_later_batches_start_at_the_size_that_fitted(tmp_path):
    model = make_model()
    overflows = []
    fitted = full_above(model, 2, lambda: overflows.append(1) or on_cuda())
    generate_completions(PROMPTS, model, output_dir=tmp_path, **SETTINGS)
    assert len(overflows) == 1
    assert set(fitted) == {2}


def test_one_prompt_that_does_not_fit_is_refused_and_the_rest_kept(tmp_path):
    model = make_model()
    own = model.generation_config
    limits = iter([12] * 12 + [0] * 99)  # another program takes the memory after the first batch
    model.register_forward_pre_hook(lambda *_: on_cuda() if next(limits) == 0 else None)
    with pytest.raises(
        RuntimeError, match=r"One prompt of \d+ tokens with `max_new_tokens=12` does not fit in memory"
    ):
        generate_completions(PROMPTS, model, output_dir=tmp_path / "tight", **SETTINGS)
    assert (tmp_path / "tight" / "journal-00000.jsonl").read_text().count("\n") - 1 == 4
    assert model.generation_config is own
    generate_completions(PROMPTS, make_model(), output_dir=tmp_path / "tight", **SETTINGS)
    generate_completions(PROMPTS, make_model(), output_dir=tmp_path / "roomy", **SETTINGS)
    assert written(tmp_path / "tight") == written(tmp_path / "roomy")


def test_another_error_is_not_taken_for_a_full_memory(tmp_path):
    model = make_model()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1) or torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        generate_completions(PROMPTS, model, output_dir=tmp_path, **SETTINGS)
    assert len(calls) == 1


def test_a_model_is_an_engine_once():
    engine = as_engine(make_model())
    assert isinstance(engine, TransformersEngine)
    assert as_engine(engine) is engine
    with pytest.raises(TypeError, match="it must be a loaded model, .* or the URL of a server"):
        as_engine("localhost:8000")


def test_an_engine_may_be_made_late(tmp_path):
    late = {"engine_id": "x", **SETTINGS}
    first = generate_completions(PROMPTS, lambda: TransformersEngine(make_model()), output_dir=tmp_path, **late)
    assert tokens(first) == tokens(generate_completions(PROMPTS, make_model(), output_dir=tmp_path / "1", **SETTINGS))


@pytest.mark.parametrize("named", [True, False])
def test_the_default_batch_size_of_a_model(tmp_path, named):
    settings = {name: value for name, value in SETTINGS.items() if name != "batch_size"}
    engine = (lambda: make_model()) if named else make_model()
    generate_completions(PROMPTS, engine, engine_id="x" if named else None, output_dir=tmp_path, **settings)
    assert json.loads((tmp_path / "manifest.json").read_text())["identity"]["batch_size"] == 8


def test_engines_that_are_not_used_are_not_imported():
    code = "import sys, hf_cong.generation, hf_cong.engines; print('hf_cong.engines.server_engine' in sys.modules, "
    code += "'vllm' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_a_lora_pair_is_described_as_its_two_models(tmp_path):
    base = make_model()
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    pair = ContrastivePairForCausalLM.from_pair(adapted, alpha=0.3)
    facts = as_engine(pair).describe()
    plain = as_engine(make_model()).describe()
    assert facts["reference"]["weights"] == plain["weights"] != facts["policy"]["weights"]
    assert (facts["alpha"], facts["plausibility_threshold"]) == (0.3, 0.1)
    run = generate_completions(PROMPTS, pair, output_dir=tmp_path / "pair", do_sample=False, **SETTINGS)
    merged = ContrastivePairForCausalLM.from_pair(adapted.merge_and_unload(), make_model(), alpha=0.3)
    two = generate_completions(PROMPTS, merged, output_dir=tmp_path / "two", do_sample=False, **SETTINGS)
    assert tokens(run) == tokens(two)
    alone = generate_completions(PROMPTS, merged.policy, output_dir=tmp_path / "alone", do_sample=False, **SETTINGS)
    assert tokens(run) != tokens(alone)
