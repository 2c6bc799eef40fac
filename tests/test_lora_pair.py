# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The LoRA pair as an object: every adapter that is covered, saving, sharing, and every one that is refused."""

import copy
import json
import logging
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig

from hf_cong import ContrastiveLoraPairConfig, ContrastiveLoraPairForCausalLM, ContrastivePairForCausalLM
from hf_cong.engines.transformers_engine import TransformersEngine
from hf_cong.pair import modeling_contrastive_lora_pair
from tests.oracle import oracle_greedy, oracle_logps
from tests.tiny import FAMILIES, tiny_config, tiny_lora, tiny_model, tiny_tokenizer

PROMPT = list(range(20, 41))
IDS = torch.tensor([PROMPT])
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def saved_adapter(tmp_path):
    """Path of an adapter saved with a tokenizer, path of its base, the merged policy and the base."""
    tokenizer = tiny_tokenizer()
    adapted, policy, reference = tiny_lora("llama", vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=0)
    reference.generation_config.eos_token_id = [2, 1]
    reference.save_pretrained(tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter"), str(tmp_path / "base"), policy, reference


def greedy(pair, new=8):
    output = pair.generate(
        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=new, do_sample=False, eos_token_id=[], pad_token_id=2
    )
    return output[0, len(PROMPT) :].tolist()


@torch.no_grad()
def assert_same_members(pair, policy, reference):
    for ours, theirs in ((pair.policy, policy), (pair.reference, reference)):
        torch.testing.assert_close(ours(IDS).logits, theirs(IDS).logits, atol=2e-4, rtol=0)
    assert (policy(IDS).logits - reference(IDS).logits).abs().max() > 0.1


# Likelihood


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
@torch.no_grad()
def test_forward_scores_without_the_plausible_set(family):
    adapted, policy, reference = tiny_lora(family)
    pair = ContrastivePairForCausalLM.from_pair(adapted, alpha=0.3)
    assert type(pair) is ContrastiveLoraPairForCausalLM
    logits = pair(IDS).logits[0]
    assert logits.dtype == torch.float32
    for t in (0, 7, len(PROMPT) - 1):
        expected = oracle_logps(policy, reference, PROMPT[: t + 1], alpha=0.3, mask=False)
        torch.testing.assert_close(logits[t].double(), expected, atol=2e-4, rtol=0)
    # the control: on the plausible set alone, most tokens would be impossible
    assert (pair(IDS, plausible_only=True).logits < -1e3).float().mean() > 0.2
    kept = torch.tensor([3, 7])
    torch.testing.assert_close(pair(IDS, logits_to_keep=kept).logits[0], logits[kept], atol=1e-4, rtol=0)
    both = pair(torch.cat([IDS, IDS.flip(1)]), logits_to_keep=2).logits
    torch.testing.assert_close(both[0], logits[-2:], atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1], pair(IDS.flip(1)).logits[0, -2:], atol=1e-4, rtol=0)
    assert_same_members(pair, policy, reference)


def test_the_loss_trains_the_adapter_alone():
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("qwen2")[0]).train()
    output = pair(IDS, labels=IDS)
    expected = -output.logits[0, :-1].gather(-1, IDS[0, 1:, None]).mean()
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    for name, parameter in pair.named_parameters():
        trained = name.endswith(("lora_A", "lora_B"))
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == trained, name


@torch.no_grad()
def test_a_prepared_mask_of_four_dimensions():
    adapted, _, _ = tiny_lora("llama")
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    ids = torch.cat([IDS, IDS.flip(1)])
    blind = torch.ones(2, 1, 21, 21).tril()
    blind[1, :, 3:, 0] = 0  # the second row forgets its first token
    logits = pair(ids, attention_mask=blind.bool()).logits
    torch.testing.assert_close(logits[:1], pair(IDS).logits, atol=1e-4, rtol=0)
    assert (logits[1] - pair(ids).logits[1]).abs().max() > 1e-2


# Adapters that are covered

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("lora", "rank", "targets"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, 4, ["q_proj", "v_proj"]),
        ({"target_modules": "all-linear"}, 4, LINEAR),
        ({"target_modules": r".*\.1\.mlp\.(up|down)_proj"}, 4, ["up_proj", "down_proj"]),
        ({"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7}}, 7, LINEAR),
        ({"alpha_pattern": {"down_proj": 40, r"layers\.0\..*k_proj": 1}}, 4, LINEAR),
        ({"rank_pattern": {"v_proj": 9}, "alpha_pattern": {"v_proj": 5}, "use_rslora": True}, 9, LINEAR),
        ({"use_rslora": True, "lora_alpha": 3}, 4, LINEAR),
        ({"layers_to_transform": [1]}, 4, LINEAR),
        ({"target_modules": ["q_proj", "down_proj"], "exclude_modules": ["model.layers.0.mlp.down_proj"]}, 4, None),
        ({"lora_dropout": 0.3}, 4, LINEAR),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
def test_adapters_of_every_shape(lora, rank, targets):
    adapted, policy, reference = tiny_lora("llama", lora=lora)
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    assert pair.config.lora_rank == rank
    assert pair.config.target_modules == sorted(targets or ["q_proj", "down_proj"])
    assert_same_members(pair, policy, reference)
    assert greedy(pair) == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


def test_the_active_adapter_of_several_is_taken():
    adapted, _, reference = tiny_lora("llama")
    second = {"target_modules": ["embed_tokens", "up_proj"], "modules_to_save": ["lm_head"]}
    adapted.add_adapter("second", peft.LoraConfig(r=2, init_lora_weights=False, **second))
    policy = copy.deepcopy(adapted).merge_and_unload(adapter_names=["default"])
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    assert_same_members(pair, policy, reference)
    assert not any(isinstance(module, peft.tuners.lora.LoraLayer) for module in pair.modules())
    adapted, _, _ = tiny_lora("llama")
    tokens = {"target_modules": ["up_proj"], "trainable_token_indices": [1, 2]}
    adapted.add_adapter("second", peft.LoraConfig(r=2, init_lora_weights=False, **tokens))
    assert_same_members(ContrastivePairForCausalLM.from_pair(adapted), policy, reference)


def test_a_half_precision_pair_keeps_its_dtype():
    adapted, _, _ = tiny_lora("llama")
    adapted.to(torch.bfloat16)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as PEFT keeps an adapter in training
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    assert {parameter.dtype for parameter in pair.parameters()} == {torch.bfloat16}
    assert pair.dtype == pair.config.dtype == torch.bfloat16
    assert len(greedy(pair)) == 8


# What is shared


def test_the_given_model_goes_on_working_and_shares_its_base():
    adapted, _, _ = tiny_lora("qwen2", tie_word_embeddings=True)
    names = [name for name, _ in adapted.named_parameters()]
    logits = adapted(IDS).logits
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    assert torch.equal(adapted(IDS).logits, logits)
    assert [name for name, _ in adapted.named_parameters()] == names
    base = {parameter.data_ptr() for name, parameter in adapted.named_parameters() if "lora_" not in name}
    ours = {parameter.data_ptr() for name, parameter in pair.named_parameters() if "lora_" not in name}
    assert ours == base
    pair.set_attn_implementation("eager")
    assert adapted.get_base_model().config._attn_implementation == "sdpa"


def test_the_members_share_the_stack_and_are_no_part_of_the_state():
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("llama")[0])
    stack = {parameter.data_ptr() for parameter in pair.parameters()}
    for member in (pair.policy, pair.reference):
        assert {parameter.data_ptr() for parameter in member.parameters()} <= stack
        assert type(member).__name__ == "LlamaForCausalLM"
    assert all(name.startswith("stack.") for name in pair.state_dict())
    assert not any("lora_" in name for name in pair.reference.state_dict())
    assert f"{LAYER.removeprefix('base_model.model.')}.lora_A" in pair.policy.state_dict()
    # what is trained or changed later is the members' too
    with torch.no_grad():
        pair.stack.model.layers[0].self_attn.q_proj.lora_B.zero_()
    assert not pair.policy.model.layers[0].self_attn.q_proj.lora_B.any()


def test_what_is_recorded_of_it():
    adapted, _, _ = tiny_lora("llama")
    pair = ContrastivePairForCausalLM.from_pair(adapted)
    identity = TransformersEngine(pair).describe()["identity"]
    assert identity["policy"] != identity["reference"]
    pair.stack.model.layers[0].self_attn.q_proj.lora_B.data.mul_(2)
    changed = TransformersEngine(pair).describe()["identity"]
    assert changed["policy"] != identity["policy"]
    assert changed["reference"] == identity["reference"]


def test_configuration_is_one_of_twice_the_heads():
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("gemma3")[0])
    own, text = pair.config.reference_config, pair.config.get_text_config(decoder=True)
    assert (text.num_attention_heads, text.num_key_value_heads, text.head_dim) == (8, 4, 8)
    assert (own.num_attention_heads, own.num_key_value_heads) == (4, 2)
    assert text.num_hidden_layers == own.num_hidden_layers == pair.config.num_hidden_layers
    assert text.layer_types == own.layer_types


# Saving and loading


def test_from_a_path_and_back(saved_adapter, tmp_path):
    adapter, base, policy, reference = saved_adapter
    pair = ContrastivePairForCausalLM.from_pair(adapter, alpha=0.3, plausibility_threshold=0.2)
    expected = oracle_greedy(policy, reference, PROMPT, alpha=0.3, plausibility_threshold=0.2, max_new_tokens=12)
    assert greedy(pair, 12) == expected
    pair.save_pretrained(tmp_path / "pair")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "pair")
    assert type(loaded) is ContrastiveLoraPairForCausalLM
    assert (loaded.config.alpha, loaded.config.plausibility_threshold) == (0.3, 0.2)
    assert loaded.generation_config.eos_token_id == loaded.policy.generation_config.eos_token_id == [2, 1]
    assert AutoTokenizer.from_pretrained(tmp_path / "pair").get_vocab() == tiny_tokenizer().get_vocab()
    for name, parameter in pair.state_dict().items():
        assert torch.equal(parameter, loaded.state_dict()[name]), name
    assert greedy(loaded, 12) == expected
    assert_same_members(loaded, policy, reference)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "pair", alpha=0.9)
    assert greedy(other, 12) == oracle_greedy(
        policy, reference, PROMPT, alpha=0.9, plausibility_threshold=0.2, max_new_tokens=12
    )
    # base and adapter, once
    size = {where: Path(where, "model.safetensors").stat().st_size for where in (base, tmp_path / "pair")}
    lora = sum(p.numel() * 4 for name, p in pair.named_parameters() if "lora_" in name)
    assert size[base] < size[tmp_path / "pair"] < size[base] + lora + 10_000
    assert sorted(p.name for p in (tmp_path / "pair").glob("*.py")) == [
        "compatibility.py",
        "configuration_contrastive_lora_pair.py",
        "configuration_contrastive_pair.py",
        "configuration_stacks.py",
        "functional.py",
        "modeling_contrastive_lora_pair.py",
        "modeling_contrastive_pair.py",
        "modeling_stacks.py",
    ]


@pytest.mark.parametrize("given", ["path", "model"])
def test_from_a_path_with_the_base_given(saved_adapter, tmp_path, given):
    adapter, base, policy, reference = saved_adapter
    moved = Path(base).rename(tmp_path / "moved")
    with pytest.raises(OSError, match="base"):
        ContrastivePairForCausalLM.from_pair(adapter)
    model = AutoModelForCausalLM.from_pretrained(moved)
    pair = ContrastivePairForCausalLM.from_pair(adapter, moved if given == "path" else model)
    assert_same_members(pair, policy, reference)
    if given == "model":
        assert pair.stack.lm_head.weight is model.lm_head.weight
        assert type(model.model.layers[0].self_attn.q_proj) is nn.Linear
        assert not hasattr(model, "peft_config")
        assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "mixtral", "qwen3_moe"])
def test_save_and_load_every_kind(family, tmp_path):
    adapted, policy, reference = tiny_lora(family)
    ContrastivePairForCausalLM.from_pair(adapted).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert greedy(loaded) == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


def test_tied_heads_stay_tied(tmp_path):
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("qwen2", tie_word_embeddings=True)[0])
    pair.save_pretrained(tmp_path)
    assert not any("lm_head" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for model in (loaded.stack, loaded.policy, loaded.reference):
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_pair_that_lacks_weights_is_refused(tmp_path):
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("llama", tie_word_embeddings=True)[0])
    pair.save_pretrained(tmp_path)
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["stack.model.layers.1.mlp.up_proj.lora_B"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, such as `stack.model.layers.1.mlp.up_proj.lora_B`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.slow
def test_load_without_hf_cong_and_peft_through_remote_code(tmp_path):
    adapted, policy, reference = tiny_lora("mistral")
    ContrastivePairForCausalLM.from_pair(adapted).save_pretrained(tmp_path / "pair")
    script = f"""
import sys, json
sys.modules["hf_cong"] = sys.modules["peft"] = None  # importing them raises ImportError
import torch
import transformers
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "pair")!r}, trust_remote_code=True)
model.save_pretrained({str(tmp_path / "again")!r})
again = AutoModelForCausalLM.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True)
write = lambda m, **k: m.generate(torch.tensor([{PROMPT}]), max_new_tokens=8, do_sample=False, pad_token_id=2, **k)
out = [output[0].tolist() for output in (write(model), write(again), write(again, assistant_model=again.policy))]
print("OUT", json.dumps(out))
"""
    environment = {
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "",
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    first, second, assisted = json.loads(run.stdout.split("OUT")[1])
    assert first == second == assisted
    assert first[len(PROMPT) :] == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


# Refusals


def refused(match, family="llama", lora=None):
    config = peft.LoraConfig(**{"target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **(lora or {})})
    adapted = peft.get_peft_model(tiny_model(family), config)
    with pytest.raises(ValueError, match=match):
        ContrastivePairForCausalLM.from_pair(adapted)


@pytest.mark.parametrize(
    ("lora", "match"),
    [
        ({"modules_to_save": ["lm_head"]}, r"`modules_to_save` is \['lm_head'\]"),
        ({"use_dora": True}, "`use_dora` is True"),
        ({"lora_bias": True, "target_modules": ["q_proj"]}, "`lora_bias` is True"),
        ({"bias": "lora_only"}, "`bias` is 'lora_only'"),
        ({"bias": "all"}, "`bias` is 'all'"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "adapts `model.embed_tokens`"),
        ({"target_modules": ["q_proj", "lm_head"]}, "adapts `lm_head`"),
        ({"trainable_token_indices": [1, 2]}, "`trainable_token_indices` is"),
        ({"alora_invocation_tokens": [1]}, r"`alora_invocation_tokens` is \[1\]"),
        ({"layer_replication": [(0, 2), (1, 2)]}, "`layer_replication` is"),
        ({"use_bdlora": peft.tuners.lora.config.BdLoraConfig(["q_proj"], ["o_proj"], nblocks=2)}, "uses BdLora"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_one_forward_does_not_cover_is_refused_by_name(lora, match):
    lora = lora if "use_bdlora" not in lora else {**lora, "target_modules": ["q_proj", "o_proj"]}
    refused(f"{match}.*merge_and_unload", lora=lora)


def test_other_layers_are_refused_by_name():
    refused(
        r"adapts `transformer.h.0.attn.c_attn`.*covered are q_proj",
        family="gpt2",
        lora={"target_modules": ["c_attn"], "fan_in_fan_out": True},
    )
    refused(
        r"`target_parameters` is .'mlp.experts.down_proj'.",
        family="qwen3_moe",
        lora={"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]},
    )


def test_the_shared_expert_of_a_mixture_is_refused():

    config = transformers.Qwen2MoeConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )
    base = transformers.AutoModelForCausalLM.from_config(config)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False))
    with pytest.raises(ValueError, match=r"adapts `model.layers.0.mlp.shared_expert.up_proj`"):
        ContrastivePairForCausalLM.from_pair(adapted)


def test_a_layer_of_another_class_is_refused():
    class PackedLinear(nn.Linear):
        pass

    base = tiny_model("llama")
    base.model.layers[1].mlp.up_proj.__class__ = PackedLinear
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False))
    with pytest.raises(ValueError, match=r"`model.layers.1.mlp.up_proj` is a PackedLinear \(quantised"):
        ContrastivePairForCausalLM.from_pair(adapted)


@pytest.mark.parametrize(
    "config",
    [
        peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
        peft.PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
        peft.LoHaConfig(target_modules=["q_proj"]),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_other_methods_are_refused_by_name(config):
    adapted = peft.get_peft_model(tiny_model("llama"), config)
    with pytest.raises(ValueError, match=f"of type {config.peft_type.value}, not LORA"):
        ContrastivePairForCausalLM.from_pair(adapted)


def test_a_base_that_the_adapter_changed_is_no_reference(tmp_path):
    """PiSSA and its like take the adapter's first value out of the base: what is left never was a model."""
    base = tiny_model("llama")
    for init in ("pissa", "pissa_niter_4", "olora"):
        config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=init)
        adapted = peft.get_peft_model(copy.deepcopy(base), config)
        left = copy.deepcopy(adapted).unload()
        assert (left(IDS).logits - base(IDS).logits).abs().max() > 0.1
        with pytest.raises(ValueError, match=f"`init_lora_weights` is '{init}', which changed the weights"):
            ContrastivePairForCausalLM.from_pair(adapted)
    adapted.save_pretrained(tmp_path)
    before = copy.deepcopy(base.state_dict())
    with pytest.raises(ValueError, match="which changed the weights of the base"):
        ContrastivePairForCausalLM.from_pair(tmp_path, base)  # PEFT would change it again, in place
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())
    for init in ("gaussian", "orthogonal"):  # these leave it alone
        config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=init)
        pair = ContrastivePairForCausalLM.from_pair(peft.get_peft_model(copy.deepcopy(base), config))
        assert torch.equal(pair.reference(IDS).logits, base(IDS).logits)


def test_states_of_an_adapter_that_are_refused():
    adapted, _, _ = tiny_lora("llama")
    adapted.merge_adapter()
    with pytest.raises(ValueError, match="merged into the base of `policy`.*unmerge_adapter"):
        ContrastivePairForCausalLM.from_pair(adapted)
    adapted.unmerge_adapter()
    with adapted.disable_adapter(), pytest.raises(ValueError, match="disabled.*enable_adapter_layers"):
        ContrastivePairForCausalLM.from_pair(adapted)
    adapted.add_adapter("second", peft.LoraConfig(target_modules=["q_proj"]))
    adapted.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match=r"one active adapter, got \['default', 'second'\].*set_adapter"):
        ContrastivePairForCausalLM.from_pair(adapted)
    partial, policy, reference = tiny_lora("llama", lora={"target_modules": ["q_proj"]})
    partial.add_adapter("other", peft.LoraConfig(target_modules=["up_proj"], init_lora_weights=False))
    partial.merge_adapter(["other"])  # into layers that the active one leaves alone
    with pytest.raises(ValueError, match="merged into the base of `policy`.*unmerge_adapter"):
        ContrastivePairForCausalLM.from_pair(partial)
    partial.unmerge_adapter()
    assert_same_members(ContrastivePairForCausalLM.from_pair(partial), policy, reference)


def test_what_is_given_beside_an_adapter():
    adapted, policy, reference = tiny_lora("llama")
    for cls in (ContrastivePairForCausalLM, ContrastiveLoraPairForCausalLM):
        with pytest.raises(TypeError, match="PeftModel.*merge_and_unload"):
            cls.from_pair(adapted, reference)
    with pytest.raises(TypeError, match="`policy` is a LlamaForCausalLM and `reference` is missing"):
        ContrastivePairForCausalLM.from_pair(policy)
    with pytest.raises(ValueError, match="must lie in"):
        ContrastivePairForCausalLM.from_pair(adapted, alpha=1.5)


def test_an_adapter_that_changes_nothing_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        ContrastivePairForCausalLM.from_pair(tiny_lora("llama", lora={"init_lora_weights": True})[0])
    assert "are the same model" in caplog.text


def edit_adapter(adapter, change):
    file = Path(adapter, "adapter_model.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_files_of_an_adapter_that_are_refused(saved_adapter):
    adapter, _, _, reference = saved_adapter
    key = f"{LAYER}.lora_B.weight"
    edit_adapter(adapter, lambda tensors: tensors.pop(key))
    with pytest.raises(ValueError, match=f"it lacks `{key}`"):
        ContrastivePairForCausalLM.from_pair(adapter)
    edit_adapter(adapter, lambda tensors: tensors.update({key: torch.zeros(32, 4), "extra.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match="holds `extra.weight`, for which the base has no place"):
        ContrastivePairForCausalLM.from_pair(adapter)
    file = Path(adapter, "adapter_model.safetensors")
    torch.save(load_file(file), Path(adapter, "adapter_model.bin"))
    file.unlink()
    with pytest.raises(OSError, match="adapter_model.safetensors"):
        ContrastivePairForCausalLM.from_pair(adapter)
    config = Path(adapter, "adapter_config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not name its base model. Pass it as `reference`"):
        ContrastivePairForCausalLM.from_pair(adapter)
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_dora": True}))
    with pytest.raises(ValueError, match="`use_dora` is True"):  # before a base is read
        ContrastivePairForCausalLM.from_pair(adapter, "no/such-model")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, r"must be names among q_proj.*got \['lm_head'\]"),
        ({"lora_rank": 0}, "`lora_rank` must be a whole number of at least 1, got 0"),
        ({"alpha": 2.0}, "must lie in"),
        ({"reference_config": {"model_type": "gemma3"}}, "'gemma3' model, which is more than a text model"),
    ],
)
def test_configurations_that_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        ContrastiveLoraPairConfig(**fields)


def test_a_family_without_the_projection_is_refused():
    config = ContrastiveLoraPairConfig(tiny_config("gpt2"), target_modules=["q_proj"])
    with pytest.raises(ValueError, match="A 'gpt2' model has no linear layer q_proj"):
        ContrastiveLoraPairForCausalLM(config)


def test_flash_attention_is_refused_where_it_packs_rows():
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("llama")[0])
    pair.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="does not work with 'flash_attention_2'.*set_attn_implementation"):
        pair.generate_batch([PROMPT])
    # transformers would switch to flash by itself where it is installed
    pair.config._attn_implementation_internal = "sdpa"
    given = ContinuousBatchingConfig()
    manager = pair.init_continuous_batching(continuous_batching_config=given)
    assert not manager.continuous_batching_config.auto_switch_to_flash
    assert given.auto_switch_to_flash


def test_hidden_states_without_rows_are_refused():
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("llama")[0])
    with pytest.raises(ValueError, match=r"of shape \(6, 32\), not \(rows, tokens, width\)"):
        pair.stack.model.layers[0].mlp.up_proj(torch.zeros(6, 32))


def test_inputs_embeds_and_new_embeddings_are_refused():
    pair = ContrastivePairForCausalLM.from_pair(tiny_lora("llama")[0])
    with pytest.raises(ValueError, match="needs `input_ids`"):
        pair(inputs_embeds=torch.zeros(1, 3, 32))
    with pytest.raises(ValueError, match="base model"):
        pair.resize_token_embeddings(80)


def test_the_files_of_remote_code_are_the_packages_own(tmp_path):
    ContrastivePairForCausalLM.from_pair(tiny_lora("llama")[0]).save_pretrained(tmp_path)
    written = (tmp_path / "modeling_contrastive_lora_pair.py").read_text()
    own = Path(modeling_contrastive_lora_pair.__file__).read_text()
    assert written == own.replace("from ..", "from .")
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["ContrastiveLoraPairForCausalLM"]
