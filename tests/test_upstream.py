# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The names of TRL and transformers that we override or read exist and are called: fails first on an upgrade."""

import inspect

import pytest
from transformers import GenerationMixin, Trainer
from trl import DPOConfig, DPOTrainer, SFTTrainer

from hf_cong import ConGTrainer
from hf_cong.lending import FineTuner
from hf_cong.pair import StacksForCausalLM

from .distributed.run_cong import lora, pairs, strong_model
from .tiny import tiny_tokenizer


def parameters(function):
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    "name",
    [
        *("_prepare_dataset", "_precompute_ref_logps", "evaluate", "train", "_save"),
        *("init_hf_repo", "create_model_card", "push_to_hub", "_push_from_checkpoint", "_init_training_state"),
        *("_get_train_sampler", "_set_signature_columns_if_needed", "log", "_prepare_inputs"),
    ],
)
def test_overridden_methods_take_what_upstream_passes(name):
    ours, theirs = getattr(ConGTrainer, name), getattr(DPOTrainer, name)
    assert ours is not theirs
    assert parameters(ours) == parameters(theirs)


def test_a_step_of_training_takes_what_the_trainer_passes():
    """TRL hands it on as it comes."""
    for ours in (ConGTrainer, FineTuner):
        assert parameters(ours.training_step) == parameters(Trainer.training_step)


def test_constructor_takes_every_argument_of_dpo_trainer_in_its_order():
    ours = inspect.signature(ConGTrainer.__init__).parameters.values()
    assert [p.name for p in ours if p.kind is not p.KEYWORD_ONLY] == parameters(DPOTrainer.__init__)


@pytest.mark.parametrize(
    "name", ["_get_static_cache_init_shape", "init_continuous_batching", "prepare_inputs_for_generation"]
)
def test_hooks_of_generate_that_several_models_in_one_override(name):
    ours, theirs = getattr(StacksForCausalLM, name), getattr(GenerationMixin, name)
    assert ours is not theirs
    if name != "prepare_inputs_for_generation":  # which hands on whatever comes
        assert parameters(ours) == parameters(theirs)


def test_private_methods_that_we_call():
    assert parameters(Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"]
    assert {"model", "args", "train_dataset", "eval_dataset", "processing_class", "callbacks"} <= set(
        parameters(SFTTrainer.__init__)
    )


def test_hooks_are_called_and_the_state_we_set_is_read(tmp_path):
    calls = []

    class Recording(DPOTrainer):
        def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
            calls.append(("prepare", dataset_name))
            return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

        def _precompute_ref_logps(self, dataset, name, batch_size):
            # Set before this call; the name of the cached scores is made of it.
            calls.append(("score", name, self._precompute_model_hash is not None, self._pair_columns(dataset)))
            return super()._precompute_ref_logps(dataset, name, batch_size)

        def _pair_columns(self, dataset):
            return {"prompt_ids", "chosen_ids", "rejected_ids"} <= set(dataset.column_names)

        def _save(self, output_dir=None, state_dict=None):
            calls.append(("save",))
            super()._save(output_dir, state_dict)

    args = DPOConfig(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        precompute_ref_log_probs=True,
        max_steps=1,
        save_strategy="no",
    )
    trainer = Recording(
        strong_model(), args=args, train_dataset=pairs(4), eval_dataset=pairs(3), processing_class=tiny_tokenizer()
    )
    assert calls == [
        ("prepare", "train"),
        ("prepare", "eval"),
        ("score", "train", True, True),
        ("score", "eval", True, True),
    ]
    assert {"ref_chosen_logps", "ref_rejected_logps"} <= set(trainer.train_dataset.column_names)
    assert trainer.precompute_ref_logps
    # What `lend` gives back: the fused forward sits on the instance until training, then accelerate adds the rest.
    assert "forward" in trainer.model.__dict__
    assert "_is_accelerate_prepared" not in trainer.model.__dict__
    trainer.train()
    assert trainer.model.__dict__["_is_accelerate_prepared"]
    trainer.save_model()
    assert calls[-1] == ("save",)


def test_a_batch_is_prepared_once_before_its_loss_and_metrics_are_averaged(tmp_path):
    calls = []

    class Recording(DPOTrainer):
        def _prepare_inputs(self, inputs):
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["count"].append(float(len(calls)))
            calls.append((mode, inputs["completion_mask"].shape[0]))
            return super()._prepare_inputs(inputs)

        def _compute_loss(self, model, inputs, return_outputs):
            calls.append("loss")
            return super()._compute_loss(model, inputs, return_outputs)

    args = DPOConfig(
        output_dir=str(tmp_path),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        precompute_ref_log_probs=True,
        max_steps=1,
        logging_steps=1,
        eval_strategy="steps",
        save_strategy="no",
    )
    trainer = Recording(
        strong_model(), args=args, train_dataset=pairs(4), eval_dataset=pairs(3), processing_class=tiny_tokenizer()
    )
    trainer.train()
    assert calls == [("train", 4), "loss", ("train", 4), "loss", ("eval", 6), "loss"]
    logged = {name: value for logs in trainer.state.log_history for name, value in logs.items()}
    assert logged["count"] == (0 + 2) / 2 and logged["eval_count"] == 4


def test_adapters_are_named_as_we_expect(tmp_path):
    args = DPOConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False
    )
    trainer = DPOTrainer(
        strong_model(), args=args, train_dataset=pairs(4), processing_class=tiny_tokenizer(), peft_config=lora()
    )
    assert list(trainer.model.peft_config) == ["default"]
    again = DPOTrainer(trainer.model, args=args, train_dataset=pairs(4), processing_class=tiny_tokenizer())
    assert list(again.model.peft_config) == ["default", "ref"]
