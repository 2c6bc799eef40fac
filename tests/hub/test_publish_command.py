# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""`hf-cong publish`: what commands of hf_cong left in folders, on the Hub and back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from huggingface_hub import HfApi, hf_hub_download
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from hf_cong import (
    ConGConfig,
    ConGTrainer,
    ContrastivePairForCausalLM,
    EmulatedFineTuningForCausalLM,
    build_preference_dataset,
    build_sft_dataset,
    generate_completions,
)
from hf_cong.cli import main
from hf_cong.hub.run import RunPushes
from tests.hub.fresh_process import run_fresh
from tests.oracle import oracle_greedy
from tests.tiny import tiny_lora, tiny_model, tiny_pair, tiny_tokenizer

SHAPE = {"vocab_size": 320}
TEXT = "tell me about a kind cat"
CHATS = [[{"role": "user", "content": f"tell me about a {animal}"}] for animal in ("cat", "dog", "fox", "owl")]
EVALUATED = {"größe": CHATS[:1], "grüße": CHATS[1:3]}
COMMAND = [sys.executable, "-m", "hf_cong.cli", "publish"]
SECRET = "hf_" + "a1B2" * 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """What the commands leave, in a folder whose name has spaces and is not ASCII."""
    root = tmp_path_factory.mktemp("made") / "größe und 模型"
    policy, reference = tiny_pair("llama", **SHAPE)
    adapted, _, base = tiny_lora("qwen2", **SHAPE)
    adapted.peft_config["default"].base_model_name_or_path = "alice/publish-base"
    strong = tiny_model("qwen2", 5, **SHAPE)
    models = {"policy": policy, "reference": reference, "model": strong, "adapter": adapted, "base": base}
    for name, model in models.items():
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    pair = ContrastivePairForCausalLM.from_pair(str(root / "policy"), str(root / "reference"), alpha=0.3)
    pair.save_pretrained(root / "pair")
    options = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 6}
    generate_completions(CHATS, pair, output_dir=root / "completions", **options)
    loaded = AutoModelForCausalLM.from_pretrained(root / "model")
    generate_completions(CHATS, loaded, output_dir=root / "samples", seed=1, **options)
    build_sft_dataset(root / "completions", output_dir=root / "sft", drop_truncated=False)
    build_preference_dataset(
        root / "completions", root / "samples", output_dir=root / "preferences", drop_truncated=False
    )
    return root


@pytest.fixture
def publish(capsys):
    """Runs the command; gives its exit status and what it wrote to stdout and stderr."""

    def run(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["publish", *map(str, argv)])
        return status, *capsys.readouterr()

    return run


def head(hub, repo_id: str, kind: str = "models"):
    """The latest commit of a repository, and how many there are."""
    commit = hub.repositories[kind, repo_id].branches["main"]
    return commit, len(list(commit.history()))


def greedy(model, prompt: list[int]) -> list[int]:
    output = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=[], pad_token_id=0)
    return output[0, len(prompt) :].tolist()


def writes(hub, since: int) -> list[tuple[str, str, int]]:
    return [request for request in hub.requests[since:] if request[0] not in ("GET", "HEAD")]


# There and back


@pytest.mark.slow
def test_a_pair_is_published_and_loaded_without_hf_cong(hub, folders, tmp_path):
    source = ["--source", str(folders / "pair")]
    run = subprocess.run(
        [*COMMAND, "pair", *source, "--repo_id", "org/command-pair", "--license", "mit"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**hub.env, "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    commit = HfApi().model_info("org/command-pair").sha
    assert commit in run.stdout and f"{hub.url}/org/command-pair" in run.stdout and "private" in run.stdout
    assert HfApi().model_info("org/command-pair").private
    card = hf_hub_download("org/command-pair", "README.md")
    assert "license: mit" in Path(card).read_text() and "`policy`" in Path(card).read_text()
    found = run_fresh(
        hub,
        tmp_path,
        f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
where = {{"revision": {commit!r}}}
ids = AutoTokenizer.from_pretrained("org/command-pair", **where)({TEXT!r}, return_tensors="pt")["input_ids"]
model = AutoModelForCausalLM.from_pretrained("org/command-pair", trust_remote_code=True, **where)
output = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=[], pad_token_id=0)
result["tokens"] = output[0, ids.shape[1]:].tolist()
""",
    )
    prompt = tiny_tokenizer()(TEXT)["input_ids"]
    members = tiny_pair("llama", **SHAPE)
    assert found["tokens"] == oracle_greedy(*members, prompt, alpha=0.3, max_new_tokens=8)
    assert found["tokens"] != oracle_greedy(*members, prompt, alpha=1.0, max_new_tokens=8)


def test_a_model_and_an_adapter_on_it(hub, folders, publish):
    prompt = tiny_tokenizer()(TEXT)["input_ids"]
    assert publish("model", "--source", folders / "base", "--repo_id", "alice/publish-base")[0] == 0
    status, out, err = publish("model", "--source", folders / "adapter", "--repo_id", "org/publish-adapter")
    assert status == 0, err
    files = head(hub, "org/publish-adapter")[0].files
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    card = files["README.md"].content.decode()
    base = HfApi().model_info("alice/publish-base").sha
    assert "base_model: alice/publish-base" in card and "base_model_relation: adapter" in card and base in card
    _, merged, alone = tiny_lora("qwen2", **SHAPE)
    loaded = AutoPeftModelForCausalLM.from_pretrained("org/publish-adapter")
    assert greedy(loaded, prompt) == greedy(merged, prompt) != greedy(alone, prompt)
    assert greedy(AutoModelForCausalLM.from_pretrained("alice/publish-base"), prompt) == greedy(alone, prompt)


def test_an_adapter_on_a_local_base_needs_its_id(hub, folders, publish, tmp_path):
    shutil.copytree(folders / "adapter", tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folders / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    command = ("model", "--source", tmp_path / "adapter", "--repo_id", "org/publish-local-base")
    status, _, err = publish(*command)
    assert status == 2 and "`base_model`" in err
    assert publish(*command, "--base_model", "alice/publish-base")[0] == 0
    sent = head(hub, "org/publish-local-base")[0].files["adapter_config.json"].content
    assert json.loads(sent)["base_model_name_or_path"] == "alice/publish-base"


def test_data_goes_into_training(hub, folders, publish, tmp_path):
    sources = ("--source", folders / "sft", folders / "preferences")
    status, out, err = publish("dataset", *sources, "--repo_id", "org/publish-data", "--language", "en")
    assert status == 0, err
    assert f"{hub.url}/datasets/org/publish-data" in out
    sft = load_dataset("org/publish-data", "sft", split="train")
    assert sft["prompt"] == CHATS and sft[0]["completion"][0]["role"] == "assistant"
    preferences = load_dataset("org/publish-data", "preferences", split="train")
    assert preferences["prompt"] == CHATS
    args = ConGConfig(
        output_dir=tmp_path,
        max_steps=1,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
    )
    trainer = ConGTrainer(str(folders / "model"), args=args, train_dataset=preferences)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())


def test_raw_completions_are_published_as_trl_reads_them(hub, folders, publish):
    assert publish("dataset", "--source", folders / "completions", "--repo_id", "org/publish-raw")[0] == 0
    rows = load_dataset("org/publish-raw", "sft", split="train")
    local = load_dataset("parquet", data_files=str(folders / "completions" / "completions.parquet"), split="train")
    assert [row["content"] for (row,) in rows["completion"]] == local["completion"]
    assert rows["completion_ids"] == local["completion_ids"] and set(rows["alpha"]) == {0.3}
    # What holds nothing for a pair is no column, and each of the others says what it is.
    assert set(local["beta"]) == {None} and set(local.column_names) - set(rows.column_names) == {"beta"}
    card = head(hub, "org/publish-raw", "datasets")[0].files["README.md"].content.decode()
    assert "| `completion_ids` | `list of int32` | the answer in tokens" in card and "| - |" not in card
    assert len(set(rows["seed"])) == len(CHATS) and "| `int64` | the seed of this answer" in card
    # Where it was made stays here.
    assert set(local["model"]) == {f"{folders / 'policy'} vs {folders / 'reference'}"}
    assert set(rows["model"]) == {"policy vs reference"}
    sent = b"".join(file.content for file in head(hub, "org/publish-raw", "datasets")[0].files.values())
    assert str(folders).encode() not in sent and folders.name.encode() not in sent


def test_a_card_names_who_wrote_and_whose_the_prompts_are(hub, folders, publish):
    hub.add("alice/publish-prompts", {"README.md": "---\nlicense: cc-by-4.0\n---\n"}, kind="datasets")
    command = ("dataset", "--repo_id", "org/publish-written", "--dry_run", "--source")
    status, alone, err = publish(*command, folders / "samples", "--prompts", "alice/publish-prompts")
    assert status == 0, err
    assert "What `model` wrote" in alone and "weak pair" not in alone.partition("## Limits")[0]
    assert "source_datasets:\n- alice/publish-prompts" in alone and "cc-by-4.0" in alone
    by_pair = publish(*command, folders / "completions")[1]
    assert "What a weak pair wrote by contrastive decoding, `policy` against `reference`" in by_pair
    assert "unrecorded prompts" in by_pair and "license: unknown" in by_pair


def test_folders_of_several_settings(hub, folders, publish, tmp_path):
    pair = ContrastivePairForCausalLM.from_pair(str(folders / "reference"), str(folders / "policy"), alpha=0.5)
    pair.save_pretrained(tmp_path / "pair")
    options = {"tokenizer": tiny_tokenizer(), "output_dir": tmp_path / "chosen"}
    generate_completions(CHATS, pair, seed=7, max_new_tokens=5, **options)
    both = (tmp_path / "chosen", folders / "samples")
    build_preference_dataset(*both, output_dir=tmp_path / "preferences", drop_truncated=False)
    command = ("dataset", "--repo_id", "org/publish-several", "--dry_run", "--source")
    status, out, err = publish(*command, folders / "completions", tmp_path / "preferences")
    assert status == 0, err
    assert "| `alpha` | `0.3, 0.5` |" in out and "| `seed` | `0, 7, 1` |" in out
    assert "| `max_new_tokens` | `6, 5` |" in out and "| `top_p` | 0.95 |" in out
    assert "weak policy, after alignment | `policy and reference` |" in out
    # What a model wrote was not steered by the pair that wrote something else.
    status, out, err = publish(*command, folders / "samples", tmp_path / "preferences")
    assert status == 2 and "were not written alike" in err and out == ""


def test_prompts_of_the_hub_are_known(hub, folders, publish, tmp_path):
    hub.add("alice/publish-asked", {"README.md": "---\nlicense: cc-by-4.0\nlanguage: de\n---\n"}, kind="datasets")
    for name, chats in (("asked", CHATS), ("others", CHATS[:2])):
        Dataset.from_dict({"prompt": chats}).push_to_hub(f"alice/publish-{name}")
    model, options = AutoModelForCausalLM.from_pretrained(folders / "model"), {"tokenizer": tiny_tokenizer()}
    rows = load_dataset("alice/publish-asked", split="train")
    for name, prompts in {
        "named": "alice/publish-asked",
        "loaded": rows.shuffle(seed=0).filter(lambda row: True),
        "mixed": concatenate_datasets([rows.select([3]), load_dataset("alice/publish-others", split="train")]),
        "typed": CHATS,
    }.items():
        seed = len(name)
        generate_completions(prompts, model, output_dir=tmp_path / name, seed=seed, max_new_tokens=4, **options)
    build_preference_dataset(
        folders / "completions", tmp_path / "named", output_dir=tmp_path / "p", drop_truncated=False
    )
    at = HfApi().dataset_info("alice/publish-asked").sha
    command = ("dataset", "--repo_id", "org/publish-known", "--dry_run", "--source")
    for sources in (["named"], ["loaded"], ["p"]):
        status, out, err = publish(*command, *(tmp_path / name for name in sources))
        assert status == 0, err
        assert "source_datasets:\n- alice/publish-asked" in out and "cc-by-4.0" in out and "language:\n- de" in out
        assert f"`{at}`" in out and "unrecorded" not in out
    for sources in (["mixed"], ["typed"]):
        out = publish(*command, *(tmp_path / name for name in sources))[1]
        assert "`unrecorded prompts`" in out and "source_datasets" not in out


@pytest.mark.parametrize("kind", ["steered", "compressed"])
def test_other_pairs_come_back(hub, folders, publish, tmp_path, kind):
    prompt = tiny_tokenizer()(TEXT)["input_ids"]
    if kind == "steered":
        names = (str(folders / name) for name in ("policy", "policy", "reference"))
        model = EmulatedFineTuningForCausalLM.from_pair(*names, beta=0.7)
        model.save_pretrained(tmp_path / kind)
    else:
        names = ("--policy", str(folders / "policy"), "--reference", str(folders / "reference"))
        assert main(["compress", *names, "--output_dir", str(tmp_path / kind), "--rank", "4", "--ranks", "4"]) == 0
        model = AutoModelForCausalLM.from_pretrained(tmp_path / kind)
    name = f"org/publish-{kind}"
    status, _, err = publish("pair", "--source", tmp_path / kind, "--repo_id", name)
    assert status == 0, err
    assert greedy(AutoModelForCausalLM.from_pretrained(name), prompt) == greedy(model, prompt)
    files = head(hub, name)[0].files
    card = files["README.md"].content.decode()
    assert "`policy`" in card and "`reference`" in card and ("emulated fine-tuning" in card) == (kind == "steered")
    assert not {"compression.json", "compression.png"} & set(files)
    assert not any(b"pytest-of" in file.content for file in files.values())


def test_the_decoding(hub, publish):
    status, out, err = publish("decoding", "--repo_id", "publish-decoding")  # of whoever is logged in
    assert status == 0, err
    assert "custom_generate/generate.py" in head(hub, "alice/publish-decoding")[0].files


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory) -> Path:
    """What a whole training run leaves, of prompts to a model."""
    settings = {"max_new_tokens": 6, "drop_truncated": False, "max_steps": 1, "sft_num_train_epochs": 1}
    args = ConGConfig(
        output_dir=tmp_path_factory.mktemp("run"),
        alpha=0.3,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    trainer = ConGTrainer(
        str(folders / "model"),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": CHATS}),
        eval_dataset={name: Dataset.from_dict({"prompt": chats}) for name, chats in EVALUATED.items()},
        weak_model=str(folders / "policy"),
        weak_reference_model=str(folders / "reference"),
    )
    trainer.train()
    trainer.save_model()
    return Path(args.output_dir)


def test_a_run(hub, run, publish):
    command = ("--source", run, "--repo_id", "org/publish-run", "--stages", "data", "sft", "model", "pair")
    status, dry, err = publish(*command, "--dry_run")
    assert status == 0, err
    status, out, err = publish(*command)
    assert status == 0, err
    names = ["datasets/org/publish-run-data", "org/publish-run-S", "org/publish-run", "org/publish-run-pair"]
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{hub.url}/{name}" for name in names]
    assert all("(private) is written, at commit" in line for line in lines)
    assert all(f"{name.removeprefix('datasets/')}: private" in dry for name in names)
    assert "The collection 'publish-run' gathers org/publish-run-data, org/publish-run-S" in dry
    (collection,) = [one for one in hub.collections.values() if one["title"] == "publish-run"]
    assert len(collection["items"]) == 4 and collection["private"]
    trained = AutoModelForCausalLM.from_pretrained(run)
    prompt = tiny_tokenizer()(TEXT)["input_ids"]
    assert greedy(AutoModelForCausalLM.from_pretrained("org/publish-run"), prompt) == greedy(trained, prompt)
    pair = AutoModelForCausalLM.from_pretrained("org/publish-run-pair")
    assert greedy(pair, prompt) == oracle_greedy(*tiny_pair("llama", **SHAPE), prompt, alpha=0.3, max_new_tokens=8)
    for config in ("sft", "preferences"):  # no split is another's
        rows = load_dataset("org/publish-run-data", config)
        assert [split["prompt"] for split in rows.values()] == [CHATS, *EVALUATED.values()]
    commits = [head(hub, name.removeprefix("datasets/"), "datasets" if "data" in name else "models") for name in names]
    status, out, err = publish(*command)
    assert status == 0 and out.count(" is unchanged") == 4, err
    assert commits == [
        head(hub, name.removeprefix("datasets/"), "datasets" if "data" in name else "models") for name in names
    ]
    everything = b"".join(file.content for commit, _ in commits for file in commit.files.values())
    assert str(run).encode() not in everything and b"pytest-of" not in everything


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"stages": []}, "`stages` is []"),
        ({"stages": ["data", "pairs"]}, "`stages` is ['data', 'pairs']"),
        ({"stages": "pair"}, "`stages` is 'pair'"),
        ({"stages": ["data", "sft"], "evaluation": "nowhere"}, "`evaluation` is for the model"),
        ({"stages": ["data"], "base_model": "org/base"}, "`base_model` is for the model"),
        ({"system": "ConG"}, "`system` is one of an evaluation"),
    ],
)
def test_what_a_recipe_of_a_run_cannot_say(hub, run, publish, tmp_path, values, match):
    (tmp_path / "publish.yaml").write_text(json.dumps({"source": str(run), "repo_id": "org/publish-said", **values}))
    since = len(hub.requests)
    status, out, err = publish("--config", tmp_path / "publish.yaml")
    assert status == 2 and match in err and out == "" and not writes(hub, since)


def test_results_stay_with_their_weights(hub, folders, run, publish, tmp_path, caplog):
    settings = {"config": {"model": "hf", "model_args": {}, "limit": None}, "model_name": "it", "n-shot": {"gsm8k": 5}}
    scores = {"results": {"gsm8k": {"exact_match,strict-match": 0.7}}, **settings}
    (tmp_path / "results_1.json").write_text(json.dumps(scores))
    command = ("--source", run, "--repo_id", "org/publish-measured", "--stages", "data", "model", "sft")
    status, _, err = publish(*command, "--evaluation", tmp_path)
    assert status == 0, err
    commit, number = head(hub, "org/publish-measured")
    assert ".eval_results/gsm8k.yaml" in commit.files and b"`gsm8k`" in commit.files["README.md"].content
    # Neither the command without the evaluation nor the run itself takes them away.
    status, out, err = publish(*command)
    assert status == 0 and out.count("unchanged") == 3, err
    pushes = RunPushes(run, "org/publish-measured", stages=("data", "model", "sft"), private=True)
    pushes.push("model")
    assert not pushes.finish().changed and head(hub, "org/publish-measured") == (commit, number)
    status, _, err = publish(*command, "--language", "de")
    assert status == 0, err
    again, _ = head(hub, "org/publish-measured")
    assert again.files["README.md"].content.replace(b"language:\n- de\n", b"") == commit.files["README.md"].content
    assert again.files[".eval_results/gsm8k.yaml"] == commit.files[".eval_results/gsm8k.yaml"]
    # They are not of other weights, such as those of a checkpoint.
    pushes.push_checkpoint(folders / "policy", "another")
    files = head(hub, "org/publish-measured")[0].files
    assert ".eval_results/gsm8k.yaml" not in files and b"`gsm8k`" not in files["README.md"].content
    assert "are of other weights" in caplog.text


@pytest.mark.parametrize("instead", ["nowhere", "reference"])
def test_a_pair_that_is_not_what_decoded_is_refused(folders, run, publish, tmp_path, instead):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("pair-*"))
    (manifest,) = (tmp_path / "run" / "_cong").rglob("decode-train-*/manifest.json")
    content = json.loads(manifest.read_text())
    content["engine"]["policy"]["model"] = str(folders / instead)
    manifest.write_text(json.dumps(content))
    command = ("--source", tmp_path / "run", "--repo_id", "org/publish-moved", "--stages", "pair", "--dry_run")
    status, _, err = publish(*command)
    assert status == 2 and "is not there, or not what it was" in err and "hf-cong publish pair" in err


def test_a_model_alone_is_not_gathered(hub, run, publish, tmp_path):
    """As of a run of DPO on given preferences. A part of a run that has made more joins the others."""
    copy = shutil.copytree(run, tmp_path / "run")
    manifest = json.loads((copy / "_cong" / "manifest.json").read_text())
    manifest["stages"] = {"dpo": manifest["stages"]["dpo"]}
    (copy / "_cong" / "manifest.json").write_text(json.dumps(manifest))
    for source, name, gathered in ((copy, "publish-lone", 0), (run, "publish-part", 1)):
        command = ("--source", source, "--repo_id", f"org/{name}", "--stages", "model")
        assert publish(*command, "--dry_run")[1].count("The collection") == gathered
        status, _, err = publish(*command)
        assert status == 0, err
        assert [one["title"] for one in hub.collections.values()].count(name) == gathered


def test_a_model_of_a_run_is_told_by_its_manifest(hub, run, publish):
    status, out, err = publish("model", "--source", run, "--repo_id", "org/publish-of-run", "--dry_run")
    assert status == 0, err
    of_run = json.loads((run / "_cong" / "manifest.json").read_text())["run"]
    assert f"(model of run {of_run})" in out and "contrastive weak-to-strong" in out.lower()
    assert "stays here  _cong/: for a restart" in out and "training_args.bin: loading it can run code" in out
    (sft,) = (run / "_cong").glob("sft-*/final")
    status, out, err = publish("model", "--source", sft, "--repo_id", "org/publish-of-run-S", "--dry_run")
    assert status == 0 and f"(model of run {of_run})" in out and "stage I" in out, err


# Once more


@pytest.mark.parametrize("kind", ["model", "pair", "dataset", "decoding"])
def test_the_same_again_makes_no_commit(hub, folders, publish, kind):
    source = {"model": ["model"], "pair": ["pair"], "dataset": ["completions", "preferences"], "decoding": []}[kind]
    command = [kind, "--repo_id", f"alice/publish-again-{kind}"]
    if source:
        command += ["--source", *(folders / name for name in source)]
    assert " written" in publish(*command)[1]
    commits = head(hub, f"alice/publish-again-{kind}", "datasets" if kind == "dataset" else "models")
    since = len(hub.requests)
    status, out, _ = publish(*command)
    assert status == 0 and "unchanged" in out
    assert head(hub, f"alice/publish-again-{kind}", "datasets" if kind == "dataset" else "models") == commits
    assert not writes(hub, since)


def test_other_weights_are_refused_and_the_same_ones_may_be_described_anew(hub, folders, publish):
    command = ("--repo_id", "alice/publish-taken", "--source")
    assert publish("model", *command, folders / "model")[0] == 0
    _, number = head(hub, "alice/publish-taken")
    status, _, err = publish("model", *command, folders / "policy")
    assert status == 2 and "alice/publish-taken" in err and "replace" in err and len(err.splitlines()) == 1
    assert head(hub, "alice/publish-taken")[1] == number
    assert publish("model", *command, folders / "model", "--license", "mit")[0] == 0  # the same run
    assert head(hub, "alice/publish-taken")[1] == number + 1
    assert publish("model", *command, folders / "policy", "--replace")[0] == 0
    assert head(hub, "alice/publish-taken")[1] == number + 2


def test_what_is_private_stays_private(hub, folders, publish, tmp_path):
    command = ("model", "--source", folders / "model", "--repo_id", "alice/publish-open")
    (tmp_path / "publish.yaml").write_text("private: false\n")
    status, _, err = publish(*command, "--config", tmp_path / "publish.yaml")
    assert status == 2 and "private" in err and ("models", "alice/publish-open") not in hub.repositories
    assert publish(*command, "--private", "false")[0] == 0
    assert not HfApi().model_info("alice/publish-open").private
    (tmp_path / "publish.yaml").write_text("replace: true\n")
    status, _, err = publish(*command, "--config", tmp_path / "publish.yaml")
    assert status == 2 and "`replace`" in err


def test_a_recipe(hub, folders, publish, tmp_path):
    values = {"source": str(folders / "model"), "repo_id": "org/publish-recipe", "language": ["en"], "private": True}
    (tmp_path / "publish.yaml").write_text(json.dumps(values))
    status, _, err = publish("model", "--config", tmp_path / "publish.yaml", "--license", "apache-2.0")
    assert status == 0, err
    card = head(hub, "org/publish-recipe")[0].files["README.md"].content.decode()
    assert "license: apache-2.0" in card and "- en\n" in card


# Dry runs


@pytest.mark.parametrize(
    ("kind", "source", "inside"),
    [
        ("model", ["model"], ["model.safetensors", "config.json", "private"]),
        ("pair", ["pair"], ["modeling_contrastive_pair.py"]),
        (
            "dataset",
            ["completions", "preferences"],
            ["sft/train.parquet", "preferences/train.parquet", "journal-00000"],
        ),
        ("decoding", [], ["custom_generate/generate.py"]),
    ],
)
def test_a_dry_run_asks_nobody_and_writes_nothing(hub, folders, publish, monkeypatch, kind, source, inside):
    monkeypatch.delenv("HF_TOKEN")
    since = len(hub.requests)
    command = [kind, "--repo_id", "org/publish-dry", "--dry-run"]
    if source:
        command += ["--source", *(folders / name for name in source)]
    status, out, err = publish(*command)
    assert status == 0, err
    assert all(text in out for text in inside) and "license:" in out and "org/publish-dry" in out
    assert not hub.requests[since:]
    if kind == "model":
        assert f"{(folders / 'model' / 'model.safetensors').stat().st_size:,}" in out


@pytest.mark.slow
def test_a_dry_run_of_an_adapter_works_offline(hub, folders, tmp_path):
    run = subprocess.run(
        [*COMMAND, "model", "--source", str(folders / "adapter"), "--repo_id", "some-adapter", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert "adapter_model.safetensors" in run.stdout and "alice/publish-base" in run.stdout


# Refusals


@pytest.mark.parametrize(
    ("kind", "source", "match"),
    [
        ("model", "pair", "holds a saved pair. Publish it with `hf-cong publish pair`"),
        ("pair", "model", "holds a model. Publish it with `hf-cong publish model`"),
        ("pair", "adapter", "holds an adapter. Publish it with `hf-cong publish model`"),
        ("dataset", "model", "hf-cong publish model"),
        ("model", "sft", "hf-cong publish dataset"),
        ("model", "nowhere", "there is none at"),
        ("model", ".", "holds nothing that `hf-cong publish model` knows"),
        ("models", "model", "there is no kind 'models'"),
        ("run", "completions", "hf-cong publish dataset"),
    ],
)
def test_the_wrong_kind_is_told_the_right_one(folders, publish, kind, source, match):
    status, out, err = publish(kind, "--source", folders / source, "--repo_id", "org/publish-wrong")
    assert status == 2 and match in err and len(err.splitlines()) == 1 and out == ""


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["model"], "`repo_id`|repo_id"),
        (["model", "--repo_id", "org/x"], "`source` is required"),
        (["model", "--repo_id", "org/x", "--source", "a", "b"], "2 folders"),
        (["decoding", "--repo_id", "org/x", "--source", "a"], "`source` is not for"),
        (["model", "--repo_id", "org/x", "--source", ""], "`source` holds ''"),
        (["model", "--repo_id", "org/x", "--source", "model", "--base_model", "a/b"], "is for an adapter"),
        (["run", "--repo_id", "org/x", "--source", "nowhere", "--stages", "data", ""], "`stages` holds ''"),
        (["pair", "--repo_id", "org/x", "--source", "a", "--base_model", "b/c"], "`base_model` is not for"),
        (["dataset", "--repo_id", "org/x", "--source", "a", "--system", "b"], "`system` is not for"),
        (["model", "--repo_id", "a/b/c", "--source", "model"], "a/b/c"),
        (["model", "--repo_id", "../up", "--source", "model"], "up"),
        (["model", "--repo_id", "org/x", "--source", "model", "--token", "hf_x"], "token"),
        (["model", "--repo_id", "org/x", "--source", SECRET], "Hugging Face token"),
    ],
)
def test_what_is_missing_or_too_much(hub, folders, publish, monkeypatch, argv, match):
    monkeypatch.chdir(folders)
    since = len(hub.requests)
    status, out, err = publish(*argv)
    assert status == 2 and match.split("|")[-1] in err and len(err.splitlines()) == 1
    assert SECRET not in err and "hf_x" not in err
    assert not writes(hub, since)


@pytest.mark.parametrize("place", [("counts",), ("counts", "dropped"), ("engine",), ("identity",), ("versions",)])
@pytest.mark.parametrize("value", ["text", ["a"]])
def test_a_manifest_that_somebody_edited(folders, publish, tmp_path, place, value):
    shutil.copytree(folders / "samples", tmp_path / "samples")
    manifest = json.loads((tmp_path / "samples" / "manifest.json").read_text())
    part = manifest
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (tmp_path / "samples" / "manifest.json").write_text(json.dumps(manifest))
    status, out, err = publish("dataset", "--source", tmp_path / "samples", "--repo_id", "org/edited", "--dry_run")
    assert status == 2 and "damaged" in err and out == ""


@pytest.mark.parametrize("part", ["run", "sources", "stages", "adapter"])
def test_a_run_whose_manifest_lacks_something(run, publish, tmp_path, part):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "_cong" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[part]
    path.write_text(json.dumps(manifest))
    status, out, err = publish("--source", tmp_path / "run", "--repo_id", "org/edited", "--dry_run")
    assert status == 2 and f"it has no `{part}`" in err and out == ""


@pytest.mark.parametrize(
    ("token", "repo_id", "match"),
    [
        (None, "org/publish-refused", "hf auth login"),
        (None, "publish-refused", "hf auth login"),
        ("read_token", "org/publish-refused", "may not write"),
        ("other_token", "org/publish-refused", "bob may not make org/publish-refused"),
        ("", "org/publish-refused", "does not know the token"),
    ],
)
def test_who_may_not_write_is_told_so(hub, folders, publish, monkeypatch, token, repo_id, match):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", vars(type(hub)).get(token, "not-a-token"))
    since = len(hub.requests)
    status, _, err = publish("model", "--source", folders / "model", "--repo_id", repo_id)
    assert status == 2 and match in err and len(err.splitlines()) == 1
    assert not writes(hub, since) and "writes" not in err.replace("may not write", "")


@pytest.mark.parametrize(("status", "match"), [(412, "changed by somebody else"), (500, "status 500")])
def test_after_a_failure_the_same_command_finishes(hub, folders, publish, monkeypatch, status, match):
    name = f"alice/publish-spoilt-{status}"
    spoilt = lambda method, address: status if "/commit/" in address and name in address else None  # noqa: E731
    monkeypatch.setattr(hub, "misbehave", spoilt)
    command = ("model", "--source", folders / "model", "--repo_id", name)
    code, out, err = publish(*command)
    assert code == 2 and match in err and err.count(name) == 1 and "Traceback" not in err and out == ""
    assert head(hub, name)[1] == 1 and "model.safetensors" not in head(hub, name)[0].files
    monkeypatch.setattr(hub, "misbehave", lambda method, address: None)
    assert publish(*command)[0] == 0
    assert "model.safetensors" in head(hub, name)[0].files


# Folders that somebody else filled


def test_what_stays_here(hub, folders, publish, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "model")
    planted = ["training_args.bin", "optimizer.pt", "pytorch_model.bin", "x.pkl", ".env", "journal-00000.jsonl"]
    planted += ["checkpoint-5/model.safetensors", "_cong/run.json", "modeling_evil.py", "README.md", "id_rsa"]
    for name in planted:
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text(f"token: {SECRET}")
    command = ("model", "--source", tmp_path / "model", "--repo_id", "org/publish-planted")
    dry = publish(*command, "--dry_run")[1]
    assert all(name.split("/")[0] in dry for name in planted)
    status, _, err = publish(*command)
    assert status == 0, err
    files = head(hub, "org/publish-planted")[0].files
    assert not {*planted} - {"README.md"} & set(files)
    assert not any(SECRET.encode() in file.content for file in files.values())


def test_a_token_in_a_file_is_named_and_not_shown(hub, folders, publish, tmp_path):
    shutil.copytree(folders / "model", tmp_path / "model")
    with open(tmp_path / "model" / "chat_template.jinja", "a") as file:
        file.write(f"\n{{# {SECRET} #}}")
    for more in (["--dry_run"], []):
        status, out, err = publish("model", "--source", tmp_path / "model", "--repo_id", "org/publish-leak", *more)
        assert status == 2 and "chat_template.jinja" in err and "Hugging Face token" in err
        assert SECRET not in out + err
    assert ("models", "org/publish-leak") not in hub.repositories


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_link_out_of_the_folder_is_refused(hub, folders, publish, tmp_path, name):
    shutil.copytree(folders / "model", tmp_path / "model")
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "model" / name).unlink()
    (tmp_path / "model" / name).symlink_to(tmp_path / "secret")
    status, _, err = publish("model", "--source", tmp_path / "model", "--repo_id", "org/publish-link")
    assert status == 2 and "link out of its folder" in err


def test_data_without_its_manifest_or_not_as_it_says(folders, publish, tmp_path):
    shutil.copytree(folders / "sft", tmp_path / "sft")
    command = ("dataset", "--source", tmp_path / "sft", "--repo_id", "org/publish-broken", "--dry_run")
    manifest = tmp_path / "sft" / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    status, _, err = publish(*command)
    assert status == 2 and "There is no" in err and "manifest.json" in err
    manifest.write_text(text.replace('"sft.parquet"', '"../../../etc/passwd"'))
    assert publish(*command)[0] == 2
    manifest.write_text(text)
    with open(tmp_path / "sft" / "sft.parquet", "ab") as file:
        file.write(b"more")
    status, _, err = publish(*command)
    assert status == 2 and "is not the file that its manifest describes" in err
    status, _, err = publish("dataset", "--source", folders / "sft", folders / "completions", "--repo_id", "org/twice")
    assert status == 2 and "second of the configuration `sft`" in err


def test_a_folder_that_cannot_be_written(hub, folders, publish, tmp_path):
    shutil.copytree(folders / "completions", tmp_path / "data")
    for path in (*(tmp_path / "data").iterdir(), tmp_path / "data"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    assert publish("dataset", "--source", tmp_path / "data", "--repo_id", "org/publish-read-only")[0] == 0
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()} == before
    (tmp_path / "data").chmod(0o755)
