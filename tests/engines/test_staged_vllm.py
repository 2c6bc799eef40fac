# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""vLLM writes in launches of the stages `decode` and `sample`; launches of the others find what it wrote."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch
import yaml
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from hf_cong.cli import main
from hf_cong.journal import read_manifest
from hf_cong.prompts import encode_prompt
from hf_cong.staged import StagedRun
from hf_cong.weak_pair import WeakPair
from tests.distributed.run_cong import config, prompts
from tests.oracle import eft_greedy
from tests.tiny import tiny_base, tiny_model, tiny_pair, tiny_tokenizer

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).parents[2]
TOKENIZER = tiny_tokenizer()
# Heads of 32, of which every backend of vLLM has kernels.
SHAPE = {"vocab_size": len(TOKENIZER), "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
# Sampling from the one most probable token, so that what is drawn does not hang on whose random numbers.
GREEDY = {"top_k": 1, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": 12}
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
# Nothing compiled; and the engine in the process of the tests: each starts in seconds.
APART = {**QUIET, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_USE_AOT_COMPILE": "0", "TORCHDYNAMO_DISABLE": "1"}
HERE = {**APART, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def completions(output_dir, stage, split="train"):
    """What the stage wrote, by prompt, and the facts of its engine."""
    (manifest,) = output_dir.glob(f"_cong/{stage}-{split}-*/manifest.json")
    rows = Dataset.from_parquet(str(manifest.with_name("completions.parquet")))
    facts = read_manifest(manifest)["engine"]
    return {row["prompt_id"]: (row["completion_ids"], row["finish_reason"]) for row in rows}, facts


# Stages in this process.


def save(root, *models, tokenizer=TOKENIZER):
    for name, model in zip(("strong", "policy", "reference"), models, strict=True):
        model.save_pretrained(root / name)
        (tokenizer if name == "strong" else TOKENIZER).save_pretrained(root / name)
    return {
        "weak_model_name_or_path": str(root / "policy"),
        "weak_reference_model_name_or_path": str(root / "reference"),
    }


def launched(root, output_dir, stage, data, eval_dataset=None, environment=HERE, model="strong", **settings):
    from vllm.distributed import cleanup_dist_env_and_memory

    run = StagedRun(str(root / model), config(output_dir, stage=stage, **settings), data, eval_dataset)
    with mock.patch.dict(os.environ, environment):
        try:
            run.launch(stage)
        finally:
            cleanup_dist_env_and_memory()
    return run


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_steered_completions_are_those_of_transformers(family, tmp_path):
    size = {"vocab_size": len(TOKENIZER), "head_dim": 32}
    strong = tiny_base(family, **{**size, "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 3})
    policy, reference = tiny_pair(family, **{**SHAPE, **size, "max_position_embeddings": 128})
    if family == "gemma3":
        for model in (strong, policy, reference):  # else the embeddings, which are tied, drown the layers
            model.get_input_embeddings().weight.data.mul_(0.05)
            model.model.norm.weight.data.add_(20)
    tokenizer = tiny_tokenizer()
    # Not the pair's.
    tokenizer.chat_template = tokenizer.chat_template.replace("user", "reader").replace("assistant\\n", "old owl\\n")

    def recomputed(beta, ends=()):
        found = []
        for prompt in prompts(6)["prompt"]:
            ids = encode_prompt(tokenizer, prompt)
            ids = eft_greedy(strong, policy, reference, ids, beta=beta, max_new_tokens=12)
            stops = [place for place, id in enumerate(ids) if id in ends]
            found.append((ids[: min(stops, default=12)], "stop" if stops else "length"))
        return found

    # Several ends, one of them the pair's.
    (first, _), (second, _), *_ = recomputed(2.0)
    strong.generation_config.eos_token_id = [first[3], 99]
    policy.generation_config.eos_token_id = [second[6]]
    weak = save(tmp_path, strong, policy, reference, tokenizer=tokenizer)
    long = Dataset.from_list([{"prompt": [{"role": "user", "content": "old fox " * 60}]}])
    data, held_out = concatenate_datasets([prompts(6), long]), prompts(9).select(range(6, 9))
    settings = {**weak, **GREEDY, "chosen_from": "steered", "invalid_prompts": "drop"}
    here, there = tmp_path / "here", tmp_path / "there"
    for output_dir, engine in ((here, "transformers"), (there, "vllm")):
        run = launched(tmp_path, output_dir, "decode", data, held_out, engine=engine, **settings)
        assert run.stage_counts["sft/train"]["dropped"]["too_long_for_pair"] == 1
    for split in ("train", "eval"):
        assert completions(there, "decode", split)[0] == completions(here, "decode", split)[0]
    written, facts = completions(there, "decode")
    assert {reason for _, reason in written.values()} == {"stop", "length"}
    assert facts["vllm"] and facts["writer"] == "vllm" and facts["beta"] == 2.0

    ends = {first[3], second[6], tokenizer.eos_token_id}
    assert list(written.values()) == recomputed(2.0, ends) != recomputed(1.0, ends)


def test_a_given_adapter_is_in_what_vllm_loads(tmp_path):
    settings = {**save(tmp_path, tiny_model("qwen2", seed=7, **SHAPE), *tiny_pair("qwen2", **SHAPE)), **GREEDY}
    settings |= {"chosen_from": "steered", "rejected_from": "base"}
    torch.manual_seed(5)
    random = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    named = AutoModelForCausalLM.from_pretrained(tmp_path / "strong")
    get_peft_model(named, random).save_pretrained(tmp_path / "adapter")
    runs = {"here": ("adapter", "transformers"), "there": ("adapter", "vllm"), "without": ("strong", "transformers")}
    for name, (model, engine) in runs.items():
        for stage in ("decode", "sample"):
            launched(tmp_path, tmp_path / name, stage, prompts(6), model=model, engine=engine, **settings)
    for stage in ("decode", "sample"):
        here, there, without = (completions(tmp_path / name, stage)[0] for name in runs)
        assert there == here != without


def test_what_scores_finds_the_memory_that_vllm_had(tmp_path, monkeypatch):
    """Samples are ranked, and pairs compared, by a weak pair that is loaded when no engine is left."""
    from hf_cong.engines.vllm_engine import VllmEngine

    weak = save(tmp_path, tiny_model("qwen2", seed=7, **SHAPE), *tiny_pair("qwen2", **SHAPE))
    settings = {
        **weak,
        **GREEDY,
        "top_k": 0,
        "chosen_from": "steered",
        "rejected_from": "base",
        "num_chosen_samples": 3,
        "chosen_share": 0.5,
        "drop_contradicting": True,
    }
    engines = {"load": [], "prepare": []}

    def watch(owner, name):
        method = getattr(owner, name)

        def watched(self, *args):
            children = psutil.Process().children(recursive=True)
            started = [child for child in children if "VLLM" in child.name()]
            _, alive = psutil.wait_procs(started, timeout=20 if name == "load" else 0)  # to those that were killed
            engines[name].append(bool(alive))
            return method(self, *args)

        monkeypatch.setattr(owner, name, watched)

    watch(WeakPair, "load")
    watch(VllmEngine, "prepare")
    for stage in ("decode", "sample"):
        run = launched(tmp_path, tmp_path / "out", stage, prompts(8), environment=APART, engine="vllm", **settings)
    assert engines == {"load": [False] * 3, "prepare": [True] * 4}
    assert run.stage_counts["samples/train"]["rows_in"] == 24
    assert run.stage_counts["sft/train"]["dropped"]["below_share"] == 4
    counts = run.stage_counts["dpo/train"]
    assert counts["kept"] + sum(counts["dropped"].values()) == counts["rows_in"] == 4
    # Launches without vLLM find all of it.
    again = launched(tmp_path, tmp_path / "out", "sample", prompts(8), **settings)
    assert again.stage_counts == run.stage_counts


# Launches by command.


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipe")
    weak = save(root, tiny_model("qwen2", seed=7, **SHAPE), *tiny_pair("qwen2", **SHAPE))
    prompts(12).to_json(root / "prompts.jsonl")
    prompts(600).to_json(root / "many.jsonl")
    settings = {
        "model_name_or_path": str(root / "strong"),
        **weak,
        **GREEDY,
        "dataset_name": str(root / "prompts.jsonl"),
        "max_length": 128,
        "drop_truncated": False,
        "sft_num_train_epochs": 1,
        "sft_learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    (root / "cong.yaml").write_text(yaml.safe_dump(settings))
    return root / "cong.yaml"


def command(recipe, output_dir, stage, *options):
    words = ("train", "--config", recipe, "--stage", stage, "--output_dir", output_dir, *options)
    return [str(word) for word in words]


def in_vllm(recipe, output_dir, stage, *options, environment=APART):
    """A process of its own, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "hf_cong.cli", *command(recipe, output_dir, stage, "--engine", "vllm", *options)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def ended(process):
    log, _ = process.communicate()
    assert process.returncode == 0, log[-4000:]


ADAPTER = ("--use_peft", "true", "--lora_r", "4", "--learning_rate", "1e-2")
CASES = {
    "the pair, a whole model": (),
    "the steered model, its adapter": (*ADAPTER, "--chosen_from", "steered"),
    "the steered model, as it was": ("--chosen_from", "steered", "--rejected_from", "base"),
}


@pytest.mark.parametrize("case", CASES)
def test_vllm_writes_what_transformers_would_have_written(case, recipe, tmp_path):
    options, (here, there) = CASES[case], (tmp_path / "here", tmp_path / "there")
    for stage in ("decode", "sft", "sample"):
        assert main(command(recipe, here, stage, *options)) == 0
        if stage == "sft":
            assert main(command(recipe, there, stage, *options)) == 0
        else:
            environment = APART if options else QUIET  # once as it is without tests
            ended(in_vllm(recipe, there, stage, *options, environment=environment))
            written, facts = completions(there, stage)
            assert written == completions(here, stage)[0], stage
            assert facts["vllm"] and (facts["beta"], facts["alpha"]) == {
                ("decode", True): (2.0, None),
                ("decode", False): (None, 0.4),
            }.get((stage, "steered" in options), (None, None))
    other = ("--steering_beta", "0.5") if "steered" in options else ("--alpha", "1.0")
    assert main(command(recipe, tmp_path / "other", "decode", *options, *other)) == 0
    decoded = completions(there, "decode")[0]
    assert completions(tmp_path / "other", "decode")[0] != decoded != completions(there, "sample")[0]
    assert main(command(recipe, there, "dpo", *options)) == 0
    assert (there / ("adapter_model.safetensors" if ADAPTER[0] in options else "model.safetensors")).exists()


def test_killed_while_vllm_writes(recipe, tmp_path, capsys):
    """The same command goes on, though what was saved for vLLM is damaged; transformers does not."""
    data = recipe.with_name("many.jsonl")
    options = ("--dataset_name", data, "--chosen_from", "steered", "--rejected_from", "base", "--top_k", "0")
    options += ("--generation_batch_size", "100")
    for stage in ("decode", "sample"):
        ended(in_vllm(recipe, tmp_path / "whole", stage, *options))
        process = in_vllm(recipe, tmp_path / "cut", stage, *options)
        lines = 0
        while lines < 2:  # vLLM has written 300 of 600, and journaled a part of them
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.01)
            journals = list((tmp_path / "cut").glob(f"_cong/{stage}-*/journal-*.jsonl"))
            lines = sum(path.read_bytes().count(b"\n") for path in journals)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not list((tmp_path / "cut").glob(f"_cong/{stage}-*/manifest.json"))
        assert main(command(recipe, tmp_path / "cut", stage, *options)) == 2
        assert "`writer` 'vllm' there, 'transformers' here" in capsys.readouterr().err
        if stage == "decode":
            (weights,) = (tmp_path / "cut").glob("_cong/pair-*/model.safetensors")
            weights.write_bytes(weights.read_bytes()[:-1])
        ended(in_vllm(recipe, tmp_path / "cut", stage, *options))
        assert completions(tmp_path / "cut", stage)[0] == completions(tmp_path / "whole", stage)[0]
        # What has ended is taken as it is.
        times = [path.stat().st_mtime_ns for path in (tmp_path / "cut").glob(f"_cong/{stage}-*/*")]
        assert main(command(recipe, tmp_path / "cut", stage, *options)) == 0
        assert times == [path.stat().st_mtime_ns for path in (tmp_path / "cut").glob(f"_cong/{stage}-*/*")]
