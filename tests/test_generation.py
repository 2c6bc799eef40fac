# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import peft
import pytest
import scipy.stats
import torch
from accelerate import PartialState
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LogitsProcessorList,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_cong import ContrastivePairForCausalLM, build_sft_dataset, generate_completions
from hf_cong.prompts import encode_prompt, prompt_id
from hf_cong.sampling import DrawToken, row_seed, warpers
from tests.processes import fork, on_cpu
from tests.test_prompts import sentencepiece_like
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
# Of different lengths, so that every batch is padded.
PROMPTS = [[{"role": "user", "content": "tell me " + "x" * (i * 7 % 12)}] for i in range(12)]
PROMPTS = [[{"role": "user", "content": f"{i} {p[0]['content']}"}] for i, p in enumerate(PROMPTS)]
# A random model seldom writes its end-of-sequence token; with these twenty, some rows stop and some do not.
EOS = [2, *range(100, 120)]
SETTINGS = {"tokenizer": TOKENIZER, "max_new_tokens": 12, "batch_size": 4, "seed": 3}


def make_model(family="llama", **overrides):
    model = tiny_model(family, vocab_size=len(TOKENIZER), **overrides)
    model.generation_config.eos_token_id = EOS
    return model


def make_pair(family="llama"):
    policy, reference = tiny_pair(family, vocab_size=len(TOKENIZER))
    policy.generation_config.eos_token_id = EOS
    return ContrastivePairForCausalLM.from_pair(policy, reference)


def writer(path):
    """How a finished run knows its engine."""
    return json.loads((path / "manifest.json").read_text())["identity"]["engine"]


def never():
    raise AssertionError("the engine was loaded although no work was left")


def written(path):
    return {p.name: p.read_bytes() for p in sorted(path.glob("*")) if p.name != "manifest.json"}


def tokens(dataset):
    return {row["prompt_id"]: row["completion_ids"] for row in dataset}


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def reference_run(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference")
    return generate_completions(PROMPTS, model, output_dir=path, **SETTINGS), path


def test_columns_and_order(reference_run):
    dataset, _ = reference_run
    assert dataset.column_names == [
        "prompt_id",
        "prompt",
        "completion",
        "completion_ids",
        "finish_reason",
        "seed",
        "alpha",
        "beta",
        "plausibility_threshold",
        "model",
    ]
    assert dataset["prompt"][:] == PROMPTS
    assert dataset["prompt_id"][:] == [prompt_id(prompt) for prompt in PROMPTS]
    assert dataset["seed"][:] == [row_seed(3, prompt_id(prompt)) for prompt in PROMPTS]
    assert set(dataset["alpha"]) == set(dataset["beta"]) == set(dataset["plausibility_threshold"]) == {None}


def test_stops_at_the_first_eos_of_the_set_and_keeps_nothing_after_it(reference_run):
    dataset, _ = reference_run
    reasons = Counter(dataset["finish_reason"])
    assert set(reasons) == {"stop", "length"}
    assert len({len(ids) for ids in dataset["completion_ids"]}) > 2
    for row in dataset:
        assert not set(row["completion_ids"]) & set(EOS)
        assert (row["finish_reason"] == "length") == (len(row["completion_ids"]) == 12)
        assert row["completion"] == TOKENIZER.decode(row["completion_ids"], skip_special_tokens=True)


def test_a_pair_writes_what_its_own_generate_writes(tmp_path):
    pair = make_pair()
    dataset = generate_completions(PROMPTS, pair, output_dir=tmp_path, do_sample=False, **SETTINGS)
    for row in dataset:
        ids = torch.tensor([encode_prompt(TOKENIZER, row["prompt"])])
        alone = pair.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :].tolist()
        assert alone[: len(row["completion_ids"])] == row["completion_ids"]
        assert row["finish_reason"] == "length" or alone[len(row["completion_ids"])] in EOS
        assert (row["alpha"], row["plausibility_threshold"]) == (0.4, 0.1)
    policy_alone = generate_completions(
        PROMPTS, pair.policy, output_dir=tmp_path / "policy", do_sample=False, **SETTINGS
    )
    assert tokens(policy_alone) != tokens(dataset)
    engine = json.loads((tmp_path / "manifest.json").read_text())["engine"]
    assert engine["policy"]["weights"] != engine["reference"]["weights"]
    assert engine["model"] == dataset["model"][0]


ENGINES = {
    "llama": make_model,
    "gpt2": lambda: make_model("gpt2"),
    "gemma3": lambda: make_model("gemma3"),
    "pair": make_pair,
}


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_does_not_depend_on_its_batch_or_order(tmp_path, engine, penalty):
    engine = ENGINES[engine]()
    settings = {**SETTINGS, "repetition_penalty": penalty}
    expected = tokens(generate_completions(PROMPTS, engine, output_dir=tmp_path / "a", **settings))
    assert len(set(map(tuple, expected.values()))) > 9
    variants = {
        "one by one": (PROMPTS, 1),
        "all at once": (PROMPTS, 12),
        "reversed": (PROMPTS[::-1], 5),
        "shuffled": (PROMPTS[1::2] + PROMPTS[::2], 3),
        "a few": (PROMPTS[2:9], 4),
    }
    for name, (prompts, batch_size) in variants.items():
        run = generate_completions(
            prompts, engine, output_dir=tmp_path / name, **{**settings, "batch_size": batch_size}
        )
        assert tokens(run) == {key: expected[key] for key in map(prompt_id, prompts)}, name


def test_stock_sampling_does_depend_on_its_batch(model):
    """The negative control of the test above."""
    ids = [encode_prompt(TOKENIZER, prompt) for prompt in PROMPTS]
    alone, together = [], []
    for size, outputs in ((1, alone), (4, together)):
        torch.manual_seed(3)
        for start in range(0, 12, size):
            batch = TOKENIZER.pad({"input_ids": ids[start : start + size]}, return_tensors="pt")
            out = model.generate(**batch, max_new_tokens=12, do_sample=True, pad_token_id=0)
            outputs.extend(out[:, batch["input_ids"].shape[1] :].tolist())
    assert sum(a != b for a, b in zip(alone, together, strict=True)) > 6


def test_the_seed_decides(model, reference_run, tmp_path):
    again = generate_completions(PROMPTS, model, output_dir=tmp_path / "same", **SETTINGS)
    other = generate_completions(PROMPTS, model, output_dir=tmp_path / "other", **{**SETTINGS, "seed": 4})
    assert written(tmp_path / "same") == written(reference_run[1])
    assert tokens(again) == tokens(reference_run[0])
    assert all(tokens(other)[key] != ids for key, ids in tokens(again).items())


@pytest.mark.parametrize("step", [0, 5])
def test_draws_follow_the_warped_softmax(step):
    torch.manual_seed(0)
    scores = torch.randn(1, 12) * 1.5
    n = 20_000
    chain = warpers(0.8, 9, 0.95)
    ids = torch.zeros(n, 3 + step, dtype=torch.long)
    warped = LogitsProcessorList(chain)(ids, scores.expand(n, -1))
    drawn = LogitsProcessorList([DrawToken([row_seed(0, str(i)) for i in range(n)], 3, 8)])(ids, warped).argmax(-1)
    expected = warped[0].softmax(-1)
    plausible = expected > 0
    assert 3 < plausible.sum() < 12
    counts = torch.bincount(drawn, minlength=12)
    assert counts[~plausible].sum() == 0

    def p_value(distribution):
        return scipy.stats.chisquare(
            counts[plausible], distribution[plausible].double() / distribution[plausible].double().sum() * n
        ).pvalue

    assert p_value(expected) > 1e-3
    assert p_value((scores / 0.9)[0].softmax(-1)) < 1e-6  # a slightly different temperature is found out


def test_draws_leave_one_token_even_at_the_edges():
    draw = DrawToken([0, 1], 1, 4)
    draw.uniforms = torch.tensor([[0.0] * 4, [1 - 2**-24] * 4])
    scores = torch.full((2, 5), -torch.inf)
    scores[:, 1:4] = 0.0
    out = draw(torch.zeros(2, 1, dtype=torch.long), scores)
    assert out.argmax(-1).tolist() == [1, 3]
    assert (out == 0).sum(-1).tolist() == [1, 1]
    with pytest.raises(ValueError, match="NaN"):
        draw(torch.zeros(2, 1, dtype=torch.long), scores * torch.nan)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.4},
        {"temperature": 1.0, "top_k": 0, "top_p": 0.5, "repetition_penalty": 1.0},
        {"temperature": 1.7, "top_k": 5, "top_p": 1.0, "repetition_penalty": 1.2},
    ],
)
def test_scores_are_warped_as_generate_warps_them(model, options):
    ids = torch.tensor([encode_prompt(TOKENIZER, PROMPTS[0])])
    common = {"max_new_tokens": 1, "output_scores": True, "return_dict_in_generate": True, "pad_token_id": 0}
    stock = model.generate(ids, do_sample=True, **common, **options).scores[0]
    penalty = options.pop("repetition_penalty")
    chain = LogitsProcessorList(warpers(**options))
    ours = model.generate(ids, do_sample=False, repetition_penalty=penalty, logits_processor=chain, **common).scores[0]
    torch.testing.assert_close(ours, stock, rtol=0, atol=0)


def test_the_models_own_decoding_settings_do_not_leak(reference_run, tmp_path):
    model = make_model()
    own = model.generation_config
    own.update(
        temperature=0.01, top_k=1, repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=list(range(3, 60))
    )
    model.train()
    assert tokens(generate_completions(PROMPTS, model, output_dir=tmp_path, **SETTINGS)) == tokens(reference_run[0])
    assert model.generation_config is own
    assert own.repetition_penalty == 5.0
    assert model.training


def test_an_adapter_takes_part_and_its_model_is_given_back_as_it_was(model, reference_run, tmp_path):
    base = make_model()
    base.generation_config.no_repeat_ngram_size = 1
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    adapted = peft.get_peft_model(base, config)
    untrained = generate_completions(PROMPTS, adapted, output_dir=tmp_path / "0", **SETTINGS)
    assert tokens(untrained) == tokens(reference_run[0])
    assert base.generation_config.no_repeat_ngram_size == 1
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    with pytest.raises(ValueError, match="`engine.model`"):
        generate_completions(PROMPTS, adapted, output_dir=tmp_path / "0", **SETTINGS)
    trained = generate_completions(PROMPTS, adapted, output_dir=tmp_path / "1", **SETTINGS)
    assert tokens(trained) != tokens(untrained)


def test_a_finished_run_is_returned_without_loading_the_engine(reference_run, tmp_path):
    dataset, path = reference_run
    assert generate_completions(PROMPTS, never, engine_id=writer(path), output_dir=path, **SETTINGS)[:] == dataset[:]
    # Killed between the last batch and the files: nothing is left to write but the files.
    shutil.copy(path / "journal-00000.jsonl", tmp_path)
    assert (
        generate_completions(PROMPTS, never, engine_id=writer(path), output_dir=tmp_path, **SETTINGS)[:] == dataset[:]
    )
    assert written(tmp_path) == written(path)
    assert (tmp_path / "manifest.json").read_bytes() == (path / "manifest.json").read_bytes()


OTHER_RUNS = {
    "prompts": {"prompts": PROMPTS[:-1]},
    "seed": {"seed": 4},
    "temperature": {"temperature": 0.7},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 3},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "max_new_tokens": {"max_new_tokens": 13},
    "do_sample": {"do_sample": False},
    "engine": {"engine_id": "another"},
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("field", OTHER_RUNS)
def test_another_runs_folder_is_refused_by_field(reference_run, tmp_path, field, finished):
    path = reference_run[1]
    if not finished:
        shutil.copy(path / "journal-00000.jsonl", tmp_path)
        path = tmp_path
    before = written(path)
    engine = {"engine": never, "engine_id": writer(reference_run[1])}
    arguments = {"prompts": PROMPTS, "output_dir": path, **engine, **SETTINGS, **OTHER_RUNS[field]}
    with pytest.raises(ValueError, match=f"belongs to another run: .*`{field}` "):
        generate_completions(**arguments)
    assert written(path) == before


def test_other_weights_are_refused(model, reference_run):
    other = tiny_model("llama", seed=1, vocab_size=len(TOKENIZER))
    with pytest.raises(ValueError, match="`engine.model`"):
        generate_completions(PROMPTS, other, output_dir=reference_run[1], **SETTINGS)


def test_another_alpha_is_another_run_by_name(tmp_path):
    generate_completions(PROMPTS[:2], make_pair(), output_dir=tmp_path, **SETTINGS)
    pair = make_pair()
    pair.config.alpha = 0.5
    with pytest.raises(ValueError, match=r"belongs to another run: `engine.alpha` 0.4 there, 0.5 here\."):
        generate_completions(PROMPTS[:2], pair, output_dir=tmp_path, **SETTINGS)


def test_other_stop_tokens_are_another_run(reference_run):
    model = make_model()
    model.generation_config.eos_token_id = 2
    with pytest.raises(ValueError, match=r"`engine.eos_token_ids` \[2, 100, .* \[2\] here"):
        generate_completions(PROMPTS, model, output_dir=reference_run[1], **SETTINGS)


def test_another_chat_template_is_another_run(reference_run):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "system")
    with pytest.raises(ValueError, match="`prompts`"):
        generate_completions(
            PROMPTS,
            never,
            engine_id=writer(reference_run[1]),
            output_dir=reference_run[1],
            **{**SETTINGS, "tokenizer": tokenizer},
        )


def test_a_changed_result_is_not_returned(reference_run, tmp_path):
    shutil.copytree(reference_run[1], tmp_path / "copy")
    with open(tmp_path / "copy" / "completions.parquet", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="not the file"):
        generate_completions(
            PROMPTS, never, engine_id=writer(reference_run[1]), output_dir=tmp_path / "copy", **SETTINGS
        )


def test_engine_id_is_the_identity_of_what_is_not_loaded(model, tmp_path):
    loads = []

    def load():
        loads.append(1)
        return model

    run = {"output_dir": tmp_path, "engine_id": "stage 1", **SETTINGS}
    first = generate_completions(PROMPTS, load, **run)
    assert generate_completions(PROMPTS, load, **run)[:] == first[:]
    assert loads == [1]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["identity"]["engine"] == "stage 1"
    assert len(manifest["engine"]["weights"]) == 16


def test_a_function_needs_an_engine_id(reference_run):
    with pytest.raises(ValueError, match="takes `engine_id`"):
        generate_completions(PROMPTS, never, output_dir=reference_run[1], **SETTINGS)


@pytest.mark.parametrize("engine", ["gpt2", None, torch.nn.Linear(2, 2)], ids=["a name", "None", "a module"])
def test_what_is_no_engine_is_refused(tmp_path, engine):
    with pytest.raises(TypeError, match="`engine` is .*; it must be a loaded model, or a function"):
        generate_completions(PROMPTS, engine, tokenizer=TOKENIZER, output_dir=tmp_path)
    with pytest.raises(TypeError, match="`engine` is .*; it must be a loaded model, or a function"):
        generate_completions(PROMPTS, lambda: engine, engine_id="x", tokenizer=TOKENIZER, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_decoder_is_refused(tmp_path):
    config = T5Config(vocab_size=len(TOKENIZER), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="`engine` is an encoder-decoder"):
        generate_completions(PROMPTS, T5ForConditionalGeneration(config), output_dir=tmp_path, **SETTINGS)


@pytest.mark.parametrize("engine", [lambda: tiny_model("llama", vocab_size=len(TOKENIZER) - 1), make_pair])
def test_a_tokenizer_larger_than_the_engine_is_refused_before_the_first_batch(tmp_path, engine):
    engine, tokenizer = engine(), tiny_tokenizer()
    tokenizer.add_tokens(["<|more|>"])
    with pytest.raises(ValueError, match=rf"`tokenizer` has {len(tokenizer)} tokens, and the embedding of `engine`"):
        generate_completions(PROMPTS, engine, output_dir=tmp_path, **{**SETTINGS, "tokenizer": tokenizer})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"seed": None}, {"seed": "x"}, {"seed": 0.5}, {"batch_size": 2.0}], ids=str)
def test_whole_numbers_are_ints(model, tmp_path, wrong):
    with pytest.raises(TypeError, match=f"`{next(iter(wrong))}` must be an int, got "):
        generate_completions(PROMPTS, model, output_dir=tmp_path, **{**SETTINGS, **wrong})


def test_the_folder_of_a_dataset_is_refused(model, reference_run, tmp_path):
    build_sft_dataset(reference_run[1], output_dir=tmp_path, drop_truncated=False)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds sft\.parquet, .* another `output_dir`"):
        generate_completions(PROMPTS, model, output_dir=tmp_path, **SETTINGS)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_over_long_prompts_are_refused_by_row_or_counted(tmp_path):
    model = make_model(max_position_embeddings=40)
    fits, too_long = "x" * 28, "x" * 29
    assert len(encode_prompt(TOKENIZER, fits)) + 12 == 40
    with pytest.raises(ValueError, match=r"Row 1 of the prompts has 29 tokens .*leaves 28"):
        generate_completions(["tell me", too_long, fits], model, output_dir=tmp_path, **SETTINGS)
    assert list(tmp_path.iterdir()) == []
    prompts = ["tell me", too_long, fits, "", "tell me"]
    for _ in range(2):
        run = generate_completions(prompts, model, output_dir=tmp_path, invalid_prompts="drop", **SETTINGS)
        assert run["prompt"][:] == ["tell me", fits]
    counts = json.loads((tmp_path / "manifest.json").read_text())["counts"]
    assert counts["rows_in"] == 5
    assert counts["dropped"] == {"empty": 1, "duplicate": 1, "too_long": 1}
    assert counts["kept"] == 2 == sum(counts["finish_reason"].values())
    with pytest.raises(ValueError, match="All 1 prompts are too long"):
        generate_completions([too_long], model, output_dir=tmp_path / "n", invalid_prompts="drop", **SETTINGS)


def test_the_smaller_context_of_a_pair_counts(tmp_path):
    policy, reference = make_model(), make_model(max_position_embeddings=20)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    with pytest.raises(ValueError, match="Row 0 of the prompts has 9 tokens .*leaves 8"):
        generate_completions(["x" * 9], pair, output_dir=tmp_path, **SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"max_new_tokens": 0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"top_p": 1.5},
        {"top_p": -0.1},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_before_the_engine_is_loaded(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        generate_completions(PROMPTS, never, engine_id="never", output_dir=tmp_path, **{**SETTINGS, **wrong})


def test_text_keeps_its_leading_space(tmp_path):
    tokenizer = sentencepiece_like()
    model = tiny_model("llama", vocab_size=len(tokenizer))
    run = generate_completions(
        [f"tell {i}" for i in range(40)], model, output_dir=tmp_path, **{**SETTINGS, "tokenizer": tokenizer}
    )
    for row in run:
        whole = encode_prompt(tokenizer, row["prompt"]) + row["completion_ids"]
        assert row["prompt"] + row["completion"] == tokenizer.decode(whole, skip_special_tokens=True)
    decoded_alone = [tokenizer.decode(ids, skip_special_tokens=True) for ids in run["completion_ids"]]
    assert run["completion"][:] != decoded_alone  # decoded alone, some lose it
    assert any(text.startswith(" ") for text in run["completion"])


@pytest.mark.slow
@pytest.mark.skipif("HF_CONG_REAL_DATA" not in os.environ, reason="HF_CONG_REAL_DATA is not set")
def test_a_real_model_writes_on_where_the_prompt_ends(tmp_path):
    path = Path(os.environ["HF_CONG_REAL_DATA"]) / "models" / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    names = ["Tim", "Lily", "Max", "Sue", "Ben", "Anna", "Tom", "Mia"]
    prompts = [
        f"Once upon a time, there was a {kind} named {name}. One day," for name in names for kind in ("cat", "boy")
    ]
    settings = {**SETTINGS, "tokenizer": tokenizer, "max_new_tokens": 40}
    run = generate_completions(prompts, model, output_dir=tmp_path / "a", **settings)
    for row in run:
        whole = encode_prompt(tokenizer, row["prompt"]) + row["completion_ids"]
        assert row["prompt"] + row["completion"] == tokenizer.decode(whole, skip_special_tokens=True)
    # "One day," is followed by a word: the space before it is the completion's.
    assert sum(text.startswith(" ") for text in run["completion"]) >= 15
    one_by_one = generate_completions(prompts, model, output_dir=tmp_path / "b", **{**settings, "batch_size": 1})
    assert tokens(one_by_one) == tokens(run)


def test_a_prompt_that_ends_within_a_character(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model = make_model()
    run = generate_completions(["é" * n for n in range(1, 9)], model, output_dir=tmp_path, **SETTINGS)
    assert all(isinstance(text, str) for text in run["completion"])


def test_progress_shows_tokens_per_second(model, tmp_path, capfd):
    generate_completions(PROMPTS, model, output_dir=tmp_path, **SETTINGS)
    shown = capfd.readouterr().err
    assert "12/12" in shown
    assert " tokens/s" in shown


def test_sources_give_the_same_run(reference_run, model, tmp_path):
    dataset = datasets.Dataset.from_list([{"prompt": prompt, "topic": "x"} for prompt in PROMPTS])
    dataset.to_parquet(tmp_path / "p.parquet")
    for source in (dataset, tmp_path / "p.parquet"):
        path = reference_run[1]
        again = generate_completions(source, never, engine_id=writer(path), output_dir=path, **SETTINGS)
        assert again[:] == reference_run[0][:]


# Killed runs. A fork of this process stands for a process of its own: it dies by SIGKILL, without a chance to tidy up.


def _killed_after(forwards, path, settings):
    model = make_model()

    def count(*_):
        nonlocal forwards
        forwards -= 1
        if forwards < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(count)
    generate_completions(PROMPTS, model, output_dir=path, **settings)


def _fork(target, *arguments):
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("forwards", [0, 7, 29, 52])
def test_killed_at_a_forward_the_rerun_ends_with_the_same_bytes(tmp_path, forwards):
    settings = {**SETTINGS, "batch_size": 2}
    generate_completions(PROMPTS, make_model(), output_dir=tmp_path / "whole", **settings)
    assert _fork(_killed_after, forwards, tmp_path / "killed", settings) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "manifest.json").exists()
    journaled = (tmp_path / "killed" / "journal-00000.jsonl").read_bytes()
    whole = (tmp_path / "whole" / "journal-00000.jsonl").read_bytes()
    assert whole.startswith(journaled)  # acknowledged rows are there
    batches = []
    model = make_model()
    model.register_forward_pre_hook(
        lambda _, args, kwargs: batches.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    generate_completions(PROMPTS, model, output_dir=tmp_path / "killed", **settings)
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    prefills = sum(shape[1] > 1 for shape in batches)
    assert prefills == 6 - (journaled.count(b"\n") - 1) // 2  # no batch that was acknowledged is done again


def test_a_journal_cut_anywhere_is_completed_to_the_same_bytes(model, reference_run, tmp_path):
    path = reference_run[1]
    journal = (path / "journal-00000.jsonl").read_bytes()
    for cut in [0, 1, len(journal) - 1, *range(101, len(journal), len(journal) // 12)]:
        killed = tmp_path / str(cut)
        killed.mkdir()
        (killed / "journal-00000.jsonl").write_bytes(journal[:cut])
        (killed / "completions.parquet.incomplete").write_bytes(b"PAR1 half a file")
        generate_completions(PROMPTS, model, output_dir=killed, **SETTINGS)
        assert written(killed) == written(path), cut


def test_a_journal_from_before_there_was_beta_is_completed(model, reference_run, tmp_path):
    path = reference_run[1]
    header, *records = (json.loads(line) for line in (path / "journal-00000.jsonl").read_bytes().splitlines())
    old = [{name: value for name, value in record.items() if name != "beta"} for record in records[:8]]
    assert len(old[0]) < len(records[0])

    def complete(name):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (header, *old))
        (tmp_path / name / "journal-00000.jsonl").write_text(lines)
        generate_completions(PROMPTS, model, output_dir=tmp_path / name, **SETTINGS)
        return written(tmp_path / name)["completions.parquet"]

    assert complete("old") == written(path)["completions.parquet"]
    old[0]["completion"] = "another"  # the control: they are not written anew
    assert complete("other") != written(path)["completions.parquet"]


def test_a_run_goes_on_with_its_own_batch_size(model, reference_run, tmp_path):
    path, other = reference_run[1], {**SETTINGS, "batch_size": 5}
    journal = (path / "journal-00000.jsonl").read_bytes()
    header = journal.index(b"\n") + 1
    (tmp_path / "journal-00000.jsonl").write_bytes(journal[: len(journal) // 2])
    with pytest.raises(ValueError, match="run: `batch_size` 4 there, 5 here"):
        generate_completions(PROMPTS, model, output_dir=tmp_path, **other)
    # A first batch that did not fit in memory leaves a header, which binds nobody.
    (tmp_path / "journal-00000.jsonl").write_bytes(journal[:header])
    generate_completions(PROMPTS, model, output_dir=tmp_path, **other)
    assert written(tmp_path)["completions.parquet"] == written(path)["completions.parquet"]
    # A finished run is read with any.
    again = generate_completions(PROMPTS, model, output_dir=path, **other)
    assert again[:] == reference_run[0][:]


def test_a_resume_in_bfloat16_ends_with_the_same_bytes(tmp_path):
    model, settings = make_model().to(torch.bfloat16), {**SETTINGS, "max_new_tokens": 40}
    whole = generate_completions(PROMPTS, model, output_dir=tmp_path / "whole", **settings)
    journal = (tmp_path / "whole" / "journal-00000.jsonl").read_bytes()
    for cut in range(700, len(journal), len(journal) // 5):
        (tmp_path / str(cut)).mkdir()
        (tmp_path / str(cut) / "journal-00000.jsonl").write_bytes(journal[:cut])
        generate_completions(PROMPTS, model, output_dir=tmp_path / str(cut), **settings)
        assert written(tmp_path / str(cut)) == written(tmp_path / "whole"), cut
    one_by_one = generate_completions(PROMPTS, model, output_dir=tmp_path / "1", **{**settings, "batch_size": 1})
    assert tokens(one_by_one) != tokens(whole)  # the control: there the batch does matter


# Several processes.


def _write(path):
    generate_completions(PROMPTS, make_model(), output_dir=path, **SETTINGS)


@on_cpu
def test_two_processes_write_what_one_writes(reference_run, tmp_path):
    assert fork(2, lambda rank: _write(tmp_path)) == [0, 0]
    assert (tmp_path / "completions.parquet").read_bytes() == (reference_run[1] / "completions.parquet").read_bytes()
    rows = [len((tmp_path / f"journal-0000{rank}.jsonl").read_text().splitlines()) - 1 for rank in range(2)]
    assert rows == [8, 4]  # three batches of four


@on_cpu
def test_another_number_of_processes_may_resume(reference_run, tmp_path):
    ends = fork(2, lambda rank: _killed_after((15, 5)[rank], tmp_path, SETTINGS))
    assert ends == [-signal.SIGKILL, -signal.SIGKILL]
    kept = [(tmp_path / f"journal-0000{rank}.jsonl").read_bytes() for rank in range(2)]
    assert [data.count(b"\n") - 1 for data in kept] == [4, 0]
    generate_completions(PROMPTS, make_model(), output_dir=tmp_path, **SETTINGS)
    assert (tmp_path / "completions.parquet").read_bytes() == (reference_run[1] / "completions.parquet").read_bytes()
    assert (tmp_path / "journal-00000.jsonl").read_bytes().startswith(kept[0])


@on_cpu
def test_what_another_process_wrote_must_be_seen(tmp_path, capfd):
    """Two machines that each take their own disk for the folder."""
    assert fork(2, lambda rank: _write(tmp_path / f"machine-{rank}")) == [1, 1]
    said = capfd.readouterr().err
    assert "ValueError: The journals in" in said and "machine-0 hold 8 completions of 12. All processes" in said
    assert not list(tmp_path.glob("*/manifest.json")) and not list(tmp_path.glob("*/completions.parquet"))


@on_cpu
@pytest.mark.slow
def test_under_torchrun(reference_run, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*launcher, "-m", "tests.test_generation", str(tmp_path)],
        check=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert (tmp_path / "completions.parquet").read_bytes() == (reference_run[1] / "completions.parquet").read_bytes()


if __name__ == "__main__":
    _write(sys.argv[1])
    PartialState().destroy_process_group()
