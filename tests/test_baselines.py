# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""WSPO and AuxConf against their formulas, written out once more in float64, row by row and without padding."""

import copy
import gc
import inspect
import re
import subprocess
import sys
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import hash_module

from hf_cong import AuxConfConfig, AuxConfTrainer, WSPOConfig, WSPOTrainer

from .distributed.run_cong import lora, message, prompts, strong_model, weak_pair
from .tiny import tiny_base, tiny_model, tiny_pair, tiny_tokenizer

FAMILIES = ("llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral")
TOKENIZER = tiny_tokenizer()


def rows(n=8):
    """Completions of very different lengths."""
    words = ["kind cat", "old fox", "the mat"]
    return prompts(n).map(
        lambda row, i: {"completion": message(" ".join(words[: i % 3 + 1] * (i % 4 + 1)))}, with_indices=True
    )


def settings(output_dir, **overrides):
    return {
        "output_dir": str(output_dir),
        "report_to": "none",
        "use_cpu": True,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "max_length": 128,
        **overrides,
    }


def wspo(output_dir, train_dataset=None, *, cls=WSPOTrainer, model=None, pair=None, kwargs=None, **overrides):
    weak, weak_reference = pair or weak_pair()
    return cls(
        model or strong_model(),
        WSPOConfig(**settings(output_dir, **overrides)),
        train_dataset=rows() if train_dataset is None else train_dataset,
        processing_class=tiny_tokenizer(),
        weak_model=weak,
        weak_reference_model=weak_reference,
        **(kwargs or {}),
    )


def auxconf(output_dir, train_dataset=None, *, cls=AuxConfTrainer, model=None, kwargs=None, **overrides):
    return cls(
        model or strong_model(),
        AuxConfConfig(**settings(output_dir, **overrides)),
        train_dataset=rows() if train_dataset is None else train_dataset,
        processing_class=tiny_tokenizer(),
        **(kwargs or {}),
    )


MAKE = {"wspo": wspo, "auxconf": auxconf}


def weights(trainer):
    return [parameter.detach().clone() for parameter in trainer.accelerator.unwrap_model(trainer.model).parameters()]


def furthest(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def exact_logps(model, row):
    """Log-probabilities of all next tokens at the completion's positions, and the ids there; float64, one row."""
    before = TOKENIZER.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
    ids = TOKENIZER.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
    assert ids[: len(before)] == before
    exact = copy.deepcopy(model).double()
    exact.set_experts_implementation("eager")  # the others know no float64
    logits = exact(torch.tensor([ids]), use_cache=False).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1), torch.tensor(ids[len(before) :])


def token_logps(model, row):
    logps, ids = exact_logps(model, row)
    return logps.gather(-1, ids[:, None])[:, 0]


def disturbed(model):
    """A copy with other weights, so that no log-ratio is 0."""
    moved, generator = copy.deepcopy(model), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return moved


def loss_of(trainer, data, **items):
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(len(data))])
    assert (batch["attention_mask"] == 0).any()  # padding, whose tokens must not count
    return trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), **items).item()


# WSPO


@pytest.mark.parametrize("family", FAMILIES)
def test_wspo_loss_is_the_official_formula(tmp_path, family):
    shape = {"vocab_size": len(TOKENIZER), "initializer_range": 0.1, "tie_word_embeddings": False}
    reference, pair, data, beta = tiny_base(family, **shape), tiny_pair(family, **shape), rows(5), 0.3
    policy = disturbed(reference)
    options = {"beta": beta, "router_aux_loss_coef": 0.0, "pad_to_multiple_of": 16}
    trainer = wspo(tmp_path, data, model=copy.deepcopy(reference), pair=pair, **options)
    trainer.model.load_state_dict(policy.state_dict())

    def official(weak, weak_reference, square=lambda margin: (margin**2).mean()):
        losses = []
        for row in data:
            strong_ratio = token_logps(policy, row) - token_logps(reference, row)
            weak_ratio = token_logps(weak, row) - token_logps(weak_reference, row)
            losses.append(square(beta * strong_ratio - weak_ratio))
        return torch.stack(losses).mean().item()

    expected = official(*pair)
    assert loss_of(trainer, data, num_items_in_batch=len(data)) == pytest.approx(expected, rel=1e-4)
    trainer.model.eval()
    assert loss_of(trainer, data) == pytest.approx(expected, rel=1e-4)
    # The controls: the pair swapped, and the square of the sequence's mean instead of the mean of squares.
    assert official(*reversed(pair)) != pytest.approx(expected, rel=1e-2)
    assert official(*pair, square=lambda margin: margin.mean() ** 2) != pytest.approx(expected, rel=1e-2)


def test_wspo_masks_what_is_no_completion(tmp_path):
    """Several turns in a row: labels that are switched off between others do not count."""
    data, pair = rows(4), weak_pair()
    ids = [TOKENIZER.apply_chat_template(row["prompt"] + row["completion"], return_dict=False) for row in data]
    masks = [[index % 3 != 1 for index in range(len(row))] for row in ids]  # holes, and the first token
    labels = [
        [i if on else -100 for i, on in zip(row, mask, strict=True)] for row, mask in zip(ids, masks, strict=True)
    ]
    dataset = Dataset.from_dict({"input_ids": ids, "labels": labels})
    trainer = wspo(tmp_path, dataset, pair=pair)

    @torch.no_grad()
    def ratios(row):
        logps = [
            model.double()(torch.tensor([row])).logits[0, :-1].log_softmax(-1) for model in map(copy.deepcopy, pair)
        ]
        first, second = (each.gather(-1, torch.tensor(row[1:])[:, None])[:, 0] for each in logps)
        return first - second

    def expected(masks):
        kept = [ratios(row)[torch.tensor(mask[1:])] for row, mask in zip(ids, masks, strict=True)]
        return torch.stack([(ratio**2).mean() for ratio in kept]).mean().item()

    # Before training the strong log-ratio is 0, so the loss is the mean square of the weak one.
    assert loss_of(trainer, data, num_items_in_batch=4) == pytest.approx(expected(masks), rel=1e-4)
    assert expected([[True] * len(mask) for mask in masks]) != pytest.approx(expected(masks), rel=1e-2)


def test_wspo_lets_go_of_the_weak_models(tmp_path):
    class Watching(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            gc.collect()
            self.alive = [model() is not None for model in watched]

    def watch(pair):
        watched.extend(map(weakref.ref, pair))
        return pair

    watched, watching = [], Watching()
    trainer = wspo(tmp_path, pair=watch(weak_pair()), kwargs={"callbacks": [watching]})
    trainer.train()
    assert watching.alive == [False, False]
    kept = watch(weak_pair())  # the control: somebody holds them
    trainer.add_callback(watching)
    trainer.train()
    assert watching.alive == [False, False, True, True]
    del kept


def test_wspo_loads_by_name_and_gives_back_what_it_was_lent(tmp_path):
    pair = weak_pair()
    for model, name in zip(pair, ("post", "pre"), strict=True):
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    by_name = wspo(tmp_path / "a", pair=(tmp_path / "post", str(tmp_path / "pre")))
    lent = wspo(tmp_path / "b", pair=pair)
    columns = [trainer.train_dataset["target_logps"][:] for trainer in (by_name, lent)]
    assert columns[0] == columns[1]
    assert wspo(tmp_path / "c", pair=pair[::-1]).train_dataset["target_logps"][:] != columns[0]


def test_wspo_moves_the_strong_model_towards_the_pair(tmp_path):
    trainer = wspo(tmp_path, rows(16), num_train_epochs=6, beta=0.5)
    before = weights(trainer)
    trainer.train()
    losses = [logs["loss"] for logs in trainer.state.log_history if "loss" in logs]
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    assert {"entropy", "mean_token_accuracy", "num_tokens"} <= set(trainer.state.log_history[0])


def test_wspo_evaluates_the_mean_over_sequences(tmp_path):
    data = rows(7)
    trainer = wspo(tmp_path, data, kwargs={"eval_dataset": {"a": data, "b": rows(3)}}, per_device_eval_batch_size=7)
    metrics = trainer.evaluate()
    trainer.model.train()
    assert metrics["eval_a_loss"] == pytest.approx(loss_of(trainer, data, num_items_in_batch=7), rel=1e-5)
    assert metrics["eval_b_loss"] != pytest.approx(metrics["eval_a_loss"], rel=1e-3)
    assert trainer.evaluate(trainer.eval_dataset["a"])["eval_loss"] == pytest.approx(metrics["eval_a_loss"], rel=1e-5)
    with pytest.raises(ValueError, match="weak models that make them are gone"):
        trainer.evaluate(data)


# AuxConf


@pytest.mark.parametrize("family", FAMILIES)
def test_auxconf_loss_is_the_documented_formula(tmp_path, family):
    model = tiny_base(family, vocab_size=len(TOKENIZER), initializer_range=0.1, tie_word_embeddings=False)
    data, coef = rows(5), 0.3
    trainer = auxconf(
        tmp_path, data, model=copy.deepcopy(model), aux_coef=coef, aux_warmup_ratio=0.0, router_aux_loss_coef=0.0
    )

    def documented(weight):
        losses = []
        for row in data:
            logps, ids = exact_logps(model, row)
            weak = -logps.gather(-1, ids[:, None])[:, 0]
            own = -logps.gather(-1, logps.argmax(-1)[:, None])[:, 0]
            losses.append((1 - weight) * weak + weight * own)
        return torch.cat(losses).mean().item()

    assert loss_of(trainer, data) == pytest.approx(documented(coef), rel=1e-5)
    assert documented(0.5) != pytest.approx(documented(coef), rel=1e-2)


def test_auxconf_without_weight_is_sft(tmp_path):
    def train(trainer):
        trainer.train()
        return weights(trainer)

    options = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    sft = SFTTrainer(
        strong_model(),
        SFTConfig(**settings(tmp_path, bf16=False, **options)),
        train_dataset=rows(),
        processing_class=tiny_tokenizer(),
    )
    expected = train(sft)
    ours = auxconf(tmp_path, aux_coef=0.0, **options)
    assert furthest(train(ours), expected) < 1e-5
    assert furthest(train(auxconf(tmp_path, aux_coef=0.5, **options)), expected) > 1e-3
    for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens"):
        logged = [[logs[name] for logs in each.state.log_history if name in logs] for each in (sft, ours)]
        assert logged[1] == pytest.approx(logged[0], rel=1e-3)


def test_auxconf_warms_up_without_a_jump(tmp_path):
    trainer = auxconf(
        tmp_path, rows(20), per_device_train_batch_size=1, aux_coef=0.6, aux_warmup_ratio=0.5, num_train_epochs=1
    )
    trainer.train()
    logged = [logs["aux_weight"] for logs in trainer.state.log_history if "aux_weight" in logs]
    assert logged == pytest.approx([0.06 * min(step, 10) for step in range(20)])
    # The released code of the original, at the same settings: it climbs to 0.3, then stands at 0.6.
    original = [0.6 * (1.0 if step / 20 > 0.5 else step / 20) for step in range(20)]
    steps = [max(after - before for before, after in pairwise(each)) for each in (logged, original)]
    assert steps[0] == pytest.approx(0.06)
    assert steps[1] > 0.25


# Both


@pytest.mark.parametrize("name", MAKE)
def test_accumulated_steps_are_whole_steps(tmp_path, name):
    """Seven rows in steps of four: the last step is one batch of three, or batches of two and one."""

    def train(size, steps, **options):
        batch = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        made = MAKE[name](tmp_path, rows(7), optim="sgd", learning_rate=0.1, **batch, **options)
        made.train()
        return weights(made)

    class MeanOfMeans({"wspo": WSPOTrainer, "auxconf": AuxConfTrainer}[name]):
        loss_is_scaled_for_ga = False

        def _get_num_items_in_batch(self, batch_samples, device):
            return None

    whole = train(4, 1)
    assert furthest(train(2, 2), whole) < 1e-6
    assert furthest(train(1, 4), whole) < 1e-6
    assert furthest(train(2, 2, cls=MeanOfMeans), whole) > 1e-4


@pytest.mark.parametrize("name", MAKE)
def test_lora_trains_the_adapter_alone(tmp_path, name):
    made = MAKE[name](tmp_path, kwargs={"peft_config": lora()}, num_train_epochs=4, activation_checkpointing=True)
    base = copy.deepcopy(made.model.get_base_model().state_dict())
    made.train()
    losses = [logs["loss"] for logs in made.state.log_history if "loss" in logs]
    assert losses[-1] < losses[0]
    after = made.model.get_base_model().state_dict()
    assert all(torch.equal(base[key], after[key]) for key in base if "lora_" not in key)
    assert not all(torch.equal(base[key], after[key]) for key in base if "lora_" in key)


def test_wspo_with_lora_has_the_base_as_its_reference(tmp_path):
    adapted, full = (
        wspo(tmp_path, kwargs={"peft_config": config}).train_dataset["target_logps"][:] for config in (lora(), None)
    )
    for ours, theirs in zip(adapted, full, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("name", MAKE)
def test_gradients_pass_four_bits_after_an_evaluation(tmp_path, monkeypatch, name):
    """On a CPU with AVX512-BF16; on others bitsandbytes packs nothing, and there is nothing to see."""
    modules = pytest.importorskip("bitsandbytes.nn.modules", reason="4-bit weights need bitsandbytes")
    settings = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    strong_model(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "strong")

    def gradient():
        four_bits = BitsAndBytesConfig(load_in_4bit=True, **settings)
        kwargs = {"peft_config": lora(), "quantization_config": four_bits, "eval_dataset": rows(4)}
        made = MAKE[name](tmp_path / "run", model=str(tmp_path / "strong"), kwargs=kwargs)
        for module in made.model.modules():
            if isinstance(module, modules.Linear4bit):
                module.bias = None  # with one it is an error at once
        made.evaluate()
        made.model.train()
        made.compute_loss(made.model, made._prepare_inputs(made.data_collator(list(made.train_dataset)))).backward()
        return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])

    passed = gradient()
    with monkeypatch.context() as patch:
        patch.setattr(modules, "has_avx512bf16", lambda: False)  # it packs nothing
        assert torch.equal(passed, gradient())
    monkeypatch.setattr(sys.modules[MAKE[name].__kwdefaults__["cls"].__module__], "stay_trainable", lambda model: None)
    if modules.has_avx512bf16():
        assert (gradient() - passed).norm() > 0.5 * passed.norm()


class Steps(TrainerCallback):
    def __init__(self):
        self.taken = []

    def on_step_end(self, args, state, control, **kwargs):
        self.taken.append(state.global_step)


@pytest.mark.parametrize("with_lora", [False, True])
@pytest.mark.parametrize("name", MAKE)
def test_resumed_ends_with_the_same_weights(tmp_path, name, with_lora):
    def run(output_dir, resume=None, epochs=3):
        kwargs, steps = {"peft_config": lora()} if with_lora else {}, Steps()
        made = MAKE[name](output_dir, kwargs=kwargs, num_train_epochs=epochs, save_strategy="steps", save_steps=4)
        made.add_callback(steps)
        made.train(resume_from_checkpoint=resume)
        return hash_module(made.model), steps.taken

    weights, steps = run(tmp_path / "a")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-4")) == (weights, [5, 6])
    assert run(tmp_path / "c", epochs=2)[0] != weights


@pytest.mark.parametrize("name", ["compute_loss", "_get_num_items_in_batch", "_prepare_dataset"])
def test_overridden_methods_take_what_upstream_passes(name):
    theirs = inspect.signature(getattr(SFTTrainer, name)).parameters
    for ours in (WSPOTrainer, AuxConfTrainer):
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(theirs)
    assert getattr(WSPOTrainer, name) is not getattr(SFTTrainer, name)


@pytest.mark.parametrize(("name", "paper"), [("wspo", "2410.18640"), ("auxconf", "2312.09390")])
def test_card_names_method_and_paper(tmp_path, name, paper):
    made = MAKE[name](tmp_path)
    made.create_model_card(model_name="card")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"https://huggingface.co/papers/{paper}" in card
    assert made._name in card
    assert re.search(rf"^- {name}$", card, re.MULTILINE)


@pytest.mark.parametrize(
    ("config", "options", "match"),
    [
        (WSPOConfig, {"beta": 0.0}, "`beta` must be finite and above 0, got 0.0"),
        (WSPOConfig, {"beta": float("nan")}, "`beta` must be finite"),
        (WSPOConfig, {"packing": True}, "each needs a row of its own"),
        (WSPOConfig, {"padding_free": True}, "each needs a row of its own"),
        (WSPOConfig, {"loss_type": "dft"}, "a loss of its own"),
        (AuxConfConfig, {"label_smoothing_factor": 0.1}, "a loss of its own"),
        (AuxConfConfig, {"aux_coef": 1.5}, "`aux_coef` must lie in"),
        (AuxConfConfig, {"aux_warmup_ratio": -0.1}, "`aux_warmup_ratio` must lie in"),
        (AuxConfConfig, {"hub_token": "hf_x"}, "hf auth login"),
    ],
)
def test_configurations_refuse(tmp_path, config, options, match):
    with pytest.raises(ValueError, match=match):
        config(**settings(tmp_path, **options))


def test_trainers_refuse(tmp_path):
    with pytest.raises(TypeError, match="`args` must be a `WSPOConfig`, got SFTConfig"):
        WSPOTrainer(
            strong_model(),
            SFTConfig(**settings(tmp_path, bf16=False)),
            train_dataset=rows(),
            weak_model="",
            weak_reference_model="",
        )
    with pytest.raises(TypeError, match="`args` must be an `AuxConfConfig`, got SFTConfig"):
        AuxConfTrainer(strong_model(), SFTConfig(**settings(tmp_path, bf16=False)), train_dataset=rows())
    with pytest.raises(TypeError, match="'train' must be a `datasets.Dataset`, got IterableDataset"):
        wspo(tmp_path, rows().to_iterable_dataset())
    other = tmp_path / "other"
    tiny_model("llama", vocab_size=len(tiny_tokenizer(1))).save_pretrained(other)
    tiny_tokenizer(1).save_pretrained(other)
    with pytest.raises(ValueError, match="`model` and `weak_reference_model` must share one vocabulary"):
        wspo(tmp_path, pair=(weak_pair()[0], str(other)))
    weak = weak_pair()[0]
    weak.lm_head.weight.data[:, 0] = float("nan")
    with pytest.raises(ValueError, match="Row 0 has the reward nan"):
        wspo(tmp_path, pair=(weak, weak_pair()[1]))


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path):
    def train(*launcher, size):
        command = [sys.executable, *launcher, "-m", "tests.test_baselines", str(tmp_path), str(size)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=Path(__file__).parents[1])
        assert run.returncode == 0, run.stderr[-2000:]
        return [float(number) for number in re.findall(r"sum (\S+)", run.stdout)]

    two = train("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", size=2)
    (one,) = train(size=4)
    assert two == pytest.approx([one, one], abs=1e-5)
    assert train(size=2) != pytest.approx([one], abs=1e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    made = wspo(sys.argv[1], per_device_train_batch_size=int(sys.argv[2]))
    made.train()
    print(f"sum {sum(weight.double().abs().sum() for weight in weights(made)).item():.9f}", flush=True)
    made.end()
