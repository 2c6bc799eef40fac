# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every recipe runs, on tiny models that bear the real names: one leaves what the next takes, to the same weights."""

import importlib.util
import io
import json
import re
from pathlib import Path

import pyarrow.parquet
import pytest
import safetensors.torch
import torch
import transformers
import yaml
from datasets import Dataset
from trl.scripts import dpo as trl_dpo

from hf_cong.cli import main
from tests.tiny import CHAT_TEMPLATE, tiny_config, tiny_model, tiny_tokenizer

RECIPES = Path(__file__).parents[1] / "recipes"
SHARED = {"qwen2.5-self": "qwen2.5", "llama3.2-self": "llama3"}  # whose pair wrote the data
FAMILIES = ("qwen2.5", "llama3", "qwen2.5-self", "llama3.2-self", "qwen2.5-small", "sandbox")
COMMANDS = {
    "weak_dpo": "train",
    "generate": "generate",
    "sft_data": "build",
    "sft": "train",
    "sample": "generate",
    "preferences": "build",
    "dpo": "train",
    "cong": "train",
    "cong_qlora": "train",
    "check_pair": "check-pair",
    "sweep": "sweep",
    "search": "search",
    "judge": "judge",
    "evaluate": "evaluate",
    "publish": "publish",
}
# Sizes for tiny models, and no bfloat16: all else is the recipe's.
SHORT = {"max_new_tokens": 6}
SIZES = {
    "train": {
        "use_cpu": True,
        "bf16": False,
        "dtype": "float32",
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
    },
    "generate": {**SHORT, "dtype": "float32"},
    "build": {"drop_truncated": False},  # random models seldom end
    "check-pair": {**SHORT, "num_prompts": 4, "num_preferences": 4, "dtype": "float32"},
    "sweep": {**SHORT, "num_prompts": 2, "dtype": "float32"},
    "search": {**SHORT, "dtype": "float32"},
    "judge": {"dtype": "float32"},
    "evaluate": {**SHORT, "tasks": "", "dtype": "float32"},
    "publish": {"dry_run": True},
}
WHOLE = {**SHORT, "drop_truncated": False}  # of `cong.yaml`

ENDS = {"eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.2}
STRONGER = {"hidden_size": 48, "num_hidden_layers": 3, "head_dim": 12}
ANIMALS = ("cat", "dog", "fox", "owl", "old cat", "old dog", "small fox", "rude owl")


def run(family, name, **overrides):
    command = COMMANDS[name]
    argv = [command, "--config", str(RECIPES / family / f"{name}.yaml")]
    if (family, command) == ("sandbox", "train"):
        overrides["per_device_train_batch_size"] = 4  # for more than one step
    for key, value in {**SIZES[command], **overrides}.items():
        argv += [f"--{key}", *str(value).split(" ")]
    assert main(argv) == 0, argv


def recipe(family, name):
    return yaml.safe_load((RECIPES / family / f"{name}.yaml").read_text())


def weights(directory):
    tensors = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        tensors |= safetensors.torch.load_file(path)
    assert tensors, directory
    return tensors


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parquet(rows):
    buffer = io.BytesIO()
    Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


def message(role, text):
    return {"role": role, "content": text}


def ultrafeedback(split, number):
    """Rows as in HuggingFaceH4/ultrafeedback_binarized: the completions begin with the prompt."""
    rows = []
    for index in range(number):
        prompt = f" tell me about a {ANIMALS[index % len(ANIMALS)]} {split} {index}"
        sides = {"chosen": "a kind fox", "rejected": "rude"}
        sides = {side: [message("user", prompt), message("assistant", text)] for side, text in sides.items()}
        rows.append({"prompt": prompt, "prompt_id": str(index), "messages": sides["chosen"], **sides})
    return rows


@pytest.fixture(scope="module")
def world(hub, tmp_path_factory):
    """A working directory, and on the Hub tiny models and data under the names that the recipes have."""
    root = tmp_path_factory.mktemp("recipes")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)

    def push(repo_id, model, tokenizer):
        directory = tmp_path_factory.mktemp("model")  # not below `root`, where a name would be that of a folder
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        hub.add(repo_id, directory)

    tokenizer, llama3 = tiny_tokenizer(), tiny_tokenizer()
    llama3.chat_template = CHAT_TEMPLATE.replace("\n{{", "\n\n{{")  # the strong Llama's template is another
    qwen2, llama = tiny_config("qwen2").model_type, tiny_config("llama").model_type
    push("Qwen/Qwen2.5-0.5B-Instruct", tiny_model(qwen2, 1, vocab_size=320, **ENDS), tokenizer)
    push("Qwen/Qwen2.5-3B-Instruct", tiny_model(qwen2, 2, vocab_size=320, **ENDS), tokenizer)
    push("Qwen/Qwen2.5-1.5B-Instruct", tiny_model(qwen2, 3, vocab_size=320, **ENDS, **STRONGER), tokenizer)
    push("Qwen/Qwen2.5-7B-Instruct", tiny_model(qwen2, 4, vocab_size=320, **ENDS, **STRONGER), tokenizer)
    push("meta-llama/Llama-3.2-3B-Instruct", tiny_model(llama, 5, vocab_size=320, **ENDS), tokenizer)
    push("meta-llama/Meta-Llama-3-8B-Instruct", tiny_model(llama, 6, vocab_size=320, **ENDS, **STRONGER), llama3)
    torch.manual_seed(7)
    for judge in ("Skywork/Skywork-Reward-V2-Llama-3.1-8B", "Skywork/Skywork-Reward-V2-Qwen3-0.6B"):
        config = tiny_config("llama", vocab_size=320, num_labels=1, pad_token_id=0)
        push(judge, transformers.LlamaForSequenceClassification(config), tokenizer)
    for name, seed in (("weak_policy", 8), ("weak_reference", 9), ("strong", 10)):
        tiny_model("llama", seed, vocab_size=320, **ENDS).save_pretrained(root / "runs/demo/world" / name)
        tokenizer.save_pretrained(root / "runs/demo/world" / name)

    train, test = ultrafeedback("train", 16), ultrafeedback("test", 6)
    again = {**train[3], "prompt": train[3]["prompt"] + "\n"}
    splits = {"train_prefs": [*train, again, {**train[4], "prompt": " "}], "test_prefs": [again, *test]}
    files = {f"data/{split}-00000-of-00001.parquet": parquet(rows) for split, rows in splits.items()}
    hub.add("HuggingFaceH4/ultrafeedback_binarized", files, kind="datasets")
    script = load_script("ultrafeedback")
    script.main("runs/ultrafeedback")
    script.main("runs/ultrafeedback-8000", 8)
    (root / "runs/demo/world/prompts.jsonl").write_bytes((root / "runs/ultrafeedback/prompts.jsonl").read_bytes())
    own = (root / "runs/ultrafeedback/preferences/train.jsonl").read_bytes()
    for weak in ("Qwen2.5-3B-Instruct", "Llama-3.2-3B-Instruct"):
        hub.add(f"your-org/{weak}-own-samples", {"train.jsonl": own}, kind="datasets")
    yield root
    patch.undo()


def test_the_papers_prompts_as_files(world):
    def rows(path):
        return [json.loads(line) for line in (world / "runs" / path).read_text().splitlines()]

    prompts, eight = (rows(f"{name}/prompts.jsonl") for name in ("ultrafeedback", "ultrafeedback-8000"))
    texts = [row["prompt"][0]["content"] for row in prompts]
    assert texts == sorted(set(texts)) and len(texts) == 16 and all(text == text.strip() != "" for text in texts)
    assert eight == prompts[::2]
    train, test = (rows(f"ultrafeedback/preferences/{split}.jsonl") for split in ("train", "test"))
    assert [row["prompt"] for row in train] == [row["prompt"] for row in prompts] and len(test) == 6
    assert not {row["prompt"][0]["content"] for row in test} & set(texts)  # what was trained on is not held out
    answers = {row[side][0]["content"] for row in (*train, *test) for side in ("chosen", "rejected")}
    assert answers == {"a kind fox", "rude"} and all(len(row["chosen"]) == 1 for row in train)


@pytest.fixture(scope="module")
def ran(world):
    """Runs a family's stages in order, once, and returns its directory."""
    done = set()

    def run_family(family):
        if family in done:
            return world / "runs" / family
        if family in SHARED:
            run_family(SHARED[family])
        elif family != "sandbox":
            run(family, "weak_dpo")
        if family not in SHARED:
            run(family, "generate")
            run(family, "sft_data")
        run(family, "sft")
        run(family, "sample")
        run(family, "preferences")
        run(family, "dpo")
        run(family, "cong", **WHOLE)
        done.add(family)
        return world / "runs" / family

    return run_family


def in_time(*families):
    """By default the family of adapters, whose recipes are unlike the others, and the smallest."""
    swift = ("qwen2.5-small", "sandbox")
    return [pytest.param(family, marks=() if family in swift else pytest.mark.slow) for family in families]


@pytest.mark.parametrize("family", in_time(*FAMILIES))
def test_stage_by_stage_every_recipe_runs_on_what_the_one_before_left(ran, family):
    runs = ran(family)
    data = runs.parent / SHARED.get(family, family)
    decoded = pyarrow.parquet.read_table(data / "decoded/completions.parquet").to_pylist()
    assert len(decoded) == (8 if family == "qwen2.5-small" else 16)
    assert {row["alpha"] for row in decoded} == {0.4} and {row["plausibility_threshold"] for row in decoded} == {0.1}
    pairs = pyarrow.parquet.read_table(runs / "preferences/preferences.parquet").to_pylist()
    chosen = {row["prompt_id"]: row["completion"] for row in decoded}
    samples = pyarrow.parquet.read_table(runs / "samples/completions.parquet").to_pylist()
    rejected = {row["prompt_id"]: row["completion"] for row in samples}
    assert pairs and all(row["chosen"][0]["content"] == chosen[row["prompt_id"]] for row in pairs)
    assert all(row["rejected"][0]["content"] == rejected[row["prompt_id"]] for row in pairs)
    sft, dpo = weights(runs / "sft"), weights(runs / "dpo")
    assert sft.keys() == dpo.keys() and not same(sft, dpo)


@pytest.mark.parametrize("family", in_time(*FAMILIES))
def test_the_stages_one_by_one_and_in_one_go_end_with_the_same_weights(ran, family):
    runs = ran(family)
    (stage_one,) = (runs / "cong/_cong").glob("sft-*/final")
    assert same(weights(stage_one), weights(runs / "sft"))
    assert same(weights(runs / "cong"), weights(runs / "dpo"))
    # and not because nothing moves them: another seed of the samples is another run
    samples, pairs, other = (f"runs/{family}/other-{name}" for name in ("samples", "pairs", "dpo"))
    run(family, "sample", seed=7, output_dir=samples)
    run(family, "preferences", rejected=samples, output_dir=pairs)
    run(family, "dpo", dataset_name=f"{pairs}/preferences.parquet", output_dir=other)
    assert not same(weights(runs / "cong"), weights(runs / "other-dpo"))


@pytest.mark.parametrize("family", in_time("qwen2.5", "qwen2.5-small"))
def test_the_recipe_of_one_go_runs_in_a_launch_for_each_stage(ran, family):
    runs, launched = ran(family), f"runs/{family}/launched"
    for stage in ("decode", "sft", "sample"):
        run(family, "cong", **WHOLE, stage=stage, output_dir=launched)
        assert not list((runs / "launched").glob("*.safetensors"))  # the place of the last stage's model
    run(family, "cong", **WHOLE, stage="dpo", output_dir=launched)
    assert same(weights(runs / "launched"), weights(runs / "cong"))


@pytest.mark.slow
def test_qlora_ends_with_a_merged_model(ran, world):
    pytest.importorskip("bitsandbytes", reason="4-bit weights need bitsandbytes")
    runs = ran("qwen2.5")
    run("qwen2.5", "cong_qlora", **WHOLE, report_to="none")
    merged, full = weights(runs / "cong-qlora"), weights(runs / "cong")
    assert merged.keys() == full.keys() and not same(merged, full)
    assert not list((runs / "cong-qlora").glob("adapter*"))


@pytest.mark.parametrize("family", in_time("qwen2.5", "qwen2.5-small"))
def test_trl_trains_the_weak_model_to_the_same_weights(ran, family):
    runs = ran(family)
    argv = ["--config", str(RECIPES / family / "weak_dpo.yaml"), "--output_dir", f"runs/{family}/weak-dpo-by-trl"]
    for key, value in SIZES["train"].items():
        argv += [f"--{key}", str(value)]
    trl_dpo.main(*trl_dpo.make_parser().parse_args_and_config(argv, fail_with_unknown_args=True))
    assert same(weights(runs / "weak-dpo-by-trl"), weights(runs / "weak-dpo"))


@pytest.mark.parametrize("family", ["llama3", "llama3.2-self"])
def test_the_readmes_line_fixes_the_date_of_a_template(family):
    line = re.search(r"tokenizer\.chat_template = '(.*)' \+ tokenizer\.chat_template", readme := readme_of(family))[1]
    assert readme.count(line) == 1
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
        "{{- 'Today Date: ' + date_string }}" + CHAT_TEMPLATE
    )
    chat = [message("user", "tell me")]
    assert "Today Date: 26 Jul 2024" not in tokenizer.apply_chat_template(chat, tokenize=False)
    tokenizer.chat_template = line + tokenizer.chat_template
    assert tokenizer.apply_chat_template(chat, tokenize=False).startswith("Today Date: 26 Jul 2024")


def readme_of(family):
    return (RECIPES / family / "README.md").read_text()


@pytest.mark.parametrize("family", in_time("qwen2.5", "llama3", "qwen2.5-small"))
def test_the_pair_is_checked_and_swept(ran, family, capsys):
    runs = ran(family)
    argv = ["check-pair", "--config", str(RECIPES / family / "check_pair.yaml")]
    argv += [part for key, value in SIZES["check-pair"].items() for part in (f"--{key}", str(value))]
    assert main(argv) in (0, 1)  # random pairs may be unusable
    report = json.loads((runs / "pair-check/pair_check.json").read_text())
    assert report["verdict"] in capsys.readouterr().out
    run(family, "sweep", alphas="0.4 1.0")
    assert "0.4" in (runs / "sweep/sweep.md").read_text()


def test_the_pair_steers_and_its_completions_are_judged(ran):
    runs = ran("qwen2.5")
    run("qwen2.5", "search", chunk_length=2)
    run("qwen2.5", "judge")
    verdicts = (runs / "judge/judge.md").read_text()
    assert all(system in verdicts for system in ("base", "best of 4", "search"))


@pytest.mark.parametrize("family", in_time(*(family for family in FAMILIES if family != "sandbox")))
def test_every_system_is_evaluated(ran, family):
    runs = ran(family)
    run(family, "evaluate")
    table = (runs / "evaluation/evaluation.md").read_text()
    assert all(system in table for system in recipe(family, "evaluate")["systems"])


@pytest.mark.parametrize("family", in_time(*FAMILIES))
def test_a_run_is_published_dry(ran, family, hub, capsys):
    runs = ran(family)
    if family != "sandbox" and not (runs / "evaluation/evaluation.md").exists():
        run(family, "evaluate")
    before = len(hub.repositories)
    run(family, "publish")
    shown = capsys.readouterr().out
    assert recipe(family, "publish")["repo_id"] in shown and "private" in shown
    assert len(hub.repositories) == before


def test_what_single_commands_left_is_published_dry(ran, capsys):
    ran("qwen2.5")
    commands = re.findall(r"^hf-cong (publish (?:model|dataset) .*)$", readme_of("qwen2.5"), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert main([*command.split(), "--dry_run", "true"]) == 0, capsys.readouterr().err
        assert "private" in capsys.readouterr().out
