# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Saved pairs, and bases steered by one, write the oracle's tokens in a real, unmodified vLLM, whatever is turned on.

`make test-vllm` runs these.
"""

import pytest
import torch

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

pytest.importorskip("vllm", reason="vLLM is not installed: `make test-vllm`")

from tests.engines.saved_in_vllm import (
    BASE,
    CHUNKED,
    GREEDY,
    PROMPTS,
    SHAPE,
    expected,
    generate,
    generate_apart,
    logps,
    own_only,
    tokens,
)

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


def save(model, drafter, directory):
    model.save_pretrained(directory)
    drafter.save_pretrained(directory / "drafter")
    tiny_tokenizer().save_pretrained(directory)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """`(members, directory, what the oracle writes)`"""
    directory = tmp_path_factory.mktemp("pair")
    members = tiny_pair("qwen2", **SHAPE)
    save(ContrastivePairForCausalLM.from_pair(*members), members[0], directory)
    return members, directory, expected(*members)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lora")
    # Fewer key-value heads than ranks, and targets that share a fused layer with one that is none
    targets = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]}
    adapted, *members = tiny_lora("qwen2", lora=targets, **{**SHAPE, "num_key_value_heads": 1})
    save(ContrastivePairForCausalLM.from_pair(adapted), members[0], directory)
    return members, directory, expected(*members)


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    directory = tmp_path_factory.mktemp("steered")
    members = tiny_model("qwen2", seed=7, **BASE), *tiny_pair("qwen2", **SHAPE)
    save(EmulatedFineTuningForCausalLM.from_pair(*members), members[1], directory)
    return members, directory, expected(*members)


@pytest.fixture(scope="module")
def steered_by_lora(tmp_path_factory):
    directory = tmp_path_factory.mktemp("steered_by_lora")
    adapted, *members = tiny_lora("qwen2", **SHAPE)
    base = tiny_model("qwen2", seed=7, **BASE)
    save(EmulatedFineTuningForCausalLM.from_pair(base, adapted), members[0], directory)
    return (base, *members), directory, expected(base, *members)


KINDS = ["pair", "lora", "steered", "steered_by_lora"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.getfixturevalue(request.param)


def test_logprobs_sampling_and_constraints(kind):
    from vllm.sampling_params import StructuredOutputsParams

    members, directory, want = kind
    first = [logps(members, ids) for ids in PROMPTS]
    forbidden = [int(id) for id in (first[0] == -torch.inf).nonzero()[-40:, 0]]
    sampled = {**GREEDY, "temperature": 1, "seed": 3, "n": 2}
    words = ["cat", "dog", "zebra"]
    grammar = StructuredOutputsParams(choice=words)
    greedy, again, logprobs, allowed, chosen, *samples = generate(
        directory,
        (PROMPTS, GREEDY),
        (PROMPTS, GREEDY),
        (PROMPTS, {**GREEDY, "max_tokens": 1, "logprobs": 20}),
        (PROMPTS[:1], {**GREEDY, "max_tokens": 1, "allowed_token_ids": forbidden}),
        (PROMPTS, {**GREEDY, "ignore_eos": False, "structured_outputs": grammar}),
        (PROMPTS, sampled),
        (PROMPTS[::-1], sampled),
        (PROMPTS, {**sampled, "seed": 4}),
        **CHUNKED,
        skip_tokenizer_init=False,
    )["batches"]
    assert tokens(greedy) == tokens(again) == want
    assert again[3]["cached"] > 0
    for output, scores in zip(logprobs, first, strict=True):
        got = output["logprobs"][0]
        plausible = set((scores > -torch.inf).nonzero()[:, 0].tolist())
        assert plausible <= got.keys() or len(plausible) > 20
        for id in plausible & got.keys():
            assert abs(got[id] - scores[id].item()) < 1e-4
        assert all(logprob < -1e3 for id, logprob in got.items() if id not in plausible)
    # No allowed token is plausible: the first member's own order decides among them.
    own = logps(members, PROMPTS[0], mask=False, **own_only(members))
    best = max(forbidden, key=lambda id: own[id].item())
    assert tokens(allowed) == [[best]]
    assert best != forbidden[0]
    assert tokens(chosen) == [constrained(members, ids, words) for ids in PROMPTS]
    one, reordered, other = ([output["ids"] for output in batch] for batch in samples)
    assert one == reordered[::-1] != other
    assert tokens(samples[0]) != want


def constrained(members, ids, words):
    """The oracle's completion if it must be one of `words`; the first member's order decides what is implausible."""
    tokenizer = tiny_tokenizer()
    written, text = [], ""
    while text not in words:
        scores, own = logps(members, ids + written), logps(members, ids + written, mask=False, **own_only(members))
        scores = torch.where(scores > -torch.inf, scores, own - 1e4)
        starts = [text + tokenizer.decode(id) for id in range(len(tokenizer))]
        allowed = [id for id, start in enumerate(starts) if any(word.startswith(start) for word in words)]
        written.append(max(allowed, key=lambda id: scores[id].item()))
        text = starts[written[-1]]
    return [*written, tokenizer.eos_token_id]


@pytest.mark.parametrize("engine", [{}, CHUNKED], ids=["whole", "chunked"])
def test_prompts_are_scored_without_the_plausible_set(kind, engine):
    """Of the very rows that are written on the plausible set, in the same steps."""
    members, directory, written = kind
    scored = generate(directory, (PROMPTS, {**GREEDY, "prompt_logprobs": 0}), **engine)["batches"][0]
    assert tokens(scored) == written
    implausible = 0
    for ids, output in zip(PROMPTS, scored, strict=True):
        unmasked = [
            logps(members, ids[:place], plausibility_threshold=0.0)[ids[place]].item() for place in range(1, len(ids))
        ]
        masked = [logps(members, ids[:place])[ids[place]].item() for place in range(1, len(ids))]
        assert output["prompt_logprobs"] == pytest.approx(unmasked, abs=1e-3)
        implausible += sum(score < -1e3 for score in masked)
    assert implausible  # the control: masks would be seen


def test_settings_by_overrides(kind):
    members, directory, written = kind
    settings = {**({"alpha": 0.7} if len(members) == 2 else {"beta": 2.0}), "plausibility_threshold": 0.0}
    want = expected(*members, **settings)
    assert want != written
    greedy, scored = generate(
        directory,
        (PROMPTS, GREEDY),
        (PROMPTS[:3], {**GREEDY, "max_tokens": 1, "prompt_logprobs": 0}),
        hf_overrides=settings,
    )["batches"]
    assert tokens(greedy) == want
    for ids, output in zip(PROMPTS[:3], scored, strict=True):
        likelihoods = [logps(members, ids[:place], **settings)[ids[place]].item() for place in range(1, len(ids))]
        assert output["prompt_logprobs"] == pytest.approx(likelihoods, abs=1e-3)


def test_draft_model(kind):
    _, directory, want = kind
    speculation = {"method": "draft_model", "model": str(directory / "drafter"), "num_speculative_tokens": 3}
    result = generate(directory, (PROMPTS, GREEDY), speculative_config=speculation)
    assert tokens(result["batches"][0]) == want
    assert result["drafts"] > 0


@pytest.mark.parametrize("kind", ["pair", "steered_by_lora"], indirect=True)
def test_ngram_speculation(kind, tmp_path):
    # It loads numba, after which no engine starts in the same process.
    _, directory, want = kind
    speculation = {"method": "ngram", "prompt_lookup_min": 1, "prompt_lookup_max": 3, "num_speculative_tokens": 3}
    engine = {"model": str(directory), "speculative_config": speculation}
    (result,), _ = generate_apart(tmp_path, (engine, [(PROMPTS, GREEDY)]))
    assert tokens(result["batches"][0]) == want
    assert result["drafts"] > 0


def test_compiled_and_started_again(request, tmp_path):
    # vLLM on CPU cannot load its own compiled graph, of any model, and compiles again: what is seen here is that all
    # stacks are one graph under one name, so that a start after the first has no other's to find.
    kinds = [request.getfixturevalue(kind) for kind in KINDS]
    jobs = [({"model": str(directory), "enforce_eager": False}, [(PROMPTS, GREEDY)]) for _, directory, _ in kinds]
    settings = {"VLLM_CACHE_ROOT": str(tmp_path), "VLLM_LOGGING_LEVEL": "INFO"}  # importing TRL lowers the level
    for started in (jobs, jobs[:1]):
        results, log = generate_apart(tmp_path, *started, env=settings)
        for result, (*_, want) in zip(results, kinds, strict=False):
            assert tokens(result["batches"][0]) == want
        assert log.count("saved AOT compiled function") + log.count("Directly load AOT compilation") == len(started)
        assert len(list(tmp_path.glob("torch_compile_cache/torch_aot_compile/*/rank_*/model"))) == len(KINDS)


@pytest.mark.parametrize("kind", ["pair", "lora", "steered"], indirect=True)
def test_tensor_parallel(kind):
    _, directory, want = kind
    result = generate(directory, (PROMPTS, GREEDY), tensor_parallel_size=2)
    assert tokens(result["batches"][0]) == want


REFUSALS = {
    "alpha": ("pair", {"hf_overrides": {"alpha": 2}}, r"`alpha` must lie in \[0, 1\], got 2"),
    "beta": ("steered", {"hf_overrides": {"beta": -1}}, "`beta` must be a finite number of at least 0, got -1"),
    "pipeline": ("pair", {"pipeline_parallel_size": 2}, "Pipeline parallelism is not supported for this model"),
    "pooling": ("pair", {"runner": "pooling"}, "A pair only generates"),
    "prompt_embeds": ("pair", {"enable_prompt_embeds": True}, "A pair needs token ids"),
    "quantization": ("pair", {"quantization": "fp8", "dtype": "bfloat16"}, "A pair is not quantized, got .* fp8"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, request):
    kind, engine, message = REFUSALS[case]
    with pytest.raises((ValueError, NotImplementedError), match=message):
        generate(request.getfixturevalue(kind)[1], **engine)


def test_heads_that_do_not_split(tmp_path):
    members = (
        tiny_model("llama", **SHAPE),
        tiny_model(
            "llama", seed=1, **{**SHAPE, "hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1}
        ),
    )
    ContrastivePairForCausalLM.from_pair(*members).save_pretrained(tmp_path / "pair")
    engine = {"model": str(tmp_path / "pair"), "tensor_parallel_size": 2}
    (result,), log = generate_apart(tmp_path, (engine, []))
    assert "error" in result
    assert "The reference has 3 attention heads, which `--tensor-parallel-size 2` does not divide" in log


def test_without_the_plugin(request, tmp_path):
    env = {"VLLM_PLUGINS": "", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    engines = [
        {"model": str(request.getfixturevalue(kind)[1]), "trust_remote_code": trust}
        for kind in KINDS
        for trust in (False, True)
    ]
    results, _ = generate_apart(tmp_path, *((engine, []) for engine in engines), env=env)
    for engine, result in zip(engines, results, strict=True):
        message = "vLLM needs the plugin" if engine["trust_remote_code"] else "contains custom code"
        assert message in result["error"]
