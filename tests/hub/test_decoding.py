# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The decoding on the Hub writes the tokens of `ContrastiveLogitsProcessor`, in a process that has no hf_cong."""

import functools
from pathlib import Path

import pytest
import tomllib
import torch
from huggingface_hub import HfApi
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.generation.streamers import BaseStreamer

import hf_cong
from hf_cong import ContrastiveLogitsProcessor
from hf_cong.cli import main
from hf_cong.hub.decoding import decoding_files, decoding_publication
from hf_cong.hub.publication import publish
from tests.equivalence.test_pair_generate import PROMPTS, left_pad
from tests.hub.fresh_process import run_fresh
from tests.oracle import oracle_greedy
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

NAME = "org/cong-decoding"
ROOT = Path(hf_cong.__file__).parents[1]
FAMILIES = ("llama", "qwen2", "gpt2", "gemma2", "gemma3", "mixtral")
IDS, MASK = left_pad(PROMPTS)
BASIC = {"max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 2}
GREEDY = {**BASIC, "do_sample": False}
SAMPLED = {**BASIC, "do_sample": True, "temperature": 0.8, "top_p": 0.95}
SETTINGS = ("alpha", "plausibility_threshold")
# What is told to `generate` and to the contrast; `penalty` adds a logits processor of the caller's own.
MODES = {
    "greedy": GREEDY,
    "settings": {**GREEDY, "alpha": 0.7, "plausibility_threshold": 0.02},
    "sampling": SAMPLED,
    "several": {**SAMPLED, "num_return_sequences": 3},
    "beams": {**GREEDY, "num_beams": 3},
    "several beams": {**GREEDY, "num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {**SAMPLED, "num_beams": 2},
    "own processor": {**GREEDY, "penalty": 1.5},
    "without cache": {**GREEDY, "use_cache": False},
}


def write(policy, mode: dict, processors=(), **how) -> list[list[int]]:
    """One batch, with these logits processors before that of the mode."""
    options = {**mode, **how}
    if penalty := options.pop("penalty", None):
        processors = [*processors, RepetitionPenaltyLogitsProcessor(penalty)]
    torch.manual_seed(0)
    return policy.generate(IDS, attention_mask=MASK, logits_processor=[*processors], **options).tolist()


def by_processor(policy, reference, mode: dict = GREEDY) -> list[list[int]]:
    """With the package's own processor: what must come out."""
    settings = {name: mode[name] for name in SETTINGS if name in mode}
    return write(policy, plain(mode), [ContrastiveLogitsProcessor(reference, attention_mask=MASK, **settings)])


def by_hub(policy, reference, mode: dict = GREEDY, processors=(), name: str = NAME, **how) -> list[list[int]]:
    """In this process, from the Hub."""
    where = {"custom_generate": name, "trust_remote_code": True}
    return write(policy, mode, processors, reference_model=reference, **where, **how)


def plain(mode: dict) -> dict:
    """What `generate` itself is told."""
    return {name: value for name, value in mode.items() if name not in SETTINGS}


@pytest.fixture(scope="module", autouse=True)
def published(hub):
    main(["publish", "decoding", "--repo_id", NAME])


@pytest.fixture(scope="module")
def pairs():
    # tiny tied Gemmas repeat the last token, whatever the reference
    return {family: tiny_pair(family, seed=3, tie_word_embeddings=False) for family in FAMILIES}


# In a process without hf_cong

_ELSEWHERE = """
import contextlib, io
from transformers import AutoModelForCausalLM, RepetitionPenaltyLogitsProcessor
said = io.StringIO()
try:
    import hf_cong
except ImportError:
    result["hf_cong"] = "cannot be imported"
ids, mask = torch.tensor({ids}), torch.tensor({mask})
for family in {families}:
    policy, reference = [
        AutoModelForCausalLM.from_pretrained(f"{folder}/{{family}}-{{role}}") for role in ("policy", "reference")
    ]
    for name, options in {modes}.items():
        options = dict(options)
        penalty = options.pop("penalty", None)
        torch.manual_seed(0)
        with contextlib.redirect_stdout(said):
            output = policy.generate(
                ids,
                attention_mask=mask,
                custom_generate={repo!r},
                trust_remote_code=True,
                reference_model=reference,
                logits_processor=[RepetitionPenaltyLogitsProcessor(penalty)] if penalty else None,
                **options,
            )
        result[f"{{family}} {{name}}"] = output.tolist()
whole = AutoModelForCausalLM.from_pretrained("alice/policy-that-contrasts", trust_remote_code=True)
reference = AutoModelForCausalLM.from_pretrained(f"{folder}/llama-reference")
result["class"] = type(whole.generate).__name__
for call in ("first", "second"):
    output = whole.generate(ids, attention_mask=mask, reference_model=reference, **{greedy})
    result[f"whole {{call}}"] = output.tolist()
result["said"] = said.getvalue()
result["code"] = sorted(
    f"{{name.split('.')[0]}} {{name.split('.')[-1]}}" for name, module in sys.modules.items()
    if "custom_generate." in name
)
"""


@pytest.fixture(scope="module")
def elsewhere(hub, pairs, tmp_path_factory):
    folder, home = tmp_path_factory.mktemp("members"), tmp_path_factory.mktemp("home")
    for family, pair in pairs.items():
        for role, member in zip(("policy", "reference"), pair, strict=True):
            member.save_pretrained(folder / f"{family}-{role}")
    hub.add("alice/policy-that-contrasts", folder / "llama-policy")
    hub.add("alice/policy-that-contrasts", decoding_files())
    code = _ELSEWHERE.format(
        ids=IDS.tolist(), mask=MASK.tolist(), families=FAMILIES, folder=folder, modes=MODES, repo=NAME, greedy=GREEDY
    )
    return run_fresh(hub, home, code)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_those_of_the_processor(elsewhere, pairs, family, mode):
    policy, reference = pairs[family]
    expected = by_processor(policy, reference, MODES[mode])
    assert elsewhere[f"{family} {mode}"] == expected
    # the controls: neither the policy alone nor another reference writes this
    assert write(policy, plain(MODES[mode])) != expected
    assert by_processor(policy, tiny_model(family, 8, tie_word_embeddings=False), MODES[mode]) != expected


def test_and_those_of_the_oracle(elsewhere, pairs):
    for family, pair in pairs.items():
        rows = [row[IDS.shape[1] :] for row in elsewhere[f"{family} greedy"]]
        assert rows == [oracle_greedy(*pair, prompt, max_new_tokens=12) for prompt in PROMPTS]


def test_there_was_no_hf_cong(elsewhere):
    assert elsewhere["hf_cong"] == "cannot be imported"
    assert elsewhere["said"] == ""  # and nobody was asked for trust
    assert elsewhere["code"] == sorted(
        2 * [f"transformers_modules {name}" for name in ("compatibility", "functional", "generate", "logits_process")]
    )


def test_beside_the_weights_of_a_policy(elsewhere, pairs):
    assert elsewhere["class"] == "partial"
    expected = by_processor(*pairs["llama"])
    assert elsewhere["whole first"] == elsewhere["whole second"] == expected


# What is in the repository


def test_the_repository(hub):
    info = HfApi().model_info(NAME)
    assert info.private and "custom_generate" in info.tags
    files = {file for file in HfApi().list_repo_files(NAME) if file.startswith("custom_generate/")}
    assert files == set(decoding_files())
    before = info.sha
    assert not publish(decoding_publication(NAME)).changed and HfApi().model_info(NAME).sha == before


def test_the_code_is_that_of_the_package():
    files = {Path(name).name: content.decode() for name, content in decoding_files().items()}
    assert files.pop("requirements.txt") == "".join(
        f"{requirement}\n"
        for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        if requirement.startswith(("torch", "transformers"))
    )
    for name, copy in files.items():
        lines = copy.splitlines()
        origin = lines.pop(1)
        assert hf_cong.__version__ in origin
        (source,) = (word for word in origin.split() if word.endswith(name))
        package = (ROOT / source).read_text().splitlines()
        differing = [(own, theirs) for own, theirs in zip(lines, package, strict=True) if own != theirs]
        assert all(theirs.startswith("from ..") and own == theirs.replace("..", ".") for own, theirs in differing)
        assert bool(differing) == (name == "generate.py")


def test_control_it_is_the_code_of_the_repository_that_runs(hub, pairs):
    files = decoding_files()
    right = files["custom_generate/functional.py"]
    files["custom_generate/functional.py"] = right.replace(b"alpha=1 - alpha)", b"alpha=0.0)")
    assert files["custom_generate/functional.py"] != right
    hub.add("alice/spoilt-decoding", files)
    expected = by_processor(*pairs["llama"])
    assert by_hub(*pairs["llama"]) == expected != by_hub(*pairs["llama"], name="alice/spoilt-decoding")


def test_a_commit_of_the_code_can_be_pinned(hub, pairs):
    right = hub.add("alice/moving-decoding", decoding_files()).sha
    spoilt = decoding_files()["custom_generate/functional.py"].replace(b"alpha=1 - alpha)", b"alpha=0.0)")
    hub.add("alice/moving-decoding", {"custom_generate/functional.py": spoilt})
    expected = by_processor(*pairs["llama"])
    assert by_hub(*pairs["llama"], name="alice/moving-decoding", revision=right) == expected
    assert by_hub(*pairs["llama"], name="alice/moving-decoding") != expected


def test_a_private_repository_is_read_with_a_token(hub, pairs, tmp_path, monkeypatch):
    where = {"cache_dir": tmp_path}
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    with pytest.raises(OSError, match=NAME):
        by_hub(*pairs["llama"], **where)
    expected = by_processor(*pairs["llama"])
    assert by_hub(*pairs["llama"], token=hub.read_token, **where) == expected


# As in `generate` itself


def test_a_streamer_sees_every_token(pairs):
    class Collected(BaseStreamer):
        tokens, ended = (), False

        def put(self, value):
            self.tokens += tuple(value.reshape(-1).tolist())

        def end(self):
            self.ended = True

    policy, reference = pairs["qwen2"]
    streamer, ids = Collected(), torch.tensor([PROMPTS[2]])
    options = {"custom_generate": NAME, "trust_remote_code": True, "reference_model": reference, **GREEDY}
    policy.generate(input_ids=ids, streamer=streamer, **options)
    expected = oracle_greedy(policy, reference, PROMPTS[2], max_new_tokens=12)
    assert streamer.ended and list(streamer.tokens) == [*PROMPTS[2], *expected]


def test_a_generation_config_of_the_callers(pairs):
    config = GenerationConfig(**{**SAMPLED, "num_return_sequences": 2}, return_dict_in_generate=True)
    policy, reference = pairs["llama"]
    torch.manual_seed(0)
    output = policy.generate(
        IDS, config, attention_mask=MASK, custom_generate=NAME, trust_remote_code=True, reference_model=reference
    )
    expected = by_processor(policy, reference, {**SAMPLED, "num_return_sequences": 2})
    assert output.sequences.tolist() == expected != by_processor(policy, reference, {**SAMPLED, "top_k": 1})


def test_a_processor_of_the_callers_comes_after_the_contrast(pairs):
    seen = []

    class Seen(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(scores)
            return scores

    policy, reference = pairs["llama"]
    assert by_hub(policy, reference, processors=[Seen()]) == by_processor(policy, reference)
    raw = policy(IDS, attention_mask=MASK, position_ids=(MASK.cumsum(-1) - 1).clamp(min=0)).logits[:, -1]
    contrast = ContrastiveLogitsProcessor(reference, attention_mask=MASK)(IDS, raw)
    torch.testing.assert_close(seen[0], contrast)
    assert len(seen) == 12 and not torch.allclose(seen[0], raw.log_softmax(-1))


def test_assisted_decoding(pairs):
    policy, reference = pairs["llama"]
    ids = torch.tensor([PROMPTS[2]])
    options = {"custom_generate": NAME, "trust_remote_code": True, "reference_model": reference, **GREEDY}
    expected = oracle_greedy(policy, reference, PROMPTS[2], max_new_tokens=12)
    for mode in ({"assistant_model": tiny_model("llama", 5)}, {"prompt_lookup_num_tokens": 3}):
        assert policy.generate(ids, **mode, **options)[0, len(PROMPTS[2]) :].tolist() == expected


def test_stop_strings():
    """`generate` takes the tokenizer out of its arguments; here it must still be among them."""
    policy, reference = tiny_pair("llama", vocab_size=320)
    tokenizer, ids = tiny_tokenizer(), torch.tensor([PROMPTS[2]])
    written = oracle_greedy(policy, reference, PROMPTS[2], max_new_tokens=12)
    options = {"custom_generate": NAME, "trust_remote_code": True, "reference_model": reference, **GREEDY}
    stop = {"stop_strings": [tokenizer.decode(written[4])], "tokenizer": tokenizer}
    assert policy.generate(ids, **options)[0, ids.shape[1] :].tolist() == written
    assert policy.generate(ids, **stop, **options)[0, ids.shape[1] :].tolist() == written[:5]


def test_a_lora_policy_and_its_base():
    adapted, policy, reference = tiny_lora("llama")
    assert by_hub(adapted, reference) == by_processor(policy, reference) != by_hub(reference, reference)


def test_a_model_that_was_loaded_with_its_decoding(hub, pairs, tmp_path):
    """`from_pretrained` puts the function in the place of `generate`: it may not call itself."""
    policy, reference = pairs["llama"]
    policy.save_pretrained(tmp_path)
    hub.add("alice/rebound", tmp_path)
    hub.add("alice/rebound", decoding_files())
    model = AutoModelForCausalLM.from_pretrained("alice/rebound", trust_remote_code=True)
    assert isinstance(model.generate, functools.partial)
    expected = by_processor(policy, reference)
    assert write(model, GREEDY, reference_model=reference) == expected
    with pytest.raises(TypeError, match="`reference_model` is missing"):
        write(model, GREEDY)
    with pytest.raises(ValueError, match="`custom_generate` is another way to decode"):
        by_hub(model, reference)
    untrusted = AutoModelForCausalLM.from_pretrained("alice/rebound")  # a model like any other
    assert write(untrusted, GREEDY) == write(policy, GREEDY) != expected


# Refusals


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"reference_model": None}, TypeError, "`reference_model` is missing"),
        ({"reference_model": "org/weak"}, TypeError, "must be a loaded transformers model, got str"),
        ({"alpha": 1.5}, ValueError, r"`alpha` must lie in \[0, 1\]"),
        ({"plausibility_threshold": 1}, ValueError, "`plausibility_threshold` must lie in"),
        ({"attention_mask": None}, ValueError, "may be left-padded"),
        ({"cache_implementation": "paged"}, ValueError, "ignores logits processors"),
        ({"inputs_embeds": torch.zeros(3, 4, 32)}, ValueError, "`inputs_embeds` would reach the policy alone"),
        ({"pixel_values": torch.zeros(3, 3, 8, 8)}, ValueError, "`pixel_values` would reach the policy alone"),
        ({"beta": 0.5}, ValueError, "model_kwargs.*beta"),
        ({"trust_remote_code": False}, ValueError, "trust_remote_code=True"),
        ({"revision": "v9"}, OSError, "v9 is not a valid git identifier"),
    ],
)
def test_refusals(pairs, arguments, error, match):
    policy, reference = pairs["llama"]
    options = {"custom_generate": NAME, "trust_remote_code": True, "reference_model": reference, **GREEDY}
    calls = {"attention_mask": MASK, **options}
    policy.generate(IDS, **calls)  # the control
    with pytest.raises(error, match=match):
        policy.generate(IDS, **{**calls, **arguments})


def test_vocabularies_that_differ_are_refused(pairs):
    policy, reference = pairs["llama"]
    with pytest.raises(ValueError, match="`model` has 64 tokens and `reference_model` 320"):
        by_hub(policy, tiny_model("llama", vocab_size=320))
    by_hub(policy, tiny_model("llama", vocab_size=72))  # a padded head is the same vocabulary


def test_an_encoder_decoder_is_refused(pairs):
    shape = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    policy = T5ForConditionalGeneration(T5Config(**shape, decoder_start_token_id=0)).eval()
    with pytest.raises(ValueError, match="`model` is an encoder-decoder"):
        by_hub(policy, pairs["llama"][1])
