# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The pair check measures what it says, and names what is wrong with a pair, whatever it is."""

import json
import math
import re
import shutil
from inspect import signature
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from hf_cong import ContrastivePairForCausalLM, ImplicitReward
from hf_cong.arguments import CheckPairArguments
from hf_cong.cli import main
from hf_cong.engines import Request
from hf_cong.evaluation.pair_check.file_rules import turn_end
from hf_cong.evaluation.pair_check.measures import compare_members, short_run
from hf_cong.evaluation.pair_check.run import check_pair
from hf_cong.recipes import parse
from hf_cong.rewards.reward_accuracy import read_preferences, reward_accuracy
from tests.tiny import CHAT_TEMPLATE, tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

FAMILIES = ("llama", "qwen2", "qwen3", "gpt2", "gemma2", "gemma3", "mixtral")
WORDS = ["cat", "dog", "fox", "owl", "mat"]
PROMPTS = [[{"role": "user", "content": f"tell me about the {a} and a {b}"}] for a in WORDS for b in WORDS]
IM_END = 2
SPECIAL = {"eos_token_id": IM_END, "pad_token_id": 0}
# narrow enough that the members of a pair are near each other, as after a real alignment
NEAR = {"vocab_size": 320, "initializer_range": 0.1, **SPECIAL}
QUICK = {"max_new_tokens": 6, "num_prompts": 5, "planned_max_new_tokens": 64}


def save(model, directory, tokenizer=None):
    model.save_pretrained(directory)
    (tokenizer or tiny_tokenizer()).save_pretrained(directory)
    return str(directory)


def pair_of(family, root, **overrides):
    members = tiny_pair(family, **{**NEAR, **overrides})
    return [save(model, root / role) for model, role in zip(members, ("policy", "reference"), strict=True)]


def findings(report):
    return {finding.check: finding for finding in report.findings}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return pair_of("llama", tmp_path_factory.mktemp("pair"))


@pytest.fixture
def copy(pair, tmp_path):
    """The pair's directories, to be spoilt."""
    for source, role in zip(pair, ("policy", "reference"), strict=True):
        shutil.copytree(source, tmp_path / role)
    return tmp_path


def check(root, **options):
    return check_pair(str(root / "policy"), str(root / "reference"), prompts=PROMPTS, **{**QUICK, **options})


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured(family, tmp_path):
    report = check_pair(*pair_of(family, tmp_path), prompts=PROMPTS, **QUICK)
    assert report.verdict == "good", str(report)
    assert report.reasons == []
    assert report.agreement.completions == 5
    assert report.agreement.kl.low < report.agreement.kl.mean < report.agreement.kl.high
    assert report.cost.pair_measured and report.cost.hours > 0
    assert "Verdict: good." in str(report)


def by_hand(policy, reference, rows, alpha, plausibility_threshold):
    """The measures, recomputed token by token in float64 from whole rows."""
    kls, positions = [], []
    for prompt, completion in rows:
        own = []
        for place in range(len(completion)):
            ids = torch.tensor([prompt + completion[:place]])
            with torch.no_grad():
                p, r = (
                    model(ids, use_cache=False).logits[0, -1].double().log_softmax(-1) for model in (policy, reference)
                )
            plausible = p >= p.max() + math.log(plausibility_threshold)
            contrast = (p - (1 - alpha) * r).masked_fill(~plausible, -math.inf)
            own.append((p.exp() * (p - r)).sum().item())
            positions.append(
                (
                    -(p.exp() * p).sum().item(),
                    float(p.argmax() != r.argmax()),
                    float(p.argmax() != contrast.argmax()),
                    plausible.sum().item(),
                    float(plausible.sum() == 1),
                )
            )
        kls.append(sum(own) / len(own))
    return kls, [sum(column) / len(column) for column in zip(*positions, strict=True)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_the_measures_are_those_computed_by_hand(family):
    policy, reference = tiny_pair(family, **NEAR)
    tokenizer = tiny_tokenizer()
    requests = [Request(tokenizer("tell me " + "the " * n + word)["input_ids"], n) for n, word in enumerate(WORDS)]
    with tqdm(disable=True) as progress:
        rows, finished, rate = short_run(
            policy, tokenizer, requests, max_new_tokens=12, batch_size=2, progress=progress
        )
        formula = {"alpha": 0.3, "plausibility_threshold": 0.2}
        options = {"finished": finished, "batch_size": 3, "progress": progress}
        found = compare_members(policy, reference, rows, **formula, **options)
        swapped = compare_members(reference, policy, rows, **formula, **options)
    assert rate > 0 and found.positions == sum(len(ids) for _, ids in rows)
    assert finished == sum(ids[-1] == IM_END for _, ids in rows) / len(rows)
    kls, means = by_hand(policy, reference, rows, *formula.values())
    assert found.kl.mean == pytest.approx(sum(kls) / len(kls), rel=1e-4)
    shares = (found.entropy, found.argmax_differs, found.contrast_differs, found.plausible_tokens)
    assert (*shares, found.single_plausible) == pytest.approx(means, rel=1e-4)
    assert swapped.kl.mean != pytest.approx(sum(kls) / len(kls), rel=1e-3)  # the order of the members matters


def test_adapter_and_saved_pairs_are_the_pair_of_their_members(tmp_path):
    adapted, merged, base = tiny_lora("llama", **NEAR)
    save(base, tmp_path / "base")
    save(merged, tmp_path / "merged")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    names = [str(tmp_path / name) for name in ("merged", "base", "adapter")]
    ContrastivePairForCausalLM.from_pair(*names[:2], alpha=0.3).save_pretrained(tmp_path / "two_stacks")
    ContrastivePairForCausalLM.from_pair(names[2], alpha=0.3).save_pretrained(tmp_path / "lora_pair")
    options = {"prompts": PROMPTS, **QUICK}
    expected = check_pair(*names[:2], alpha=0.3, **options)
    for name, alpha in (("adapter", 0.3), ("two_stacks", None), ("lora_pair", None)):
        report = check_pair(str(tmp_path / name), alpha=alpha, **options)
        assert report.verdict == expected.verdict, str(report)
        assert report.settings["alpha"] == 0.3
        assert report.agreement.kl.mean == pytest.approx(expected.agreement.kl.mean, rel=1e-3)
        assert report.agreement.contrast_differs == pytest.approx(expected.agreement.contrast_differs)
        assert report.cost.cache_bytes_per_token == expected.cost.cache_bytes_per_token == 2 * 2 * 2 * 2 * 8 * 4
    lora = check_pair(names[2], **options)
    assert expected.cost.weight_bytes > 1.5 * lora.cost.weight_bytes


def test_an_adapter_of_another_base(tmp_path):
    adapted, _, _ = tiny_lora("llama", **NEAR)
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    other = save(tiny_model("llama", 0, **NEAR, hidden_size=64), tmp_path / "other")
    report = check_pair(str(tmp_path / "adapter"), other, prompts=PROMPTS, **QUICK)
    assert report.verdict == "unusable" and "size mismatch" in report.reasons[0]


# What is done to the copy of a good pair, the verdict, and a part of the first reason.
def permute_vocabulary(root):
    data = json.loads((root / "reference" / "tokenizer.json").read_text())
    vocab = data["model"]["vocab"]
    first, second = (next(token for token, id in vocab.items() if id == place) for place in (65, 66))
    vocab[first], vocab[second] = 66, 65
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(data)))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(root / "reference")


def permute_embeddings(root):
    """Another order of tokens that no tokenizer tells."""
    path = root / "reference" / "model.safetensors"
    tensors = load_file(path)
    order = torch.randperm(320, generator=torch.Generator().manual_seed(1))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = 6 * tensors[name][order].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def add_a_token(root):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<pad>"])
    tokenizer.save_pretrained(root / "policy")


def drop_template(role):
    def spoil(root):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = None
        shutil.rmtree(root / role / "additional_chat_templates", ignore_errors=True)
        (root / role / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(root / role)

    return spoil


def other_template(root):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_start|>assistant\n", "<|im_start|>a\n")
    tokenizer.save_pretrained(root / "reference")


def dated_template(root):
    for role in ("policy", "reference"):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
        tokenizer.save_pretrained(root / role)


def no_template_end(root):
    for role in ("policy", "reference"):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "")
        tokenizer.save_pretrained(root / role)


def other_ends(policy_end, tokenizer_end, reference_end):
    def spoil(root):
        for role, end in (("policy", policy_end), ("reference", reference_end)):
            for name in ("config.json", "generation_config.json"):
                edit(root / role / name, lambda content, end=end: content.update(eos_token_id=end))
            tokenizer = tiny_tokenizer()
            tokenizer.eos_token = tokenizer_end
            tokenizer.save_pretrained(root / role)

    return spoil


def poison(value, tensor="model.layers.1.mlp.up_proj.weight"):
    def spoil(root):
        path = root / "policy" / "model.safetensors"
        tensors = load_file(path)
        tensors[tensor][0, 0] = value
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def lose_a_weight(root):
    path = root / "reference" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def cut_off(root):
    path = root / "policy" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def another_shape(root):
    path = root / "policy" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"][:10].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def same_model(root):
    shutil.copy(root / "reference" / "model.safetensors", root / "policy" / "model.safetensors")


def nearly_same_model(root):
    path = root / "reference" / "model.safetensors"
    tensors = {name: tensor * (1 + 1e-3 * torch.sin(100 * tensor)) for name, tensor in load_file(path).items()}
    save_file(tensors, root / "policy" / "model.safetensors", metadata={"format": "pt"})


def other_dtype(root):
    path = root / "reference" / "model.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(path).items()}, path, metadata={"format": "pt"})
    edit(root / "reference" / "config.json", lambda content: content.update(dtype="bfloat16"))


def replace_reference(family, **overrides):
    def spoil(root):
        shutil.rmtree(root / "reference")
        save(tiny_model(family, 3, **{**NEAR, **overrides}), root / "reference")

    return spoil


def replace_both(family, **overrides):
    def spoil(root):
        for role in ("policy", "reference"):
            shutil.rmtree(root / role)
        pair_of(family, root, **overrides)

    return spoil


def no_reference_tokenizer(root):
    for path in (root / "reference").glob("*token*"):
        path.unlink()
    (root / "reference" / "chat_template.jinja").unlink()


SPOILT = {
    "permuted vocabulary": (permute_vocabulary, "unusable", r"vocabulary: .*2 ids differ.*65 .*66 "),
    "permuted embeddings": (permute_embeddings, "unusable", "divergence: .*uniform guess"),
    "one token more": (add_a_token, "unusable", r"vocabulary: .*1 ids differ.*320 '<pad>'/None"),
    "no template": (
        drop_template("policy"),
        "unusable",
        "chat template: .*`policy` has no chat template; `reference`",
    ),
    "no template before": (drop_template("reference"), "doubtful", "chat template: .*`reference` has none"),
    "another template": (other_template, "doubtful", "chat template: 5 of 5 prompts are other ids"),
    "today's date": (dated_template, "doubtful", "chat template: .*today's date"),
    "turns never close": (no_template_end, "doubtful", "end of text: .*no special token"),
    "other end": (other_ends(0, "<|endoftext|>", 0), "unusable", r"end of text: .*2 '<\|im_end\|>'.*Add 2 to"),
    "other end before": (other_ends(2, "<|im_end|>", 0), "doubtful", "end of text: .*two habits"),
    "NaN": (poison(math.nan), "unusable", "weights: 1 in `policy`.*layers.1.mlp.up_proj"),
    "infinity": (poison(math.inf), "unusable", "weights: 1 in `policy`.*layers.1.mlp.up_proj"),
    "a weight is missing": (lose_a_weight, "unusable", "weights: 1 in `reference`.*layers.1.mlp.up_proj"),
    "cut off": (cut_off, "unusable", "weights: a file of weights of `policy` is damaged .*not fully covered"),
    "another shape": (another_shape, "unusable", "weights: 1 in `policy`.*layers.1.mlp.up_proj"),
    "identical": (same_model, "unusable", "divergence: .*the same model"),
    "nearly identical": (nearly_same_model, "doubtful", "divergence: .*rounding"),
    "two dtypes": (other_dtype, "doubtful", "weights: `policy` is in float32, `reference` in bfloat16"),
    "two families": (replace_reference("gpt2"), "doubtful", "architecture: .*ContrastiveLogitsProcessor"),
    "two sizes": (replace_reference("llama", num_hidden_layers=1), "doubtful", "architecture: .*1 layers of width 32"),
    "two widths of heads": (replace_reference("llama", vocab_size=1024), "unusable", "heads: .*more than padding"),
    "another model's tokenizer": (
        replace_both("llama", vocab_size=512),
        "doubtful",
        "heads: .*320 tokens.*512 columns",
    ),
    "too narrow a head": (replace_reference("llama", vocab_size=300), "unusable", "heads: .*320 tokens.*300"),
    "no tokenizer before": (no_reference_tokenizer, "doubtful", "vocabulary: .*no tokenizer"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_is_named(copy, name):
    spoil, verdict, reason = SPOILT[name]
    spoil(copy)
    report = check(copy)
    assert report.verdict == verdict, str(report)
    assert len(report.reasons) > 0
    assert any(re.search(reason, line) for line in report.reasons), str(report)
    levels = [
        next(f.level for f in report.findings if line.startswith(f"{f.check}: {f.text}")) for line in report.reasons
    ]
    assert levels == sorted(levels)  # "fail" before "warn"


def test_padded_heads_are_cut(copy):
    replace_reference("llama", vocab_size=352)(copy)
    report = check(copy)
    assert "both are cut to 320" in findings(report)["heads"].text
    assert findings(report)["heads"].level == "ok"
    assert report.agreement is not None


def test_what_is_decisive_ends_the_check(copy):
    permute_vocabulary(copy)
    shutil.rmtree(copy / "policy" / "nothing", ignore_errors=True)
    (copy / "policy" / "model.safetensors").unlink()  # it is not even opened
    report = check(copy)
    assert report.verdict == "unusable" and report.agreement is None and report.cost is None


def test_two_families_cost_both_times(copy):
    replace_reference("gpt2")(copy)
    cost = check(copy).cost
    assert not cost.pair_measured
    assert cost.pair_tokens_per_second < cost.policy_tokens_per_second
    assert cost.cache_bytes_per_token == 2 * 2 * 2 * 8 * 4 + 2 * 2 * 4 * 8 * 4


@pytest.mark.parametrize(
    ("context", "planned", "verdict"),
    [(512, 64, "good"), (512, None, "good"), (64, None, "good"), (64, 48, "doubtful"), (24, 8, "unusable")],
)
def test_the_shorter_context_counts(copy, context, planned, verdict):
    edit(copy / "reference" / "config.json", lambda content: content.update(max_position_embeddings=context))
    report = check(copy, planned_max_new_tokens=planned)
    assert (report.verdict, findings(report)["context"].level) == (
        verdict,
        {"good": "ok", "doubtful": "warn", "unusable": "fail"}[verdict],
    ), str(report)
    if planned is None:
        assert report.cost.planned_max_new_tokens == context - 19  # the longest prompt's tokens


def test_one_date_for_ever_is_no_reason(copy):
    dated = "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    for role in ("policy", "reference"):
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = dated
        tokenizer.save_pretrained(copy / role)
    assert "today's date" in check(copy).reasons[0]
    assert check(copy, chat_template_kwargs={"date_string": "1 May 2026"}).verdict == "good"


def test_turn_end():
    tokenizer = tiny_tokenizer()
    assert turn_end(tokenizer, PROMPTS[0], None) == IM_END
    tokenizer.chat_template = "{{ messages[0]['content'] }}"  # the answer is not in it
    assert turn_end(tokenizer, PROMPTS[0], None) is None
    tokenizer.chat_template = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}a"
    assert turn_end(tokenizer, PROMPTS[0], None) is None


@pytest.fixture(scope="module")
def preferences(pair):
    """Completions that the pair ranks, the better one chosen; and its accuracy on a mixture."""
    reward = ImplicitReward(ContrastivePairForCausalLM.from_pair(*pair), None, tiny_tokenizer())
    texts = [f"the {a} sat on a {b}" for a in WORDS for b in WORDS]
    scores = [
        reward.score([prompt] * 2, [text, text + " dog"], finish_reasons=["stop"] * 2)
        for prompt, text in zip(PROMPTS, texts, strict=True)
    ]
    rows = []
    for prompt, text, (first, second) in zip(PROMPTS, texts, scores, strict=True):
        sides = [text, text + " dog"] if first > second else [text + " dog", text]
        rows.append({"prompt": prompt, "chosen": sides[0], "rejected": sides[1]})
    return rows


def flipped(rows, count):
    return [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[:count]] + rows[count:]


@pytest.mark.parametrize(
    ("wrong", "verdict", "reason"),
    [(0, "good", None), (12, "doubtful", "not above chance"), (25, "unusable", "are swapped")],
)
def test_preferences_decide(pair, preferences, wrong, verdict, reason):
    report = check_pair(*pair, prompts=PROMPTS, preferences=flipped(preferences, wrong), **QUICK)
    assert report.verdict == verdict, str(report)
    assert report.reward_accuracy.accuracy == pytest.approx(1 - wrong / 25)
    if reason:
        assert reason in report.reasons[0]
    rows = read_preferences(flipped(preferences, wrong))
    reward = ImplicitReward(ContrastivePairForCausalLM.from_pair(*pair), None, tiny_tokenizer())
    assert report.reward_accuracy == reward_accuracy(reward, *rows.values())


def test_swapped_members_are_noticed(pair, preferences):
    report = check_pair(*reversed(pair), prompts=PROMPTS, preferences=preferences, **QUICK)
    assert report.verdict == "unusable" and "are swapped" in report.reasons[0]
    assert check_pair(*reversed(pair), prompts=PROMPTS, **QUICK).verdict == "good"  # nothing else tells


def test_too_long_preferences_are_counted(pair, preferences):
    rows = [*preferences[:5], {**preferences[5], "chosen": "the cat " * 600}]
    report = check_pair(*pair, prompts=PROMPTS, preferences=rows, **QUICK)
    assert report.reward_accuracy.n == 5
    assert "1 too long for the context" in findings(report)["reward accuracy"].text


def test_preferences_in_the_formats_of_trl():
    turn = {"role": "user", "content": "hello"}
    answers = [[{"role": "assistant", "content": text}] for text in ("good", "bad")]
    plain = {"prompt": "hello", "chosen": " good", "rejected": " bad"}
    assert read_preferences([plain]) == {"prompt": ["hello"], "chosen": [" good"], "rejected": [" bad"]}
    expected = {"prompt": [[turn]], "chosen": ["good"], "rejected": ["bad"]}
    explicit = {"prompt": [turn], "chosen": answers[0], "rejected": answers[1]}
    implicit = {"chosen": [turn, *answers[0]], "rejected": [turn, *answers[1]]}
    for row in (explicit, implicit, {**implicit, "prompt": "hello"}):
        assert read_preferences([row]) == expected
    implicit_text = {"chosen": "Human: hello Assistant: good", "rejected": "Human: hello Assistant: bad"}
    assert read_preferences([implicit_text]) == {
        "prompt": ["Human: hello Assistant:"],
        "chosen": [" good"],
        "rejected": [" bad"],
    }
    with pytest.raises(ValueError, match="Row 1 of `preferences` has the `rejected` None"):
        read_preferences([plain, {**plain, "rejected": None}])
    with pytest.raises(ValueError, match="`preferences` needs the column `chosen`"):
        read_preferences([{"prompt": "hello"}])


def test_plain_prompts_need_no_template(copy):
    drop_template("policy")(copy)
    report = check_pair(
        str(copy / "policy"), str(copy / "reference"), prompts=["tell me about the cat", "a dog"], **QUICK
    )
    assert report.verdict == "good", str(report)


def test_the_same_check_is_the_same(pair, tmp_path):
    options = {"prompts": PROMPTS, "output_dir": tmp_path, **QUICK}
    first = check_pair(*pair, **options)
    stored = json.loads((tmp_path / "pair_check.json").read_text())
    assert stored["verdict"] == "good" and stored["agreement"]["kl"]["mean"] == first.agreement.kl.mean
    again = check_pair(*pair, **{**options, "output_dir": None}, batch_size=2)
    assert again.agreement.kl == pytest.approx(first.agreement.kl, rel=1e-4)


def test_another_check_takes_no_ones_place(pair, tmp_path):
    options = {"prompts": PROMPTS, "output_dir": tmp_path, **QUICK}
    check_pair(*pair, **options)
    check_pair(*pair, **options)
    before = (tmp_path / "pair_check.json").read_bytes()
    with pytest.raises(ValueError, match="another run: `alpha` 0.4 there, 0.5 here"):
        check_pair(*pair, **options, alpha=0.5)
    with pytest.raises(ValueError, match="another run: `policy`"):
        check_pair(*reversed(pair), **options)
    assert (tmp_path / "pair_check.json").read_bytes() == before


def test_the_policy_alone_is_no_contrast(pair):
    report = check_pair(*pair, prompts=PROMPTS, alpha=1.0, **QUICK)
    assert report.verdict == "doubtful" and "At alpha 1 there is no contrast" in report.reasons[0]
    assert check_pair(*pair, prompts=PROMPTS, alpha=0.9, **QUICK).verdict == "good"


def test_a_single_completion_has_no_interval(pair, tmp_path):
    report = check_pair(*pair, prompts=PROMPTS, output_dir=tmp_path, **{**QUICK, "num_prompts": 1})
    assert "interval" not in findings(report)["divergence"].text
    assert json.loads((tmp_path / "pair_check.json").read_text())["agreement"]["kl"]["low"] is None


def test_what_cannot_be_checked_is_refused(pair, tmp_path):
    for options, error in (
        ({"num_prompts": 0}, "`num_prompts` must be a whole number"),
        ({"planned_prompts": 0}, "`planned_prompts` must be a whole number"),
        ({"alpha": 1.5}, "`alpha` must lie in"),
        ({"prompts": [""]}, "empty"),
        ({"preferences": [{"prompt": "a"}]}, "needs the column `chosen`"),
    ):
        with pytest.raises(ValueError, match=error):
            check_pair(*pair, **{"prompts": PROMPTS, **options})
    with pytest.raises(ValueError, match="is no pair. Pass the model before alignment"):
        check_pair(pair[0], prompts=PROMPTS)
    with pytest.raises(OSError, match="nowhere"):
        check_pair(str(tmp_path / "nowhere"), pair[1], prompts=PROMPTS)


def test_what_is_missing_is_said(copy):
    tiny_lora("llama", **NEAR)[0].save_pretrained(copy / "adapter")
    with pytest.raises(ValueError, match="`reference` is an adapter"):
        check_pair(str(copy / "policy"), str(copy / "adapter"), prompts=PROMPTS)
    for path in (*(copy / "policy").glob("*token*"), copy / "policy" / "chat_template.jinja"):
        path.unlink()
    with pytest.raises(ValueError, match="`policy` .* has no tokenizer beside it"):
        check(copy)


def test_only_safetensors_are_read(copy, tmp_path):
    tensors = load_file(copy / "policy" / "model.safetensors")
    torch.save(tensors, copy / "policy" / "pytorch_model.bin")
    (copy / "policy" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        check(copy)


def test_shards_are_read(copy):
    model = tiny_pair("llama", **NEAR)[0]
    (copy / "policy" / "model.safetensors").unlink()
    model.save_pretrained(copy / "policy", max_shard_size="20KB")
    assert len(list((copy / "policy").glob("*.safetensors"))) > 2
    assert check(copy).verdict == "good"


def test_names_on_the_hub(hub, pair, tmp_path):
    for role, path in zip(("post", "pre"), pair, strict=True):
        HfApi().create_repo(f"org/checked-{role}")
        HfApi().upload_folder(repo_id=f"org/checked-{role}", folder_path=path)
    names = ["org/checked-post", "org/checked-pre"]
    report = check_pair(*names, prompts=PROMPTS, output_dir=tmp_path, **QUICK)
    assert report.verdict == "good", str(report)
    assert report.agreement == check_pair(*pair, prompts=PROMPTS, **QUICK).agreement
    identity = json.loads((tmp_path / "pair_check.json").read_text())["identity"]
    assert identity["policy"] == f"org/checked-post@{HfApi().model_info(names[0]).sha}"
    with pytest.raises(OSError, match="org/nowhere"):
        check_pair("org/nowhere", names[1], prompts=PROMPTS)


def test_the_command(copy, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    names = [str(copy / "policy"), str(copy / "reference")]
    options = ["--prompts", str(prompts), "--max_new_tokens", "4", "--num_prompts", "3"]
    options += ["--planned_max_new_tokens", "64"]
    assert main(["check-pair", *names, *options, "--output_dir", str(tmp_path / "out")]) == 0
    assert "Verdict: good." in capsys.readouterr().out
    assert (tmp_path / "out" / "pair_check.json").exists()
    assert main(["check-pair", "--policy", names[0], "--reference", names[1], *options]) == 0
    recipe = tmp_path / "pair.yaml"
    recipe.write_text(
        f"policy: {names[0]}\nreference: {names[1]}\nprompts: {prompts}\nnum_prompts: 2\nmax_new_tokens: 4\n"
    )
    assert main(["check-pair", "--config", str(recipe)]) == 0
    assert "Verdict: good." in capsys.readouterr().out
    assert main(["check-pair", "--config", str(recipe), "--planned_max_new_tokens", "2048"]) == 0
    assert "Verdict: doubtful." in capsys.readouterr().out
    same_model(copy)
    assert main(["check-pair", *names, *options]) == 1
    assert "1. divergence: " in capsys.readouterr().out
    for argv, error in (
        ([names[0], *options], "is no pair"),
        ([*names, names[0], *options], "There are 3 models"),
        ([*names, "--policy", names[0], *options], "twice"),
        (names, "--prompts"),
    ):
        assert main(["check-pair", *argv]) == 2
        assert error in capsys.readouterr().err


def test_the_recipe():
    path = Path(__file__).parents[2] / "recipes" / "qwen2.5" / "check_pair.yaml"
    (args,) = parse((CheckPairArguments,), ["--config", str(path)], prog="hf-cong check-pair")
    assert args.policy and args.reference and args.preferences
    assert {**vars(CheckPairArguments("p", "q")), **vars(args)}.keys() == signature(check_pair).parameters.keys() - {
        "chat_template_kwargs"
    }


def test_prompts_that_are_dropped_are_counted(pair):
    rows = [*PROMPTS, PROMPTS[0], []]
    report = check_pair(*pair, prompts=rows, invalid_prompts="drop", **QUICK)
    assert findings(report)["prompts"].text == "25 kept, dropped: 1 duplicate, 1 empty"
    assert "prompts" not in findings(check_pair(*pair, prompts=PROMPTS, **QUICK))
