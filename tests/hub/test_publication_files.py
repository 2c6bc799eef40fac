# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What of a folder leaves this machine, and under which names."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_cong.hub.files
from hf_cong.hub.files import check_clashes, check_path, is_local, select_files
from hf_cong.hub.folders import model_publication
from hf_cong.hub.publication import publish
from hf_cong.pair import ContrastivePairForCausalLM, EmulatedFineTuningForCausalLM
from tests.hub.publishing import contents, publication
from tests.tiny import tiny_base, tiny_lora, tiny_model, tiny_tokenizer

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
MODEL = {"config.json", "generation_config.json", "model.safetensors", *TOKENIZER}
CODE = {
    *("configuration_stacks.py", "modeling_stacks.py", "configuration_contrastive_pair.py"),
    *("modeling_contrastive_pair.py", "functional.py", "compatibility.py"),
}
STALE = "model-00009-of-00009.safetensors"  # a shard of another time
# What trainers and people leave in the folder of a model.
LITTER = {
    *("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "pytorch_model.bin"),
    *("model.pkl", "adapter_model.bin", "weights.ckpt", "files.json", "README.md", "notes.txt", ".env", "setup.py"),
    *("checkpoint-5/model.safetensors", "checkpoint-5/optimizer.pt", "_cong/manifest.json", "_cong/sft/final/x.json"),
    *("ref/model.safetensors", "logs/events.out", "journal-00000.jsonl", ".cache/token", "runs/now/a/b.json"),
    *("optimizer.safetensors", STALE),
}
LEFT = {name if "/" not in name else f"{name.split('/')[0]}/" for name in LITTER}


def litter(folder):
    for name in LITTER - {path.name for path in folder.iterdir()}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"litter")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, an adapter of it and a pair, as `save_pretrained` writes them, among litter."""
    root = tmp_path_factory.mktemp("с пробелом ü")
    adapted, policy, reference = tiny_lora("llama")
    for name, model in (("model", policy), ("reference", reference)):
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    adapted.peft_config["default"].base_model_name_or_path = str(root / "model")
    adapted.save_pretrained(root / "adapter")
    AutoTokenizer.from_pretrained(root / "model").save_pretrained(root / "adapter")
    pair = ContrastivePairForCausalLM.from_pair(str(root / "model"), str(root / "reference"))
    pair.save_pretrained(root / "pair")
    for name in ("model", "adapter", "pair"):
        litter(root / name)
    return root


@pytest.mark.parametrize("kind, expected", [("model", MODEL), ("pair", MODEL | CODE)])
def test_what_from_pretrained_reads_is_published_and_nothing_else(saved, kind, expected):
    files, left = select_files(saved / kind, kind)
    assert {*files} == expected and {*left} == LEFT - expected
    published = publication(f"alice/selected-{kind}", files, kind=kind)
    publish(published)
    assert {*contents(f"alice/selected-{kind}")} == expected | {"README.md", "hf_cong.json"}
    loaded = AutoModelForCausalLM.from_pretrained(f"alice/selected-{kind}")  # as it is, without those paths
    assert loaded.config.model_type == json.loads((saved / kind / "config.json").read_text())["model_type"]


def test_an_adapter_is_published_with_the_id_of_its_base(saved):
    with pytest.raises(ValueError, match="folder of this machine.*`base_model`") as error:
        select_files(saved / "adapter", "adapter")
    assert str(saved) not in str(error.value)
    files, left = select_files(saved / "adapter", "adapter", base_model="org/strong")
    assert {*files} == {"adapter_config.json", "adapter_model.safetensors", *TOKENIZER}
    assert {*left} == LEFT
    config = json.loads(files["adapter_config.json"])
    local = json.loads((saved / "adapter" / "adapter_config.json").read_text())
    assert config == {**local, "base_model_name_or_path": "org/strong"}


def test_an_adapter_that_names_its_base_on_the_hub_is_published_as_it_is(saved, tmp_path):
    shutil.copytree(saved / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    config = {**json.loads(path.read_text()), "base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}
    path.write_text(json.dumps(config))
    assert select_files(tmp_path / "adapter", "adapter").files["adapter_config.json"] == path
    for unknown in (None, 5, ""):
        path.write_text(json.dumps({**config, "base_model_name_or_path": unknown}))
        with pytest.raises(ValueError, match="`base_model`"):
            select_files(tmp_path / "adapter", "adapter")
    with pytest.raises(ValueError, match="org//strong"):
        select_files(tmp_path / "adapter", "adapter", base_model="org//strong")


@pytest.mark.parametrize("kind", ["model", "adapter", "pair"])
def test_no_path_of_this_machine_leaves_it(saved, kind):
    files, _ = select_files(saved / kind, kind, base_model="org/strong")
    texts = {name: data if isinstance(data, bytes) else data.read_bytes() for name, data in files.items()}
    assert not [name for name, data in texts.items() if os.fsencode(saved.parent) in data]
    if kind == "pair":  # it was there
        assert str(saved / "model") in json.dumps(
            json.loads((saved / "pair" / "config.json").read_text()), ensure_ascii=False
        )


def test_a_hub_id_in_a_configuration_stays(saved, tmp_path):
    shutil.copytree(saved / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["note"] = "ü\ud800"
    named = {"_name_or_path": "org/weak", "inner": [{"_name_or_path": ""}, {"_name_or_path": "/home/me/weak"}]}
    path.write_text(json.dumps({**config, **named}))
    published = json.loads(select_files(tmp_path / "model", "model").files["config.json"])
    assert published == {**config, "_name_or_path": "org/weak", "inner": [{"_name_or_path": ""}, {}]}
    path.write_text(json.dumps({**config, "_name_or_path": "org/weak"}))
    assert select_files(tmp_path / "model", "model").files["config.json"] == path
    tokenizer = tmp_path / "model" / "tokenizer_config.json"
    kept = {"model_max_length": 5, "vocab_file": "vocab.json"}
    local = {
        "name_or_path": "./weak",
        "tokenizer_file": "/a/t.json",
        "merges_file": "/a/m.txt",
        "cache_dir": "/home/me",
    }
    tokenizer.write_text(json.dumps({**kept, **local}))
    assert json.loads(select_files(tmp_path / "model", "model").files["tokenizer_config.json"]) == kept


def test_names_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("gpt2") and not is_local("Qwen/Qwen2.5-0.5B")
    for name in ("/a/b", "./b", "../b", "~/b", "a/b/c", "C:\\a", "a\\b", "a b", ""):
        assert is_local(name), name
    (tmp_path / "Qwen" / "Qwen2.5-0.5B").mkdir(parents=True)
    assert is_local("Qwen/Qwen2.5-0.5B")  # `from_pretrained` would take it


@pytest.mark.parametrize("shape", ["lora", "steered"])
def test_every_shape_of_a_pair_is_published_with_its_own_code(saved, tmp_path, shape):
    adapted, policy, reference = tiny_lora("llama")
    if shape == "lora":
        pair = ContrastivePairForCausalLM.from_pair(adapted)
    else:
        pair = EmulatedFineTuningForCausalLM.from_pair(tiny_base("llama"), policy, reference)
    pair.save_pretrained(tmp_path)
    files, left = select_files(tmp_path, "pair")
    assert {name for name in files if name.endswith(".py")} == {*type(pair).source_code()} and not left
    (tmp_path / "setup.py").write_text("evil")
    assert select_files(tmp_path, "pair").left == ("setup.py",)


def test_code_of_others_is_told_of_and_not_published(saved, tmp_path, caplog):
    shutil.copytree(saved / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    (tmp_path / "model" / "modeling_x.py").write_text("evil")
    path.write_text(json.dumps({**config, "auto_map": {"AutoConfig": "org/x--configuration_x.X"}}))
    select_files(tmp_path / "model", "model")
    assert not caplog.text  # found where it says
    path.write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}))
    assert "modeling_x.py" in select_files(tmp_path / "model", "model").left
    assert "needs modeling_x.py, which is not published" in caplog.text
    path.write_text(json.dumps(config))
    tokenizer = tmp_path / "model" / "tokenizer_config.json"
    for names in ({"AutoTokenizer": ["tokenization_x.Slow", None]}, ["tokenization_x.Slow", "o.o/r--fast_x.Fast"]):
        caplog.clear()
        tokenizer.write_text(json.dumps({"auto_map": names}))
        select_files(tmp_path / "model", "model")
        assert "needs tokenization_x.py, which is not published" in caplog.text


def test_what_a_processor_is_made_of_is_published(saved, tmp_path):
    shutil.copytree(saved / "model", tmp_path / "model")
    names = {
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "chat_template.json",
    }
    for name in names:
        (tmp_path / "model" / name).write_text("{}")
    assert {*select_files(tmp_path / "model", "model").files} == MODEL | names


def test_other_code_than_that_of_the_package_is_not_published(saved, tmp_path):
    shutil.copytree(saved / "pair", tmp_path / "pair")
    path = tmp_path / "pair" / "functional.py"
    path.write_text(path.read_text() + "\nimport os\n")
    with pytest.raises(ValueError, match="functional.py is not the code of this version"):
        select_files(tmp_path / "pair", "pair")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no functional.py"):
        select_files(tmp_path / "pair", "pair")
    with pytest.raises(ValueError, match="no pair.*Publish it as a model"):
        select_files(saved / "model", "pair")


def test_weights_are_those_that_would_be_loaded(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="60KB")
    shards = {path.name for path in tmp_path.glob("model-*")}
    assert len(shards) > 1
    stale = tmp_path / "model-00001-of-00099.safetensors"
    save_file({}, stale)
    files, left = select_files(tmp_path, "model")
    index = "model.safetensors.index.json"
    assert {*files} == {"config.json", "generation_config.json", index, *shards} and left == (stale.name,)
    (tmp_path / min(shards)).rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match="does not have the weights"):
        select_files(tmp_path, "model")
    (tmp_path / "kept").rename(tmp_path / "model.safetensors")  # `from_pretrained` takes this first
    assert {*select_files(tmp_path, "model").files} == {"config.json", "generation_config.json", "model.safetensors"}


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../../secret.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "config.json"}},
        {"weight_map": {"a": 5}},
        {"weight_map": []},
        {},
    ],
)
def test_an_index_that_names_other_files_is_refused(tmp_path, index):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match="does not have the weights"):
        select_files(tmp_path, "model")


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "[" * 100_000], ids=lambda text: ascii(text[:5]))
def test_a_damaged_configuration_is_refused(tmp_path, content):
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="config.json is damaged"):
        select_files(tmp_path, "model")


@pytest.mark.parametrize("kind", ["model", "adapter", "pair", "dataset"])
def test_a_folder_of_something_else_is_refused(tmp_path, kind):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="has no "):
        select_files(tmp_path, kind)
    with pytest.raises(FileNotFoundError, match="must be a directory"):
        select_files(tmp_path / "pytorch_model.bin", kind)


def test_weights_in_a_pickle_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="has no model.safetensors. .* safetensors only"):
        select_files(tmp_path, "model")


def test_a_model_without_a_tokenizer_is_told_of(tmp_path, caplog):
    tiny_model("gpt2").save_pretrained(tmp_path)
    model_publication(tmp_path, repo_id="alice/silent")
    assert "has no tokenizer, and who loads it will miss one" in caplog.text
    caplog.clear()
    for name in ("vocab.json", "merges.txt"):  # all that GPT-2's is
        (tmp_path / name).write_text("{}")
    model_publication(tmp_path, repo_id="alice/silent")
    assert not caplog.text


def test_links_out_of_the_folder_are_refused(saved, tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside"
    shutil.copytree(saved / "model", folder)
    outside.mkdir()
    for name in ("secret.json", "secret.jinja", "train.parquet"):
        (outside / name).write_text("{}")
    (folder / "merges.txt").symlink_to(outside / "secret.json")
    with pytest.raises(ValueError, match="merges.txt is a link out of its folder"):
        select_files(folder, "model")
    (folder / "merges.txt").unlink()
    (folder / "merges.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="merges.txt is a link out of its folder"):
        select_files(folder, "model")
    (folder / "merges.txt").unlink()
    (folder / "additional_chat_templates").symlink_to(outside)
    files, left = select_files(folder, "model")
    assert {*files} == MODEL and "additional_chat_templates" in left
    (tmp_path / "latest").symlink_to(folder)  # the folder itself may be one
    (folder / "vocab.json").symlink_to(folder / "config.json")  # and inside it
    assert {*select_files(tmp_path / "latest", "model").files} == {*MODEL, "vocab.json"}
    (folder / "special_tokens_map.json").mkdir()
    os.mkfifo(folder / "added_tokens.json")
    with pytest.raises(ValueError, match="no ordinary file"):
        select_files(folder, "model")


def test_a_dataset_is_its_parquet_files(tmp_path):
    names = {"completions.parquet", "sft/train-00000-of-00001.parquet", "größe/大小 1.parquet", "LICENSE"}
    for name in (*names, "manifest.json", "journal-00000.jsonl", "_cong/a.parquet", ".a.parquet", "sft/b.arrow"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, left = select_files(tmp_path, "dataset")
    assert {*files} == names
    assert {*left} == {"manifest.json", "journal-00000.jsonl", "_cong/", ".a.parquet", "sft/b.arrow"}


UNSAFE = [
    *("../a.parquet", "a/../../b.parquet", "/etc/a.parquet", "..\\a.parquet", "a\\b.parquet", "C:/a.parquet"),
    *("C:a.parquet", "\\\\server\\share\\a.parquet", "a\0.parquet", "a\n.parquet", "./a.parquet", "a//b.parquet", ""),
    *("~/a.parquet", "nul.parquet", "a/.. /b.parquet", "a.parquet.", ".git/a.parquet", ".cache/a.parquet"),
    *("a:stream.parquet", "\u202etekrap.parquet", "a\ud800.parquet", "COM1/a.parquet", "a?.parquet", "a /b.parquet"),
]


@pytest.mark.parametrize("path", UNSAFE, ids=ascii)
def test_a_path_that_leads_out_is_refused(hub, path, monkeypatch):
    before = len(hub.requests)
    with pytest.raises(ValueError, match="which is not published"):
        publish(publication("alice/unsafe", {path: b"PAR1"}, repo_type="dataset", kind="dataset"))
    assert len(hub.requests) == before
    # Not only because a dataset holds no such file.
    monkeypatch.setitem(hf_cong.hub.files._IN_FOLDER, "dataset", "(?s:.*)")
    with pytest.raises(ValueError, match="empty|means? something|reserved|device"):
        check_path(path, "dataset")


@pytest.mark.parametrize(
    "path", ["a.parquet", "größe/日本 1.parquet", "sft/train-00000-of-00001.parquet", "a/.b/c.parquet"]
)
def test_a_path_of_this_kind_is_not(path, monkeypatch):
    monkeypatch.setitem(hf_cong.hub.files._IN_FOLDER, "dataset", "(?s:.*)")
    check_path(path, "dataset")


@pytest.mark.parametrize(
    "name", [*sorted(LITTER - {STALE}), "a.parquet", "hf_cong.json", "x.yaml", "custom_generate/x/y.py"]
)
def test_what_a_kind_does_not_hold_is_refused_wherever_it_comes_from(hub, name):
    before = len(hub.requests)
    with pytest.raises(ValueError, match=f"{Path(name).name}.*which is not published"):
        publish(publication("alice/litter", {name: b"litter"}))
    assert len(hub.requests) == before


@pytest.mark.parametrize(
    "paths",
    [
        ("a.parquet", "A.parquet"),
        ("Sft/a.parquet", "sft/b.parquet"),
        ("a.parquet", "a.parquet/b.parquet"),
        ("gr\u00f6\u00dfe.parquet", "gro\u0308sse.parquet"),
        ("readme.md/a.parquet",),
        ("HF_Cong.json/a.parquet",),
    ],
    ids=ascii,
)
def test_names_that_are_one_on_some_systems_are_refused(hub, paths):
    before = len(hub.requests)
    for order in (paths, paths[::-1]):
        with pytest.raises(ValueError, match="cannot be beside each other"):
            publish(publication("alice/clash", dict.fromkeys(order, b"PAR1"), repo_type="dataset", kind="dataset"))
    assert len(hub.requests) == before
    check_clashes(["sft/a.parquet", "sft/b.parquet", "b/sft.parquet", "sft.parquet", "a.parquet"])


def test_what_is_made_for_the_repository_is_published():
    for kind in ("model", "adapter", "pair", "decoding"):
        for path in (".eval_results/gsm8k.yaml", "custom_generate/generate.py", "custom_generate/requirements.txt"):
            check_path(path, kind)
