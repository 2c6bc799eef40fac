# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A low-rank difference is recovered exactly, and what a cut loses is reported as it is."""

import copy
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM

from hf_cong import ContrastiveLoraPairForCausalLM, ContrastivePairForCausalLM, compress, compress_pair, factors
from hf_cong.cli import main
from hf_cong.compress import report_table
from hf_cong.factors import factor
from hf_cong.prompts import encode_prompt, prompt_id
from tests.oracle import oracle_greedy, oracle_logps
from tests.tiny import tiny_model, tiny_pair, tiny_tokenizer

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = [5, 9, 33, 2, 17]
WORDS = {"vocab_size": 320, "eos_token_id": 2, "pad_token_id": 0}


def is_target(name):
    return name.endswith(".weight") and name.split(".")[-2] in TARGETS


def low_rank_pair(family, rank=4, **overrides):
    """`(policy, reference)`: the policy is the reference plus a random update of `rank` in every matrix."""
    reference = tiny_model(family, **overrides)
    policy = copy.deepcopy(reference)
    generator = torch.Generator().manual_seed(1)
    for name, weight in policy.named_parameters():
        if is_target(name):
            up = torch.randn(len(weight), rank, generator=generator)
            down = torch.randn(rank, weight.shape[1], generator=generator)
            weight.data += 0.05 * up @ down
    return policy, reference


def saved(root, policy, reference, *, tokenizer=None, **kwargs):
    for role, model in (("policy", policy), ("reference", reference)):
        model.save_pretrained(root / role, **kwargs)
        if tokenizer is not None:
            tokenizer.save_pretrained(root / role)
    return root / "policy", root / "reference"


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory).eval()


def greedy(pair, ids, max_new_tokens=24):
    row = torch.tensor([ids])
    return pair.generate(row, do_sample=False, max_new_tokens=max_new_tokens)[0, len(ids) :].tolist()


def weights_of(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Two checkpoints that differ everywhere and at full rank, with a tokenizer, and prompts."""
    root = tmp_path_factory.mktemp("tuned")
    policy, reference = tiny_pair("llama", **WORDS)
    names = saved(root, policy, reference, tokenizer=tiny_tokenizer())
    prompts = [[{"role": "user", "content": f"tell me about the {word}"}] for word in "cat dog fox owl mat".split()]
    return *names, prompts


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"])
def test_a_low_rank_difference_is_recovered(family, tmp_path):
    policy, reference = low_rank_pair(family)
    names = saved(tmp_path, policy, reference)
    report = compress_pair(*names, output_dir=tmp_path / "four", rank=4)
    assert {row["rank"]: row["captured_energy"] for row in report["ranks"]}[4] == pytest.approx(1, abs=1e-6)
    assert report["left_out"]["share"] == 0
    pair = load(tmp_path / "four")
    assert isinstance(pair, ContrastiveLoraPairForCausalLM)
    expected = oracle_greedy(policy, reference, IDS)
    assert greedy(pair, IDS) == expected
    assert greedy(ContrastivePairForCausalLM.from_pair(policy, reference), IDS) == expected

    # negative control: two ranks are too few, and the report says so
    report = compress_pair(*names, output_dir=tmp_path / "two", rank=2)
    assert {row["rank"]: row["captured_energy"] for row in report["ranks"]}[2] < 0.9
    assert greedy(load(tmp_path / "two"), IDS) != expected


def test_a_full_rank_is_the_pair_itself(tmp_path):
    policy, reference = low_rank_pair("llama", rank=32)
    names = saved(tmp_path, policy, reference)
    report = compress_pair(*names, output_dir=tmp_path / "full", rank=32)
    assert report["ranks"][-1]["rank"] == "full" and report["ranks"][-2]["captured_energy"] == pytest.approx(1)
    expected = oracle_greedy(policy, reference, IDS)
    assert greedy(load(tmp_path / "full"), IDS) == expected
    compress_pair(*names, output_dir=tmp_path / "cut", rank=8)
    assert greedy(load(tmp_path / "cut"), IDS) != expected


def test_energies_are_those_of_numpy(tuned, tmp_path):
    policy, reference, _ = tuned
    report = compress_pair(policy, reference, output_dir=tmp_path / "pair", rank=3, ranks=[5])
    there, here = (load_file(path / "model.safetensors") for path in (policy, reference))
    difference = {name: (there[name].double() - here[name].double()).numpy() for name in here}
    squares = {
        name: np.linalg.svd(delta, compute_uv=False) ** 2 for name, delta in difference.items() if is_target(name)
    }
    total = sum(values.sum() for values in squares.values())
    for name, module in report["modules"].items():
        assert module == {"energy": pytest.approx(squares[name].sum()), "exact": True}
    for rank in range(1, 33):
        captured = sum(values[:rank].sum() for values in squares.values()) / total
        assert report["curves"]["all"][rank - 1] == pytest.approx(captured, abs=1e-6)
    keys = [values for name, values in squares.items() if "k_proj" in name]
    assert len(report["curves"]["k_proj"]) == 16
    assert report["curves"]["k_proj"][2] == pytest.approx(sum(v[:3].sum() for v in keys) / sum(v.sum() for v in keys))
    assert [row["rank"] for row in report["ranks"]] == [0, 3, 5, "full"]
    assert report["ranks"][1]["captured_energy"] == report["curves"]["all"][2]

    left = {
        "embeddings": np.square(difference["model.embed_tokens.weight"]).sum(),
        "head": np.square(difference["lm_head.weight"]).sum(),
        "norms": sum(np.square(delta).sum() for name, delta in difference.items() if "norm" in name),
        "biases": 0.0,
    }
    assert report["left_out"]["energy"] == pytest.approx(left)
    share = sum(left.values()) / (sum(left.values()) + total)
    assert report["left_out"]["share"] == pytest.approx(share)
    assert report["ranks"][-1]["captured_of_all"] == pytest.approx(1 - share)


def test_what_an_adapter_leaves_out_is_warned_of(tuned, tmp_path, caplog):
    compress_pair(*tuned[:2], output_dir=tmp_path / "tuned", rank=2)
    assert "in tensors that an adapter leaves out, most of it in the head" in caplog.text
    caplog.clear()
    compress_pair(*saved(tmp_path, *low_rank_pair("llama")), output_dir=tmp_path / "low", rank=2)
    assert "leaves out" not in caplog.text


def test_biases_are_left_out_and_counted(tmp_path):
    policy, reference = low_rank_pair("qwen2")
    policy.model.layers[0].self_attn.q_proj.bias.data += 2.0
    report = compress_pair(*saved(tmp_path, policy, reference), output_dir=tmp_path / "pair", rank=4)
    assert report["left_out"]["energy"] == pytest.approx({"embeddings": 0, "head": 0, "norms": 0, "biases": 32 * 4.0})


def test_a_randomised_factor_keeps_the_total(tmp_path):
    generator = torch.Generator().manual_seed(0)
    falling = torch.randn(60, 40, generator=generator) * 0.7 ** torch.arange(40.0)
    exact, randomised = factor(falling, 6), factor(falling, 6, exact=False)
    assert len(exact["squares"]) == 40 and len(randomised["squares"]) == 6
    torch.testing.assert_close(randomised["squares"], exact["squares"][:6], rtol=1e-4, atol=0)
    products = [tensors["lora_B"] @ tensors["lora_A"] for tensors in (exact, randomised)]
    torch.testing.assert_close(*products, rtol=0, atol=1e-4)
    state = torch.get_rng_state()
    assert torch.equal(factor(falling, 6, exact=False)["lora_A"], randomised["lora_A"])
    assert torch.equal(torch.get_rng_state(), state)

    names = saved(tmp_path, *tiny_pair("llama"))
    full = compress_pair(*names, output_dir=tmp_path / "full", rank=4, ranks=[4])
    part = compress_pair(*names, output_dir=tmp_path / "part", rank=4, ranks=[4], full_svd_limit=16)
    exact = {name.split(".")[-2] for name, module in part["modules"].items() if module["exact"]}
    assert exact == {"k_proj", "v_proj"}
    assert len(part["curves"]["all"]) == 4 and len(part["curves"]["k_proj"]) == 16
    assert part["curves"]["all"] == pytest.approx(full["curves"]["all"][:4], rel=0.02)
    assert {n: m["energy"] for n, m in part["modules"].items()} == {n: m["energy"] for n, m in full["modules"].items()}


def test_measures_are_those_of_the_written_pair(tuned, tmp_path):
    """Every measure, recomputed one token at a time from the pair on disk and the oracle."""
    policy_dir, reference_dir, prompts = tuned
    settings = {"alpha": 0.3, "plausibility_threshold": 0.05}
    report = compress_pair(
        policy_dir, reference_dir, output_dir=tmp_path / "pair", rank=6, prompts=prompts, max_new_tokens=6, **settings
    )
    policy, reference, pair = load(policy_dir), load(reference_dir), load(tmp_path / "pair")
    assert (pair.config.alpha, pair.config.plausibility_threshold) == (0.3, 0.05)
    tokenizer = tiny_tokenizer()
    (journal,) = (tmp_path / "pair" / "_compression").glob("*/journal-*.jsonl")
    completions = {row["prompt_id"]: row for row in map(json.loads, journal.read_text().splitlines()[1:])}
    assert len(completions) == len(prompts)
    values = {"kl": [], "kl_unmasked": [], "forbidden": [], "greedy_agreement": []}
    rewards = []
    for prompt in prompts:
        row = completions[prompt_id(prompt)]
        ids = encode_prompt(tokenizer, prompt)
        answer = row["completion_ids"] + ([2] if row["finish_reason"] == "stop" else [])
        sums = [0.0, 0.0]
        for position, token in enumerate(answer):
            context = ids + answer[:position]
            both = [(policy, reference), (pair.policy, pair.reference)]
            masked = [oracle_logps(*members, context, **settings) for members in both]
            whole = [oracle_logps(*members, context, mask=False, **settings) for members in both]
            plausible = masked[0] > -torch.inf
            p, q = (logps[plausible].log_softmax(-1) for logps in whole)
            values["kl"].append((p.exp() * (p - q)).sum().item())
            values["kl_unmasked"].append((whole[0].exp() * (whole[0] - whole[1])).sum().item())
            values["forbidden"].append(masked[0].exp()[masked[1] == -torch.inf].sum().item())
            values["greedy_agreement"].append(float(masked[0].argmax() == masked[1].argmax()))
            for number, members in enumerate(both):
                logps = [m(torch.tensor([context])).logits[0, -1].double().log_softmax(-1)[token] for m in members]
                sums[number] += (logps[0] - logps[1]).item()
        rewards.append(sums)
    measured = next(row for row in report["ranks"] if row["rank"] == 6)
    assert measured["tokens"] == len(values["kl"])
    for name in ("kl", "kl_unmasked"):
        expected = [np.mean(values[name]), np.median(values[name]), np.percentile(values[name], 95)]
        assert list(measured[name].values()) == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert measured[name]["mean"] > 0.01
    for name in ("forbidden", "greedy_agreement"):
        assert measured[name] == pytest.approx(np.mean(values[name]), abs=1e-5)
    exact, approximate = zip(*rewards, strict=True)
    assert measured["reward_pearson"] == pytest.approx(stats.pearsonr(exact, approximate).statistic, abs=1e-4)
    assert measured["reward_spearman"] == pytest.approx(stats.spearmanr(exact, approximate).statistic)
    assert report["ranks"][0]["reward_pearson"] is None  # no adapter: every reward is 0


def test_a_recovered_pair_measures_as_the_same(tmp_path):
    policy, reference = low_rank_pair("llama", **WORDS)
    names = saved(tmp_path, policy, reference, tokenizer=tiny_tokenizer())
    prompts = ["the cat", "the dog sat", "tell me about", "an old"]
    report = compress_pair(*names, output_dir=tmp_path / "pair", rank=4, ranks=[2], prompts=prompts, max_new_tokens=12)
    rows = {row["rank"]: row for row in report["ranks"]}
    assert list(rows) == [0, 2, 4, "full"]
    for rank in (4, "full"):
        assert rows[rank]["kl_unmasked"]["p95"] == pytest.approx(0, abs=1e-4)
        assert (rows[rank]["greedy_agreement"], rows[rank]["forbidden"]) == (1, 0)
        assert rows[rank]["reward_pearson"] == pytest.approx(1, abs=1e-4)
    assert rows[0]["kl"]["mean"] > rows[2]["kl"]["mean"] > 0.01
    assert rows[2]["greedy_agreement"] < 1
    assert [line.split()[0] for line in report_table(report).splitlines()[2:]] == ["0", "2", "4", "full"]
    picture = Image.open(tmp_path / "pair" / "compression.png")
    assert picture.size == (1200, 720)


def test_shards_dtypes_and_single_files_agree(tmp_path):
    policy, reference = low_rank_pair("llama")
    single = saved(tmp_path / "single", policy, reference)
    shards = saved(tmp_path / "shards", policy, reference, max_shard_size="20KB")
    assert len(list(shards[0].glob("model-*.safetensors"))) > 3
    written = []
    for number, names in enumerate(((single[0], shards[1]), (shards[0], single[1]))):
        compress_pair(*names, output_dir=tmp_path / f"{number}", rank=4)
        written.append({path.name: path.read_bytes() for path in (tmp_path / f"{number}").glob("model-*")})
    assert written[0] == written[1]

    # a policy in another dtype: the difference is taken in float32, the adapter is stored as the reference is
    half = copy.deepcopy(policy).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    report = compress_pair(tmp_path / "half", single[1], output_dir=tmp_path / "mixed", rank=4)
    here = load_file(single[1] / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    expected = (half.state_dict()[name].float() - here[name]).double().square().sum().item()
    assert report["modules"][name]["energy"] == pytest.approx(expected)
    assert report["left_out"]["energy"]["embeddings"] > 0  # what rounding the policy's embeddings moved
    assert {t.dtype for f in (tmp_path / "mixed").glob("model-*") for t in load_file(f).values()} == {torch.float32}


def test_bfloat16_is_kept_and_its_loss_stated(tmp_path):
    policy, reference = (model.to(torch.bfloat16) for model in low_rank_pair("llama"))
    report = compress_pair(*saved(tmp_path, policy, reference), output_dir=tmp_path / "pair", rank=4)
    pair = load(tmp_path / "pair")
    assert pair.dtype == torch.bfloat16
    assert 0 < report["rounding"] < 1e-4
    captured = report["ranks"][1]["captured_energy"]
    assert 0.99 < captured < 1 - 1e-6  # rounding the checkpoints is noise of full rank
    name = "model.layers.0.mlp.down_proj"
    layer = pair.stack.get_submodule(name)
    restored = layer.weight.float() + layer.lora_B.float() @ layer.lora_A.float()
    torch.testing.assert_close(restored, policy.get_submodule(name).weight.float(), rtol=0.02, atol=0.02)
    assert not torch.allclose(layer.weight.float(), policy.get_submodule(name).weight.float(), rtol=0.02, atol=0.02)


def test_a_tied_head_is_the_embeddings(tmp_path):
    policy, reference = low_rank_pair("llama", tie_word_embeddings=True)
    names = saved(tmp_path, policy, reference)
    expected = oracle_greedy(policy, reference, IDS)
    compress_pair(*names, output_dir=tmp_path / "tied", rank=4)
    assert greedy(load(tmp_path / "tied"), IDS) == expected

    # some checkpoints hold the copy: it is neither written nor counted twice
    tensors = load_file(names[0] / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, names[0] / "model.safetensors", metadata={"format": "pt"})
    report = compress_pair(*names, output_dir=tmp_path / "copy", rank=4)
    assert report["left_out"]["share"] == 0

    # a policy whose head was untied from it differs in its head
    untied = tiny_model("llama", tie_word_embeddings=False)
    untied.load_state_dict({**policy.state_dict(), "lm_head.weight": policy.lm_head.weight + 0.5})
    untied.save_pretrained(tmp_path / "untied")
    report = compress_pair(tmp_path / "untied", names[1], output_dir=tmp_path / "mixed", rank=4)
    assert report["left_out"]["energy"]["head"] == pytest.approx(64 * 32 * 0.25, rel=1e-4)
    assert report["left_out"]["energy"]["embeddings"] == 0
    assert greedy(load(tmp_path / "mixed"), IDS) == expected


def test_a_killed_run_goes_on(tuned, tmp_path):
    policy, reference, prompts = tuned
    settings = {"rank": 4, "prompts": prompts, "max_new_tokens": 4}
    compress_pair(policy, reference, output_dir=tmp_path / "pair", **settings)
    whole = weights_of(tmp_path / "pair")
    work = tmp_path / "pair" / "_compression"

    # as a kill leaves it: nothing but the factors so far, a torn record, and a factor that has none
    lines = (work / "journal.jsonl").read_bytes().splitlines(keepends=True)
    done = {json.loads(line)["tensor"].removesuffix(".weight") for line in lines[1:9]}
    shutil.copytree(work, tmp_path / "killed" / "_compression")
    shutil.rmtree(next(path for path in (tmp_path / "killed" / "_compression").iterdir() if len(path.name) == 16))
    (tmp_path / "killed" / "_compression" / "journal.jsonl").write_bytes(b"".join(lines[:9]) + lines[9][:20])
    kept = {}
    for path in (tmp_path / "killed" / "_compression" / "factors").iterdir():
        if path.stem in done:
            kept[path] = path.stat().st_mtime_ns
        else:
            path.write_bytes(b"torn")
    assert 2 < len(kept) < 14
    compress_pair(policy, reference, output_dir=tmp_path / "killed", **settings)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name, data in weights_of(tmp_path / "killed").items():
        assert data == whole[name], name


def test_another_rank_takes_the_factors_that_are_there(tuned, tmp_path):
    policy, reference, _ = tuned
    out = tmp_path / "pair"
    first = compress_pair(policy, reference, output_dir=out, rank=4)
    whole = weights_of(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert compress_pair(policy, reference, output_dir=out, rank=4) == first
    assert {path: path.stat().st_mtime_ns for path in times} == times  # a finished run is returned

    compress_pair(policy, reference, output_dir=out, rank=8)
    assert load(out).config.lora_rank == 8
    factors = [path for path in times if "factors" in path.parts]
    assert len(factors) == 14 and all(path.stat().st_mtime_ns == times[path] for path in factors)
    compress_pair(policy, reference, output_dir=out, rank=4)
    assert weights_of(out) == whole

    with pytest.raises(ValueError, match="belongs to another run: `largest_rank` 32 there, 3 here"):
        compress_pair(policy, reference, output_dir=out, rank=3, ranks=[])
    with pytest.raises(ValueError, match="belongs to another run: `policy`"):
        compress_pair(reference, policy, output_dir=out, rank=4)
    assert weights_of(out) == whole


def test_bad_pairs_are_refused(tmp_path):
    policy, reference = saved(tmp_path, *low_rank_pair("llama"))

    def refused(match, policy=policy, reference=reference, error=ValueError, **settings):
        with pytest.raises(error, match=match):
            compress_pair(policy, reference, output_dir=tmp_path / "out", **{"rank": 4, **settings})
        assert not (tmp_path / "out").exists()

    for rank in (0, 33, 2.5):
        refused(rf"`rank` must lie in \[1, 32\], got {rank}", rank=rank)
    refused(r"`ranks` must lie in \[1, 32\], got -1", ranks=[4, -1])
    refused("`alpha` must lie in", alpha=2)
    refused("`prompts` need the tokenizer of `policy`", prompts=["a"])

    def model(name, family="llama", **overrides):
        tiny_model(family, 3, **overrides).save_pretrained(tmp_path / name)
        return tmp_path / name

    refused("'llama' model and `reference` a 'qwen2'", reference=model("qwen2", "qwen2"))
    wide = model("wide", intermediate_size=64)
    refused(
        r"'model.layers.0.mlp.down_proj.weight' is of shape \(32, 48\) in `policy` and of shape \(32, 64\)",
        reference=wide,
    )
    deep = model("deep", num_hidden_layers=3)
    refused("'model.layers.2.input_layernorm.weight' is absent in `policy`", reference=deep)
    refused(
        r"'lm_head.weight' is of shape \(64, 32\) in `policy` and of shape \(72", reference=model("v", vocab_size=72)
    )
    refused("`rms_norm_eps` is 1e-06 in `policy` and 0.01", reference=model("eps", rms_norm_eps=1e-2))
    heads = model("heads", num_attention_heads=8, num_key_value_heads=4, head_dim=4)  # tensors of the same shapes
    refused("`head_dim` is 8 in `policy` and 4", reference=heads)
    refused("this 'gpt2' model has the weight 'transformer.h.0.attn.c_attn.weight'", *[model("gpt2", "gpt2")] * 2)
    refused("this 'mixtral' model has the weight .*experts", *[model("mixtral", "mixtral")] * 2)

    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused("`policy` is an adapter", policy=tmp_path / "adapter")
    pickled = shutil.copytree(policy, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused("but pytorch_model.bin; only safetensors are read", policy=pickled)
    torn = shutil.copytree(policy, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((policy / "model.safetensors").read_bytes()[:-40])
    refused("model.safetensors cannot be read", policy=torn)
    shards = saved(tmp_path / "shards", *low_rank_pair("llama"), max_shard_size="20KB")[0]
    next(shards.glob("model-00002-*")).unlink()
    refused("`policy` lacks the shard .*model-00002-", policy=shards, error=FileNotFoundError)
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "../reference/model.safetensors"
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    refused("names a file outside its directory", policy=shards)
    codes = shutil.copytree(policy, tmp_path / "codes")
    save_file({"model.norm.weight": torch.ones(32, dtype=torch.int8)}, codes / "model.safetensors")
    refused("holds 'model.norm.weight' as I8", policy=codes)
    quantised = shutil.copytree(policy, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (quantised / "config.json").write_text(json.dumps(config))
    refused("`policy` is quantised", policy=quantised)
    for name, seed in (("policy", 0), ("reference", 1)):
        tiny_tokenizer(seed).save_pretrained(tmp_path / name)
    refused("must share one vocabulary")


def edit(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"'model.layers.1.mlp.up_proj.weight' is absent"),
        (lambda t: t.pop("lm_head.weight"), r"'lm_head.weight' is absent instead of \(64, 32\)"),
        (lambda t: t.update({"lm_head.weight": torch.ones(72, 32)}), r"'lm_head.weight' is of shape \(72, 32\)"),
    ],
)
def test_a_checkpoint_that_is_not_its_model_is_refused(tmp_path, change, found):
    """Both lack the same: neither differs from the other, and what would be written could not be loaded."""
    names = saved(tmp_path, *low_rank_pair("llama"))
    for name in names:
        edit(name, change)
    with pytest.raises(ValueError, match=f"`policy` must be the 'llama' model of its configuration: {found}"):
        compress_pair(*names, output_dir=tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()


def test_tensors_without_a_place_are_passed_over(tmp_path, caplog):
    policy, reference = low_rank_pair("llama")
    names = saved(tmp_path / "in", policy, reference)
    compress_pair(*names, output_dir=tmp_path / "plain", rank=4)
    assert "has no place" not in caplog.text
    escape = "../../../escaped/layers.0.self_attn.q_proj.weight"  # the factors' files are named by the tensors
    edit(names[0], lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    for name in names:
        edit(name, lambda t: t.update({escape: torch.randn(8, 8)}))
    compress_pair(*names, output_dir=tmp_path / "out" / "pair", rank=4)
    assert "`policy` holds 2 tensors for which a 'llama' model has no place" in caplog.text
    assert "`reference` holds 1 tensors" in caplog.text
    assert not list(tmp_path.rglob("escaped*"))
    plain, pair = (tmp_path / name for name in ("plain", "out/pair"))
    for file in plain.glob("model-*"):
        assert (pair / file.name).read_bytes() == file.read_bytes()


def _killed_at(call, module, name, names, output_dir, settings):
    """As a process of its own: dies in the so-manieth call of a function."""
    function, calls = getattr(module, name), iter(range(call))

    def dying(*args, **kwargs):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(module, name, dying)
    compress_pair(*names, output_dir=output_dir, **settings)


@pytest.mark.parametrize(
    ("module", "name", "call"), [(factors, "factor", 5), (factors, "save_file", 9), (compress, "save_file", 2)]
)
def test_killed_in_earnest_it_ends_with_the_same_bytes(tuned, tmp_path, module, name, call):
    *names, prompts = tuned
    settings = {"rank": 4, "prompts": prompts[:2], "max_new_tokens": 4}
    compress_pair(*names, output_dir=tmp_path / "whole", **settings)
    arguments = (call, module, name, names, tmp_path / "killed", settings)
    process = multiprocessing.get_context("fork").Process(target=_killed_at, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "compression.json").exists()
    compress_pair(*names, output_dir=tmp_path / "killed", **settings)
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_nothing_to_compress_is_refused(tmp_path):
    policy, reference = low_rank_pair("llama")
    names = saved(tmp_path, policy, reference)
    with pytest.raises(ValueError, match="They differ elsewhere: nowhere"):
        compress_pair(names[1], names[1], output_dir=tmp_path / "same", rank=4)
    reference.model.norm.weight.data += 1
    reference.save_pretrained(tmp_path / "norm")
    with pytest.raises(ValueError, match="They differ elsewhere: norms"):
        compress_pair(tmp_path / "norm", names[1], output_dir=tmp_path / "norms", rank=4)
    reference.lm_head.weight.data[0, 0] = torch.nan
    reference.save_pretrained(tmp_path / "nan")
    with pytest.raises(ValueError, match=r"'lm_head.weight' is not finite"):
        compress_pair(tmp_path / "nan", names[1], output_dir=tmp_path / "nans", rank=4)
    before = weights_of(names[0])
    with pytest.raises(ValueError, match="holds other files"):
        compress_pair(*names, output_dir=names[0], rank=4)
    assert weights_of(names[0]) == before


def test_a_target_without_difference_gets_no_adapter(tmp_path):
    policy, reference = low_rank_pair("llama")
    for layer, base in zip(policy.model.layers, reference.model.layers, strict=True):
        layer.mlp.load_state_dict(base.mlp.state_dict())
    compress_pair(*saved(tmp_path, policy, reference), output_dir=tmp_path / "pair", rank=4)
    pair = load(tmp_path / "pair")
    assert pair.config.target_modules == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert greedy(pair, IDS) == oracle_greedy(policy, reference, IDS)


def test_the_command(tuned, tmp_path, capsys):
    policy, reference, prompts = tuned
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    (tmp_path / "compress.yaml").write_text(f"policy: {policy}\nreference: {reference}\nranks: [2, 4]\nrank: 4\n")
    command = ["compress", "--config", str(tmp_path / "compress.yaml"), "--output_dir", str(tmp_path / "pair")]
    assert main([*command, "--prompts", str(tmp_path / "prompts.jsonl"), "--max_new_tokens", "4"]) == 0
    printed = capsys.readouterr().out
    assert "same greedy token" in printed and "Left out of every rank" in printed
    report = json.loads((tmp_path / "pair" / "compression.json").read_text())
    assert f"head {report['left_out']['shares']['head']:.1%}" in printed
    assert [row["rank"] for row in report["ranks"]] == [0, 2, 4, "full"]
    pair = AutoModelForCausalLM.from_pretrained(tmp_path / "pair")
    assert pair.config.eos_token_id == 2
    assert main([*command, "--rank", "99"]) == 2
    assert "`rank` must lie in [1, 32], got 99" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_bounded_by_a_layer(tmp_path):
    shape = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 2048}
    policy, reference = tiny_model("llama", 0, **shape), tiny_model("llama", 1, **shape)
    size = sum(weight.nbytes for weight in reference.parameters()) / 2**20
    names = saved(tmp_path, policy, reference, max_shard_size="200MB")
    del policy, reference
    assert size > 250

    def peak(code):
        """In MiB. `ru_maxrss` would not do: a new process begins with that of the process that started it."""
        code = f"import torch\ntorch.set_num_threads(1)\n{code}\nprint(open('/proc/self/status').read())"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(re.search(r"VmHWM:\s+(\d+) kB", run.stdout)[1]) / 2**10

    imports = "from transformers import AutoModelForCausalLM as Auto\n"
    imports += "from hf_cong import compress_pair; Auto.from_pretrained\n"
    arguments = f"{str(names[0])!r}, {str(names[1])!r}"
    base = peak(imports)
    settings = f"output_dir={str(tmp_path / 'out')!r}, rank=4, ranks=[4], full_svd_limit=1"
    compressing = peak(f"{imports}compress_pair({arguments}, {settings})")
    # negative control: the two models in memory; their files are mapped, so only what is read counts
    models = f"models = [Auto.from_pretrained(name) for name in ({arguments},)]"
    loading = peak(f"{imports}{models}\nfor model in models: [weight.sum() for weight in model.parameters()]")
    assert loading - base > 1.8 * size
    assert compressing - base < 0.75 * size  # of which the libraries that it imports are a part
