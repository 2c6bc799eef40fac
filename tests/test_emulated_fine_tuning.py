# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Emulated fine-tuning: the formula and its relatives, the model as an object, the engine, what is refused."""

import json
import math
import subprocess
import sys

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.generation import stopping_criteria

from hf_cong import (
    ContrastiveLoraPairConfig,
    ContrastivePairConfig,
    ContrastivePairForCausalLM,
    EmulatedFineTuningConfig,
    EmulatedFineTuningForCausalLM,
    EmulatedFineTuningLogitsProcessor,
    contrastive_scores,
    emulated_fine_tuning_scores,
    generate_completions,
    plausibility_mask,
)
from hf_cong.cli import main
from hf_cong.engines import TransformersEngine
from hf_cong.engines.continuous_engine import ContinuousEngine
from tests.oracle import eft_greedy, eft_logps
from tests.tiny import FAMILIES, tiny_base, tiny_config, tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

PROMPT = list(range(20, 41))
IDS = torch.tensor([PROMPT])
TEXTS = ["tell me about the cat", "the dog ran", "a small fox", "owl on the mat"]


def logits(*shape, seed=0, scale=3.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def three(rows=50, width=40):
    return tuple(logits(rows, width, seed=seed) for seed in (1, 2, 3))


# The formula


@pytest.mark.parametrize(
    ("beta", "threshold", "mask", "expected"),
    [
        # weights .5·(.4/.2), .3·(.1/.3), .2·(.5/.5) = 1, .1, .2
        (1.0, 0.1, True, [10 / 13, 1 / 13, 2 / 13]),
        # .5·4, .3/9, .2
        (2.0, 0.1, True, [2 / (2 + 1 / 30 + 0.2), (1 / 30) / (2 + 1 / 30 + 0.2), 0.2 / (2 + 1 / 30 + 0.2)]),
        (0.0, 0.1, True, [0.5, 0.3, 0.2]),
        # .2 < .5·.5: the base finds the third token implausible
        (1.0, 0.5, True, [10 / 11, 1 / 11, 0.0]),
        (1.0, 0.5, False, [10 / 13, 1 / 13, 2 / 13]),
        (1.0, 0.0, True, [10 / 13, 1 / 13, 2 / 13]),
    ],
)
def test_by_hand(beta, threshold, mask, expected):
    base, policy, reference = (torch.tensor(row).log() for row in ([0.5, 0.3, 0.2], [0.4, 0.1, 0.5], [0.2, 0.3, 0.5]))
    for shift in (0.0, 7.5, -30.0):  # logits are defined up to a constant
        scores = emulated_fine_tuning_scores(
            base + shift, policy - shift, reference, beta=beta, plausibility_threshold=threshold, mask=mask
        )
        torch.testing.assert_close(scores.exp(), torch.tensor(expected), atol=2e-6, rtol=0)


def test_beta_zero_is_the_base_on_its_plausible_set():
    base, policy, reference = three()
    scores = emulated_fine_tuning_scores(base, policy, reference, beta=0.0)
    expected = base.log_softmax(-1).masked_fill(~plausibility_mask(base), -math.inf).log_softmax(-1)
    torch.testing.assert_close(scores.exp(), expected.exp())
    assert (scores.exp() - emulated_fine_tuning_scores(base, policy, reference).exp()).abs().max() > 0.1


@pytest.mark.parametrize("alpha", [0.2, 0.4, 0.5, 1.0])
@pytest.mark.parametrize("mask", [True, False])
def test_with_the_policy_as_base_it_is_the_contrast_at_temperature_alpha(alpha, mask):
    """F = F_α / α with β = (1 − α)/α: at temperature T the one is the other at temperature α·T."""
    policy, reference, _ = three()
    for temperature in (0.8, 1.0):
        ours = emulated_fine_tuning_scores(policy, policy, reference, beta=(1 - alpha) / alpha, mask=mask)
        contrast = contrastive_scores(policy, reference, alpha=alpha, mask=mask)
        sampled = (contrast / (alpha * temperature)).softmax(-1)
        torch.testing.assert_close((ours / temperature).softmax(-1), sampled, atol=2e-6, rtol=0)
        assert torch.equal(ours.argmax(-1), contrast.argmax(-1))
        if alpha < 1:  # the control: at the same temperature they differ
            assert ((ours / temperature).softmax(-1) - (contrast / temperature).softmax(-1)).abs().max() > 1e-2


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 2.5])
def test_proxy_tuning_is_the_same_on_raw_logits_and_without_a_plausible_set(beta):
    base, expert, antiexpert = three()
    theirs = (base + beta * (expert - antiexpert)).softmax(-1)
    for without in ({"mask": False}, {"plausibility_threshold": 0.0}):
        ours = emulated_fine_tuning_scores(base, expert, antiexpert, beta=beta, **without).exp()
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    masked = emulated_fine_tuning_scores(base, expert, antiexpert, beta=beta).exp()
    assert (masked - theirs).abs().max() > 1e-3


@pytest.mark.parametrize("realignment", [0.0, 0.5, 1.0, 2.0])
def test_dera_is_the_same_with_the_reference_as_base(realignment):
    aligned, reference, _ = three()
    theirs = (realignment * aligned + (1 - realignment) * reference).softmax(-1)
    ours = emulated_fine_tuning_scores(reference, aligned, reference, beta=realignment, mask=False).exp()
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("beta", [0.0, 1.0, 50.0, 1e4, 1e30, 1e300])
def test_never_nan_and_never_off_the_plausible_set(mask, beta):
    rows = [logits(3000, 32, seed=seed, scale=5.0) for seed in (1, 2, 3)]
    rows[0][::4, :7] = -math.inf
    rows[0][1::4] = 0.0
    rows[1][::3, 2:9] = -math.inf
    rows[2][::5, 4:20] = -math.inf
    rows[1][::7, 0] = 1e4
    rows[2][::6, 0] = 1e4
    scores = emulated_fine_tuning_scores(*rows, beta=beta, mask=mask)
    assert not scores.isnan().any() and (scores < math.inf).all()
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(3000), atol=1e-4, rtol=0)
    assert (scores[rows[0] == -math.inf] == -math.inf).all()  # what the base forbids stays forbidden
    if mask:
        plausible = plausibility_mask(rows[0])
        assert (scores.exp()[~plausible] == 0).all()
        # all plausible tokens stand before all others, so constraints that forbid the best take the next of them
        best_other = scores.masked_fill(plausible, -math.inf).amax(-1)
        assert (scores.masked_fill(~plausible, math.inf).amin(-1) > best_other).all()


def test_the_floor_keeps_the_bases_order():
    base, policy, reference = three()
    scores = emulated_fine_tuning_scores(base, policy, reference)
    for row, own in zip(scores, base, strict=True):
        order = own.argsort(descending=True)
        implausible = order[~plausibility_mask(own)[order]]
        assert len(implausible) > 1 and (row[implausible].diff() <= 0).all() and row[implausible].unique().numel() > 1
        assert (row[implausible] > -math.inf).all()


def test_a_token_that_the_policy_alone_forbids_has_no_probability():
    base, policy, reference = torch.zeros(3), torch.tensor([-math.inf, 0.0, 0.0]), torch.zeros(3)
    torch.testing.assert_close(emulated_fine_tuning_scores(base, policy, reference).exp(), torch.tensor([0, 0.5, 0.5]))
    everywhere = emulated_fine_tuning_scores(torch.tensor([0.0, -9.0, -9.0]), policy, reference)
    assert everywhere.argmax() == 0  # unless the base finds no other plausible


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_float32_inside_and_heads_cut_to_the_narrowest(dtype):
    rows = [row.to(dtype) for row in three()]
    scores = emulated_fine_tuning_scores(*rows)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, emulated_fine_tuning_scores(*(row.float() for row in rows)))
    for index in range(3):
        cut = [row[:, :32] if other == index else row for other, row in enumerate(rows)]
        assert torch.equal(emulated_fine_tuning_scores(*cut), emulated_fine_tuning_scores(*(r[:, :32] for r in rows)))


BAD_SETTINGS = [
    ({"beta": -0.1}, "`beta` must be a finite number of at least 0, got -0.1"),
    ({"beta": math.nan}, "`beta` must be a finite number of at least 0, got nan"),
    ({"beta": math.inf}, "`beta` must be a finite number of at least 0, got inf"),
    ({"plausibility_threshold": 1.0}, r"`plausibility_threshold` must lie in \[0, 1\), got 1.0"),
    ({"plausibility_threshold": math.nan}, r"`plausibility_threshold` must lie in \[0, 1\), got nan"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS)
def test_settings_out_of_range(settings, message):
    pair = tiny_pair("llama")
    for make in (
        lambda: emulated_fine_tuning_scores(*three(), **settings),
        lambda: EmulatedFineTuningConfig(**settings),
        lambda: EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), *pair, **settings),
        lambda: EmulatedFineTuningLogitsProcessor(*pair, **settings),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("value", ["2", None, [1.0], True])
def test_a_setting_that_is_no_number_is_named(tmp_path, value):
    """As it arrives from JSON: a configuration edited by hand, `--hf-overrides`."""
    EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), *tiny_pair("llama")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("beta", "plausibility_threshold"):
        (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(TypeError, match=f"`{name}` must be an int or a float, got "):
            AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="`alpha` must be an int or a float, got "):
        contrastive_scores(*three()[:2], alpha=value)
    (tmp_path / "config.json").write_text(json.dumps({**config, "beta": 2}))  # the control
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.beta == 2


def test_shapes_and_rows_that_are_refused():
    base, policy, reference = three()
    with pytest.raises(ValueError, match=r"`base_logits` and `reference_logits` must .* \(50, 40\) and \(3, 40\)"):
        emulated_fine_tuning_scores(base, policy, reference[:3])
    for index in range(3):
        rows = [row.clone() for row in three()]
        rows[index][7] = -math.inf
        with pytest.raises(ValueError, match=r"row \(7,\) is forbidden"):
            emulated_fine_tuning_scores(*rows)


# The model as an object


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_forward_scores_without_the_plausible_set(family):
    models = tiny_base(family), *tiny_pair(family)
    model = EmulatedFineTuningForCausalLM.from_pair(*models, beta=1.5)
    output = model(IDS, labels=IDS)
    scores = output.logits[0]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.logsumexp(-1), torch.zeros(len(PROMPT)), atol=1e-5, rtol=0)
    for t in (0, 7, len(PROMPT) - 1):
        expected = eft_logps(*models, PROMPT[: t + 1], beta=1.5, mask=False)
        torch.testing.assert_close(scores[t].double(), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(output.loss, -scores[:-1].gather(-1, IDS[0, 1:, None]).mean())
    kept = torch.tensor([3, 7])
    torch.testing.assert_close(model(IDS, logits_to_keep=kept).logits[0], scores[kept], atol=1e-3, rtol=0)
    # the control: on the plausible set alone, most tokens would be impossible
    assert (model(IDS, plausible_only=True).logits < -1e3).float().mean() > 0.2


@torch.no_grad()
def test_the_cache_holds_the_base_then_the_pair():
    models = tiny_base("llama"), *tiny_pair("llama")
    model = EmulatedFineTuningForCausalLM.from_pair(*models)
    cache = model(IDS).past_key_values
    assert [tuple(layer.keys.shape) for layer in cache.layers] == [(1, 3, 21, 16)] * 4 + [(1, 2, 21, 8)] * 4
    torch.testing.assert_close(cache.layers[0].keys, models[0](IDS).past_key_values.layers[0].keys)
    torch.testing.assert_close(cache.layers[4].keys, models[1](IDS).past_key_values.layers[0].keys)
    torch.testing.assert_close(cache.layers[6].keys, models[2](IDS).past_key_values.layers[0].keys)
    assert model.config.num_hidden_layers == model.config.get_text_config(decoder=True).num_hidden_layers == 8
    lora = EmulatedFineTuningForCausalLM.from_pair(models[0], tiny_lora("llama")[0])
    cache = lora(IDS).past_key_values
    assert [tuple(layer.keys.shape) for layer in cache.layers] == [(1, 3, 21, 16)] * 4 + [(1, 4, 21, 8)] * 2


def test_models_are_adopted_and_a_pair_too():
    base, (policy, reference) = tiny_base("qwen2"), tiny_pair("qwen2")
    reference.set_attn_implementation("eager")
    pair = ContrastivePairForCausalLM.from_pair(policy, reference, alpha=0.9)
    model = EmulatedFineTuningForCausalLM.from_pair(base, pair, beta=2.0)
    assert (model.base, model.pair) == (base, pair)
    assert list(model.members.items()) == [("base", base), ("policy", policy), ("reference", reference)]
    implementations = [member.config._attn_implementation for member in model.members.values()]
    assert implementations == ["sdpa", "sdpa", "eager"]
    two = EmulatedFineTuningForCausalLM.from_pair(base, policy, reference, beta=2.0)
    assert torch.equal(two(IDS).logits, model(IDS).logits)
    with pytest.raises(ValueError, match="`policy` is a pair, which has its own reference. Leave `reference` out"):
        EmulatedFineTuningForCausalLM.from_pair(base, pair, reference)


def test_what_ends_a_completion():
    base, (policy, reference) = tiny_base("llama", eos_token_id=2), tiny_pair("llama", eos_token_id=2)
    assert EmulatedFineTuningForCausalLM.from_pair(base, policy, reference).generation_config.eos_token_id == 2
    policy.generation_config.eos_token_id = [5, 2]
    model = EmulatedFineTuningForCausalLM.from_pair(base, policy, reference)
    assert model.generation_config.eos_token_id == [2, 5]
    assert (base.generation_config.eos_token_id, model.config.eos_token_id) == (2, 2)


# Saving and loading


@pytest.fixture
def saved(tmp_path):
    """Paths of a base, a policy, a reference, a saved pair and an adapter, with a tokenizer each, and the models."""
    tokenizer = tiny_tokenizer()
    special = {"vocab_size": len(tokenizer), "eos_token_id": 2, "pad_token_id": 0}
    adapted, merged, reference = tiny_lora("llama", **special)
    policy, base = merged, tiny_base("llama", **special)
    base.generation_config.eos_token_id = [2, 1]
    pair = ContrastivePairForCausalLM.from_pair(policy, reference, plausibility_threshold=0.3)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "reference")
    models = {"base": base, "policy": policy, "reference": reference, "pair": pair, "adapter": adapted}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in models}, (base, policy, reference)


def greedy(model, new=8):
    output = model.generate(IDS, max_new_tokens=new, do_sample=False, eos_token_id=[], pad_token_id=2)
    return output[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("kind", ["two", "pair", "adapter"])
def test_from_paths_and_back(saved, tmp_path, kind):
    paths, models = saved
    policy = {"two": (paths["policy"], paths["reference"])}.get(kind) or (paths[kind],)
    model = EmulatedFineTuningForCausalLM.from_pair(paths["base"], *policy, beta=2.0, plausibility_threshold=0.2)
    expected = eft_greedy(*models, PROMPT, beta=2.0, plausibility_threshold=0.2, max_new_tokens=8)
    assert greedy(model) == expected
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(loaded) is EmulatedFineTuningForCausalLM
    assert loaded.config.settings == {"beta": 2.0, "plausibility_threshold": 0.2}
    assert loaded.generation_config.eos_token_id == [2, 1]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").get_vocab() == tiny_tokenizer().get_vocab()
    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, loaded.state_dict()[name]), name
    assert greedy(loaded) == expected
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", beta=0.5)
    assert greedy(other) == eft_greedy(*models, PROMPT, beta=0.5, plausibility_threshold=0.2, max_new_tokens=8)
    with pytest.raises(ValueError, match="`beta` must be a finite number"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved", beta=-1.0)

    # what another program reads: the names of weights, the shape of the configuration
    names = {
        name.split(".model.")[0] for name in load_file(tmp_path / "saved" / "model.safetensors") if "model" in name
    }
    assert names == ({"base", "pair.stack"} if kind == "adapter" else {"base", "pair.policy", "pair.reference"})
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["architectures"] == ["EmulatedFineTuningForCausalLM"]
    assert (config["model_type"], config["base_config"]["model_type"]) == ("emulated_fine_tuning", "llama")
    assert config["pair_config"]["model_type"] == (
        "contrastive_lora_pair" if kind == "adapter" else "contrastive_pair"
    )


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma3", "mixtral", "gpt_oss"])
def test_save_and_load_families(family, tmp_path):
    models = tiny_base(family, tie_word_embeddings=True), *tiny_pair(family, tie_word_embeddings=True)
    EmulatedFineTuningForCausalLM.from_pair(*models, beta=3.0).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert greedy(loaded) == eft_greedy(*models, PROMPT, beta=3.0, max_new_tokens=8)
    for member in loaded.members.values():
        assert member.get_output_embeddings().weight is member.get_input_embeddings().weight


def test_dtype_reaches_every_member(tmp_path):
    models = [model.to(torch.bfloat16) for model in (tiny_base("llama"), *tiny_pair("llama"))]
    model = EmulatedFineTuningForCausalLM.from_pair(*models)
    model.save_pretrained(tmp_path)
    for asked, expected in (("auto", torch.bfloat16), (torch.float32, torch.float32), ("bfloat16", torch.bfloat16)):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=asked)
        assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
        assert {member.dtype for member in loaded.members.values()} == {expected}
        buffers = {buffer.dtype for buffer in loaded.buffers() if buffer.is_floating_point()}
        assert buffers <= {torch.float32, expected}
    assert greedy(loaded, 4) == greedy(model, 4)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_load_without_hf_cong_through_remote_code(tmp_path, lora):
    adapted, policy, reference = tiny_lora("mistral")
    models = tiny_base("mistral"), policy, reference
    pair = (adapted,) if lora else (policy, reference)
    EmulatedFineTuningForCausalLM.from_pair(models[0], *pair, beta=2.0).save_pretrained(tmp_path / "saved")
    script = f"""
import sys, json
sys.modules["hf_cong"] = sys.modules["peft"] = None  # importing them raises ImportError
import torch
import transformers
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
model.save_pretrained({str(tmp_path / "again")!r})
again = AutoModelForCausalLM.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True)
write = lambda m: m.generate(torch.tensor([{PROMPT}]), max_new_tokens=8, do_sample=False, pad_token_id=2)[0].tolist()
print("OUT", json.dumps([write(model), write(again)]))
"""
    environment = {
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "Do you wish to run the custom code" not in run.stdout  # there is no tokenizer, so nothing to ask about
    first, second = json.loads(run.stdout.split("OUT")[1])
    assert first == second
    assert first[len(PROMPT) :] == eft_greedy(*models, PROMPT, beta=2.0, max_new_tokens=8)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    from safetensors.torch import save_file

    EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), *tiny_pair("llama")).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["pair.reference.lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as `pair.reference.lm_head.weight`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


# Configuration


def test_the_configuration_knows_both_kinds_of_pairs(tmp_path):
    lora = ContrastiveLoraPairConfig(tiny_config("llama"), lora_rank=4, target_modules=["q_proj"])
    for pair in (ContrastivePairConfig(tiny_config("llama"), tiny_config("llama")), lora):
        config = EmulatedFineTuningConfig(tiny_config("llama", num_hidden_layers=5), pair, beta=0.7)
        config.save_pretrained(tmp_path)
        again = AutoConfig.from_pretrained(tmp_path)
        assert type(again.pair_config) is type(pair)
        assert again.to_diff_dict() == config.to_diff_dict()
        assert again.num_hidden_layers == 5 + pair.num_hidden_layers
    with pytest.raises(ValueError, match="`pair_config` is of a 'llama' model; it must be that of a pair"):
        EmulatedFineTuningConfig(tiny_config("llama"), tiny_config("llama"))
    with pytest.raises(ValueError, match="`pair_config` is of a 'llama' model; it must be that of a pair"):
        EmulatedFineTuningConfig(tiny_config("llama"), {"model_type": "llama"})


# The engine and the command

SETTINGS = {"max_new_tokens": 8, "seed": 5}


def tokens(completions):
    return completions["completion_ids"][:]


@pytest.mark.parametrize("kind", ["pair", "adapter"])
def test_generate_completions(saved, tmp_path, kind):
    paths, models = saved
    tokenizer = tiny_tokenizer()
    model = EmulatedFineTuningForCausalLM.from_pair(paths["base"], paths[kind], beta=2.0)
    written = generate_completions(TEXTS, model, tokenizer=tokenizer, output_dir=tmp_path / "a", **SETTINGS)
    assert (set(written["alpha"]), set(written["beta"])) == ({None}, {2.0})
    assert set(written["plausibility_threshold"]) == {0.1}
    again = generate_completions(
        TEXTS, model, tokenizer=tokenizer, output_dir=tmp_path / "b", batch_size=1, **SETTINGS
    )
    assert tokens(again) == tokens(written)
    identity = json.loads((tmp_path / "a" / "manifest.json").read_text())["identity"]["engine"]
    assert {"base", "policy", "reference", "beta", "plausibility_threshold", "eos_token_ids"} == set(identity)
    assert len({identity["base"], identity["policy"], identity["reference"]}) == 3
    model.config.beta = 1.0
    with pytest.raises(ValueError, match=r"belongs to another run: `engine.beta` 2.0 there, 1.0 here"):
        generate_completions(TEXTS, model, tokenizer=tokenizer, output_dir=tmp_path / "a", **SETTINGS)


def test_each_members_weights_are_part_of_a_run():
    def identity(changed=None):
        models = {"base": tiny_base("llama"), **dict(zip(("policy", "reference"), tiny_pair("llama"), strict=True))}
        if changed is not None:
            with torch.no_grad():
                models[changed].lm_head.weight.mul_(2)
        return TransformersEngine(EmulatedFineTuningForCausalLM.from_pair(*models.values())).describe()["identity"]

    before = identity()
    for member in ("base", "policy", "reference"):
        after = identity(member)
        assert [name for name in before if after[name] != before[name]] == [member]


def test_an_adapter_on_all_of_it_leaves_settings_and_members_part_of_a_run():
    model = EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), *tiny_pair("llama"), beta=2.0)
    before = TransformersEngine(model).describe()
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights=False)
    after = TransformersEngine(peft.get_peft_model(model, lora)).describe()
    assert (before["beta"], after["beta"]) == (2.0, 2.0)
    differing = {name for name, value in before["identity"].items() if after["identity"][name] != value}
    assert differing == {"base", "policy", "reference"}
    assert before["identity"].keys() == after["identity"].keys()


def test_the_shortest_context_counts(monkeypatch):
    pair = tiny_pair("llama", max_position_embeddings=24)
    model = EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), *pair)
    assert TransformersEngine(model).context_length == 24
    warnings = []
    monkeypatch.setattr(stopping_criteria.logger, "warning_once", warnings.append)
    greedy(model, 3)
    greedy(model.base, 8)
    assert not warnings
    greedy(model, 8)
    assert "has exceeded the model's predefined maximum length (24)" in warnings[0]


def test_the_continuous_engine_writes_the_same(tmp_path):
    tokenizer = tiny_tokenizer()
    shape = {"vocab_size": len(tokenizer), "eos_token_id": 2, "pad_token_id": 0, "head_dim": 8}
    base = tiny_base("llama", **shape, num_attention_heads=8, num_key_value_heads=2, hidden_size=64)
    model = EmulatedFineTuningForCausalLM.from_pair(base, *tiny_pair("llama", **shape))
    settings = {"tokenizer": tokenizer, **SETTINGS}
    static = generate_completions(TEXTS, model, output_dir=tmp_path / "static", **settings)
    continuous = generate_completions(TEXTS, ContinuousEngine(model), output_dir=tmp_path / "continuous", **settings)
    assert tokens(static) == tokens(continuous)


def command(saved, path, policy, *more):
    prompts = path.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in TEXTS[:2]))
    settings = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    named = ["--prompts", str(prompts), "--policy", saved[0][policy], "--output_dir", str(path)]
    return main(["generate", *named, *settings, *more])


@pytest.mark.parametrize("kind", ["two", "pair", "adapter"])
def test_the_command(saved, tmp_path, kind):
    paths, models = saved
    reference = ["--reference", paths["reference"]] if kind == "two" else []
    policy = "policy" if kind == "two" else kind
    assert command(saved, tmp_path / "out", policy, *reference, "--base", paths["base"], "--beta", "2.0") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    identity = manifest["identity"]["engine"]
    assert (identity["beta"], identity["plausibility_threshold"]) == (2.0, 0.1)
    weights = {"base", "policy"} | ({"reference"} if kind != "pair" else set())
    assert all(identity[name].startswith("files:") for name in weights)
    model = EmulatedFineTuningForCausalLM.from_pair(*models, beta=2.0)
    direct = generate_completions(
        TEXTS[:2], model, tokenizer=tiny_tokenizer(), output_dir=tmp_path / "direct", **SETTINGS
    )
    assert tokens(direct) == tokens(transformers_dataset(tmp_path / "out"))
    # a saved one needs no base, and keeps its beta unless one is given
    model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer().save_pretrained(tmp_path / "saved")
    steered = ({**paths, "saved": str(tmp_path / "saved")}, models)
    assert command(steered, tmp_path / "from_saved", "saved") == 0
    assert tokens(transformers_dataset(tmp_path / "from_saved")) == tokens(direct)
    assert command(steered, tmp_path / "other", "saved", "--beta", "0.5") == 0
    assert tokens(transformers_dataset(tmp_path / "other")) != tokens(direct)
    assert command(steered, tmp_path / "no", "saved", "--base", paths["base"]) == 2


def transformers_dataset(path):
    import datasets

    return datasets.Dataset.from_parquet(str(path / "completions.parquet"))


def test_what_the_command_refuses(saved, tmp_path, capsys):
    paths, _ = saved
    for policy, more, message in (
        ("policy", ["--base", paths["base"]], "`base` is steered by a pair, and `policy` "),
        ("pair", ["--base", paths["base"], "--alpha", "0.4"], "With a base it is `beta`: leave `alpha` out"),
        ("pair", ["--beta", "1.0"], "Pass the large model as `base`, or leave `beta` out"),
        ("policy", ["--beta", "1.0"], "Pass the large model as `base`, or leave `beta` out"),
        ("policy", ["--alpha", "0.4"], "Pass the model before alignment as `reference`, or leave `alpha` out"),
        (
            "pair",
            ["--base", paths["base"], "--reference", paths["reference"]],
            "is a saved pair and has its reference",
        ),
        ("pair", ["--base", paths["base"], "--beta", "-1"], "`beta` must be a finite number of at least 0, got -1.0"),
        ("pair", ["--base", paths["base"], "--engine", "http://localhost:1/v1"], "`base` is fixed by the engine"),
    ):
        assert command(saved, tmp_path / "no", policy, *more) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no" / "completions.parquet").exists()


# Refusals


def test_another_vocabulary_is_refused_before_the_bases_weights_are_read(saved, tmp_path, capsys):
    paths, models = saved
    tiny_tokenizer(seed=1).save_pretrained(paths["base"])
    (tmp_path / "base" / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"`base` and `policy` must share one vocabulary.*ids differ.*weak_to_strong_search"
    ):
        EmulatedFineTuningForCausalLM.from_pair(paths["base"], paths["pair"])
    assert command(saved, tmp_path / "no", "pair", "--base", paths["base"]) == 2
    assert "weak_to_strong_search" in capsys.readouterr().err
    # the control: with the right tokenizer it gets to the weights
    tiny_tokenizer().save_pretrained(paths["base"])
    with pytest.raises(OSError, match="safetensors"):
        EmulatedFineTuningForCausalLM.from_pair(paths["base"], paths["pair"])


def test_heads_that_no_padding_explains_are_refused():
    pair = tiny_pair("llama")
    with pytest.raises(ValueError, match="`policy` has 64 tokens and `base` 96: .* `weak_to_strong_search`"):
        EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama", vocab_size=96), *pair)
    steer = EmulatedFineTuningLogitsProcessor(*pair)
    with pytest.raises(ValueError, match="`tuned` has 64 tokens and `base` 96: .* `weak_to_strong_search`"):
        tiny_base("llama", vocab_size=96).generate(IDS, logits_processor=[steer], max_new_tokens=2)
    with pytest.raises(ValueError, match="`tuned` has 64 tokens and `untuned` 96"):
        EmulatedFineTuningLogitsProcessor(pair[0], tiny_model("llama", vocab_size=96))


def test_a_padded_head_is_cut():
    models = tiny_base("llama", vocab_size=72), *tiny_pair("llama")
    expected = eft_greedy(*models, PROMPT, max_new_tokens=8)
    assert greedy(EmulatedFineTuningForCausalLM.from_pair(*models)) == expected
    output = models[0].generate(
        IDS,
        logits_processor=[EmulatedFineTuningLogitsProcessor(*models[1:])],
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=2,
    )
    assert output[0, len(PROMPT) :].tolist() == expected


def test_families_and_windows_are_those_of_the_pair():
    with pytest.raises(
        ValueError, match=r"`base` is a 'qwen2' model and `policy` a 'llama' one.*EmulatedFineTuningLogitsProcessor"
    ):
        EmulatedFineTuningForCausalLM.from_pair(tiny_base("qwen2"), *tiny_pair("llama"))
    with pytest.raises(ValueError, match=r"`sliding_window` 16 and 8.*EmulatedFineTuningLogitsProcessor"):
        EmulatedFineTuningForCausalLM.from_pair(tiny_base("mistral", sliding_window=16), *tiny_pair("mistral"))


def test_what_is_no_base_is_refused(saved):
    paths, _ = saved
    pair = tiny_pair("llama")
    t5 = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    mamba = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    adapted = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(task_type="CAUSAL_LM"))
    for base, error, message in (
        (transformers.T5ForConditionalGeneration(t5), ValueError, r"`base` is an encoder-decoder \('t5'\)"),
        (transformers.MambaForCausalLM(mamba), ValueError, "`base` is a 'mamba' model with a recurrent state"),
        (adapted, TypeError, "`base` must be a transformers model, a path or a Hub id, got PeftModelForCausalLM"),
        (paths["adapter"], ValueError, "`base` is an adapter"),
    ):
        with pytest.raises(error, match=message):
            EmulatedFineTuningForCausalLM.from_pair(base, *pair)
    with pytest.raises(ValueError, match="is no adapter and `reference` is missing"):
        EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), paths["policy"])


def test_what_the_processor_refuses():
    policy, reference = tiny_pair("llama")
    for pair in ((policy, "gpt2"), (None, reference)):
        with pytest.raises(TypeError, match="must be a loaded transformers model"):
            EmulatedFineTuningLogitsProcessor(*pair)
    padded = torch.tensor([[1, 6, 7, 8], [63, 1, 10, 11]])
    steer = EmulatedFineTuningLogitsProcessor(policy, reference)
    with pytest.raises(ValueError, match="may be left-padded.*attention_mask"):
        steer(padded, torch.randn(2, 64))
    with pytest.raises(ValueError, match=r"Continuous batching .* `EmulatedFineTuningForCausalLM.from_pair"):
        steer(torch.tensor([5, 6]), torch.randn(2, 64))
    short = tiny_model("gpt2", n_positions=16)
    with pytest.raises(ValueError, match="the untuned's context is 16"):
        EmulatedFineTuningLogitsProcessor(policy, short)(IDS, torch.randn(1, 64))


def test_embeddings_are_refused():
    model = EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), *tiny_pair("llama"))
    with pytest.raises(ValueError, match="EmulatedFineTuningForCausalLM needs `input_ids`"):
        model(inputs_embeds=torch.zeros(1, 3, 48))
