# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What one trainer leaves on a model must not reach the next; each test shows what happens when it does."""

from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model
from trl import DPOTrainer, SFTConfig, SFTTrainer

from hf_cong.lending import lend

from .distributed.run_cong import config, lora, pairs, strong_model
from .tiny import tiny_model, tiny_tokenizer


def dpo(model, output_dir, **settings):
    settings = {"max_steps": 1, "precompute_ref_log_probs": True, **settings}
    return DPOTrainer(
        model, args=config(output_dir, **settings), train_dataset=pairs(4), processing_class=tiny_tokenizer()
    )


def fine_tune(trainer, output_dir, borrow, **settings):
    args = SFTConfig(
        output_dir=str(output_dir / "sft"),
        report_to="none",
        use_cpu=True,
        gradient_checkpointing=False,
        max_steps=1,
        save_strategy="no",
        **{"bf16": False, **settings},
    )
    data = pairs(4).select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    with borrow(trainer.model) as model:
        SFTTrainer(model, args=args, train_dataset=data, processing_class=tiny_tokenizer()).train()


@pytest.mark.parametrize("with_lora", [False, True])
def test_the_lender_trains_on_with_its_own_forward(tmp_path, with_lora):
    def run(borrow):
        model = strong_model()
        trainer = dpo(get_peft_model(model, lora()) if with_lora else model, tmp_path)
        own = model.forward
        fine_tune(trainer, tmp_path, borrow)
        assert (model.forward == own) is (borrow is lend)
        trainer.train()

    run(lend)
    with pytest.raises(TypeError, match="NoneType"):  # SFT's fused forward has no `mean_logits`
        run(nullcontext)


def test_the_lender_keeps_its_autocast(tmp_path):
    def dtype_in_dpo(borrow):
        seen = []
        model = strong_model()
        trainer = dpo(model, tmp_path, bf16=True)
        fine_tune(trainer, tmp_path, borrow, bf16=True)
        if borrow is not lend:  # past the crash above, the flag alone
            forward = trainer.model.__dict__.pop("_original_forward")
            del forward, trainer.model.__dict__["forward"]
            dpo(model, tmp_path, bf16=True)
        layer = model.model.layers[0].mlp.up_proj
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        trainer.train()
        return set(seen)

    assert dtype_in_dpo(lend) == {torch.bfloat16}
    assert dtype_in_dpo(nullcontext) == {torch.float32}


def test_weights_come_back_trained_and_the_configuration_as_it_was(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model("qwen3_moe", vocab_size=len(tokenizer), router_aux_loss_coef=0.1)
    trainer = dpo(model, tmp_path)
    before, weights = dict(model.config.__dict__), model.lm_head.weight.detach().clone()
    fine_tune(trainer, tmp_path, lend)
    assert model.config.__dict__ == before
    assert not torch.equal(model.lm_head.weight, weights)

    fine_tune(trainer, tmp_path, nullcontext)
    assert model.config.__dict__ != before


def test_lending_ends_also_when_the_borrower_fails():
    model = strong_model()
    with pytest.raises(RuntimeError, match="planned"), lend(model):
        model.forward = None
        raise RuntimeError("planned")
    assert "forward" not in model.__dict__
