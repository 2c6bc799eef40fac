# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a run with an adapter leaves: one adapter on the original base, or one merged model."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    AdaptionPromptConfig,
    AutoPeftModelForCausalLM,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from hf_cong.adapters import stay_trainable
from hf_cong.cli import main
from hf_cong.staged import StagedRun

from .distributed.run_cong import chosen_rows, config, lora, pairs, prompts, strong_model, trainer, weak_pair, weights
from .tiny import tiny_tokenizer

IDS = torch.arange(24)[None]
FAST = {"sft_learning_rate": 2e-2, "learning_rate": 2e-2}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


def peft(**settings):
    return LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"], **settings})


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def distance(one, other):
    return float((logits(one) - logits(other)).abs().max())


def files(directory):
    return {path.name for path in directory.iterdir() if path.is_file()}


def first_step(made):
    return next(logs for logs in made.state.log_history if "rewards/margins" in logs)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Strong models by name: `plain`, `tied`, `moe`, `wide` enough to be quantised on a CPU; and a weak pair."""
    root = tmp_path_factory.mktemp("models")
    made = {"plain": strong_model(), "tied": strong_model(tie_word_embeddings=True), "moe": strong_model("mixtral")}
    made["wide"] = strong_model(hidden_size=64, intermediate_size=128)
    for name, model in {**made, **dict(zip(("policy", "reference"), weak_pair(), strict=True))}.items():
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    return root


def run(output_dir, model, peft_config, rows=None, settings=None, **kwargs):
    made = trainer(
        output_dir,
        chosen_rows(8) if rows is None else rows,
        model=model,
        weak=False,
        peft_config=peft_config,
        settings={**FAST, **(settings or {})},
        **kwargs,
    )
    made.train(resume_from_checkpoint=True)
    return made


# The merged model.

FORMS = {
    "all-linear": ("plain", peft(target_modules="all-linear")),
    "dora": ("plain", peft(use_dora=True)),
    "rslora": ("plain", peft(use_rslora=True)),
    "head and embeddings": ("plain", peft(modules_to_save=["lm_head", "embed_tokens"])),
    "tied": ("tied", peft()),
    "tied, embeddings trained": ("tied", peft(modules_to_save=["embed_tokens"])),
    "tied, embeddings adapted": ("tied", peft(target_modules=["q_proj", "embed_tokens"])),
    "experts": ("moe", peft(target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])),
    "ia3": ("plain", IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj"], feedforward_modules=[])),
    "adalora": ("plain", AdaLoraConfig(task_type="CAUSAL_LM", init_r=4, total_step=9, target_modules=["q_proj"])),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_merged_model_is_the_trained_one(models, tmp_path, form):
    name, peft_config = FORMS[form]
    made = run(tmp_path, str(models / name), peft_config, settings={"merge_adapter": True})
    for reward in ("rewards/chosen", "rewards/rejected"):
        assert abs(float(first_step(made)[reward])) < 1e-5  # the reference is stage I's
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(models / name)
    assert distance(merged, made.model) < 1e-5
    assert distance(merged, base) > (1e-5 if form == "adalora" else 1e-2)  # the control: not merged
    # Stage I's too, which is the reference.
    (stage_one,) = tmp_path.glob("_cong/sft-*/merged")
    made.model.set_adapter("ref")
    assert distance(AutoModelForCausalLM.from_pretrained(stage_one), made.model) < 1e-5


def test_what_lies_there_is_a_model_and_the_trainer_goes_on(models, tmp_path):
    settings = {"merge_adapter": True, "save_strategy": "steps", "save_steps": 1}
    made = run(tmp_path, str(models / "plain"), lora(), settings=settings, eval_dataset=chosen_rows(10).select([8, 9]))
    model = {"config.json", "generation_config.json", "model.safetensors", "README.md"}
    assert model <= files(tmp_path) and not files(tmp_path) & ADAPTER
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tiny_tokenizer().get_vocab()
    card = (tmp_path / "README.md").read_text()
    assert "library_name: transformers" in card and "AutoModelForCausalLM" in card and "AutoPeft" not in card
    assert "merged into its base" in card
    for checkpoint in tmp_path.glob("checkpoint-*"):
        assert files(checkpoint) >= ADAPTER and "model.safetensors" not in files(checkpoint)
    # The model in memory is as it was.
    before, written = weights(made), (tmp_path / "model.safetensors").read_bytes()
    assert isinstance(made.model, PeftModel) and set(made.model.peft_config) == {"default", "ref"}
    loss = made.evaluate()["eval_loss"]
    made.save_model()
    made.save_model(str(tmp_path / "elsewhere"))
    assert weights(made) == before and made.evaluate()["eval_loss"] == loss
    assert (tmp_path / "model.safetensors").read_bytes() == written
    assert (tmp_path / "elsewhere" / "model.safetensors").read_bytes() == written


@pytest.mark.slow
def test_either_of_them_of_the_same_run_and_one_at_a_time(models, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    one = run(tmp_path, str(models / "plain"), lora(), settings=settings)
    adapter = (tmp_path / "adapter_model.safetensors").read_bytes()
    merge = {**settings, "merge_adapter": True}
    again = run(tmp_path, str(models / "plain"), lora(), settings=merge)
    assert not files(tmp_path) & ADAPTER
    assert distance(AutoModelForCausalLM.from_pretrained(tmp_path), one.model) < 1e-5
    assert again.state.global_step == one.state.global_step and weights(again) == weights(one)  # nothing is trained
    run(tmp_path, str(models / "plain"), lora(), settings=settings)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == adapter
    assert not {"config.json", "model.safetensors"} & files(tmp_path)


@pytest.mark.slow
def test_a_model_in_memory_without_a_name(tmp_path):
    made = run(tmp_path / "memory", strong_model(), lora(), settings={"merge_adapter": True})
    assert distance(AutoModelForCausalLM.from_pretrained(tmp_path / "memory"), made.model) < 1e-5
    # In half precision the sum is rounded once.
    made = run(tmp_path / "half", strong_model().bfloat16(), lora(), settings={"merge_adapter": True})
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert merged.dtype == torch.bfloat16
    assert distance(merged, made.model) < 0.1 < distance(strong_model(), made.model.float())


def test_a_resumed_run_merges_the_same_bytes(models, tmp_path):
    settings = {"merge_adapter": True, "save_strategy": "steps", "save_steps": 1}
    run(tmp_path, str(models / "plain"), lora(), settings=settings)
    whole = (tmp_path / "model.safetensors").read_bytes()
    shutil.rmtree(max(tmp_path.glob("checkpoint-*")))
    for path in (*tmp_path.glob("*.safetensors"), *tmp_path.glob("_cong/sft-*/merged/model.safetensors")):
        path.unlink()
    made = run(tmp_path, str(models / "plain"), lora(), settings=settings)
    assert (tmp_path / "model.safetensors").read_bytes() == whole
    (stage_one,) = tmp_path.glob("_cong/sft-*/merged")
    assert (stage_one / "model.safetensors").read_bytes() != whole
    assert made.state.global_step == 2


# An adapter on the original base.


def test_the_adapter_finds_its_base(models, tmp_path):
    made = run(tmp_path, str(models / "plain"), lora())
    assert files(tmp_path) >= ADAPTER and "config.json" not in files(tmp_path) and not (tmp_path / "ref").exists()
    settings = PeftConfig.from_pretrained(tmp_path)
    assert settings.base_model_name_or_path == str(models / "plain") and settings.revision is None
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    assert distance(loaded, made.model) < 1e-5 < 1e-2 < distance(loaded.unload(), made.model)


def staged(models, output_dir, model, settings=None, data=None, **adapt):
    weak = {"weak_model_name_or_path": models / "policy", "weak_reference_model_name_or_path": models / "reference"}
    settings = {**FAST, **{name: str(path) for name, path in weak.items()}, **(settings or {})}
    for stage in ("decode", "sft", "sample", "dpo"):
        part = StagedRun(
            str(models / model) if isinstance(model, str) else str(model[0]),
            config(output_dir, stage=stage, **settings),
            prompts(8) if data is None else data,
            processing_class=tiny_tokenizer(),
            **{name: copy.deepcopy(value) for name, value in adapt.items()},
        )
        if stage != "dpo":
            part.launch(stage)
    made = part.trainer()
    made.train(resume_from_checkpoint=True)
    return made


def at_once(models, output_dir, model, settings=None, **kwargs):
    weak = {"weak_model_name_or_path": models / "policy", "weak_reference_model_name_or_path": models / "reference"}
    settings = {**{name: str(path) for name, path in weak.items()}, **(settings or {})}
    return run(output_dir, str(models / model), kwargs.pop("peft_config", None), prompts(8), settings, **kwargs)


def weights_of(directory):
    found = [path for path in directory.rglob("*.safetensors") if path.parent.name != "adapter"]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


@pytest.mark.slow
def test_by_stages_the_merged_models_are_those_of_one_launch(models, tmp_path):
    settings = {"merge_adapter": True, "save_strategy": "steps", "save_steps": 1}
    at_once(models, tmp_path / "once", "tied", settings, peft_config=lora())
    staged(models, tmp_path / "staged", "tied", settings, peft_config=lora())
    once, by_stages = weights_of(tmp_path / "once"), weights_of(tmp_path / "staged")
    assert sorted(once) == sorted(by_stages) and any("merged" in name for name in once)
    assert once == by_stages
    other = at_once(models, tmp_path / "other", "tied", {**settings, "seed": 1}, peft_config=lora())
    assert weights_of(Path(other.args.output_dir))["model.safetensors"] != once["model.safetensors"]
    manifests = [json.loads((tmp_path / name / "_cong/manifest.json").read_text()) for name in ("once", "staged")]
    assert (
        manifests[0]["stages"] == manifests[1]["stages"] and manifests[0]["merged"] is manifests[1]["merged"] is True
    )


# An adapter that goes on training.


@pytest.fixture(scope="module")
def given(models, tmp_path_factory):
    """An adapter that has learnt something, on `plain`."""
    directory = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(models / "plain"), peft(init_lora_weights=False))
    adapted.save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_an_adapter_by_its_name_goes_on_training(models, given, tmp_path):
    once = at_once(models, tmp_path / "once", given)
    assert abs(float(first_step(once)["rewards/chosen"])) < 1e-5
    in_memory = AutoPeftModelForCausalLM.from_pretrained(given, is_trainable=True)
    before = distance(in_memory, AutoModelForCausalLM.from_pretrained(models / "plain"))
    weak = dict(zip(("weak_model", "weak_reference_model"), weak_pair(), strict=True))
    weak["weak_processing_class"] = tiny_tokenizer()
    other = run(tmp_path / "memory", in_memory, None, prompts(8), **weak)
    assert weights(once) == weights(other) and before > 1e-2
    assert distance(once.model, AutoPeftModelForCausalLM.from_pretrained(given)) > 1e-2
    by_stages = staged(models, tmp_path / "staged", (given,), {"rejected_from": "policy"})
    for name in ("adapter_model.safetensors",):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "staged" / name).read_bytes()
    assert weights(by_stages) == weights(once)
    assert PeftConfig.from_pretrained(tmp_path / "staged").base_model_name_or_path == str(models / "plain")


@pytest.mark.slow
def test_the_untouched_strong_model_has_the_adapter_that_it_came_with(models, given, tmp_path):
    settings = {"chosen_from": "steered", "rejected_from": "base", "max_new_tokens": 4}
    at_once(models, tmp_path / "once", given, settings)
    staged(models, tmp_path / "staged", (given,), settings)
    names = {path.relative_to(tmp_path / "once") for path in tmp_path.glob("once/_cong/*/completions.parquet")}
    assert len(names) == 2
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "staged" / name).read_bytes()
    at_once(models, tmp_path / "base", "plain", settings, peft_config=lora())
    control = {path.relative_to(tmp_path / "base") for path in tmp_path.glob("base/_cong/*/completions.parquet")}
    assert not control & names


# What is refused, and when.

REFUSED = {
    "no adapter": (None, {"merge_adapter": True}, "`merge_adapter` needs an adapter"),
    "prompt tuning": (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), {}, "virtual tokens"),
    "prefix tuning": (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), {}, "virtual tokens"),
    "bias": (peft(bias="all"), {}, "train no bias"),
    "pissa": (peft(init_lora_weights="pissa"), {}, "`init_lora_weights='pissa'` takes a part of the base's weights"),
    "pissa_niter": (peft(init_lora_weights="pissa_niter_4"), {}, "the adapter would fit no base"),
    "olora": (peft(init_lora_weights="olora"), {}, "the adapter would fit no base"),
    "random": (peft(init_lora_weights=False), {}, "`init_lora_weights=False` begins with a random adapter"),
    "invocation": (peft(alora_invocation_tokens=[5, 6]), {"merge_adapter": True}, "follow an invocation"),
    "tokens of a tied head": (peft(trainable_token_indices=[5, 6]), {}, "`trainable_token_indices` reaches the head"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("by_stages", [False, True])
def test_what_could_not_be_published_is_refused_before_anything_is_written(models, tmp_path, case, by_stages):
    peft_config, settings, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        if by_stages:
            staged(models, tmp_path, "tied", settings, peft_config=peft_config)
        else:
            at_once(models, tmp_path, "tied", settings, peft_config=peft_config)
    assert not list(tmp_path.rglob("completions*"))


def test_pairs_that_are_given_are_trained_on_as_by_trl(models, tmp_path):
    run(tmp_path, str(models / "plain"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), pairs(4))
    assert files(tmp_path) >= ADAPTER


def test_an_adapter_that_no_weight_can_take_in(models, tmp_path):
    adapter = AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=1)
    llama = strong_model("llama")
    with pytest.raises(ValueError, match="`merge_adapter` needs an adapter that can become a part of the weights"):
        run(tmp_path, llama, adapter, settings={"merge_adapter": True})


def test_two_adapters_or_one_of_another_name(models, given, tmp_path):
    with pytest.raises(ValueError, match="`model` is the adapter .*, and `peft_config` another"):
        at_once(models, tmp_path, given, peft_config=lora())
    with pytest.raises(ValueError, match="`model` is the adapter .*, and `peft_config` another"):
        staged(models, tmp_path, (given,), peft_config=lora())
    other = get_peft_model(strong_model(), lora(), adapter_name="mine")
    with pytest.raises(ValueError, match=r"must be named 'default'.*\['mine'\]"):
        trainer(tmp_path, prompts(4), model=other)


# QLoRA.


@pytest.fixture(scope="module")
def four_bits():
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **settings)


def test_qlora_in_one_launch_and_by_stages(models, four_bits, tmp_path, caplog):
    adapt = {"peft_config": lora(), "quantization_config": four_bits}
    settings = {"save_strategy": "steps", "save_steps": 1}
    made = at_once(models, tmp_path / "once", "wide", settings, **adapt)
    assert made.model.is_loaded_in_4bit and "The adapter is trained in bfloat16" in caplog.text
    assert made.state.log_history[0]["rewards/chosen"] == made.state.log_history[0]["rewards/rejected"] == 0
    assert {p.dtype for name, p in made.model.named_parameters() if "lora_" in name} == {torch.bfloat16}
    whole = weights_of(tmp_path / "once")
    by_stages = staged(models, tmp_path / "staged", "wide", settings, **adapt)
    assert by_stages.state.log_history[0]["rewards/chosen"] == 0
    assert weights_of(tmp_path / "staged") == whole
    other = at_once(models, tmp_path / "seed", "wide", {**settings, "seed": 1}, **adapt)
    assert weights_of(Path(other.args.output_dir))["adapter_model.safetensors"] != whole["adapter_model.safetensors"]


def test_the_best_adapter_is_the_result_in_the_dtype_of_training(models, four_bits, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}  # the first
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    held_out = chosen_rows(10).select([8, 9])
    settings = {**best, **steps, "save_total_limit": 2}
    adapt = {"quantization_config": four_bits, "eval_dataset": held_out}
    run(tmp_path, str(models / "wide"), lora(), settings=settings, **adapt)
    adapters = [path / "adapter_model.safetensors" for path in (tmp_path, *sorted(tmp_path.glob("checkpoint-*")))]
    assert [path.parent.name for path in adapters[1:]] == ["checkpoint-1", "checkpoint-2"]
    result, first, last = (path.read_bytes() for path in adapters)
    assert result == first != last


@pytest.mark.slow
def test_qlora_resumes_to_the_same_bytes(models, four_bits, tmp_path):
    adapt = {"peft_config": lora(), "quantization_config": four_bits}
    settings = {"save_strategy": "steps", "save_steps": 1}
    at_once(models, tmp_path / "once", "wide", settings, **adapt)
    whole = weights_of(tmp_path / "once")
    # As a kill after each stage, and in the middle of the last, would leave it.
    for last, done in enumerate((("decode",), ("decode", "sft"), ("decode", "sft", "sample"), ("checkpoint-1",))):
        resumed = tmp_path / str(last)
        shutil.copytree(tmp_path / "once", resumed)
        (resumed / "adapter_model.safetensors").unlink()
        shutil.rmtree(resumed / "checkpoint-2")
        if done != ("checkpoint-1",):
            shutil.rmtree(resumed / "checkpoint-1")
            for path in resumed.glob("_cong/*-*"):
                if path.is_dir() and not path.name.startswith(done):
                    shutil.rmtree(path)
        at_once(models, resumed, "wide", settings, **adapt)
        assert weights_of(resumed) == whole, done


def test_qlora_is_merged_into_the_weights_that_were_quantised(models, four_bits, tmp_path):
    merge = {"merge_adapter": True}
    made = run(tmp_path, str(models / "wide"), lora(), settings=merge, quantization_config=four_bits)
    merged, base = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path, models / "wide"))
    assert "quantization_config" not in merged.config.to_dict() and merged.dtype == torch.float32
    unmerged = distance(merged, base)
    adapted = PeftModel.from_pretrained(base, tmp_path / "_cong" / "adapter")
    assert distance(merged, adapted) < 1e-5 < 1e-2 < unmerged
    assert distance(merged, made.model) > 1e-2  # which has the rounded weights


def test_qlora_on_a_base_that_is_published_quantised(models, four_bits, tmp_path):
    name = str(tmp_path / "quantised")
    AutoModelForCausalLM.from_pretrained(models / "wide", quantization_config=four_bits).save_pretrained(name)
    tiny_tokenizer().save_pretrained(name)
    made = run(tmp_path / "run", name, lora(), settings={"merge_adapter": True})
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert "quantization_config" not in merged.config.to_dict()
    assert distance(merged, made.model) < 0.05 < distance(AutoModelForCausalLM.from_pretrained(name), made.model)


def test_gradients_pass_four_bits_after_the_model_has_written(models, four_bits):
    """On a CPU with AVX512-BF16; on others bitsandbytes packs nothing, and there is nothing to see."""
    from bitsandbytes.nn import Linear4bit

    def gradients(repair):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(models / "wide", quantization_config=four_bits)
        for layer in model.modules():
            if isinstance(layer, Linear4bit):
                layer.bias = None  # with one it is an error at once
        model = get_peft_model(model, peft(init_lora_weights=False))
        packs = any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in model.modules())
        if repair == "before":
            stay_trainable(model)
        if repair != "fresh":
            logits(model)
        if repair == "after":
            stay_trainable(model)
        model.train()(IDS, labels=IDS).loss.backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in trained], packs

    def differs(one, other):
        return max(float((a - b).norm() / b.norm()) for a, b in zip(one, other, strict=True))

    fresh, packs = gradients("fresh")
    assert differs(gradients("before")[0], fresh) == 0
    assert differs(gradients("after")[0], fresh) < 0.05  # packing has rounded the scales
    if packs:
        assert differs(gradients("none")[0], fresh) > 0.5


def test_qlora_by_the_command(models, four_bits, tmp_path, capsys):
    rows = [{"prompt": row["prompt"], "chosen": row["chosen"][0]["content"]} for row in chosen_rows(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    given = {"model_name_or_path": models / "wide", "dataset_name": tmp_path / "rows.jsonl", "use_cpu": True}
    given |= {"use_peft": True, "load_in_4bit": True, "lora_target_modules": "all-linear", "merge_adapter": True}
    given |= {"dtype": "float32", "max_new_tokens": 8, "max_steps": 2, "output_dir": tmp_path / "run"}
    given |= {"report_to": "none", "save_strategy": "no", "learning_rate": 1e-2, "sft_learning_rate": 1e-2}
    argv = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    assert main(["train", *argv]) == 0, capsys.readouterr().err
    assert "model.safetensors" in files(tmp_path / "run") and not files(tmp_path / "run") & ADAPTER
    merged, base = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "run", models / "wide"))
    assert distance(merged, base) > 1e-3
