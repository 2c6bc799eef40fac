# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A search in lm-eval: what it writes is what `weak_to_strong_search` finds, and likelihoods are refused."""

import lm_eval
import pytest
from lm_eval.api.model import CachingLM
from lm_eval.tasks import TaskManager

from hf_cong import ImplicitReward, weak_to_strong_search
from hf_cong.evaluation.lm import SearchLM
from tests.evaluation.lm.harness import (
    NEW_TOKENS,
    PROMPTS,
    SHAPE,
    TOKENIZER,
    generation_requests,
    members,
    requests,
    save,
    write_tasks,
)
from tests.tiny import tiny_base

SEARCH = {"beam_width": 2, "successors_per_beam": 2, "chunk_length": 3}


@pytest.fixture(scope="module")
def models():
    return tiny_base("qwen2", **SHAPE), *members("llama")


@pytest.fixture(scope="module")
def paths(tmp_path_factory, models):
    directory = tmp_path_factory.mktemp("models")
    return save(directory, model=models[0], policy=models[1], reference=models[2])


def lm_of(paths, **kwargs):
    return SearchLM(paths["model"], paths["policy"], paths["reference"], **{"device": "cpu", **SEARCH, **kwargs})


def searched(models, prompts, **settings):
    model, policy, reference = models
    reward = ImplicitReward(policy, reference, TOKENIZER)
    settings = {"max_new_tokens": NEW_TOKENS, "stop_strings": ["\n\n"], **SEARCH, **settings}
    return [result.completion for result in weak_to_strong_search(model, TOKENIZER, prompts, reward, **settings)]


def test_it_writes_what_the_search_finds(models, paths):
    got = lm_of(paths).generate_until(generation_requests())
    assert got == searched(models, PROMPTS)
    swapped = models[0], models[2], models[1]
    assert got != searched(swapped, PROMPTS)  # the control
    assert lm_of(paths, batch_size=1, seed=1).generate_until(generation_requests()) == searched(
        models, PROMPTS, seed=1
    )


def test_stop_strings_and_lengths_are_the_tasks(models, paths):
    lm = lm_of(paths)
    (whole,) = searched(models, PROMPTS[:1])
    stop = whole[4:6]
    (cut,) = lm.generate_until(generation_requests(PROMPTS[:1], until=stop))
    assert cut == searched(models, PROMPTS[:1], stop_strings=[stop])[0]
    assert stop not in cut
    (short,) = lm.generate_until(generation_requests(PROMPTS[:1], max_gen_toks=4))
    assert short == searched(models, PROMPTS[:1], max_new_tokens=4)[0]


def test_repeats_take_the_following_seeds(models, paths):
    twice = [request for request in generation_requests(PROMPTS[:2]) for _ in range(2)]
    got = lm_of(paths).generate_until(twice)
    assert got[::2] == searched(models, PROMPTS[:2])
    assert got[1::2] == searched(models, PROMPTS[:2], seed=1)


def test_messages_go_through_each_models_own_template(models, paths):
    lm = lm_of(paths)
    messages = [{"role": "user", "content": "tell me about a kind fox"}]
    prompt = lm.apply_chat_template(messages)
    assert lm.generate_until(generation_requests([prompt])) == searched(models, [messages])
    assert lm.generate_until(generation_requests([str(prompt)])) != searched(models, [messages])  # as plain text
    with pytest.raises(NotImplementedError, match="begins the answer itself"):
        lm.apply_chat_template(messages, add_generation_prompt=False)


def test_in_lm_eval(tmp_path, models, paths):
    tasks = TaskManager(include_path=str(write_tasks(tmp_path / "tasks")), include_defaults=False)
    model_args = {name: paths[key] for name, key in [("pretrained", "model"), ("policy", "policy")]}
    model_args |= {"reference": paths["reference"], **SEARCH}
    common = {"task_manager": tasks, "bootstrap_iters": 0, "batch_size": 4, "device": "cpu"}
    run = lm_eval.simple_evaluate("cong_search", model_args, ["cong_write"], apply_chat_template=True, **common)
    assert run["config"]["beam_width"] == 2
    assert list(run["config"]["members"]) == ["model", "policy", "reference"]
    sample = run["samples"]["cong_write"][0]
    messages = [{"role": "user", "content": "tell me about the cat"}]
    assert sample["resps"] == [searched(models, [messages])]
    for task in ("cong_choice", "cong_text"):
        with pytest.raises(NotImplementedError, match="has no likelihood"):
            lm_eval.simple_evaluate("cong_search", model_args, [task], **common)


def test_what_was_found_before_a_failure_is_kept(tmp_path, models, paths):
    """The second prompt is shorter to read and longer in tokens than the model's context."""
    lm, cache = lm_of(paths, batch_size=1), str(tmp_path / "cache.db")
    fits, does_not = "tell me about the cat and the dog " * 8, "\N{FOX FACE}" * 200
    with pytest.raises(ValueError, match="Shorten the prompt"):
        CachingLM(lm, cache).generate_until(generation_requests([does_not, fits]))
    assert list(CachingLM(lm, cache).dbdict.values()) == searched(models, [fits])


def test_the_cache_knows_the_seed(tmp_path, models, paths):
    for seed in (0, 1):
        caching = CachingLM(lm_of(paths, seed=seed), str(tmp_path / "cache.db"))
        assert caching.generate_until(generation_requests()) == searched(models, PROMPTS, seed=seed)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"beam_width": 0}, "`beam_width` must be at least 1"),
        ({"batch_size": "auto"}, "`batch_size` must be a whole number"),
        ({"tokenizer": "some"}, "`tokenizer` is for a model behind a URL"),
        ({"reference": None}, "is no pair, so it has no implicit reward"),
    ],
)
def test_refusals(paths, kwargs, message):
    names = {"pretrained": paths["model"], "policy": paths["policy"], "reference": paths["reference"]}
    with pytest.raises(ValueError, match=message):
        SearchLM(**{**names, "device": "cpu", **kwargs})


def test_other_generation_settings_are_refused(paths):
    lm = lm_of(paths)
    with pytest.raises(ValueError, match=r"no generation settings \['num_beams'\]"):
        lm.generate_until(generation_requests(num_beams=2))
    with pytest.raises(NotImplementedError, match="has no likelihood"):
        lm.loglikelihood(requests("loglikelihood", [("a", "b")]))
