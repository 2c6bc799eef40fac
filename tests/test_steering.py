# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""ConG in which the strong model writes the chosen completions itself, under the pair's implicit reward."""

import copy
import json
import shutil
import weakref

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from hf_cong import ConGConfig, ImplicitReward, generate_completions, weak_to_strong_search
from hf_cong.prompts import encode_prompt
from hf_cong.recipes import parse
from hf_cong.search.engine import SearchEngine

from .distributed.run_cong import chosen_rows, config, lora, pairs, prompts, strong_model, trainer, weak_pair
from .distributed.run_steered import SEARCH, STEERED, steered_trainer, strong
from .distributed.test_staged import artefacts, at_once, by_stages, staged
from .oracle import eft_greedy, oracle_greedy
from .tiny import tiny_tokenizer

# Sampling from the one most probable token: what greedy decoding writes.
GREEDY = {"top_k": 1, "top_p": 1.0, "temperature": 1.0}


def written(output_dir, stage):
    """The ids of every completion of a stage, by prompt."""
    (path,) = output_dir.glob(f"_cong/{stage}-train-*/completions.parquet")
    return {json.dumps(row["prompt"]): row["completion_ids"] for row in Dataset.from_parquet(str(path))}


def recomputed(greedy, *models, **settings):
    """The same, by recomputing all models from the ids at every step."""
    found, tokenizer = {}, tiny_tokenizer()
    for prompt in prompts(6)["prompt"]:
        ids = greedy(*models, encode_prompt(tokenizer, prompt), max_new_tokens=8, **settings)
        end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else None
        found[json.dumps(prompt)] = ids[:end]
    return found


@pytest.mark.parametrize("with_lora", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_chosen_and_rejected_are_those_of_the_untouched_model(tmp_path, family, with_lora):
    def run(name, **settings):
        checkpointing = {"gradient_checkpointing": family == "llama"}
        settings = {**GREEDY, **checkpointing, "sft_learning_rate": 1e-2, **settings}
        made = steered_trainer(
            tmp_path / name, family, prompts(6), settings=settings, peft_config=lora() if with_lora else None
        )
        made.train()
        return made

    made = run("base")
    three = strong(family), *weak_pair(family)
    chosen = recomputed(eft_greedy, *three, beta=2.0)
    assert written(tmp_path / "base", "decode") == chosen
    for other in ({"beta": 0.0}, {"beta": 2.0, "plausibility_threshold": 0.9}):  # what the equality can tell apart
        assert recomputed(eft_greedy, *three, **other) != chosen
    assert recomputed(oracle_greedy, *weak_pair(family)) != chosen
    base = recomputed(eft_greedy, *three, beta=0.0)
    assert written(tmp_path / "base", "sample") == base
    assert all(abs(float(made.state.log_history[0][f"rewards/{side}"])) < 1e-5 for side in ("chosen", "rejected"))
    # The strong model after stage I, the other choice, writes something else.
    run("policy", rejected_from="policy")
    assert written(tmp_path / "policy", "decode") == chosen
    assert written(tmp_path / "policy", "sample") != base


@pytest.mark.slow
def test_a_given_adapter_is_part_of_the_strong_model(tmp_path):
    torch.manual_seed(5)
    random = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(strong(), random).eval()
    merged = copy.deepcopy(adapted).merge_and_unload()
    made = steered_trainer(tmp_path, "llama", prompts(6), model=adapted, settings=GREEDY)
    made.train()
    for stage, beta in (("decode", 2.0), ("sample", 0.0)):
        assert written(tmp_path, stage) == recomputed(eft_greedy, merged, *weak_pair(), beta=beta)
        assert written(tmp_path, stage) != recomputed(eft_greedy, strong(), *weak_pair(), beta=beta)


# Across vocabularies, by search.


def found_by_search(seed, **overrides):
    tokenizer = tiny_tokenizer(4)
    results = weak_to_strong_search(
        strong(),
        tiny_tokenizer(),
        prompts(6)["prompt"][:],
        ImplicitReward(*weak_pair("gpt2", tokenizer), tokenizer),
        **{**SEARCH, "max_new_tokens": 8, "temperature": 0.8, "top_p": 0.95, "top_k": 0, "seed": seed, **overrides},
    )
    return {json.dumps(result.prompt): result.completion_ids for result in results}


def test_across_vocabularies_the_strong_model_is_searched(tmp_path, capsys):
    made = steered_trainer(tmp_path, "search", prompts(6), settings={"seed": 5, "drop_truncated": False})
    made.train()
    assert (
        "steered by chunk-level search (beam_width 2, successors_per_beam 2, chunk_length 3)"
        in capsys.readouterr().out
    )
    assert written(tmp_path, "decode") == found_by_search(5)
    assert written(tmp_path, "decode") != found_by_search(5, beam_width=1, successors_per_beam=1)
    tokenizer = tiny_tokenizer()
    assert {row["chosen"][0]["content"] for row in made.train_dataset} <= {
        tokenizer.decode(ids, skip_special_tokens=True) for ids in found_by_search(5).values()
    }


def test_other_families_of_one_vocabulary_are_searched(tmp_path, capsys):
    made = trainer(tmp_path, prompts(4), model=strong_model("qwen2"), settings={**STEERED, **SEARCH})
    made.train()
    assert "chunk_length 3): `base` is a 'qwen2' model and `policy` a 'llama' one" in capsys.readouterr().out


def test_a_search_goes_on_where_it_stopped(tmp_path):
    def run(name):
        reward = ImplicitReward(*weak_pair("gpt2", tiny_tokenizer(4)), tiny_tokenizer(4))
        engine = SearchEngine(strong(), reward, seed=3, **SEARCH)
        settings = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 8, "batch_size": 2, "seed": 3}
        return generate_completions(prompts(6), engine, output_dir=tmp_path / name, **settings)

    whole = run("a")
    assert whole["completion_ids"][:] != run("b").select(range(5, -1, -1))["completion_ids"][:]
    shutil.copytree(tmp_path / "a", tmp_path / "cut")
    journal = tmp_path / "cut" / "journal-00000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (4, 2):
        (tmp_path / "cut" / "manifest.json").unlink()
        (tmp_path / "cut" / "completions.parquet").unlink()
        journal.write_bytes(b"".join(lines[:kept]) + lines[kept][:40])
        assert run("cut").to_list() == whole.to_list()
        assert journal.read_bytes() == b"".join(lines)


def test_a_prompt_too_long_for_the_pair_is_refused_or_dropped_before_any_is_searched(tmp_path):
    # For the strong model there is room.
    long = Dataset.from_list([{"prompt": [{"role": "user", "content": "old fox " * 40}]}])
    data = concatenate_datasets([prompts(3), long])
    tokenizer = tiny_tokenizer(4)
    pair = weak_pair("llama", tokenizer)
    for model in pair:
        model.config.max_position_embeddings = 64
    weak = dict(zip(("weak_model", "weak_reference_model"), pair, strict=True), weak_processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"Row 3 of the prompts has \d+ tokens for the pair, whose context leaves 56"):
        steered_trainer(tmp_path / "raise", "search", data, **weak).train()
    assert not list(tmp_path.glob("raise/_cong/decode-*/journal*"))
    made = steered_trainer(tmp_path / "drop", "search", data, settings={"invalid_prompts": "drop"}, **weak)
    made.train()
    assert len(written(tmp_path / "drop", "decode")) == 3
    assert made.stage_counts["sft/train"]["dropped"]["too_long_for_pair"] == 1


def test_what_one_engine_has_begun_another_does_not_go_on_with(tmp_path):
    settings = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 4, "batch_size": 2, "engine_id": "strong"}
    searching = SearchEngine(strong(), ImplicitReward(*weak_pair(), tiny_tokenizer()), **SEARCH)
    whole = generate_completions(prompts(4), strong, output_dir=tmp_path / "a", **settings)
    journal = tmp_path / "a" / "journal-00000.jsonl"
    assert generate_completions(prompts(4), searching, output_dir=tmp_path / "a", **settings).to_list() == [*whole]
    (tmp_path / "a" / "manifest.json").unlink()
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match="`writer` 'transformers' there, 'search' here"):
        generate_completions(prompts(4), searching, output_dir=tmp_path / "a", **settings)
    assert generate_completions(prompts(4), strong, output_dir=tmp_path / "a", **settings).to_list() == [*whole]


def test_what_a_search_engine_refuses(tmp_path):
    engine = SearchEngine(strong(), ImplicitReward(*weak_pair(), tiny_tokenizer()), **SEARCH)
    settings = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 4, "output_dir": tmp_path}
    with pytest.raises(ValueError, match="`repetition_penalty` is 1.3, which a search does not know"):
        generate_completions(prompts(2), engine, repetition_penalty=1.3, **settings)
    settings["tokenizer"].chat_template += "{{ mood }}"
    with pytest.raises(ValueError, match="`chat_template_kwargs` are not for a search"):
        generate_completions(prompts(2), engine, chat_template_kwargs={"mood": "kind"}, **settings)
    with pytest.raises(ValueError, match="`beam_width` must be at least 1, got 0"):
        SearchEngine(strong(), engine.reward, beam_width=0)


# Stages in launches of their own.


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, model in zip(("strong", "policy", "reference"), (strong(), *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    shutil.copytree(root / "strong", root / "other")
    strong(seed=9).save_pretrained(root / "other")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("with_lora", [False, True])
def test_launches_by_stage_leave_the_bytes_of_one_launch(models, tmp_path, with_lora):
    def peft():
        return lora() if with_lora else None

    at_once(models, tmp_path / "once", prompts(6), peft_config=peft(), **STEERED)
    whole = artefacts(tmp_path / "once")
    by_stages(models, tmp_path / "staged", data=prompts(6), peft_config=peft(), **STEERED)
    assert artefacts(tmp_path / "staged") == whole
    for stage in ("decode", "sample", "sft", "dpo"):  # the untouched model may sample before stage I
        staged(models, tmp_path / "order", stage, prompts(6), peft_config=peft(), **STEERED)
    assert artefacts(tmp_path / "order") == whole
    by_stages(models, tmp_path / "weak", data=prompts(6), peft_config=peft())
    assert not {name for name in artefacts(tmp_path / "weak") if name.startswith("_cong")} & set(whole)


CHANGES = {
    "beta": ({"steering_beta": 4.0}, "decode", "`engine.beta` 2.0 there, 4.0 here"),
    "plausible set": (
        {"plausibility_threshold": 0.2},
        "decode",
        "`engine.plausibility_threshold` 0.1 there, 0.2 here",
    ),
    "strong model": ({"model": "other"}, "decode", "`engine.strong_model` 'files:"),
    "weak model": ({"weak_model_name_or_path": "other"}, "decode", "`engine.policy` 'files:"),
    "adapter": ({"peft_config": lora}, "decode", "`engine.strong_adapters` '"),
    "chosen_from": ({"chosen_from": "weak"}, "decode", "`engine.alpha`"),
    "rejected_from": ({"rejected_from": "policy"}, "sample", "`engine` '"),
}


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("finished")
    for stage in ("decode", "sft", "sample"):
        staged(models, output_dir, stage, prompts(6), **STEERED)
    return output_dir


@pytest.mark.parametrize("change", CHANGES)
def test_artefacts_of_another_setting_are_refused(models, finished, change):
    overrides, stage, says = CHANGES[change]
    overrides = {name: value() if callable(value) else value for name, value in overrides.items()}
    overrides |= {name: str(models / value) for name, value in overrides.items() if value == "other"}
    before = sorted(finished.rglob("*"))
    with pytest.raises(FileNotFoundError, match=says) as refusal:
        staged(models, finished, "dpo", prompts(6), **{**STEERED, **overrides})
    assert f"--stage {stage}`" in str(refusal.value)
    assert sorted(finished.rglob("*")) == before


def test_a_recipe_says_who_writes(tmp_path):
    keys = {"chosen_from": "steered", "rejected_from": "base", "steering_beta": 4.0, "chunk_length": 8}
    (tmp_path / "cong.yaml").write_text(json.dumps({"output_dir": str(tmp_path), **keys}))
    (args,) = parse((ConGConfig,), ["--config", str(tmp_path / "cong.yaml"), "--steering_beta", "3"], prog="train")
    assert {name: getattr(args, name) for name in keys} == {**keys, "steering_beta": 3.0}


# Memory.


def test_the_weak_models_are_gone_before_stage_one(tmp_path):
    class Watch(TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            writing = "decode/train/rows" in kwargs["logs"]
            alive.append((writing, [reference() is not None for reference in references]))

    for kind in ("llama", "search"):
        alive = []
        tokenizer = tiny_tokenizer(4 if kind == "search" else 0)
        policy, reference = weak_pair("llama", tokenizer)
        references = [weakref.ref(policy), weakref.ref(reference)]
        weak = {"weak_model": policy, "weak_reference_model": reference, "weak_processing_class": tokenizer}
        made = steered_trainer(tmp_path / kind, kind, prompts(4), **weak, callbacks=[Watch()])
        del policy, reference, weak
        assert all(reference() is not None for reference in references)
        made.train()
        (writing, during), *later = alive
        assert writing and all(during) and later
        assert not any(writing or any(line) for writing, line in later)


# Refusals.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chosen_from": "strong"}, "`chosen_from` must be 'weak' or 'steered', got 'strong'"),
        ({"rejected_from": "weak"}, "`rejected_from` must be 'policy' or 'base' or 'worst', got 'weak'"),
        (
            {"chosen_from": "steered", "alpha": 0.3},
            "`alpha` is 0.3, .* it is not used. Leave it out, and set `steering",
        ),
        ({"steering_beta": 1.0}, "`steering_beta` is 1.0, and nothing is steered. Set `chosen_from='steered'`"),
        ({"chunk_length": 8}, "`chunk_length` is 8, and nothing is steered"),
        ({"chosen_from": "steered", "steering_beta": -1.0}, "`steering_beta` must be finite and at least 0, got -1.0"),
        ({"chosen_from": "steered", "steering_beta": float("nan")}, "`steering_beta` must be finite"),
        ({"chosen_from": "steered", "beam_width": 0}, "`beam_width` must be at least 1, got 0"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **settings)


def test_a_number_is_a_number(tmp_path):
    with pytest.raises(TypeError, match="`steering_beta` must be a number, got '4'"):
        config(tmp_path, chosen_from="steered", steering_beta="4")


@pytest.mark.parametrize("data", [chosen_rows, pairs])
def test_completions_that_are_there_leave_nothing_to_write(tmp_path, data):
    with pytest.raises(ValueError, match="`chosen_from='steered'` has nothing to write: .* Remove the columns"):
        trainer(tmp_path, data(4), settings={"chosen_from": "steered"})
    if data is pairs:
        with pytest.raises(ValueError, match="`rejected_from='base'` has nothing to write: .* column `rejected`"):
            trainer(tmp_path, data(4), settings={"rejected_from": "base"})


def test_vllm_does_not_search(models, tmp_path):
    shutil.copytree(models / "policy", tmp_path / "policy")
    shutil.copytree(models / "reference", tmp_path / "reference")
    for name in ("policy", "reference"):
        tiny_tokenizer(4).save_pretrained(tmp_path / name)
    weak = {
        "weak_model_name_or_path": str(tmp_path / "policy"),
        "weak_reference_model_name_or_path": str(tmp_path / "reference"),
    }
    with pytest.raises(ValueError, match=r"chunk-level search \(\d+ ids of the tokenizers differ\), which vLLM does"):
        staged(models, tmp_path / "out", "decode", engine="vllm", **weak, **STEERED)
