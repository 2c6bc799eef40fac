# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A pair in lm-eval: every type of request against a hand computation, and everything around it."""

import importlib
from pathlib import Path

import lm_eval
import pytest
import tomllib
import torch
from lm_eval.api.model import LM, CachingLM
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from hf_cong.evaluation.lm import ConGLM
from tests.evaluation.lm.harness import (
    PROMPTS,
    SHAPE,
    TEXTS,
    TOKENIZER,
    answers,
    by_hand,
    furthest,
    generation_requests,
    members,
    requests,
    save,
    save_members,
    triple,
    write_tasks,
)
from tests.tiny import tiny_base, tiny_lora, tiny_tokenizer

EXACT = 2e-4  # nats, of sums over up to 40 tokens in float32


def lm_of(*models, **kwargs):
    return ConGLM(models[0], *models[1:], **{"tokenizer": TOKENIZER, "batch_size": 8, **kwargs})


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return save_members(tmp_path_factory.mktemp("members"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return TaskManager(include_path=str(write_tasks(tmp_path_factory.mktemp("tasks"))), include_defaults=False)


def evaluate(lm, tasks, names=("cong_choice", "cong_text", "cong_write"), **kwargs):
    return lm_eval.simple_evaluate(
        model=lm, tasks=list(names), task_manager=tasks, bootstrap_iters=0, batch_size=8, **kwargs
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral"])
def test_all_requests_equal_the_hand_computation(family):
    pair = members(family)
    got = answers(lm_of(*pair, alpha=0.3, plausibility_threshold=0.2))
    settings = {"alpha": 0.3, "plausibility_threshold": 0.2}
    assert furthest(got, by_hand(pair, **settings)) < EXACT
    # The controls: each breaks one thing, and is seen.
    swapped = by_hand(pair[::-1], **settings)
    assert furthest(got, swapped) == float("inf")
    assert min(abs(a - b) for (a, _), (b, _) in zip(got[0], swapped[0], strict=True)) > 10 * EXACT
    other_weight = by_hand(pair, **{**settings, "alpha": 0.7})
    assert min(abs(a - b) for (a, _), (b, _) in zip(got[0], other_weight[0], strict=True)) > 10 * EXACT
    masked = by_hand(pair, masked=True, **settings)
    assert all(total == -float("inf") for total in masked[1][:1])
    assert by_hand(pair, alpha=0.3, plausibility_threshold=0)[2] != got[2]


def test_a_steered_base_equals_the_hand_computation():
    models = triple("llama")
    base, policy, reference = models
    got = answers(lm_of(policy, reference, base, beta=0.6, plausibility_threshold=0.2))
    assert furthest(got, by_hand(models, beta=0.6, plausibility_threshold=0.2)) < EXACT
    assert furthest(got, by_hand(models, beta=0.0, plausibility_threshold=0.2)) == float("inf")


def test_in_float32_the_likelihood_is_the_formula_to_the_last_bit():
    policy, reference = members("llama")
    (context, continuation), alpha = ("the cat", " sat on the mat"), 0.3
    lm = lm_of(policy, reference, alpha=alpha, batch_size=1)
    ((got, _),) = lm.loglikelihood(requests("loglikelihood", [(context, continuation)]))
    ids, start = TOKENIZER.encode(context + continuation), len(TOKENIZER.encode(context))
    with torch.no_grad():
        logps = [model(torch.tensor([ids[:-1]])).logits.log_softmax(-1) for model in (policy, reference)]
    scores = torch.sub(*logps, alpha=1 - alpha)[0].log_softmax(-1).log_softmax(-1)  # the last is lm-eval's
    picked = scores[start - 1 :].gather(-1, torch.tensor(ids[start:])[:, None])
    assert got == float(picked.sum())


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_batches_do_not_matter(family):
    pair = members(family, max_position_embeddings=64) if family != "gpt2" else members(family)
    one, eight = (answers(lm_of(*pair, alpha=0.3, batch_size=size)) for size in (1, 8))
    assert furthest(one, eight) < EXACT
    automatic = answers(lm_of(*pair, alpha=0.3, batch_size="auto", max_batch_size=4, max_length=64))
    assert furthest(one, automatic) < EXACT


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mixtral"])
def test_at_alpha_one_it_is_the_policy_in_HFLM(family):
    policy, reference = members(family)
    alone = answers(HFLM(policy, tokenizer=TOKENIZER, batch_size=8))
    assert furthest(answers(lm_of(policy, reference, alpha=1, plausibility_threshold=0)), alone) < EXACT
    assert furthest(answers(lm_of(policy, reference, alpha=0.9, plausibility_threshold=0)), alone) > 10 * EXACT


def test_at_alpha_one_tasks_are_HFLMs_too(paths, tasks):
    """With a chat template, few-shot examples and beams: what lm-eval makes of tokenizer and generation settings."""
    policy = {"pretrained": paths["policy"], "batch_size": 4, "device": "cpu"}
    pair = {**policy, "reference": paths["reference"], "plausibility_threshold": 0}
    found = [
        evaluate(
            lm,
            tasks,
            ["cong_choice", "cong_write"],
            apply_chat_template=True,
            system_instruction="be kind",
            num_fewshot=1,
            gen_kwargs={"num_beams": 3},
        )["samples"]
        for lm in (HFLM(**policy), ConGLM(**pair, alpha=1), ConGLM(**pair, alpha=0.6))
    ]
    written = [[sample["resps"] for sample in samples["cong_write"]] for samples in found]
    assert written[0] == written[1] != written[2]
    scored = [[logp for sample in samples["cong_choice"] for logp, _ in sample["filtered_resps"]] for samples in found]
    assert scored[1] == pytest.approx(scored[0], abs=EXACT)
    assert scored[2] != pytest.approx(scored[0], abs=10 * EXACT)


def test_long_texts_are_rolled_over_windows_of_the_shortest_context():
    policy, _ = members("llama", max_position_embeddings=64)
    _, reference = members("llama", max_position_embeddings=16)
    lm = lm_of(policy, reference, alpha=0.3)
    assert lm.max_length == 16
    rolled = lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS]))
    assert rolled == pytest.approx(by_hand((policy, reference), 16, alpha=0.3)[1], abs=EXACT)
    assert rolled[0] != pytest.approx(by_hand((policy, reference), alpha=0.3)[1][0], abs=EXACT)


def test_sampling_and_stop_strings_are_those_of_the_task():
    pair = members("llama")
    lm = lm_of(*pair, alpha=0.3)
    (whole,) = lm.generate_until(generation_requests(PROMPTS[:1]))
    stop = whole[3:5]
    (cut,) = lm.generate_until(generation_requests(PROMPTS[:1], until=[stop]))
    assert cut == whole.split(stop)[0] != whole
    torch.manual_seed(0)
    drawn = lm.generate_until(generation_requests(PROMPTS, do_sample=True, temperature=2.0, top_k=50))
    assert drawn != lm.generate_until(generation_requests(PROMPTS))


def test_pairs_by_name_and_saved_give_what_stock_hf_gives(tmp_path, paths):
    pair = ContrastivePairForCausalLM.from_pair(paths["policy"], paths["reference"], alpha=0.3)
    saved = save(tmp_path, saved=pair)["saved"]
    by_name = answers(ConGLM(paths["policy"], paths["reference"], alpha=0.3, batch_size=4, device="cpu"))
    ours = answers(ConGLM(saved, batch_size=4, device="cpu"))
    stock = answers(HFLM(saved, batch_size=4, device="cpu"))
    assert by_name == ours == stock
    for kwargs in ({"trust_remote_code": True}, {"parallelize": True}, {"attn_implementation": "sdpa"}):
        assert answers(ConGLM(saved, batch_size=4, device="cpu", **kwargs)) == stock
    other = answers(ConGLM(saved, alpha=0.4, batch_size=4, device="cpu"))  # a saved pair's own α gives way
    assert furthest(stock, other) > 10 * EXACT


def test_an_adapter_by_name_has_its_base_as_reference(tmp_path):
    adapted, policy, reference = tiny_lora("llama", **SHAPE)
    base = save(tmp_path, base=reference)["base"]
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(tmp_path / "adapter")
    got = answers(ConGLM(str(tmp_path / "adapter"), alpha=0.3, batch_size=8, device="cpu"))
    assert furthest(got, by_hand((policy, reference), alpha=0.3)) < EXACT
    stated = ConGLM(str(tmp_path / "adapter"), base, alpha=0.3, batch_size=8, device="cpu")
    assert furthest(answers(stated), got) == 0
    assert list(stated.members) == ["policy", "reference"]
    assert furthest(answers(lm_of(adapted, alpha=0.3)), got) < EXACT  # loaded by PEFT


def test_a_triple_by_name(tmp_path):
    models = triple("qwen2")
    names = save(tmp_path, base=models[0], policy=models[1], reference=models[2])
    lm = ConGLM(names["policy"], names["reference"], base=names["base"], beta=0.6, batch_size=8, device="cpu")
    assert isinstance(lm.model, EmulatedFineTuningForCausalLM)
    assert furthest(answers(lm), by_hand(models, beta=0.6)) < EXACT
    assert list(lm.members) == ["policy", "reference", "base"]


def test_tokenizer_arguments(paths):
    other = tiny_tokenizer()
    other.chat_template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    names = {"pretrained": paths["policy"], "reference": paths["reference"], "device": "cpu"}
    lm = ConGLM(**names, tokenizer=other, prefix_token_id=5)
    assert lm.apply_chat_template([{"role": "user", "content": "a"}]) == "[a]"
    assert lm.prefix_token_id == 5
    stock = HFLM(paths["policy"], add_bos_token=True, device="cpu")
    ours = ConGLM(**names, alpha=1, plausibility_threshold=0, add_bos_token=True)
    assert furthest(answers(ours), answers(stock)) < EXACT
    with pytest.raises(ValueError, match="`tokenizer` and `pretrained` must share one vocabulary"):
        ConGLM(**names, tokenizer=tiny_tokenizer(seed=3))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"alpha": 1.5}, ValueError, "`alpha` must lie in"),
        ({"alpha": -0.1}, ValueError, "`alpha` must lie in"),
        ({"alpha": "much"}, TypeError, "`alpha` must be"),
        ({"alpha": True}, TypeError, "`alpha` must be"),
        ({"plausibility_threshold": 1}, ValueError, "`plausibility_threshold` must lie in"),
        ({"beta": 0.5}, ValueError, "`beta` is the weight of a pair that steers"),
        ({"aplha": 0.5}, TypeError, "no argument `aplha`; did you mean `alpha`"),
        ({"nonsense": 1}, TypeError, "no argument `nonsense`"),
        ({"peft": "adapter"}, ValueError, "`peft` cannot be served: pass the adapter as `pretrained`"),
        ({"load_in_4bit": True}, ValueError, "`load_in_4bit` cannot be served: it would round"),
        ({"gptqmodel": True}, ValueError, "`gptqmodel` cannot be served"),
        ({"gguf_file": "model.gguf"}, ValueError, "`gguf_file` cannot be served"),
        ({"tp_plan": "auto"}, ValueError, "`tp_plan` cannot be served"),
        ({"backend": "seq2seq"}, ValueError, "`backend` is 'seq2seq'"),
        ({"reference": None}, ValueError, "is one model. Pass the model before alignment"),
        ({"reference": torch.nn.Linear(1, 1)}, TypeError, "all models by name or all of them loaded"),
    ],
)
def test_refusals(paths, kwargs, error, message):
    with pytest.raises(error, match=message):
        ConGLM(paths["policy"], **{"reference": paths["reference"], "device": "cpu", **kwargs})


def test_loaded_models_are_refused_what_they_cannot_have():
    policy, reference = members("llama")
    pair = ContrastivePairForCausalLM.from_pair(policy, reference)
    with pytest.raises(ValueError, match="set α on the pair itself"):
        ConGLM(pair, alpha=0.3, tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="Leave `reference` out"):
        ConGLM(pair, reference, tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match="Pass `tokenizer`"):
        ConGLM(policy, reference)


def test_members_of_another_vocabulary_are_refused(tmp_path, paths):
    _, reference = members("llama", vocab_size=len(tiny_tokenizer(seed=3)))
    reference.save_pretrained(tmp_path)
    tiny_tokenizer(seed=3).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must share one vocabulary"):
        ConGLM(paths["policy"], str(tmp_path), device="cpu")


def test_results_say_what_was_evaluated(paths, tasks):
    found = {}
    for alpha in (0.3, 0.8):
        lm = ConGLM(paths["policy"], paths["reference"], alpha=alpha, batch_size=8, device="cpu")
        found[alpha] = evaluate(lm, tasks)
    config = found[0.3]["config"]
    assert (config["alpha"], config["plausibility_threshold"]) == (0.3, 0.1)
    assert config["members"]["policy"]["model"] == paths["policy"]
    assert config["members"]["reference"]["model"] == paths["reference"]
    identities = {member["identity"] for member in config["members"].values()}
    assert len(identities) == 2 and all(identity.startswith("files:") for identity in identities)
    assert set(found[0.3]["results"]) == {"cong_choice", "cong_text", "cong_write"}
    bits = [found[alpha]["results"]["cong_text"]["bits_per_byte,none"] for alpha in (0.3, 0.8)]
    assert bits[0] != pytest.approx(bits[1], abs=1e-3)


def test_loaded_members_are_named_by_their_weights():
    policy, reference = members("llama")
    lm = lm_of(policy, reference, alpha=0.3)
    before = lm.get_model_info()
    assert before["members"]["policy"]["identity"].startswith("weights:")
    with torch.no_grad():
        next(reference.parameters()).add_(1)
    after = lm.get_model_info()
    assert after["members"]["policy"] == before["members"]["policy"]
    assert after["members"]["reference"] != before["members"]["reference"]


def test_one_response_cache_serves_many_models(tmp_path):
    pair = members("llama")

    def ask(lm, name):
        return answers(CachingLM(lm, str(tmp_path / name)))

    settings = [{"alpha": 0.0}, {"alpha": 0.3, "plausibility_threshold": 0}]
    settings += [{"alpha": 0.3, "plausibility_threshold": 0.5}, {"alpha": 0.3, "max_length": 24}]
    lms = [lm_of(*pair, **each) for each in settings]
    fresh = [answers(lm) for lm in lms]
    assert all(fresh.count(each) == 1 for each in fresh)
    assert [ask(lm, "cache.db") for lm in lms] == fresh
    # All are in the file, and nothing is computed again.
    for lm, answered in zip(lms, fresh, strict=True):
        lm._model_call = lm._model_generate = None
        assert ask(lm, "cache.db") == answered
    lms[0].model.config.alpha = 0.1
    lms[1].model.generation_config.repetition_penalty = 2.0
    for lm in lms[:2]:
        with pytest.raises(TypeError):  # this would have to be computed
            ask(lm, "cache.db")

    # The control: lm-eval's own way of caching gives one model's answers to the other.
    class Shared(ConGLM):
        set_cache_hook = LM.set_cache_hook

    shared = [Shared(*pair, tokenizer=TOKENIZER, batch_size=8, **each) for each in settings]
    assert [ask(lm, "shared.db") for lm in shared] == [fresh[0]] * len(fresh)


def test_entry_points_name_the_registered_classes():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["lm_eval.models"]
    assert set(entries) == {"cong", "cong_search"}
    for name, target in entries.items():
        module, _, attribute = target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert get_model(name) is found
        assert target == f"{found.__module__}:{found.__name__}"  # what lm-eval compares a registered class with


def test_members_at_their_own_revisions(hub, tmp_path):
    """One repository, policy and reference two of its branches, a third on the main branch."""
    policy, reference = members("qwen3")
    paths = save(tmp_path, policy=policy, reference=reference, other=tiny_base("qwen3", **SHAPE))
    name = "org/at-their-own-revisions"
    hub.add(name, paths["other"])
    commits = {role: hub.add(name, paths[role], branch=role).sha for role in ("policy", "reference")}
    lm = ConGLM(name, name, revision="policy", reference_revision="reference", alpha=0.3, batch_size=8, device="cpu")
    assert furthest(answers(lm), by_hand((policy, reference), alpha=0.3)) < EXACT
    assert lm.get_model_info()["members"] == {
        role: {"model": name, "revision": role, "identity": f"{name}@{commits[role]}"} for role in commits
    }
    main = ConGLM(name, name, revision="policy", alpha=0.3, batch_size=8, device="cpu")  # the control
    assert furthest(answers(main), answers(lm)) == float("inf")
    steered = ConGLM(
        name, name, base=name, revision="policy", reference_revision="reference", beta=0.6, batch_size=8, device="cpu"
    )
    expected = by_hand((tiny_base("qwen3", **SHAPE), policy, reference), beta=0.6)
    assert furthest(answers(steered), expected) < EXACT
    assert [member["revision"] for member in steered.members.values()] == ["policy", "reference", None]


def test_an_adapter_whose_base_is_a_branch(hub, tmp_path):
    adapted, policy, reference = tiny_lora("llama", **SHAPE)
    name = "org/base-is-a-branch"
    hub.add(name, save(tmp_path, other=tiny_base("llama", **SHAPE))["other"])
    commit = hub.add(name, save(tmp_path, base=reference)["base"], branch="before").sha
    config = adapted.peft_config["default"]
    config.base_model_name_or_path, config.revision = name, "before"
    adapted.save_pretrained(tmp_path / "adapter")
    lm = ConGLM(str(tmp_path / "adapter"), alpha=0.3, batch_size=8, device="cpu")
    assert furthest(answers(lm), by_hand((policy, reference), alpha=0.3)) < EXACT
    assert lm.members["reference"] == {"identity": f"{name}@{commit}"}
