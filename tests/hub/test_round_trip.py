# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What was published is loaded by its commit in a process of its own, by whoever may, and writes the same tokens."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_cong import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from hf_cong.cli import main
from tests.hub.fresh_process import run_fresh
from tests.oracle import eft_greedy, oracle_greedy
from tests.tiny import tiny_base, tiny_lora, tiny_pair, tiny_tokenizer

SHAPE = {"vocab_size": 320, "tie_word_embeddings": False}
TEXT = "tell me about a kind cat"
PAIRS = ("pair", "lora", "steered", "steered-by-lora")


def subjects(seed: int) -> dict[str, tuple]:
    """By name: a model, what `hf-cong publish` calls it, and what it must write after `TEXT`."""
    prompt = tiny_tokenizer()(TEXT)["input_ids"]
    new = {"max_new_tokens": 8}
    policy, reference = tiny_pair("gemma2", seed, **SHAPE)
    pair = ContrastivePairForCausalLM.from_pair(policy, reference, alpha=0.3)
    adapted, merged, base = tiny_lora("qwen2", seed, **SHAPE)
    lora = ContrastivePairForCausalLM.from_pair(adapted)
    strong = tiny_base("qwen2", seed + 7, **SHAPE)
    steered = EmulatedFineTuningForCausalLM.from_pair(strong, merged, base, beta=0.7)
    by_lora = EmulatedFineTuningForCausalLM.from_pair(strong, adapted)
    alone = {"alpha": 1.0, "plausibility_threshold": 0, **new}
    return {
        "pair": (pair, "pair", oracle_greedy(policy, reference, prompt, alpha=0.3, **new)),
        "lora": (lora, "pair", oracle_greedy(merged, base, prompt, **new)),
        "steered": (steered, "pair", eft_greedy(strong, merged, base, prompt, beta=0.7, **new)),
        "steered-by-lora": (by_lora, "pair", eft_greedy(strong, merged, base, prompt, **new)),
        "base": (base, "model", oracle_greedy(base, base, prompt, **alone)),
        "adapter": (adapted, "model", oracle_greedy(merged, merged, prompt, **alone)),
    }


def publish_saved(name: str, model, kind: str, folder: Path, *options: str) -> str:
    """Saves a model with its tokenizer, publishes the folder as `org/<name>`, and returns the commit."""
    model.save_pretrained(folder / name)
    tiny_tokenizer().save_pretrained(folder / name)
    main(["publish", kind, "--source", str(folder / name), "--repo_id", f"org/{name}", *options])
    return HfApi().model_info(f"org/{name}").sha


@pytest.fixture(scope="module")
def made(hub, tmp_path_factory):
    """
    Publishes everything, and then something else under the same names.

    Returns the first commits, what they must write, and what the branches must write now.
    """
    commits, expected = {}, []
    for seed in (0, 30):
        folder = tmp_path_factory.mktemp("saved")
        models = subjects(seed)
        expected.append({name: tokens for name, (_, _, tokens) in models.items()})
        adapted = models["adapter"][0]
        for name, (model, kind, _) in models.items():
            if name == "adapter":
                adapted.peft_config["default"].base_model_name_or_path = "org/base"
                adapted.peft_config["default"].revision = commits["base"]
            commits.setdefault(name, publish_saved(name, model, kind, folder, *(["--replace"] if seed else [])))
        if seed == 0:
            HfApi().create_tag("org/base", tag="v1.0", revision=commits["base"])
            publish_saved("public", models["base"][0], "model", folder, "--private", "false")
            adapted.peft_config["default"].base_model_name_or_path = "org/public"
            adapted.peft_config["default"].revision = None
            commits["adapter-of-public"] = publish_saved("adapter-of-public", adapted, "model", folder)
    return commits, *expected


_BEFORE = """
import contextlib, io, json
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

commits, text = {commits!r}, {text!r}
options = {{"max_new_tokens": 8, "do_sample": False, "eos_token_id": [], "pad_token_id": 0}}
model_of, tokenizer_of = AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained

def write(model, tokenizer):
    inputs = tokenizer(text, return_tensors="pt")
    return model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()

def refusal(load, *args, **kwargs):
    try:
        load(*args, **kwargs)
    except OSError as error:
        return str(error)

def question(load, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert tokenizer_of("org/base")(text) == load(*args, **kwargs)(text)
    return said.getvalue()
"""

_WITHOUT = """
trust = {{"trust_remote_code": True}}
for name in {pairs}:
    at = {{"revision": commits[name], **trust}}
    result[name] = write(model_of(f"org/{{name}}", **at), tokenizer_of(f"org/{{name}}", **at))
    result[f"{{name}} now"] = write(model_of(f"org/{{name}}", **trust), tokenizer_of(f"org/{{name}}", **trust))
    result[f"{{name}} questions"] = [
        question(tokenizer_of, f"org/{{name}}", **trust),
        question(tokenizer_of, f"org/{{name}}", trust_remote_code=False),
        question(tokenizer_of, f"org/{{name}}"),
    ]
writer = pipeline("text-generation", "org/pair", revision=commits["pair"], **trust)
(written,) = writer(text, return_full_text=False, **options)
result["pipeline"] = written["generated_text"] == writer.tokenizer.decode(result["pair"])
for revision in (commits["base"], "v1.0", "main"):
    at = {{"revision": revision}}
    result[f"base {{revision}}"] = write(model_of("org/base", **at), tokenizer_of("org/base", **at))
for token in (False, {other!r}, {reader!r}):
    options = {{"token": token, "cache_dir": f"caches/{{token}}"}}
    result[f"base {{token}}"] = refusal(model_of, "org/base", **options)
    result[f"pair {{token}}"] = refusal(model_of, "org/pair", **options, **trust)
    result[f"public {{token}}"] = refusal(model_of, "org/public", **options)
"""

_BESIDE = """
import hf_cong
from peft import AutoPeftModelForCausalLM
for name in {pairs}:
    at = {{"revision": commits[name]}}
    model = model_of(f"org/{{name}}", **at)
    result[name] = write(model, tokenizer_of(f"org/{{name}}", **at))
    result[f"{{name}} code"] = type(model).__module__.split(".")[0]
    result[f"{{name}} questions"] = [question(tokenizer_of, f"org/{{name}}")]
for name in ("adapter", "adapter-of-public"):
    at = {{"revision": commits[name]}}
    tokenizer = tokenizer_of(f"org/{{name}}", **at)
    result[f"{{name}} peft"] = write(AutoPeftModelForCausalLM.from_pretrained(f"org/{{name}}", **at), tokenizer)
    result[f"{{name}} transformers"] = write(model_of(f"org/{{name}}", adapter_kwargs=at), tokenizer)
    result[f"{{name}} now"] = write(AutoPeftModelForCausalLM.from_pretrained(f"org/{{name}}"), tokenizer)
    pair = hf_cong.ContrastivePairForCausalLM.from_pair(f"org/{{name}}", model_init_kwargs=at)
    result[f"{{name}} pair"] = write(pair, tokenizer)
both = {{"revision": commits["base"], "adapter_kwargs": {{"revision": commits["adapter"]}}}}
result["adapter both"] = write(model_of("org/adapter", **both), tokenizer)
result["adapter refused"] = refusal(model_of, "org/adapter", revision=commits["adapter"])
"""


def loaded(hub, made, home: Path, code: str, absent: tuple[str, ...]) -> dict:
    names = {"pairs": PAIRS, "other": hub.other_token, "reader": hub.read_token}
    script = _BEFORE.format(commits=made[0], text=TEXT) + code.format(**names)
    return run_fresh(hub, home, script, absent=absent)


@pytest.fixture(scope="module")
def without(hub, made, tmp_path_factory):
    """What comes of it in a process that has no hf_cong."""
    return loaded(hub, made, tmp_path_factory.mktemp("without"), _WITHOUT, ("hf_cong", "peft"))


@pytest.fixture(scope="module")
def beside(hub, made, tmp_path_factory):
    """What comes of it in a process that has hf_cong, and trusts no code of the Hub."""
    return loaded(hub, made, tmp_path_factory.mktemp("beside"), _BESIDE, ())


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_by_its_commit(made, without, beside, name):
    _, expected, now = made
    assert without[name] == beside[name] == expected[name]
    assert without[f"{name} now"] == now[name] != expected[name]  # the control: the branch has moved
    assert beside[f"{name} code"] == "hf_cong"
    assert without["pipeline"]


@pytest.mark.parametrize("name", PAIRS)
def test_only_who_says_nothing_of_trust_is_asked_for_it(without, beside, name):
    """A tokenizer has no code, but transformers reads the configuration of the model before it."""
    trusting, wary, silent = without[f"{name} questions"]
    assert trusting == wary == "" and "Do you wish to run the custom code?" in silent
    assert beside[f"{name} questions"] == [""]


def test_a_model_by_commit_and_by_tag(made, without):
    commits, expected, now = made
    assert without[f"base {commits['base']}"] == without["base v1.0"] == expected["base"]
    assert without["base main"] == now["base"] != expected["base"]


def test_an_adapter_by_its_commit(made, beside):
    commits, expected, now = made
    assert beside["adapter peft"] == beside["adapter both"] == expected["adapter"] != expected["base"]
    assert beside["adapter pair"] == expected["lora"]
    assert beside["adapter now"] != expected["adapter"]
    # transformers passes over the revision of the base that the adapter names, and takes its own for the base's.
    assert beside["adapter transformers"] != expected["adapter"]
    assert commits["adapter"] in beside["adapter refused"]
    # So it serves an adapter whose base stays as it is.
    for how in ("peft", "transformers", "now"):
        assert beside[f"adapter-of-public {how}"] == expected["adapter"]


def test_what_is_private_is_for_its_namespace(hub, without):
    for name in ("base", "pair"):
        for token in (False, hub.other_token):
            assert f"org/{name} is not a local folder" in without[f"{name} {token}"]
        assert without[f"{name} {hub.read_token}"] is None
    assert without[f"public {False}"] is without[f"public {hub.other_token}"] is None
