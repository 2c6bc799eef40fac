# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What training costs: memory of each stage, work that is done once, rows side by side and rows of like length."""

import contextlib
import copy
import gc
import json
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, BloomConfig, OPTConfig, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from hf_cong import ConGTrainer
from hf_cong.grouping import ReproducibleLengthGroupedSampler
from hf_cong.lending import FineTuner
from hf_cong.memory import peak_gib, peak_is_of, reset_peak
from hf_cong.packing import check_rows_apart
from hf_cong.prompts import prompt_id

from .distributed.run_cong import (
    chosen_rows,
    lora,
    message,
    pairs,
    prompts,
    strong_model,
    trainer,
    weights,
)
from .test_stopping import At, poison
from .tiny import tiny_tokenizer

STAGES = ("decode", "sft", "sample", "dpo")
SHAPE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3}  # of 3 million weights
SMALL_BATCHES = {"per_device_train_batch_size": 1, "generation_batch_size": 2}


# Memory.


class Storages(TorchDispatchMode):
    """Bytes of all tensors that torch has made and that are still held, and their peak."""

    def __init__(self):
        super().__init__()
        self.held, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta":
                self.note(tensor.untyped_storage())
        return result

    def note(self, storage):
        if storage._cdata not in self.held:
            self.held[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key):
        self.now -= self.held.pop(key)


class Stdout:
    """Calls back at the lines with which stages begin and end."""

    def __init__(self, begins, ends):
        self.called = {"begins": begins, "ends": ends}

    def write(self, text):
        for stage, word in re.findall(r"ConG (\w+) (begins|ends)\.", text):
            self.called[word](stage)

    def flush(self):
        pass


def peaks(make):
    """The largest number of bytes held in each stage of the run that `make` returns."""
    found = {}

    def begins(stage):
        gc.collect()
        storages.peak = storages.now

    def ends(stage):
        found[stage] = storages.peak

    with Storages() as storages, contextlib.redirect_stdout(Stdout(begins, ends)):
        made = make()
        for model in (made.model, made.ref_model):
            if model is not None:  # whose weights may have come from a file, past torch
                for parameter in model.parameters():
                    storages.note(parameter.untyped_storage())
        made.train()
    return found


def size(model):
    return sum(parameter.nbytes for parameter in model.parameters())


def large_run(output_dir, *, held=None, settings=None, rows=4, **kwargs):
    """A run whose weak models are as large as the strong one; `held` are the caller's, who keeps them."""
    pair = [strong_model("llama", seed, **SHAPE) for seed in (1, 2)]
    if held is not None:
        held.extend(pair)
    return trainer(
        output_dir,
        prompts(rows),
        model=kwargs.pop("model", None) or strong_model(**SHAPE),
        weak_model=pair[0],
        weak_reference_model=pair[1],
        settings={**SMALL_BATCHES, **(settings or {})},
        **kwargs,
    )


# What one batch of one row needs beside weights, gradients and AdamW's two moments, in sizes of the model.
ACTIVATIONS = 0.5
BOUNDS = {"decode": 3, "sft": 4, "sample": 1, "dpo": 4}


def exceeding(found):
    whole = size(strong_model(**SHAPE))
    return [stage for stage in STAGES if found[stage] > (BOUNDS[stage] + ACTIVATIONS) * whole]


def test_no_stage_holds_more_than_it_needs(tmp_path):
    found = peaks(lambda: large_run(tmp_path))
    assert list(found) == list(STAGES) and exceeding(found) == []
    whole = size(strong_model(**SHAPE))
    assert all(found[stage] > 0.99 * BOUNDS[stage] * whole for stage in STAGES)  # all that is needed was seen


def test_a_weak_model_that_is_left_would_be_seen(tmp_path):
    held = []
    assert exceeding(peaks(lambda: large_run(tmp_path, held=held))) == ["sft", "sample", "dpo"]


def test_a_second_strong_model_would_be_seen(tmp_path):
    strong_model(**SHAPE).save_pretrained(tmp_path / "strong")
    settings = {"precompute_ref_log_probs": False}
    found = peaks(lambda: large_run(tmp_path / "out", model=str(tmp_path / "strong"), settings=settings))
    assert exceeding(found) == list(STAGES)


@pytest.mark.slow
def test_an_adapter_has_neither_gradients_nor_moments_of_its_base(tmp_path):
    found = peaks(lambda: large_run(tmp_path, peft_config=lora()))
    whole = size(strong_model(**SHAPE))
    bounds = {"sft": 2, "sample": 1.5, "dpo": 2.5}  # each adapted layer keeps its input twice
    assert all(found[stage] < bound * whole for stage, bound in bounds.items())


@pytest.mark.slow
def test_no_more_than_with_the_plain_trainers(tmp_path):
    made = large_run(tmp_path / "cong")
    found = peaks(lambda: made)  # its models are counted below
    rows = made.train_dataset.select_columns(["prompt", "chosen", "rejected"])

    def plain(cls, args_cls, dataset, **own):
        shared = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        shared |= {"save_strategy": "no", "per_device_train_batch_size": 1, "num_train_epochs": 1}
        args = args_cls(output_dir=str(tmp_path / cls.__name__), **shared, **own)
        with Storages() as storages:
            tokenizer = tiny_tokenizer()
            cls(copy.deepcopy(model), args=args, train_dataset=dataset, processing_class=tokenizer).train()
        return storages.peak

    model = strong_model(**SHAPE)
    completions = rows.remove_columns("rejected").rename_column("chosen", "completion")
    alone = {
        "sft": plain(SFTTrainer, SFTConfig, completions),
        "dpo": plain(DPOTrainer, DPOConfig, rows, precompute_ref_log_probs=True),
    }
    for stage, peak in alone.items():
        assert found[stage] + size(model) < 1.02 * peak


def test_the_peak_of_a_process_begins_anew():
    reset_peak()
    before = peak_gib()
    block = torch.ones(2**26)  # a quarter of a GiB
    assert 0.2 < peak_gib() - before < 0.3
    del block
    assert peak_gib() - before > 0.2
    reset_peak()
    assert peak_gib() - before < 0.1
    assert peak_is_of() == "resident in RAM"


class MemoryLines(TrainerCallback):
    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines += [(name, value) for name, value in logs.items() if name.startswith("memory/")]


def test_every_stage_says_its_peak(tmp_path, capsys):
    seen = MemoryLines()
    trainer(tmp_path, prompts(4), callbacks=[seen]).train()
    said = re.findall(
        r"ConG (\w+) ends\. Peak memory of a process: (\d+\.\d\d) GiB, resident", capsys.readouterr().out
    )
    assert [stage for stage, _ in said] == list(STAGES)
    logged = dict(seen.lines)
    assert len(seen.lines) == 4 and all(0.1 < float(logged[f"memory/{stage}_peak_gib"]) < 20 for stage in STAGES)
    assert float(logged["memory/decode_peak_gib"]) == pytest.approx(float(said[0][1]), abs=0.01)


def moves_of(model, moves):
    """Notes where a model is moved; what is called on its parts is not."""
    move = type(model).to

    def to(device):
        moves.append(("moved", torch.device(device)))
        return move(model, device)

    model.to = to
    return model


def test_weak_models_of_the_caller_are_away_during_both_trainings(tmp_path):
    moves = []
    pair = [moves_of(strong_model("llama", seed), moves) for seed in (1, 2)]
    weak = {"weak_model": pair[0], "weak_reference_model": pair[1], "weak_processing_class": tiny_tokenizer()}
    made = trainer(tmp_path, prompts(4), weak=False, **weak)
    stdout = Stdout(lambda stage: moves.append((stage, "begins")), lambda stage: moves.append((stage, "ends")))
    with contextlib.redirect_stdout(stdout):
        made.train()
    away, home = ("moved", torch.device("cpu")), ("moved", pair[0].device)
    assert moves.index(away) < moves.index(("sft", "begins"))
    assert moves[-2:] == [home, home] and moves.index(("dpo", "ends")) == len(moves) - 3


@pytest.mark.gpu
def test_weak_models_of_the_caller_leave_the_gpu_and_come_back(tmp_path):
    pair = [strong_model("llama", seed, **SHAPE).cuda() for seed in (1, 2)]
    seen = {}
    stdout = Stdout(lambda stage: seen.__setitem__(stage, {model.device.type for model in pair}), lambda stage: None)
    weak = {"weak_model": pair[0], "weak_reference_model": pair[1], "weak_processing_class": tiny_tokenizer()}
    made = trainer(tmp_path, prompts(4), weak=False, settings={"use_cpu": False}, **weak)
    with contextlib.redirect_stdout(stdout):
        made.train()
    assert seen["decode"] == {"cuda"} and seen["sft"] == seen["dpo"] == {"cpu"}
    assert {model.device.type for model in pair} == {"cuda"}


# The reference's log-probabilities.


class Counting(ConGTrainer):
    """Counts the batches that the reference scores."""

    scored = 0

    def compute_ref_log_probs(self, model, inputs):
        type(self).scored += 1
        return super().compute_ref_log_probs(model, inputs)


def scored(*arguments, resume=False, **kwargs):
    Counting.scored = 0
    made = trainer(*arguments, cls=Counting, **kwargs)
    made.train(resume_from_checkpoint=resume)
    return Counting.scored, weights(made)


@pytest.mark.parametrize("kind", ["prompts", pytest.param("pairs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("with_lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_reference_scores_once(tmp_path, kind, with_lora):
    rows, evals = (pairs(12), pairs(4)) if kind == "pairs" else (prompts(12), {"own": prompts(4)})
    options = {"eval_dataset": evals, "peft_config": lora() if with_lora else None, "weak": kind == "prompts"}
    options["settings"] = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "epoch"}
    first, whole = scored(tmp_path / "out", rows, **options)
    assert first == 3 + 1  # batches of 4 and of 8 rows
    for path in tmp_path.glob("out/checkpoint-3"):
        shutil.rmtree(path)
    again, resumed = scored(tmp_path / "out", rows, resume=True, **options)
    assert again == 0 and resumed == whole
    other, _ = scored(tmp_path / "other", rows, **options)  # the negative control
    assert other == first


# Rows side by side.


APART = ("llama", "qwen3", "gpt2", "gemma3")


def tokenised(n=6):
    """Rows of several lengths, as SFTTrainer makes them of prompts and completions."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(n):
        ids = torch.randint(3, 300, (9 + 5 * (number % 4),), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * 4 + ids[4:]})
    return rows


def fine_tuner(output_dir, model, **settings):
    rows = chosen_rows(12).map(lambda row, i: {"completion": message("kind cat " * (1 + i % 4))}, with_indices=True)
    args = SFTConfig(
        output_dir=str(output_dir),
        **{"report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no", "max_length": 64, **settings},
    )
    rows = rows.select_columns(["prompt", "completion"])
    return FineTuner(model, args=args, train_dataset=rows, processing_class=tiny_tokenizer())


@pytest.mark.parametrize("family", APART)
def test_the_loss_of_packed_rows_is_the_mean_over_their_tokens(tmp_path, family):
    made = fine_tuner(tmp_path, strong_model(family, initializer_range=0.3), packing=True, max_length=96)
    model, rows = made.model.eval(), tokenised()
    losses, tokens = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
            losses += model(input_ids=ids, labels=labels, use_cache=False).loss * (len(row["labels"]) - 4)
            tokens += len(row["labels"]) - 4
        packed = {name: [value for row in rows for value in row[name]] for name in ("input_ids", "labels")}
        batch = made.data_collator([{**packed, "seq_lengths": [len(row["input_ids"]) for row in rows]}])
        mean = losses / tokens
        assert made.compute_loss(model, dict(batch)).item() == pytest.approx(mean.item(), rel=1e-5)
        del batch["position_ids"]  # one long row instead
        assert abs(made.compute_loss(model, batch).item() - mean.item()) > 1e-2


class Whole:
    """A trainer as far as the check of rows needs one."""

    is_fsdp_enabled = is_deepspeed_enabled = is_distributed_loading_by_transformers = False

    def __init__(self, model):
        self.model, self.accelerator = model, self

    autocast = staticmethod(contextlib.nullcontext)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*APART, "qwen2", "gemma2", "mistral", "mixtral"])
def test_families_that_keep_rows_apart(family, dtype):
    model = strong_model(family).to(dtype).train()
    check_rows_apart(Whole(model), {"packing": True})
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


SMALL = {"vocab_size": 64, "hidden_size": 32}
MIXING = {
    "opt": OPTConfig(**SMALL, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32),
    "bloom": BloomConfig(**SMALL, n_layer=2, n_head=4),
}


@pytest.mark.parametrize("family", MIXING)
def test_families_that_do_not_are_refused(family):
    model = AutoModelForCausalLM.from_config(MIXING[family])
    for settings in ({"packing": True}, {"packing": True, "packing_strategy": "bfd_split"}, {"padding_free": True}):
        with pytest.raises(ValueError, match=f"'{family}' with attention .* does not keep them apart"):
            check_rows_apart(Whole(model), settings)
    for settings in ({}, {"packing": True, "packing_strategy": "wrapped"}):
        check_rows_apart(Whole(model), settings)


def test_a_run_is_refused_before_anything_is_written(tmp_path):
    made = {"sft_kwargs": {"packing": True}}
    trainer(tmp_path, prompts(4), settings=made)
    with pytest.raises(ValueError, match="'gpt_oss' with attention 'eager'.* does not keep them apart"):
        trainer(tmp_path, prompts(4), model=strong_model("gpt_oss"), settings=made)
    without = {**made, "sft_num_train_epochs": 0}
    trainer(tmp_path, prompts(4), model=strong_model("gpt_oss"), settings=without)
    assert not (tmp_path / "_cong").exists()


def long_and_short(n=22):
    rows = prompts(n).to_list()
    for number, row in enumerate(rows):
        row["chosen"] = message("kind cat is kind " * (1 + number * 7 % 5))
        row["rejected"] = message("rude dog " * (1 + number % 3))
    return Dataset.from_list(rows)


def sft_weights(output_dir):
    (final,) = output_dir.glob("_cong/sft-*/final")
    return (final / "model.safetensors").read_bytes()


EVERY_TWO = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2, "sft_num_train_epochs": 2}


def resumed_in_stage_one(tmp_path, sft_kwargs, step):
    """Weights of stage I: of a run that was not disturbed, and of one that went on from its checkpoint at `step`."""
    rows, settings = long_and_short().remove_columns("rejected"), {**EVERY_TWO, "sft_kwargs": sft_kwargs}
    settings["max_steps"] = 1
    trainer(tmp_path, rows, weak=False, settings=settings).train()
    whole = sft_weights(tmp_path)
    (directory,) = tmp_path.glob("_cong/sft-*")
    assert (directory / f"checkpoint-{step}").exists()
    for path in directory.glob("checkpoint-*"):
        if path.name != f"checkpoint-{step}":
            shutil.rmtree(path)
    shutil.rmtree(directory / "final")
    trainer(tmp_path, rows, weak=False, settings=settings).train()
    assert [path.name for path in directory.glob("checkpoint-2")] == (["checkpoint-2"] if step == 2 else [])
    return whole, sft_weights(tmp_path)


PACKING = {"packing": True, "max_length": 128, "per_device_train_batch_size": 1}


@pytest.mark.parametrize(
    ("sft_kwargs", "step"),
    [
        pytest.param(PACKING, 4, marks=pytest.mark.slow),
        pytest.param({**PACKING, "packing_strategy": "bfd_split"}, 4, marks=pytest.mark.slow),
        pytest.param({**PACKING, "packing_strategy": "wrapped"}, 4, marks=pytest.mark.slow),
        pytest.param({"padding_free": True, "pad_to_multiple_of": 8}, 8, marks=pytest.mark.slow),
        ({"train_sampling_strategy": "group_by_length"}, 8),
    ],
    ids=["packing", "bfd_split", "wrapped", "padding_free", "group_by_length"],
)
def test_stage_one_goes_on_in_its_second_epoch(tmp_path, sft_kwargs, step):
    whole, again = resumed_in_stage_one(tmp_path, sft_kwargs, step)
    assert whole == again


def test_without_padding_the_weights_are_the_same(tmp_path):
    rows, found = long_and_short().remove_columns("rejected"), {}
    for name, own in {"padded": {}, "free": {"padding_free": True}, "packed": {"packing": True}}.items():
        settings = {"sft_kwargs": own, "max_steps": 1}
        trainer(tmp_path / name, rows, weak=False, settings=settings).train()
        (final,) = tmp_path.glob(f"{name}/_cong/sft-*/final")
        model = AutoModelForCausalLM.from_pretrained(final)
        found[name] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.allclose(found["free"], found["padded"], atol=1e-5)
    assert not torch.allclose(found["packed"], found["padded"], atol=1e-5)  # other batches


def test_rows_too_long_are_dropped_where_trl_holds_no_limit(tmp_path):
    rows = long_and_short(6).remove_columns("rejected")
    settings = {"sft_kwargs": {"padding_free": True, "max_length": 30}, "max_steps": 1}
    made = trainer(tmp_path, rows, weak=False, settings=settings)
    assert made.args.sft_settings()["max_length"] is None
    made.train()
    assert made.stage_counts["sft/train"]["dropped"]["too_long"] > 0


def test_rows_without_padding_have_their_names_when_the_loss_is_no_number(tmp_path):
    made = fine_tuner(tmp_path, strong_model(), padding_free=True, max_length=None, per_device_train_batch_size=4)
    made.add_callback(At(1, poison))
    with pytest.raises(FloatingPointError, match="The loss of step 2 is nan") as stop:
        made.train()
    assert sum(prompt_id(prompt) in str(stop.value) for prompt in made.train_dataset["prompt"]) == 4


# Rows of like length.


def test_stage_two_goes_on_in_its_second_epoch(tmp_path):
    settings = {**EVERY_TWO, "train_sampling_strategy": "group_by_length"}
    made = trainer(tmp_path, long_and_short(), weak=False, settings=settings)
    made.train()
    for path in tmp_path.glob("checkpoint-*"):
        if path.name != "checkpoint-8":
            shutil.rmtree(path)
    again = trainer(tmp_path, long_and_short(), weak=False, settings=settings)
    again.train(resume_from_checkpoint=True)
    assert weights(again) == weights(made)


def padding(made):
    batches = [batch["attention_mask"] for batch in made.get_train_dataloader()]
    return sum((mask == 0).sum().item() for mask in batches)


@pytest.mark.parametrize("column", ["length", "tokens"])
def test_pairs_of_like_length_have_less_padding(tmp_path, column):
    def made(name, strategy):
        settings = {"train_sampling_strategy": strategy, "length_column_name": column}
        return trainer(tmp_path / name, long_and_short(40), weak=False, settings=settings)

    assert padding(made("a", "group_by_length")) < 0.9 * padding(made("b", "random"))
    with pytest.raises(ValueError, match="infer lengths"):  # DPOTrainer has no column that says how long a pair is
        trainer(
            tmp_path / "c",
            long_and_short(4),
            weak=False,
            cls=DPOTrainer,
            settings={"train_sampling_strategy": "group_by_length", "precompute_ref_log_probs": True},
        ).train()


def test_batches_can_be_balanced(tmp_path):
    settings = {"train_sampling_strategy": "batch_rebalance", "max_steps": 2}
    trainer(tmp_path, long_and_short(), weak=False, settings=settings).train()


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = torch.randint(3, 90, (200,), generator=torch.Generator().manual_seed(0)).tolist()

    def order(sampler, epoch=0):
        if isinstance(sampler, ReproducibleLengthGroupedSampler):
            sampler.set_epoch(epoch)
        return list(sampler)

    ours = ReproducibleLengthGroupedSampler(8, lengths, seed=1)
    first = order(ours)
    torch.rand(3)  # as dropout draws
    assert order(ours) == first != order(ours, epoch=1)
    assert sorted(first) == list(range(200))
    assert order(ReproducibleLengthGroupedSampler(8, lengths, seed=2)) != first
    torch.manual_seed(0)
    theirs = LengthGroupedSampler(8, lengths=lengths)
    assert order(theirs) != order(theirs)


# Waiting for the device.


class Reads(TorchDispatchMode):
    """Counts the numbers that Python reads from tensors: on a GPU, each waits for it."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(keywords or {}))


def reads_per_step(make):
    counts = []
    for steps in (2, 4):
        made = make(steps)
        with Reads() as reads:
            made.train()
        counts.append(reads.count)
    return (counts[1] - counts[0]) / 2


def test_a_step_waits_for_the_device_hardly_more_often_than_trls(tmp_path):
    def make(cls, steps, dataset):
        settings = {"max_steps": steps, "logging_steps": 100, "precompute_ref_log_probs": True}
        return trainer(tmp_path / f"{cls.__name__}{steps}", dataset, weak=False, cls=cls, settings=settings)

    theirs = reads_per_step(lambda steps: make(DPOTrainer, steps, pairs(16)))
    ours = reads_per_step(lambda steps: make(ConGTrainer, steps, pairs(16)))
    assert theirs > 8 and ours - theirs <= 2  # is the loss a number, and the gap of lengths


@pytest.mark.slow
def test_the_recipe_compares_the_same_work(tmp_path):
    script = Path(__file__).parents[1] / "recipes" / "training_cost" / "measure.py"
    options = {"vocab_size": 64, "hidden_size": 64, "layers": 1, "steps": 6, "logging_steps": 2, "repeats": 2}
    arguments = [str(text) for name, value in options.items() for text in (f"--{name}", value)]
    command = [sys.executable, str(script), "--output_dir", str(tmp_path), *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results = json.loads((tmp_path / "results.json").read_text())
    for stage in ("I", "II"):
        found = results["comparisons"][stage]
        assert found["same loss"] and found["throughput"]["low"] < found["throughput"]["mean"]
        assert [len(side["seconds"]) for two in results["runs"][stage] for side in two] == [2] * 4
    table = (tmp_path / "results.md").read_text()
    assert "ConG, stage II" in table and table in printed
