# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""TRL's own forms of the preference loss, RPO and length-normalised, as stage II of a whole run."""

import math

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, set_seed
from trl import DPOTrainer

from hf_cong import ConGTrainer
from hf_cong.cli.training import train

from .distributed.run_cong import config, prompts, strong_model, weak_pair, weights
from .tiny import tiny_tokenizer

SETTINGS = {"learning_rate": 1e-2, "warmup_steps": 0, "num_train_epochs": 2, "per_device_train_batch_size": 8}
LOSSES = {
    "RPO": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]},
    "normalised": {"loss_type": ["sigmoid_norm"], "beta": 2.0},
}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, model in zip(("strong", "policy", "reference"), (strong_model(), *weak_pair()), strict=True):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    prompts(8).to_json(root / "prompts.jsonl")
    return root


def run(names, output_dir, **loss):
    weak = {"weak_model": str(names / "policy"), "weak_reference_model": str(names / "reference")}
    args = config(output_dir, **SETTINGS, **loss)
    trainer = ConGTrainer(str(names / "strong"), args=args, train_dataset=prompts(8), **weak)
    trainer.train()
    return trainer


@pytest.fixture(scope="module", params=LOSSES)
def whole(request, names, tmp_path_factory):
    loss = LOSSES[request.param]
    return loss, run(names, tmp_path_factory.mktemp("whole"), **loss)


def by_hand(trainer, output_dir, **loss):
    """TRL alone, from what stage I left, on the pairs that the run made."""
    (final,) = trainer._chain.root.glob("sft-*/final")
    made = DPOTrainer(
        str(final),
        args=config(output_dir, **SETTINGS, **loss),
        train_dataset=trainer.train_dataset.select_columns(["prompt", "chosen", "rejected"]),
        processing_class=tiny_tokenizer(),
    )
    set_seed(made.args.seed)
    made.train()
    return made


def test_stage_two_is_that_of_trl(whole, tmp_path):
    loss, trainer = whole
    assert weights(by_hand(trainer, tmp_path / "same", **loss)) == weights(trainer)
    assert weights(by_hand(trainer, tmp_path / "plain")) != weights(trainer)  # with the default loss


def test_the_first_loss_is_what_the_definition_says(whole):
    loss, trainer = whole
    first = next(line for line in trainer.state.log_history if "rewards/margins" in line)
    assert float(first["rewards/margins"]) == pytest.approx(0.0, abs=1e-5)
    expected = math.log(2)
    if "sft" in loss["loss_type"]:
        (final,) = trainer._chain.root.glob("sft-*/final")
        model, logps = AutoModelForCausalLM.from_pretrained(final), []
        for row in trainer.train_dataset:
            ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
            scores = model(ids).logits[0, :-1].log_softmax(-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
            logps.append(scores[len(row["prompt_ids"]) - 1 :])
        expected += 0.5 * -torch.cat(logps).mean().item()
    assert float(first["loss"]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_from_a_recipe_in_one_launch_and_by_stages(whole, names, tmp_path):
    loss, trainer = whole
    recipe = {
        "model_name_or_path": str(names / "strong"),
        "weak_model_name_or_path": str(names / "policy"),
        "weak_reference_model_name_or_path": str(names / "reference"),
        "dataset_name": str(names / "prompts.jsonl"),
        **SETTINGS,
        **{"max_new_tokens": 8, "max_length": 128, "drop_truncated": False, "report_to": "none", "use_cpu": True},
        **{"bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "save_strategy": "no"},
        **{"sft_learning_rate": 1e-3, "sft_num_train_epochs": 1},
        **loss,
    }
    (tmp_path / "cong.yaml").write_text(yaml.safe_dump(recipe))
    command = ["--config", str(tmp_path / "cong.yaml"), "--output_dir"]
    train([*command, str(tmp_path / "one")])
    for stage in ("decode", "sft", "sample", "dpo"):
        train([*command, str(tmp_path / "staged"), "--stage", stage])
    train([*command, str(tmp_path / "other"), "--beta", "0.9"])
    expected = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    one, staged, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "staged", "other"))
    assert all(torch.equal(one[name], expected[name]) and torch.equal(staged[name], one[name]) for name in one)
    assert any(not torch.equal(other[name], one[name]) for name in one)
