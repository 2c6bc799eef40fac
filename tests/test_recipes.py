# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Every recipe of the repository: its keys, its comments, its numbers, and what it takes from the others."""

import itertools
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from trl import DatasetMixtureConfig, DPOConfig, ModelConfig, ScriptArguments, TrlParser

from hf_cong import ConGConfig
from hf_cong.arguments import (
    BenchArguments,
    BuildArguments,
    CheckPairArguments,
    CompressArguments,
    EvaluateArguments,
    ExportArguments,
    GenerateArguments,
    JudgeArguments,
    PlotArguments,
    PublishArguments,
    RoundsArguments,
    SearchArguments,
    SweepArguments,
)
from hf_cong.cli import COMMANDS
from hf_cong.cli.publishing import _TAKES
from hf_cong.recipes import parse
from hf_cong.search.run import METHODS

ALL = Path(__file__).parents[1] / "recipes"
TRAIN = (ScriptArguments, ConGConfig, ModelConfig, RoundsArguments)
# Every recipe is named after what it is for.
ARGUMENTS = {
    "weak_dpo": TRAIN,
    "check_pair": (CheckPairArguments,),
    "sweep": (SweepArguments,),
    "generate": (GenerateArguments,),
    "sft_data": (BuildArguments,),
    "sft": TRAIN,
    "sample": (GenerateArguments,),
    "preferences": (BuildArguments,),
    "dpo": TRAIN,
    "cong": TRAIN,
    "cong_qlora": TRAIN,
    "search": (SearchArguments,),
    "evaluate": (EvaluateArguments,),
    "judge": (JudgeArguments,),
    "publish": (PublishArguments,),
}
CALLS = {
    "train": TRAIN,
    "generate": (GenerateArguments,),
    "build": (BuildArguments,),
    "check-pair": (CheckPairArguments,),
    "sweep": (SweepArguments,),
    "search": (SearchArguments,),
    "evaluate": (EvaluateArguments,),
    "judge": (JudgeArguments,),
    "export": (ExportArguments,),
    "compress": (CompressArguments,),
    "publish": (PublishArguments,),
    "bench": (BenchArguments,),
    "plot": (PlotArguments,),
}
LAUNCHES = sorted((ALL / "accelerate").glob("*.yaml"))
RECIPES = sorted(path for path in ALL.glob("*/*.yaml") if path not in LAUNCHES)
# The paper's settings, a small one, and the sandbox. Self-alignment takes the data of the family beside it.
FAMILIES = ("qwen2.5", "llama3", "qwen2.5-self", "llama3.2-self", "qwen2.5-small", "sandbox")
DATA = {"qwen2.5-self": "qwen2.5", "llama3.2-self": "llama3"}
ON_CPU = ["--use_cpu", "true", "--bf16", "false"]


def named(path):
    return f"{path.parent.name}/{path.name}"


def values(family, name):
    """What a recipe says; of self-alignment, the one of the family that wrote its data, where it has none itself."""
    own, other = ALL / family / f"{name}.yaml", ALL / DATA.get(family, family) / f"{name}.yaml"
    return yaml.safe_load((own if own.exists() else other).read_text())


@pytest.mark.parametrize("path", RECIPES, ids=named)
def test_every_recipe_parses(path):
    on_cpu = ON_CPU if ARGUMENTS[path.stem] == TRAIN else []
    parsed = parse(ARGUMENTS[path.stem], ["--config", str(path), *on_cpu], prog="x")
    if path.stem == "search":
        assert set(parsed[0].methods) <= set(METHODS)


def test_every_family_has_a_recipe_for_every_stage():
    for family in FAMILIES:
        own = {path.stem for path in RECIPES if path.parent.name == family}
        wanted = {"sft", "sample", "preferences", "dpo", "cong", "evaluate", "publish"}
        assert own >= wanted | (set() if family in DATA else {"generate", "sft_data"}), family
        readme = (ALL / family / "README.md").read_text()
        for name in own:  # with the command that runs it
            assert re.search(rf"recipes/{re.escape(family)}/{name}\.yaml", readme), f"{family}: {name}"


@pytest.mark.parametrize("path", [*RECIPES, *LAUNCHES], ids=named)
def test_every_key_has_a_comment_above_it_or_above_its_group(path):
    comment = False
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            comment = True
        elif not line:
            comment = False
        elif not line.startswith(" "):
            assert comment or "#" in line, f"{path}: {line}"


@pytest.mark.parametrize("path", [*RECIPES, *LAUNCHES], ids=named)
def test_every_recipe_named_in_a_comment_exists(path):
    text = path.read_text()
    for mentioned in re.findall(r"recipes/[\w./-]+\.(?:yaml|py)", text):
        assert (ALL.parent / mentioned).exists(), mentioned
    assert set(re.findall(r"`(\w+)\.yaml`", text)) <= ARGUMENTS.keys()


READMES = [ALL.parent / "README.md", *sorted(ALL.glob("*/README.md"))]


def shown(path):
    """The commands that comments and code blocks show, as words, and those within a text, which may leave keys out."""
    text = re.sub(r"\\\n[# ]*", " ", path.read_text())
    block = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    lines, spans = "\n".join(block.findall(text)), re.findall(r"`([^`]+)`", block.sub("", text))
    if path.suffix == ".yaml":
        lines = re.sub(r"^#  +", "", text, flags=re.MULTILINE)
    commands = re.findall(r"^((?:[A-Z_]+=\S+ )*(?:hf-cong|accelerate|python) .*)$", lines, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in commands], [span.split() for span in spans]


def ours(words):
    """What follows `hf-cong` in a command, `None` if it is another's."""
    for name in ("hf-cong", "hf_cong.cli"):
        if name in words:
            return words[words.index(name) + 1 :]


@pytest.mark.parametrize("path", [*RECIPES, *LAUNCHES, *READMES], ids=named)
def test_every_command_that_is_shown_parses(path):
    """In comments and READMEs: the recipe is there, the command is its own, and every key that is added is known."""
    lines, spans = shown(path)
    assert lines
    for command, *rest in filter(None, map(ours, lines)):
        if command == "demo":
            continue
        names = list(itertools.takewhile(lambda word: not word.startswith("-"), rest))
        rest = rest[len(names) :]
        if command == "check-pair":
            rest += [word for pair in zip(("--policy", "--reference"), names, strict=False) for word in pair]
        else:
            assert not names or (command == "publish" and names[0] in _TAKES)
        if "--config" in rest and (at := rest.index("--config") + 1):
            if rest[at] == "RECIPE":  # what a launch is for
                rest[at] = "recipes/qwen2.5/cong.yaml"
            assert CALLS[command] == ARGUMENTS[Path(rest[at]).stem]
            rest[at] = str(ALL.parent / rest[at])
        parse(CALLS[command], [*rest, *(ON_CPU if command == "train" else [])], prog="x")
    for command, *rest in filter(None, map(ours, spans)):
        known = {"config", *(field.name for kind in CALLS.get(command, ()) for field in fields(kind))}
        assert command in COMMANDS and known >= {word[2:] for word in rest if word.startswith("--")}, rest
    for words in lines:
        if "--config_file" in words:
            assert ALL.parent / words[words.index("--config_file") + 1] in LAUNCHES
        if script := re.search(r"python (?:-m )?(recipes[./]\S+)", " ".join(words)):
            text = (ALL.parent / (script[1].removesuffix(".py").replace(".", "/") + ".py")).read_text()
            if "read_arguments" in text:
                text = (ALL / "compare" / "trials.py").read_text()
            assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--\w+", text))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_one_recipe_leaves_is_what_the_next_takes(family):
    made = {name: values(family, name)["output_dir"] for name in ("generate", "sft_data", "sft", "sample", "dpo")}
    weak = values(family, "generate")
    sft, sample, pairs, dpo = (values(family, name) for name in ("sft", "sample", "preferences", "dpo"))
    cong, evaluate, publish = (values(family, name) for name in ("cong", "evaluate", "publish"))
    if family != "sandbox":  # whose pair the demo makes
        aligned = values(family, "weak_dpo")
        assert aligned["output_dir"] == weak["policy"]
        assert weak.get("reference", aligned["model_name_or_path"]) == aligned["model_name_or_path"]
        assert evaluate["systems"]["CD of the pair, α = 0.4"]["policy"] == weak["policy"]
        alone = {key: value for key, value in sample.items() if key in ("alpha", "plausibility_threshold")}
        kind = "policy" if alone else "model"
        # What is published is what is measured.
        assert evaluate["systems"]["ConG"] == {kind: cong["output_dir"], **alone}
        assert publish["evaluation"] == evaluate["output_dir"] and publish["system"] in evaluate["systems"]
    assert values(family, "sft_data")["chosen"] == made["generate"]
    assert sft["dataset_name"] == f"{made['sft_data']}/sft.parquet"
    assert (sample["policy"], sample["prompts"]) == (made["sft"], sft["dataset_name"])
    assert (pairs["chosen"], pairs["rejected"]) == (made["generate"], made["sample"])
    assert dpo["dataset_name"] == f"{pairs['output_dir']}/preferences.parquet"
    assert publish["source"] == cong["output_dir"]
    # No two recipes write to one place.
    places = [values(path.parent.name, path.stem).get("output_dir") for path in RECIPES if path.stem != "publish"]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_go_has_the_settings_of_the_stages(family):
    cong, weak, sft, sample, dpo = (values(family, name) for name in ("cong", "generate", "sft", "sample", "dpo"))
    assert cong["dataset_name"] == weak["prompts"] and cong["model_name_or_path"] == sft["model_name_or_path"]
    assert cong["weak_model_name_or_path"] == weak["policy"]
    assert cong.get("weak_reference_model_name_or_path") == weak.get("reference")
    assert (cong["seed"], cong["seed"] + 1) == (weak["seed"], sample["seed"])
    for name in ("alpha", "plausibility_threshold", "max_new_tokens", "temperature", "top_p", "invalid_prompts"):
        assert cong.get(name) == weak.get(name), name
    for name in ("max_new_tokens", "temperature", "top_p", "top_k", "dtype", "batch_size"):
        assert sample[name] == weak[name], name
    assert cong["generation_batch_size"] == weak["batch_size"]
    rows = {"per_device_train_batch_size": cong["per_device_train_batch_size"]} | cong.get("sft_kwargs", {})
    assert sft["per_device_train_batch_size"] == rows["per_device_train_batch_size"]
    own = {"model_name_or_path", "dataset_name", "stage", "output_dir", "precompute_ref_log_probs"}
    for stage in (sft, dpo):
        for name in stage.keys() - own - {"per_device_train_batch_size"}:
            assert stage[name] == cong[name], name
    assert dpo["per_device_train_batch_size"] == cong["per_device_train_batch_size"]


# (learning rate, epochs, rows per update) of stage I, (β, learning rate, rows per update) of stage II, on four GPUs.
PAPER = {
    "qwen2.5": ((1e-5, 2, 64), (0.5, 6e-7, 64)),
    "llama3": ((1e-5, 2, 64), (0.5, 6e-7, 64)),
    "qwen2.5-self": ((1e-5, 2, 128), (0.5, 8e-7, 64)),
    "llama3.2-self": ((1e-5, 2, 128), (0.5, 6e-7, 64)),
}


@pytest.mark.parametrize("family", PAPER)
def test_the_papers_recipes_hold_the_papers_numbers(family):
    def parsed(name):
        _, config, model, _ = parse(TRAIN, ["--config", str(ALL / family / f"{name}.yaml"), *ON_CPU], prog="x")
        assert not model.use_peft and model.dtype == "float32"
        rows = 4 * config.per_device_train_batch_size * config.gradient_accumulation_steps
        return config, rows

    (cong, rows), (sft, sft_rows), (dpo, dpo_rows) = (parsed(name) for name in ("cong", "sft", "dpo"))
    assert (cong.alpha, cong.plausibility_threshold, cong.temperature, cong.top_p) == (0.4, 0.1, 0.8, 0.95)
    for config in (cong, sft):
        assert PAPER[family][0] == (config.sft_learning_rate, config.sft_num_train_epochs, sft_rows)
    for config in (cong, dpo):
        assert PAPER[family][1] == (config.beta, config.learning_rate, dpo_rows) and config.num_train_epochs == 1
    assert rows == dpo_rows
    defaults = ConGConfig(output_dir="unused", use_cpu=True)  # and the defaults are the same
    names = ["alpha", "beta", "sft_learning_rate", "sft_num_train_epochs", "max_length", "max_new_tokens", "top_p"]
    for name in names if family == "qwen2.5-self" else [*names, "learning_rate"]:
        assert getattr(defaults, name) == getattr(cong, name), name


@pytest.mark.parametrize("path", sorted(ALL.glob("*/weak_dpo.yaml")), ids=named)
def test_trl_reads_the_weak_models_recipe_too(path):
    parser = TrlParser((ScriptArguments, DPOConfig, ModelConfig, DatasetMixtureConfig))
    argv = ["--config", str(path), *ON_CPU]
    script, config, model, _ = parser.parse_args_and_config(argv, fail_with_unknown_args=True)
    ours = parse(TRAIN, argv, prog="x")
    assert (script, model) == (ours[0], ours[2])
    for field in fields(DPOConfig):
        if field.init and field.name not in ("ddp_timeout", "hub_private_repo"):  # defaults of our own, no part of DPO
            assert getattr(config, field.name) == getattr(ours[1], field.name), field.name


@pytest.mark.parametrize("path", LAUNCHES, ids=named)
def test_accelerate_knows_every_key_of_a_launch(path):
    kinds = {"single_gpu": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    config = load_config_from_file(str(path))  # refuses unknown keys
    assert config.distributed_type == kinds[path.stem] and config.mixed_precision == "bf16"
    known = vars(launch_command_parser().parse_args(["script.py"]))
    for group in (config.fsdp_config, config.deepspeed_config):
        assert group.keys() <= known.keys()
    args, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(path), "-m", "hf_cong.cli", "train"])
    )
    flags = {"ddp": "multi_gpu", "fsdp2": "use_fsdp", "zero3": "use_deepspeed"}
    assert [stem for stem, flag in flags.items() if getattr(args, flag)] == [path.stem][: path.stem in flags]
    assert args.num_processes == (1 if path.stem == "single_gpu" else 4)
