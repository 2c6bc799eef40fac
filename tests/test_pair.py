# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The pair as an object: building, scoring, saving, refusing."""

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
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_cong import ContrastivePairConfig, ContrastivePairForCausalLM
from hf_cong.pair import modeling_contrastive_pair
from tests.oracle import oracle_greedy, oracle_logps
from tests.tiny import FAMILIES, tiny_model, tiny_pair, tiny_tokenizer

PROMPT = list(range(20, 41))


@pytest.fixture
def saved_members(tmp_path):
    """Paths of a policy and a reference saved with a tokenizer, and both models."""
    tokenizer = tiny_tokenizer()
    policy, reference = tiny_pair("llama", vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=0)
    policy.generation_config.eos_token_id = [2, 1]
    paths = []
    for name, model in (("policy", policy), ("reference", reference)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths, policy, reference


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_forward_scores_without_the_plausible_set(family):
    policy, reference = tiny_pair(family)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference, alpha=0.3)
    ids = torch.tensor([PROMPT])
    logits = pair(ids).logits[0]
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.logsumexp(-1), torch.zeros(len(PROMPT)), atol=1e-5, rtol=0)
    for t in (0, 7, len(PROMPT) - 1):
        expected = oracle_logps(policy, reference, PROMPT[: t + 1], alpha=0.3, mask=False)
        torch.testing.assert_close(logits[t].double(), expected, atol=2e-4, rtol=0)
    # the control: on the plausible set alone, most tokens would be impossible
    assert (pair(ids, plausible_only=True).logits < -1e3).float().mean() > 0.2
    torch.testing.assert_close(pair(ids, logits_to_keep=1).logits[0], logits[-1:], atol=1e-4, rtol=0)
    kept = torch.tensor([3, 7])
    torch.testing.assert_close(pair(ids, logits_to_keep=kept).logits[0], logits[kept], atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_loss_is_the_negative_log_likelihood():
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("qwen2"))
    ids = torch.tensor([PROMPT])
    output = pair(ids, labels=ids)
    expected = -output.logits[0, :-1].gather(-1, ids[0, 1:, None]).mean()
    torch.testing.assert_close(output.loss, expected)


def test_alpha_one_and_no_threshold_is_the_policy():
    policy, reference = tiny_pair("qwen2")
    pair = ContrastivePairForCausalLM.from_pair(policy, reference, alpha=1.0, plausibility_threshold=0.0)
    ids = torch.tensor([PROMPT])
    for kwargs in ({"do_sample": False}, {"do_sample": True, "temperature": 0.7, "top_k": 20}, {"num_beams": 3}):
        outputs = []
        for model in (policy, pair):
            torch.manual_seed(0)
            outputs.append(model.generate(ids, max_new_tokens=20, pad_token_id=2, **kwargs).tolist())
        assert outputs[0] == outputs[1]


def test_what_the_policy_decides(saved_members):
    (policy_path, reference_path), policy, _ = saved_members
    pair = ContrastivePairForCausalLM.from_pair(policy_path, reference_path)
    assert pair.generation_config.eos_token_id == policy.generation_config.eos_token_id == [2, 1]
    assert pair.config.pad_token_id == 0


def test_save_and_load_with_hf_cong(saved_members, tmp_path):
    (policy_path, reference_path), policy, reference = saved_members
    pair = ContrastivePairForCausalLM.from_pair(policy_path, reference_path, alpha=0.3, plausibility_threshold=0.2)
    pair.save_pretrained(tmp_path / "pair")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "pair")
    assert type(loaded) is ContrastivePairForCausalLM
    assert (loaded.config.alpha, loaded.config.plausibility_threshold) == (0.3, 0.2)
    assert loaded.generation_config.eos_token_id == [2, 1]
    assert AutoTokenizer.from_pretrained(tmp_path / "pair").get_vocab() == tiny_tokenizer().get_vocab()
    for name, parameter in pair.state_dict().items():
        assert torch.equal(parameter, loaded.state_dict()[name]), name
    output = loaded.generate(torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=[])
    expected = oracle_greedy(policy, reference, PROMPT, max_new_tokens=12, alpha=0.3, plausibility_threshold=0.2)
    assert output[0, len(PROMPT) :].tolist() == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_every_family(family, tmp_path):
    policy, reference = tiny_pair(family)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    pair.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    output = loaded.generate(torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, pad_token_id=2)
    assert output[0, len(PROMPT) :].tolist() == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


def test_tied_heads_stay_tied(tmp_path):
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("qwen2", tie_word_embeddings=True))
    pair.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for member in (loaded.policy, loaded.reference):
        assert member.lm_head.weight.data_ptr() == member.model.embed_tokens.weight.data_ptr()
    assert loaded.policy.lm_head.weight.data_ptr() != loaded.reference.lm_head.weight.data_ptr()


def test_load_without_hf_cong_through_remote_code(tmp_path):
    policy, reference = tiny_pair("mistral")
    ContrastivePairForCausalLM.from_pair(policy, reference).save_pretrained(tmp_path / "pair")
    script = f"""
import sys, json
sys.modules["hf_cong"] = None  # importing it raises ImportError
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "pair")!r}, trust_remote_code=True)
model.save_pretrained({str(tmp_path / "again")!r})
again = AutoModelForCausalLM.from_pretrained({str(tmp_path / "again")!r}, trust_remote_code=True)
write = lambda m: m.generate(torch.tensor([{PROMPT}]), max_new_tokens=8, do_sample=False, pad_token_id=2)[0].tolist()
out = [write(model), write(again)]
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
    first, second = json.loads(run.stdout.split("OUT")[1])
    assert first == second
    assert first[len(PROMPT) :] == oracle_greedy(policy, reference, PROMPT, max_new_tokens=8)


def test_remote_code_needs_the_users_own_hand(tmp_path):
    ContrastivePairForCausalLM.from_pair(*tiny_pair("llama")).save_pretrained(tmp_path / "pair")
    script = f"""
import sys
sys.modules["hf_cong"] = None
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained({str(tmp_path / "pair")!r})
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, input="")
    assert run.returncode != 0
    assert "trust_remote_code" in run.stderr


# Refusals


def swapped(tokenizer, path):
    """The same tokenizer with two tokens exchanged."""
    tokenizer.save_pretrained(path)
    file = path / "tokenizer.json"
    data = json.loads(file.read_text())
    vocab = data["model"]["vocab"]
    a, b = "a", "b"
    vocab[a], vocab[b] = vocab[b], vocab[a]
    file.write_text(json.dumps(data))


@pytest.mark.parametrize("how", ["another tokenizer", "a swapped token"])
def test_another_vocabulary_is_refused(saved_members, tmp_path, how):
    (policy_path, reference_path), _, _ = saved_members
    if how == "another tokenizer":
        tiny_tokenizer(seed=1).save_pretrained(reference_path)
    else:
        swapped(tiny_tokenizer(), tmp_path / "reference")
    with pytest.raises(ValueError, match=r"must share one vocabulary.*ids differ: token \d+ is '"):
        ContrastivePairForCausalLM.from_pair(policy_path, reference_path)


def test_an_identical_pair_warns_with_the_divergence(caplog):
    with caplog.at_level(logging.WARNING, "hf_cong"):
        ContrastivePairForCausalLM.from_pair(tiny_model("llama"), tiny_model("llama"))
    assert "nothing to contrast" in caplog.text and "0.0e+00 nats" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hf_cong"):
        ContrastivePairForCausalLM.from_pair(*tiny_pair("llama"))
    assert not caplog.text


def test_encoder_decoder_is_refused():
    config = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = transformers.T5ForConditionalGeneration(config)
    with pytest.raises(ValueError, match="`policy` is an encoder-decoder \\('t5'\\)"):
        ContrastivePairForCausalLM.from_pair(model, tiny_model("llama"))


def test_architectures_are_refused_before_their_weights_are_read(tmp_path):
    transformers.T5Config().save_pretrained(tmp_path / "t5")
    transformers.MambaConfig().save_pretrained(tmp_path / "mamba")
    for name in ("t5", "mamba"):
        with pytest.raises(ValueError, match=f"'{name}'"):
            ContrastivePairForCausalLM.from_pair(str(tmp_path / name), tiny_model("llama"))


def test_adapters_and_other_objects_are_refused(saved_members, tmp_path):
    (policy_path, _), policy, reference = saved_members
    adapted = peft.get_peft_model(copy.deepcopy(policy), peft.LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(TypeError, match=r"got PeftModelForCausalLM.*merge_and_unload"):
        ContrastivePairForCausalLM.from_pair(adapted, reference)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="`reference` is an adapter"):
        ContrastivePairForCausalLM.from_pair(policy, str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="no adapter and `reference` is missing"):
        ContrastivePairForCausalLM.from_pair(policy_path, None)


def test_pickled_weights_are_not_loaded(saved_members):
    (policy_path, reference_path), policy, _ = saved_members
    Path(policy_path, "model.safetensors").unlink()
    torch.save(policy.state_dict(), Path(policy_path, "pytorch_model.bin"))
    with pytest.raises(OSError, match="safetensors"):
        ContrastivePairForCausalLM.from_pair(policy_path, reference_path)


def recurrent_models():
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    yield transformers.MambaForCausalLM(transformers.MambaConfig(**small, state_size=4))
    config = transformers.Qwen3NextConfig(
        **small,
        intermediate_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=8,
    )
    yield transformers.Qwen3NextForCausalLM(config)


@pytest.mark.parametrize("index", [0, 1])
def test_recurrent_families_are_refused_by_name(index):
    model = list(recurrent_models())[index]
    with pytest.raises(ValueError, match=f"{model.config.model_type}.*recurrent state|linear_attention layers"):
        ContrastivePairForCausalLM.from_pair(tiny_model("llama"), model)


def test_two_families_are_refused():
    with pytest.raises(ValueError, match=r"'llama' model and `reference` a 'gpt2'.*ContrastiveLogitsProcessor"):
        ContrastivePairForCausalLM.from_pair(tiny_model("llama"), tiny_model("gpt2"))


@pytest.mark.parametrize(
    ("alpha", "threshold"), [(-0.1, 0.1), (1.5, 0.1), (0.4, 1.0), (0.4, -0.1), (float("nan"), 0.1)]
)
def test_alpha_and_threshold_out_of_range(alpha, threshold):
    with pytest.raises(ValueError, match="must lie in"):
        ContrastivePairForCausalLM.from_pair(*tiny_pair("llama"), alpha=alpha, plausibility_threshold=threshold)
    with pytest.raises(ValueError, match="must lie in"):
        ContrastivePairConfig(alpha=alpha, plausibility_threshold=threshold)


def test_inputs_embeds_are_refused():
    pair = ContrastivePairForCausalLM.from_pair(*tiny_pair("llama"))
    with pytest.raises(ValueError, match="needs `input_ids`"):
        pair(inputs_embeds=torch.zeros(1, 3, 32))


def test_the_files_of_remote_code_are_the_packages_own(tmp_path):
    ContrastivePairForCausalLM.from_pair(*tiny_pair("llama")).save_pretrained(tmp_path)
    written = (tmp_path / "modeling_contrastive_pair.py").read_text()
    own = Path(modeling_contrastive_pair.__file__).read_text()
    assert written == own.replace("from ..", "from .")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "compatibility.py",
        "config.json",
        "configuration_contrastive_pair.py",
        "configuration_stacks.py",
        "functional.py",
        "generation_config.json",
        "model.safetensors",
        "modeling_contrastive_pair.py",
        "modeling_stacks.py",
    ]
