# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The bench measures what it says, compares tokens before it times them, and goes on after a kill."""

import json
import time
from statistics import median

import pytest
import torch

from hf_cong.bench import contestants, run_bench
from hf_cong.bench.contestants import Contestant, make_contestants, official_decode, random_members
from hf_cong.bench.run import check_tokens, run_round
from hf_cong.bench.summary import key_ratios, summarise
from hf_cong.cli import main
from hf_cong.journal import read_manifest
from hf_cong.timing import cache_bytes, weight_bytes
from tests.oracle import oracle_greedy
from tests.tiny import tiny_pair

NEW = 6
CONTRAST = {"alpha": 0.4, "plausibility_threshold": 0.1}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
}
EAGER = {"plain", "processor", "pair", "LoRA pair"}
SPECULATING = {f"{pair}, {form}" for pair in ("pair", "LoRA pair") for form in ("prompt lookup", "policy drafts")}
SINGLE_ROW = {"official-style loop", *SPECULATING}


@pytest.fixture(scope="module")
def tiny_shape():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contestants.SHAPES, "tiny", TINY)
        patch.setattr(contestants, "_CHANGE", 1.0)  # so narrow a model needs more for the contrast to show
        yield


@pytest.fixture(scope="module")
def members(tiny_shape):
    return random_members("tiny", dtype=torch.float32, device=torch.device("cpu"), seed=0)


@pytest.fixture(scope="module")
def prompts():
    return torch.randint(64, (3, 9), generator=torch.Generator().manual_seed(0))


ARGUMENTS = {"shape": "tiny", "batch_sizes": [1, 3], "prompt_length": 8, "new_tokens": NEW, "rounds": 3}


@pytest.fixture(scope="module")
def finished(tiny_shape, tmp_path_factory):
    """A run of the command."""
    directory = tmp_path_factory.mktemp("bench")
    argv = ["--output_dir", str(directory), "--shape", "tiny", "--batch_sizes", "1", "3", "--prompt_length", "8"]
    assert main(["bench", *argv, "--new_tokens", str(NEW), "--rounds", "3"]) == 0
    return directory


def test_every_contestant_has_every_sample_and_a_line(finished):
    result = read_manifest(finished / "bench.json")
    table = (finished / "bench.md").read_text().split("## Batch 3")
    for size, expected, page in ((1, EAGER | SINGLE_ROW, table[0]), (3, EAGER, table[1])):
        rows = {row["contestant"]: row for row in result["summary"] if row["batch_size"] == size}
        assert set(rows) == expected
        for name, row in rows.items():
            assert f"| {name} " in page
            assert row["rows_equal"] == row["rows"] == size and row["first_difference"] is None
            taken = [r for r in result["records"] if (r["batch_size"], r.get("contestant")) == (size, name)]
            assert sorted(r["round"] for r in taken if "total" in r) == [0, 1, 2]
    assert result["settings"]["hardware"]["threads"] == torch.get_num_threads()
    assert (finished / "bench.png").stat().st_size > 10_000


def test_ratios_follow_from_the_samples(finished):
    result = json.loads((finished / "bench.json").read_text())

    def step(size, name, number):
        (sample,) = (
            r
            for r in result["records"]
            if "total" in r and (r["batch_size"], r["contestant"], r["round"]) == (size, name, number)
        )
        return (sample["total"] - sample["first_token"]) / (NEW - 1)

    for row in result["summary"]:
        size, name = row["batch_size"], row["contestant"]
        ratios = [step(size, name, number) / step(size, "plain", number) for number in range(3)]
        assert row["ratio"] == pytest.approx([median(ratios), min(ratios), max(ratios)])
        assert row["tokens_per_second"][0] == pytest.approx(median(size / step(size, name, i) for i in range(3)))
        assert (row["contrast_share"] is None) == (name != "pair")


def test_a_killed_run_goes_on_and_keeps_its_samples(finished, tmp_path):
    lines = (finished / "bench.jsonl").read_bytes().splitlines(keepends=True)
    of_first_round = [i for i, line in enumerate(lines) if json.loads(line).get("round") == 0]
    kept = lines[: next(i for i in of_first_round if i + 1 not in of_first_round) + 1]
    (tmp_path / "bench.jsonl").write_bytes(b"".join(kept) + lines[len(kept)][:-9])  # killed while it wrote
    result = run_bench(tmp_path, **ARGUMENTS)
    assert (tmp_path / "bench.jsonl").read_bytes().startswith(b"".join(kept))
    whole = json.loads((finished / "bench.json").read_text())

    def keys(r):
        return r["batch_size"], r.get("round", -1), r.get("contestant", ""), r.get("contrast_of", "")

    assert sorted(map(keys, result["records"])) == sorted(map(keys, whole["records"]))
    again = run_bench(tmp_path, **ARGUMENTS)  # nothing is owed
    assert again["records"] == result["records"]
    with pytest.raises(ValueError, match="belongs to another run: `rounds` 3 there, 2 here"):
        run_bench(tmp_path, **{**ARGUMENTS, "rounds": 2})


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral"])
def test_official_style_loop_writes_the_oracles_tokens(family, prompts):
    policy, reference = tiny_pair(family, seed=3)
    expected = [oracle_greedy(policy, reference, row, max_new_tokens=12) for row in prompts.tolist()]
    assert official_decode(policy, reference, prompts, 12, **CONTRAST).tolist() == expected
    # the control: another α writes others
    assert official_decode(policy, reference, prompts, 12, **{**CONTRAST, "alpha": 0.9}).tolist() != expected


def test_every_form_writes_the_oracles_tokens(members, prompts):
    every = make_contestants(members, compiled=False, continuous=True, **CONTRAST)
    expected = {
        "pair": [oracle_greedy(*members[:2], row, max_new_tokens=NEW) for row in prompts.tolist()],
        "plain": [oracle_greedy(*members[:2], row, max_new_tokens=NEW, alpha=1.0) for row in prompts.tolist()],
    }
    assert expected["pair"] != expected["plain"]  # else either would do
    for one in every:
        rows = 1 if one.single_row else 3
        assert one.decode(prompts[:rows], NEW).tolist() == expected[one.writes][:rows], one.name


@pytest.mark.slow
def test_compiled_forms_write_the_oracles_tokens_call_after_call(members, prompts):
    every = make_contestants(members, compiled=True, continuous=False, **CONTRAST)
    compiled = [one for one in every if "compiled" in one.name]
    assert len(compiled) == 3
    for alpha, names in ((1.0, {"plain, compiled"}), (0.4, {"pair, compiled", "LoRA pair, compiled"})):
        expected = [oracle_greedy(*members[:2], row, max_new_tokens=NEW, alpha=alpha) for row in prompts.tolist()]
        for one in (one for one in compiled if one.name in names):
            assert one.decode(prompts, NEW).tolist() == expected
            assert one.decode(prompts, 1).tolist() == [row[:1] for row in expected]
            assert one.decode(prompts, NEW).tolist() == expected  # the cache was emptied


def test_other_tokens_are_reported(members, prompts):
    plain, pair = (
        one
        for one in make_contestants(members, compiled=False, continuous=False, **CONTRAST)
        if one.name in ("plain", "pair")
    )

    def wrong(prompts, new_tokens):
        written = pair.decode(prompts, new_tokens).clone()
        written[1, 2] = (written[1, 2] + 1) % 64
        return written

    checks = check_tokens([plain, pair, pair._replace(name="wrong", decode=wrong)], prompts, NEW)
    assert [(check["rows_equal"], check["first_difference"]) for check in checks] == [(3, None), (3, None), (2, 2)]


def test_speculation_is_counted_in_forwards(members, prompts):
    every = make_contestants(members, compiled=False, continuous=False, **CONTRAST)
    checks = {check["contestant"]: check for check in check_tokens(every, prompts[:1], NEW)}
    for name in SPECULATING:
        assert 1 <= checks[name]["tokens_per_forward"] <= NEW
    assert checks["pair"]["tokens_per_forward"] is None


def test_a_slow_contestant_is_seen_to_be_slow(prompts):
    def fast(prompts, new_tokens):
        return torch.zeros(len(prompts), new_tokens)

    def slow(prompts, new_tokens):
        time.sleep(0.4 + 0.02 * new_tokens)
        return fast(prompts, new_tokens)

    both = [Contestant("plain", fast, (), "plain", "plain"), Contestant("slow", slow, (), "plain", "plain")]
    rounds = [run_round(both, prompts, NEW, number) for number in range(3)]
    assert [samples[0]["contestant"] for samples in rounds] == ["plain", "slow", "plain"]  # they take turns
    facts = {"batch_size": 3, "baseline": "plain", "writes": "plain", "rows_equal": 3}
    checks = [{**facts, "contestant": one.name} for one in both]
    records = [{"batch_size": 3, "round": n, **s} for n, samples in enumerate(rounds) for s in samples]
    plain, late = summarise(checks + records, {"new_tokens": NEW, "rounds": 3})
    # Wide bounds, for a machine that does other things too.
    assert plain["step"].median < 0.01
    assert 0.015 < late["step"].median < 0.05  # the 0.4 s of every call are not in a step, where they would be 0.1
    assert late["first_token"].median > 0.4199
    assert 60 < late["tokens_per_second"].median < 200


def test_a_drifting_machine_does_not_move_the_ratios():
    slowness = [1.0, 5.0, 2.0]
    checks = [
        {
            "batch_size": size,
            "contestant": name,
            "baseline": "plain",
            "writes": "plain" if name == "plain" else "pair",
            "rows_equal": size,
        }
        for size, name in ((1, "plain"), (1, "pair"), (1, "official-style loop"), (8, "plain"), (8, "pair"))
    ]
    seconds = {"plain": 1.0, "pair": 2.0, "official-style loop": 3.0}
    records = [
        {**{key: check[key] for key in ("batch_size", "contestant")}, "round": number, "first_token": 1.0}
        | {"total": 1.0 + slow * seconds[check["contestant"]]}
        for check in checks
        for number, slow in enumerate(slowness)
    ]
    summary = summarise(checks + records, {"new_tokens": 2, "rounds": 3})
    assert [row["ratio"] for row in summary] == [(1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 1, 1), (2, 2, 2)]
    assert [row["ratio_to_pair"] for row in summary[:3]] == [None, (1, 1, 1), (1.5, 1.5, 1.5)]
    assert summary[1]["step"] == (4.0, 2.0, 10.0)
    # the best batch of the pair gives 8 tokens in a step of 4 s, the loop one in 6 s
    assert key_ratios(summary) == {"pair": pytest.approx(2.0 / (1 / 6))}


def test_bytes_by_hand(members):
    every = {one.name: one for one in make_contestants(members, compiled=False, continuous=False, **CONTRAST)}
    # embedding (tied to the head), per layer: q, k, v with biases, o, gate, up, down, two norms; the last norm
    layer = 32 * 33 + 2 * 16 * 33 + 32 * 32 + 3 * 32 * 48 + 2 * 32
    alone = 4 * (64 * 32 + 2 * layer + 32)
    adapter = 4 * 2 * 16 * ((32 + 32) * 2 + 2 * (32 + 16) + 3 * (32 + 48))
    expected = {"plain": alone, "pair": 2 * alone, "processor": 2 * alone, "LoRA pair": alone + adapter}
    assert {name: weight_bytes(every[name].models) for name in expected} == expected
    # what drafts is the pair's own policy
    assert weight_bytes(every["LoRA pair, policy drafts"].models) == alone + adapter
    # keys and values, 2 layers, 2 heads of 8, float32, 3 rows of 10 tokens
    rows = 2 * 2 * 2 * 8 * 4 * 3 * 10
    caches = {"plain": rows, "pair": 2 * rows, "processor": 2 * rows, "LoRA pair": 2 * rows}
    caches["pair, policy drafts"] = 3 * rows
    assert {name: cache_bytes(every[name].models, 3, 10) for name in caches} == caches


def test_the_cpu_shape_has_110_million_parameters():
    with torch.device("meta"):
        config = contestants.shape_config("qwen2-110m")
        model = contestants.AutoModelForCausalLM.from_config(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_840_128


def test_given_models_run_without_a_lora_pair(tmp_path):
    for name, model in zip(("policy", "reference"), tiny_pair("llama", seed=3), strict=True):
        model.save_pretrained(tmp_path / name)
    names = {name: str(tmp_path / name) for name in ("policy", "reference")}
    result = run_bench(tmp_path / "out", **{**ARGUMENTS, "batch_sizes": [1], "rounds": 1}, **names)
    written = {row["contestant"]: row["rows_equal"] for row in result["summary"]}
    assert set(written.values()) == {1}
    assert set(written) == {"plain", "processor", "pair"} | {name for name in SINGLE_ROW if "LoRA" not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "qwen2-0b"}, "`shape` is 'qwen2-0b'; it must be one of qwen2-110m, qwen2.5-0.5b"),
        ({"batch_sizes": [8, 0]}, r"`batch_sizes` must be different numbers of at least 1, got \[8, 0\]"),
        ({"batch_sizes": [8, 8]}, "`batch_sizes` must be different numbers"),
        ({"batch_sizes": []}, "`batch_sizes` must be different numbers"),
        ({"new_tokens": 1}, "`new_tokens` must be at least 2, got 1"),
        ({"prompt_length": 0}, "`prompt_length` must be at least 1"),
        ({"rounds": 0}, "`rounds` must be at least 1"),
        ({"device": "tpu"}, "`device` is 'tpu'; it must be one of cpu, cuda"),
        ({"dtype": "float99"}, "`dtype` is 'float99'; it must be one of float32, bfloat16, float16"),
        ({"policy": "a"}, "give both, or neither"),
        ({"alpha": 2.0}, "`alpha` must lie in"),
    ],
)
def test_refusals(tiny_shape, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        run_bench(tmp_path / "out", **{**ARGUMENTS, **change})
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(tiny_shape, tmp_path):
    with pytest.raises(ValueError, match="torch finds no GPU. Pass `device='cpu'`"):
        run_bench(tmp_path / "out", **ARGUMENTS, device="cuda")


@pytest.mark.gpu
def test_on_a_gpu(tiny_shape, tmp_path):
    result = run_bench(tmp_path, **ARGUMENTS, device="cuda", compile=True)
    assert "gpu" in result["settings"]["hardware"]
    for row in result["summary"]:
        assert row["peak_bytes"] > row["weight_bytes"]
        assert row["rows_equal"] == row["rows"], row["contestant"]
