# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from hf_cong import ConGConfig, ConGTrainer, ContrastivePairForCausalLM

from .distributed.run_cong import (
    LONG,
    chosen_rows,
    config,
    long_run,
    lora,
    pairs,
    prompts,
    strong_model,
    trainer,
    weak_pair,
    weights,
)
from .tiny import tiny_model, tiny_tokenizer

REPOSITORY = Path(__file__).parents[1]


def message(text, role="assistant"):
    return [{"role": role, "content": text}]


def first_step(trainer):
    return next(logs for logs in trainer.state.log_history if "rewards/margins" in logs)


class Logs(TrainerCallback):
    """Every log line a tracker would get."""

    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines.append(dict(logs))

    @property
    def names(self):
        return {name for line in self.lines for name in line}


# Pairs given: exactly DPOTrainer.


@pytest.mark.parametrize("with_lora", [False, True])
def test_with_pairs_the_weights_are_those_of_dpo_trainer(tmp_path, with_lora):
    def run(cls, beta):
        made = cls(
            strong_model(),
            args=config(tmp_path / f"{cls.__name__}{beta}", beta=beta),
            train_dataset=pairs(),
            eval_dataset=pairs(3),
            processing_class=tiny_tokenizer(),
            peft_config=lora() if with_lora else None,
        )
        made.train()
        return weights(made)

    assert run(ConGTrainer, 0.5) == run(DPOTrainer, 0.5)
    assert run(ConGTrainer, 0.1) != run(DPOTrainer, 0.5)


# The reference is the strong model as stage I leaves it.


@pytest.mark.parametrize("precompute", [True, False])
@pytest.mark.parametrize("kind", ["full", "lora", "peft_model"])
def test_rewards_of_the_first_step_are_zero(tmp_path, kind, precompute):
    strong_model().save_pretrained(tmp_path / "strong")
    model = get_peft_model(strong_model(), lora()) if kind == "peft_model" else str(tmp_path / "strong")
    made = trainer(
        tmp_path / "out",
        chosen_rows(),
        model=model,
        weak=False,
        peft_config=lora() if kind == "lora" else None,
        settings={"precompute_ref_log_probs": precompute, "sft_learning_rate": 1e-2},
    )
    before = weights(made)
    made.train()
    step = first_step(made)
    # Precomputed in batches of their own: on some CPUs another padding is another rounding.
    rounding = 1e-5 if precompute else 0.0
    for name in ("chosen", "rejected", "margins"):
        assert abs(float(step[f"rewards/{name}"])) <= rounding
    assert float(step["loss"]) == pytest.approx(0.693147, abs=1e-4)
    assert weights(made) != before


@pytest.mark.parametrize("kind", ["embedding", "token indices", "ia3"])
def test_rewards_of_the_first_step_are_zero_with_every_kind_of_adapter(tmp_path, kind):
    peft_config = {
        "embedding": LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM"),
        "token indices": LoraConfig(r=4, trainable_token_indices=[5, 6, 7, 300], task_type="CAUSAL_LM"),
        "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj"], feedforward_modules=[]),
    }[kind]
    strong_model().save_pretrained(tmp_path / "strong")
    made = trainer(
        tmp_path / "out",
        chosen_rows(),
        model=str(tmp_path / "strong"),
        weak=False,
        peft_config=peft_config,
        settings={"sft_learning_rate": 5e-2},
    )
    made.train()
    step = first_step(made)
    # An adapter on embeddings is applied by another kernel than its copy, hence the rounding.
    assert float(step["rewards/chosen"]) == pytest.approx(0.0, abs=1e-5)
    assert float(step["rewards/rejected"]) == pytest.approx(0.0, abs=1e-5)


def test_a_reference_from_before_stage_one_would_show(tmp_path):
    class OldReference(ConGTrainer):
        def _set_reference(self):
            pass

    strong_model().save_pretrained(tmp_path / "strong")
    made = trainer(
        tmp_path / "out",
        chosen_rows(),
        model=str(tmp_path / "strong"),
        weak=False,
        cls=OldReference,
        settings={"precompute_ref_log_probs": False, "sft_learning_rate": 1e-2},
    )
    made.train()
    assert abs(float(first_step(made)["rewards/chosen"])) > 0.1


def test_a_peft_run_saves_one_adapter(tmp_path):
    made = trainer(tmp_path, weak=False, train_dataset=chosen_rows(), peft_config=lora(), settings={"max_steps": 1})
    made.train()
    assert "ref" in made.model.peft_config
    made.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists()
    assert not (tmp_path / "ref").exists()


# Stages by columns.


def test_stages_follow_from_the_columns(tmp_path):
    def stages(name, dataset, **kwargs):
        made = trainer(tmp_path / name, dataset, weak=name == "prompt", settings=kwargs)
        made.train()
        found = {path.name.split("-")[0] for path in (tmp_path / name / "_cong").iterdir() if path.is_dir()}
        assert {"chosen", "rejected", "chosen_ids"} <= set(made.train_dataset.column_names)
        return found

    assert stages("prompt", prompts(4)) == {"decode", "sft", "sample", "pairs"}
    assert stages("chosen", chosen_rows(4)) == {"sft", "sample", "pairs"}
    assert stages("completion", chosen_rows(4).rename_column("chosen", "completion")) == {"sft", "sample", "pairs"}
    assert stages("no-sft", chosen_rows(4), sft_num_train_epochs=0) == {"sample", "pairs"}
    assert stages("pairs", pairs(4)) == {"given"}  # as it came, beside its scores of the reference


def test_plain_text_prompts(tmp_path):
    dataset = Dataset.from_dict({"prompt": [f"tell me about cat {i}:" for i in range(6)]})
    made = trainer(tmp_path, dataset)
    made.train()
    assert all(isinstance(text, str) for text in made.train_dataset["chosen"])
    assert float(first_step(made)["rewards/chosen"]) == 0.0


def test_rounds_are_an_outer_loop(tmp_path):
    first = trainer(tmp_path / "0", prompts(8))
    first.train()
    first.save_model()
    given = first.train_dataset.select_columns(["prompt", "chosen"])
    second = trainer(
        tmp_path / "1", given, model=str(tmp_path / "0"), weak=False, settings={"sft_num_train_epochs": 0}
    )
    second.train()
    assert float(first_step(second)["rewards/chosen"]) == 0.0
    assert second.train_dataset["rejected"][:] != first.train_dataset["rejected"][:]


def test_a_lora_adapter_is_a_weak_pair_with_its_base(tmp_path):
    _, base = weak_pair()
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, lora_alpha=32, init_lora_weights=False))
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")  # without a tokenizer
    weak = {"two": (copy.deepcopy(adapted).merge_and_unload(), base)}
    weak |= {"adapter": (tmp_path / "adapter", None), "both": (tmp_path / "adapter", tmp_path / "base")}
    weak["base alone"] = (base, copy.deepcopy(base))  # the negative control
    chosen = {}
    for name, (policy, reference) in weak.items():
        tokenizer = {} if name in ("adapter", "both") else {"weak_processing_class": tiny_tokenizer()}
        pair = {"weak_model": policy, "weak_reference_model": reference, **tokenizer}
        made = trainer(tmp_path / name, prompts(4), weak=False, **pair)
        made.train()
        chosen[name] = made.train_dataset["chosen"][:]
    assert chosen["adapter"] == chosen["both"] == chosen["two"] != chosen["base alone"]
    with pytest.raises(TypeError, match="`weak_model` is a PeftModel. Save it"):
        trainer(tmp_path / "x", prompts(4), weak=False, weak_model=adapted)
    with pytest.raises(ValueError, match="Pass both, a LoRA adapter by its name, or a dataset"):
        trainer(tmp_path / "x", prompts(4), weak=False, weak_model=str(tmp_path / "base"))


def test_pair_and_strong_model_of_other_families_tokenizers_and_templates(tmp_path):
    weak_tokenizer, strong_tokenizer = tiny_tokenizer(), tiny_tokenizer(seed=4)
    assert weak_tokenizer.get_vocab() != strong_tokenizer.get_vocab()
    strong_tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    strong = tiny_model(
        "gpt2",
        vocab_size=len(strong_tokenizer),
        eos_token_id=strong_tokenizer.eos_token_id,
        initializer_range=0.05,
        resid_pdrop=0.0,
    )
    policy, reference = weak_pair("llama")
    made = trainer(
        tmp_path,
        prompts(6),
        model=strong,
        processing_class=strong_tokenizer,
        weak_model=policy,
        weak_reference_model=reference,
        weak_processing_class=weak_tokenizer,
    )
    made.train()
    assert float(first_step(made)["rewards/chosen"]) == 0.0

    (decoded,) = (tmp_path / "_cong").glob("decode-train-*/completions.parquet")
    decoded = {row["prompt_id"]: row for row in Dataset.from_parquet(str(decoded))}
    assert len(made.train_dataset) > 0
    for row in made.train_dataset:
        source = decoded[row["prompt_id"]]
        text = weak_tokenizer.decode(source["completion_ids"], skip_special_tokens=True)
        assert row["chosen"] == message(text)  # text crosses, not ids
        assert strong_tokenizer.decode(row["prompt_ids"]).startswith("[user] tell me about cat")
        assert strong_tokenizer.decode(row["chosen_ids"], skip_special_tokens=True) == text


# Data kept and dropped.


def test_every_row_is_kept_or_counted(tmp_path):
    logs = Logs()
    rows = [{"prompt": message(f"cat {i}", "user"), "chosen": message("kind " * (3 + 90 * (i % 2)))} for i in range(8)]
    rows[0]["chosen"] = message(" ")
    made = trainer(tmp_path, Dataset.from_list(rows), weak=False, callbacks=[logs], settings={"max_length": 64})
    made.train()
    assert made.stage_counts["sft/train"] == {"rows_in": 8, "kept": 3, "dropped": {"empty": 1, "too_long": 4}}
    for counts in made.stage_counts.values():
        assert counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())
    assert len(made.train_dataset) == made.stage_counts["dpo/train"]["kept"] == 3
    counts = {"sft/train/rows_in": 8, "sft/train/kept": 3, "sft/train/dropped_empty": 1}
    assert any(counts.items() <= line.items() for line in logs.lines)
    lengths = [
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in made.train_dataset
    ]
    assert max(lengths) <= 64


def test_truncated_completions_are_dropped_by_default_only(tmp_path):
    assert ConGConfig(output_dir=str(tmp_path)).drop_truncated
    counts = {}
    for drop in (True, False):
        made = trainer(tmp_path, prompts(24), settings={"drop_truncated": drop, "max_new_tokens": 40})
        made.train()
        counts[drop] = made.stage_counts["sft/train"]
    (decoded,) = (tmp_path / "_cong").glob("decode-train-*/completions.parquet")
    decoded = Dataset.from_parquet(str(decoded))
    cut = sum(row["finish_reason"] == "length" and bool(row["completion"].strip()) for row in decoded)
    assert 0 < cut < 24
    assert counts[True]["dropped"]["truncated"] == cut
    assert "truncated" not in counts[False]["dropped"]
    assert counts[True]["kept"] + cut == counts[False]["kept"]


def test_given_pairs_that_dpo_trainer_cuts_are_counted_in_a_warning(tmp_path, caplog):
    rows = trainer(tmp_path / "a", pairs(4), weak=False).train_dataset
    assert "are cut" not in caplog.text
    lengths = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    limit = max(lengths) - 1
    trainer(tmp_path / "b", pairs(4), weak=False, settings={"max_length": limit})
    count = lengths.count(max(lengths))
    assert f"{count} of 4 given pairs are longer than `max_length={limit}` and are cut" in caplog.text


def test_weights_in_half_precision_are_warned_of(tmp_path, caplog):
    """A step of AdamW moves a weight by its learning rate: 6e-7 is nothing beside a weight of 0.05 in bfloat16."""
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        settings = {"learning_rate": 6e-7, "warmup_steps": 0}
        made = trainer(tmp_path / str(dtype), pairs(4), weak=False, model=strong_model().to(dtype), settings=settings)
        assert ("are trained in bfloat16" in caplog.text) == (dtype == torch.bfloat16)
        before = copy.deepcopy(list(made.model.parameters()))
        made.train()
        after = list(made.model.parameters())
        changed = [(one != other).float().mean() for one, other in zip(before, after, strict=True) if one.ndim == 2]
        moved[dtype] = float(torch.stack(changed).mean())
    assert moved[torch.bfloat16] < 0.1 < moved[torch.float32]
    caplog.clear()
    trainer(tmp_path / "lora", pairs(4), weak=False, model=strong_model().bfloat16(), peft_config=lora())
    assert "are trained in" not in caplog.text  # an adapter is in float32


def test_nothing_left_is_an_error_that_says_what_to_raise(tmp_path):
    made = trainer(tmp_path, chosen_rows(4), weak=False, settings={"max_length": 4})
    with pytest.raises(ValueError, match=r"No row is left of 4 .*'too_long': 4.*Raise `max_length`"):
        made.train()


# Evaluation, trackers, cards, the Hub.


def test_eval_sets_go_through_the_same_stages(tmp_path):
    logs = Logs()
    evals = {"prompts": prompts(30).select(range(24, 30)), "given": pairs(4)}
    made = trainer(tmp_path, prompts(6), eval_dataset=evals, callbacks=[logs], settings={"eval_strategy": "epoch"})
    with pytest.raises(ValueError, match="Call `train` first"):
        made.evaluate()
    made.train()
    assert {"eval_prompts_loss", "eval_given_loss", "eval_rewards/margins", "sft/eval_given_loss"} <= logs.names
    assert set(made.eval_dataset) == {"prompts", "given"}
    rejected = made.eval_dataset["given"]["rejected"][:]
    assert rejected == pairs(4)["rejected"][:]  # given completions are not sampled again
    again = made.evaluate()
    last = next(line for line in logs.lines if "eval_given_loss" in line)
    assert again["eval_given_loss"] == pytest.approx(float(last["eval_given_loss"]))


def test_one_run_in_the_trackers(tmp_path):
    logs = Logs()
    trainer(tmp_path, prompts(6), callbacks=[logs]).train()
    assert {"sft/loss", "sft/learning_rate", "loss", "rewards/margins", "dpo/train/kept"} <= logs.names
    order = [next(i for i, line in enumerate(logs.lines) if name in line) for name in ("sft/loss", "loss")]
    assert order == sorted(order)


def test_card_names_the_method_and_the_paper(tmp_path):
    made = trainer(tmp_path, prompts(6))
    made.train()
    card = (tmp_path / "README.md").read_text()
    assert "2510.07884" in card and "Contrastive Weak-to-Strong Generalization" in card
    assert "cong" in made.model.model_tags


def test_stages_and_states_never_leave_with_push_to_hub(hub, tmp_path):
    made = trainer(tmp_path, prompts(4), settings={"save_strategy": "epoch", "hub_model_id": "alice/stays-here"})
    made.train()
    made.push_to_hub()
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(name.startswith("_cong/decode-train-") for name in files)
    assert any(name.startswith("checkpoint-") for name in files) and "training_args.bin" in files
    sent = set(hub.repositories["models", "alice/stays-here"].branches["main"].files)
    assert {"model.safetensors", "README.md", "tokenizer.json"} <= sent
    assert not [name for name in sent if name.startswith(("_", "checkpoint-")) or name.endswith((".bin", ".pt"))]


# The weak models.


def test_weak_models_are_freed_before_stage_one_trains(tmp_path):
    alive = []

    class Watch(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "sft/loss" in logs:
                alive.append([reference() is not None for reference in references])

    policy, reference = weak_pair()
    references = [weakref.ref(policy), weakref.ref(reference)]
    made = trainer(tmp_path, prompts(6), weak_model=policy, weak_reference_model=reference, callbacks=[Watch()])
    del policy, reference
    assert all(reference() is not None for reference in references)
    made.train()
    assert len(alive) > 0
    assert not any(any(line) for line in alive)


def test_a_resumed_run_loads_no_weak_model(tmp_path, monkeypatch):
    for name, model in zip(("post", "pre"), weak_pair(), strict=True):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    names = {
        "weak_model_name_or_path": str(tmp_path / "post"),
        "weak_reference_model_name_or_path": str(tmp_path / "pre"),
    }

    def run(output_dir):
        made = trainer(output_dir, prompts(6), weak=False, settings=names)
        made.train()
        return weights(made)

    whole = run(tmp_path / "out")

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    assert run(tmp_path / "out") == whole
    with pytest.raises(AssertionError, match="a model was loaded"):
        run(tmp_path / "elsewhere")


def test_weak_models_may_be_given_as_paths(tmp_path):
    for name, model in zip(("policy", "reference"), weak_pair(), strict=True):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    weak = {"weak_model": tmp_path / "policy", "weak_reference_model": tmp_path / "reference"}
    made = trainer(tmp_path / "out", prompts(4), weak=False, settings={"max_steps": 1}, **weak)
    made.train()
    assert made.stage_counts["sft/train"]["rows_in"] == 4


def test_weak_models_with_different_tokenizers_are_refused_at_construction(tmp_path):
    for name, model, seed in zip(("post", "pre"), weak_pair(), (0, 1), strict=True):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer(seed).save_pretrained(tmp_path / name)
    names = {"weak_model": str(tmp_path / "post"), "weak_reference_model": str(tmp_path / "pre")}
    with pytest.raises(ValueError, match="must share one vocabulary"):
        trainer(tmp_path / "out", weak=False, **names)


# Bad input.


@pytest.mark.parametrize(
    ("dataset", "error", "text"),
    [
        (lambda: prompts(4).select([]), ValueError, "`train_dataset` is empty"),
        (lambda: None, TypeError, "`train_dataset` must be a `datasets.Dataset`, got NoneType"),
        (lambda: prompts(4).to_iterable_dataset(), TypeError, "IterableDataset.*from_list"),
        (lambda: prompts(4).rename_column("prompt", "text"), ValueError, r"needs the column `prompt`.*\['text'\]"),
        (lambda: pairs(4).remove_columns("chosen"), ValueError, "`rejected` without `chosen`"),
        (lambda: prompts(4).add_column("image", ["x"] * 4), NotImplementedError, r"\['image'\].*text only"),
        (lambda: prompts(4).add_column("tools", ["x"] * 4), NotImplementedError, r"\['tools'\]"),
        (lambda: prompts(4), ValueError, "needs the weak pair"),
    ],
)
def test_bad_datasets_are_refused_at_construction(tmp_path, dataset, error, text):
    with pytest.raises(error, match=text):
        trainer(tmp_path, weak=False, train_dataset=dataset()) if dataset() is not None else ConGTrainer(
            strong_model(), args=config(tmp_path), processing_class=tiny_tokenizer()
        )


def test_arguments_of_another_kind_are_refused(tmp_path):
    def make(**kwargs):
        ConGTrainer(strong_model(), train_dataset=pairs(2), processing_class=tiny_tokenizer(), **kwargs)

    with pytest.raises(ValueError, match="`ref_model` must not be passed"):
        make(args=config(tmp_path), ref_model=strong_model())
    with pytest.raises(TypeError, match="must be a `ConGConfig`, got NoneType"):
        make()
    with pytest.raises(TypeError, match="got DPOConfig"):
        make(args=DPOConfig(output_dir=str(tmp_path), use_cpu=True))
    with pytest.raises(ValueError, match=r"`train_dataset` has pairs, but \['eval'\] has none"):
        make(args=config(tmp_path), eval_dataset=prompts(2))
    with pytest.raises(ValueError, match="Keep `precompute_ref_log_probs=True`"):
        trainer(tmp_path, chosen_rows(4), weak=False, settings={"precompute_ref_log_probs": False})
    policy, reference = weak_pair()
    with pytest.raises(ValueError, match="pass `weak_processing_class`"):
        ConGTrainer(
            strong_model(),
            args=config(tmp_path),
            train_dataset=prompts(2),
            processing_class=tiny_tokenizer(),
            weak_model=policy,
            weak_reference_model=reference,
        )


def test_a_bad_prompt_or_completion_is_named_by_its_row(tmp_path):
    rows = prompts(4).to_list()
    with pytest.raises(ValueError, match="Row 2 of the prompts is a duplicate of row 0"):
        trainer(tmp_path / "a", Dataset.from_list([*rows[:2], rows[0]])).train()
    bad = chosen_rows(3).to_list()
    bad[1]["chosen"] = message("hello", "user")
    with pytest.raises(ValueError, match="Row 1 of `chosen`"):
        trainer(tmp_path / "b", Dataset.from_list(bad), weak=False).train()


# Interruption and damage.


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One whole run; tests work on copies of its directory."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    return directory, weights(long_run(directory))


def _journal_lines(root, pattern):
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in root.glob(pattern))


# When to kill, and what must not exist yet for the kill to have come in the middle of that stage.
KILLS = {
    "decode": (lambda out: _journal_lines(out, "_cong/decode-*/journal-*") > 2, "_cong/decode-*/manifest.json"),
    "sft": (lambda out: any(out.glob("_cong/sft-*/checkpoint-*/files.json")), "_cong/sft-*/final/files.json"),
    "sample": (lambda out: _journal_lines(out, "_cong/sample-*/journal-*") > 2, "_cong/sample-*/manifest.json"),
    "dpo": (lambda out: any(out.glob("checkpoint-*/files.json")), "checkpoint-24"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["decode", "sft", "sample", "dpo"])
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, uninterrupted, stage):
    reached, unfinished = KILLS[stage]
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.distributed.run_cong", str(tmp_path / "out")],
        cwd=REPOSITORY,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline and not reached(tmp_path / "out"):
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()[-2000:]
    assert not any((tmp_path / "out").glob(unfinished))
    assert weights(long_run(tmp_path / "out", resume=True)) == uninterrupted[1]


def test_resuming_takes_up_and_does_not_start_again(tmp_path, uninterrupted):
    """The equality above would also hold if a resumed run began anew; this one must train the last steps only."""
    directory, whole = uninterrupted
    shutil.copytree(directory, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-24")
    logs = Logs()
    made = trainer_of_long_run(tmp_path / "out", callbacks=[logs])
    made.train(resume_from_checkpoint=True)
    assert weights(made) == whole
    assert sum("loss" in line for line in logs.lines) == 2
    assert "sft/loss" not in logs.names


def trainer_of_long_run(output_dir, **kwargs):
    return trainer(output_dir, settings={**LONG, **kwargs.pop("settings", {})}, **kwargs)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "optimizer.pt missing": lambda checkpoint: (checkpoint / "optimizer.pt").unlink(),
    "model.safetensors cut": lambda checkpoint: cut(checkpoint / "model.safetensors"),
    "trainer_state.json missing": lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
    "rng_state.pth missing": lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
    "killed while saving": lambda checkpoint: (checkpoint / "files.json").unlink(),
    "empty": lambda checkpoint: [path.unlink() for path in checkpoint.iterdir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, uninterrupted, kind, caplog):
    directory, whole = uninterrupted
    shutil.copytree(directory, tmp_path / "out")
    DAMAGE[kind](tmp_path / "out" / "checkpoint-24")
    logs = Logs()
    made = trainer_of_long_run(tmp_path / "out", callbacks=[logs])
    with pytest.raises(ValueError, match="Cannot resume from .*checkpoint-24"):
        made.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-24"))
    made.train(resume_from_checkpoint=True)
    assert "Passed over a checkpoint. Cannot resume from" in caplog.text and "checkpoint-24" in caplog.text
    assert weights(made) == whole
    assert sum("loss" in line for line in logs.lines) == 2  # from checkpoint-22


def test_a_missing_optimizer_would_change_the_weights_silently(tmp_path, uninterrupted):
    """Why checkpoints are sealed: transformers itself goes on without a word."""
    directory, whole = uninterrupted
    shutil.copytree(directory, tmp_path / "out")
    (tmp_path / "out" / "checkpoint-12" / "optimizer.pt").unlink()
    made = trainer_of_long_run(tmp_path / "out")
    made._begin()
    made._take_pairs(made._run_stages())
    DPOTrainer.train(made, str(tmp_path / "out" / "checkpoint-12"))
    assert weights(made) != whole


def test_a_damaged_result_of_stage_one_is_made_again(tmp_path, uninterrupted, caplog):
    directory, whole = uninterrupted
    shutil.copytree(directory, tmp_path / "out")
    (stage,) = (tmp_path / "out" / "_cong").glob("sft-*")
    cut(stage / "final" / "model.safetensors")
    logs = Logs()
    made = trainer_of_long_run(tmp_path / "out", callbacks=[logs])
    made.train()
    assert "is damaged: model.safetensors has" in caplog.text
    assert weights(made) == whole


def test_an_output_dir_of_another_run_is_refused_with_what_differs(tmp_path, uninterrupted):
    directory, _ = uninterrupted
    shutil.copytree(directory, tmp_path / "out")
    for resume in (True, False):
        made = trainer_of_long_run(tmp_path / "out", settings={"alpha": 0.7})
        with pytest.raises(ValueError, match="another run: `alpha` 0.4 there, 0.7 here"):
            made.train(resume_from_checkpoint=resume)
    made = trainer_of_long_run(tmp_path / "out", model=strong_model(seed=9))
    with pytest.raises(ValueError, match="another run: `model` "):
        made.train()
    (tmp_path / "out" / "_cong" / "run.json").unlink()
    with pytest.raises(ValueError, match="another run"):
        trainer_of_long_run(tmp_path / "out").train()


def test_resuming_from_a_checkpoint_as_the_model_is_refused(tmp_path, uninterrupted):
    """It would make the checkpoint its own reference."""
    directory, _ = uninterrupted
    shutil.copytree(directory, tmp_path / "out")
    made = trainer_of_long_run(tmp_path / "out", model=str(tmp_path / "out" / "checkpoint-22"))
    with pytest.raises(ValueError, match="another run: `model` "):
        made.train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_run_is_refused_as_str_and_as_path(tmp_path):
    mine, foreign = tmp_path / "mine", tmp_path / "foreign"
    for directory, alpha in ((mine, 0.4), (foreign, 0.9)):
        settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "alpha": alpha}
        trainer(directory, prompts(8), settings=settings).train()
    again = trainer(mine, prompts(8), settings={"save_strategy": "steps", "save_steps": 1, "max_steps": 2})
    for checkpoint in (foreign / "checkpoint-1", str(foreign / "checkpoint-1")):
        with pytest.raises(ValueError, match="alpha"):
            again.train(resume_from_checkpoint=checkpoint)
    (mine / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"optimizer\.pt is missing"):
        again.train(resume_from_checkpoint=mine / "checkpoint-1")


def test_an_interrupted_stage_one_does_not_go_on_with_half_trained_weights(tmp_path):
    def make(directory):
        return trainer(directory, chosen_rows(16), weak=False, settings={"sft_learning_rate": 1e-2})

    class Interrupt(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if any(key == "sft/loss" for key in logs):
                raise KeyboardInterrupt

    interrupted = make(tmp_path / "a")
    interrupted.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    interrupted.remove_callback(Interrupt)
    with pytest.raises(RuntimeError, match="half-trained"):
        interrupted.train()
    fresh, whole = make(tmp_path / "a"), make(tmp_path / "b")
    fresh.train()
    whole.train()
    assert weights(fresh) == weights(whole)


def test_stages_are_named_by_all_that_they_depend_on(tmp_path):
    def names(kind):
        return {path.name for path in (tmp_path / "_cong").glob(f"{kind}-*")}

    def run(**kwargs):
        settings = {"save_strategy": "no", "max_steps": 1, "sft_num_train_epochs": 0, **kwargs.pop("settings", {})}
        trainer(tmp_path, prompts(4), settings=settings, **kwargs).train()

    run()
    assert (len(names("decode")), len(names("sample"))) == (1, 1)
    run()
    assert (len(names("decode")), len(names("sample"))) == (1, 1)  # the control: the same run
    run(peft_config=lora())
    assert (len(names("decode")), len(names("sample"))) == (1, 2)
    weak, reference = weak_pair()
    weak.config.rope_parameters = {"rope_type": "default", "rope_theta": 123.0}
    run(weak_model=weak, weak_reference_model=reference)
    assert len(names("decode")) == 2


def test_what_would_fail_after_decoding_is_refused_before_it(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        trainer(tmp_path, prompts(4), processing_class=tokenizer)
    small = {"vocab_size": 320, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    encoder_decoder = transformers.T5ForConditionalGeneration(transformers.T5Config(**small))
    with pytest.raises(ValueError, match=r"`model` is an encoder-decoder \('t5'\)"):
        trainer(tmp_path, prompts(4), model=encoder_decoder)
    with pytest.raises(ValueError, match=r"`model` is several models that decode as one \('contrastive_pair'\)"):
        trainer(tmp_path, prompts(4), model=ContrastivePairForCausalLM.from_pair(*weak_pair()))
    with pytest.raises(ValueError, match="no room is left for a prompt"):
        trainer(tmp_path, prompts(4), settings={"max_new_tokens": 600})
    rows = Dataset.from_list([*prompts(3).to_list(), {"prompt": message("cat " * 600, "user")}])
    with pytest.raises(ValueError, match=r"Row 3 of train has a prompt of \d+ tokens"):
        trainer(tmp_path, rows).train()
    assert not list((tmp_path / "_cong").glob("decode-*"))
    with pytest.raises(ValueError, match="train no bias"):
        trainer(tmp_path, prompts(4), peft_config=LoraConfig(bias="all", task_type="CAUSAL_LM"))


def test_invalid_prompts_are_dropped_and_counted_on_request(tmp_path):
    rows = prompts(4).to_list()
    rows = Dataset.from_list([*rows, rows[0], {"prompt": message("cat " * 600, "user")}])
    made = trainer(tmp_path, rows, settings={"invalid_prompts": "drop", "max_steps": 1})
    made.train()
    counts = made.stage_counts["sft/train"]
    assert counts["rows_in"] == 6 == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"]["duplicate"] == 1 and counts["dropped"]["too_long_for_pair"] == 1


def test_resume_without_a_checkpoint_is_a_fresh_start(tmp_path):
    made = trainer(tmp_path, pairs(4), weak=False)
    made.train(resume_from_checkpoint=True)
    assert made.state.global_step == 1


@pytest.mark.slow
def test_resuming_lora_is_exact(tmp_path):
    whole = weights(long_run(tmp_path, with_lora=True))
    for path in tmp_path.glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > 10:
            shutil.rmtree(path)
    assert not any(tmp_path.glob("checkpoint-*/ref"))
    assert weights(long_run(tmp_path, with_lora=True, resume=True)) == whole


# Alignment transfers.


def _toy_rows(n, seed, kind):
    """Four words of style, each "kind" with the given probability: what alignment is about here."""
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for i in range(n):
        words = " ".join("kind" if draw.random() < kind else "rude" for _ in range(4))
        rows.append({"prompt": message(f"tell me about a cat {i}", "user"), "completion": message(words)})
    return rows


def _teach(model, tokenizer, rows, steps, lr):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    draw = random.Random(0)  # noqa: S311
    encoded = []
    for row in rows:
        start = len(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False))
        encoded.append((start, tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)))
    for _ in range(steps):
        batch = draw.sample(encoded, 32)
        width = max(len(ids) for _, ids in batch)
        ids = torch.full((32, width), tokenizer.pad_token_id)
        labels = torch.full((32, width), -100)
        for i, (start, tokens) in enumerate(batch):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            labels[i, start : len(tokens)] = torch.tensor(tokens[start:])
        model(
            input_ids=ids, attention_mask=labels.ne(-100) | ids.ne(tokenizer.pad_token_id), labels=labels
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def _kindness(texts):
    text = " ".join(texts)
    return text.count("kind") / max(1, text.count("kind") + text.count("rude"))


@pytest.mark.slow
def test_alignment_transfers_to_the_strong_model(tmp_path):
    tokenizer = tiny_tokenizer()
    reference = _teach(weak_pair()[0], tokenizer, _toy_rows(300, 1, 0.3), 120, 5e-3)
    policy = weak_pair()[0]
    policy.load_state_dict(reference.state_dict())
    policy = _teach(policy, tokenizer, _toy_rows(300, 2, 0.65), 80, 2e-3)
    strong = _teach(strong_model(), tokenizer, _toy_rows(300, 3, 0.3), 120, 5e-3)
    made = trainer(
        tmp_path,
        Dataset.from_list([{"prompt": row["prompt"]} for row in _toy_rows(128, 4, 0.5)]),
        model=strong,
        weak_model=policy,
        weak_reference_model=reference,
        settings={"per_device_train_batch_size": 16, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8}
        | {"sft_num_train_epochs": 3, "generation_batch_size": 64, "alpha": 0.3},
    )

    def sampled():
        ids = tokenizer.apply_chat_template(
            message("tell me about a cat", "user"), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        torch.manual_seed(0)
        made.model.eval()
        out = made.model.generate(**ids, do_sample=True, top_k=0, max_new_tokens=8, num_return_sequences=128)
        return _kindness(tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True))

    before = sampled()
    made.train()
    after = sampled()
    chosen = _kindness([turn[0]["content"] for turn in made.train_dataset["chosen"]])
    assert before < 0.4
    assert chosen > 0.72  # the contrast writes more kindly than either weak model
    assert after > before + 0.25
