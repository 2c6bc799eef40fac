# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Cards say what manifest and results say, and nothing else."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from hf_cong.cards import collection_text, dataset_card, decoding_card, model_card, pair_card
from hf_cong.cards.rendering import front_matter, templates
from tests.cards.examples import FILES, KINDS, MANIFEST, REPO_ID, RESULTS, body, source, structure, tokens

GOLDEN = Path(__file__).parents[1] / "golden"
RELATED = {"model": REPO_ID, "sft": f"{REPO_ID}-S", "data": f"{REPO_ID}-data", "pair": f"{REPO_ID}-pair"}


def card_of(kind: str, facts=MANIFEST, results=(), **more):
    content = KINDS[kind](facts, results, **more)
    return (DatasetCard if kind == "data" else ModelCard)(content)


def changed(**parts) -> dict:
    """The manifest with other parts; within `sources`, those given only."""
    sources = {**MANIFEST["sources"], **parts.pop("sources", {})}
    return {**copy.deepcopy(MANIFEST), "sources": sources, **parts}


@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_accepts_the_metadata(hub, kind):
    card = card_of(kind)
    card.validate()
    data = card.data.to_dict()
    assert data["license"] and {"cong", "weak-to-strong"} <= set(data["tags"])
    assert f"arxiv.org/abs/{'2310.12962' if kind == 'steered' else '2510.07884'}" in card.text


def test_the_hub_would_refuse_another(hub):
    card = card_of("model")
    card.data.license = "qwen-research"
    with pytest.raises(ValueError, match="license"):
        card.validate()


def test_metadata_of_a_model():
    data = card_of("model", results=RESULTS, system="ConG", repositories=RELATED).data
    assert data.base_model == "Qwen/Qwen2.5-7B-Instruct" and data.base_model_relation == "finetune"
    assert data.datasets == ["org/strong-cong-data", "org/prompts"]
    assert (data.library_name, data.pipeline_tag, data.language) == ("transformers", "text-generation", ["en"])
    assert {"cong", "weak-to-strong", "contrastive-decoding", "dpo", "trl", "alignment"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_split) == ("openai/gsm8k", "main", "test")
    assert (result.metric_type, result.metric_value) == ("exact_match", 0.71234)
    assert data.license == "other" and data.license_name == "apache-2.0-and-mit-and-qwen-research"
    assert data.license_link == "https://huggingface.co/org/strong-cong#license"


def test_metadata_of_an_adapter_and_of_stage_one():
    data = card_of("adapter").data
    assert (data.base_model_relation, data.library_name) == ("adapter", "peft") and "lora" in data.tags
    data = card_of("sft").data
    assert "sft" in data.tags and "dpo" not in data.tags


def test_metadata_of_a_dataset():
    data = card_of("data").data.to_dict()
    assert [config["config_name"] for config in data["configs"]] == ["preferences", "sft"]
    splits = {one["split"]: one["path"] for one in data["configs"][0]["data_files"]}
    assert splits == {"train": "preferences/train.parquet", "eval": "preferences/eval.parquet"}
    info = data["dataset_info"][0]
    assert [split["num_examples"] for split in info["splits"]] == [2, 1]
    assert info["download_size"] == sum(len(FILES[f"preferences/{name}.parquet"]) for name in ("train", "eval"))
    assert data["size_categories"] == ["n<1K"] and data["source_datasets"] == ["org/prompts"]
    assert data["annotations_creators"] == ["machine-generated"] and data["task_categories"] == ["text-generation"]


def test_sizes_and_parts_of_a_dataset():
    from tests.cards.examples import parquet

    half = parquet([{"prompt": "x", "completion": "y"}] * 600)
    parts = {f"sft/train-{n:05}-of-00002.parquet": half for n in range(2)}
    data = DatasetCard(dataset_card({}, repo_id="org/data", files={**parts, "notes.json": b"{}"})).data.to_dict()
    assert data["size_categories"] == ["1K<n<10K"] and data["dataset_info"]["splits"][0]["num_examples"] == 1200
    assert data["configs"][0]["data_files"] == [{"split": "train", "path": sorted(parts)}]
    with pytest.raises(ValueError, match="has no dataset"):
        dataset_card({}, repo_id="org/data", files={"completions.parquet": half})
    with pytest.raises(ValueError, match="unlike the rest of 'sft'"):
        dataset_card({}, repo_id="org/data", files={**parts, "sft/eval.parquet": parquet([{"other": 1}])})


def test_text_of_a_model():
    text = card_of("model", results=RESULTS, system="ConG", repositories=RELATED).text
    for fact in (
        *("a" * 40, "b" * 40, "c" * 40, "d" * 40),
        "| `alpha` | 0.4 |",
        "| `learning_rate` | 6e-07 |",
        "| `seed` | 42 |",
        "| SFT | `train` | 1000 | 950 | `3 empty, 40 truncated, 7 too_long` |",
        "| DPO | `train` | 950 | 945 | `5 identical` |",
        "| DPO | `rewards/accuracies` | 0.71 |",
        "| `gsm8k` | `exact_match, strict-match` | 5 | `ConG` | 1319 | `0.7123 ± 0.013` | `+0.020 [-0.010, +0.050], ",
        "| `gsm8k` | `exact_match, strict-match` | 5 | `strong base` | 1319 | `0.69 ± 0.013` | `baseline` |",
        "40 training rows were dropped",
        "One run with one seed (42)",
        "[org/strong-cong-S](https://huggingface.co/org/strong-cong-S)",
        "[org/strong-cong-data](https://huggingface.co/datasets/org/strong-cong-data)",
        "`torch 2.13.0`",
        "jiang2026contrastive",
        "rafailov2023direct",
    ):
        assert fact in text, fact
    assert "max_steps" not in text and "/runs" not in text
    assert "(https://huggingface.co/org/strong-cong)" not in text  # it does not point to itself


def test_one_row_that_was_cut():
    rows = {"rows_in": 1000, "kept": 999, "dropped": {"truncated": 1}}
    text = card_of("model", changed(counts={"sft/train": rows})).text
    assert "- 1 training row was dropped because its completion did not end" in text


def test_text_of_stage_one():
    text = card_of("sft").text
    assert "ConG-S" in text and "| SFT | `train` |" in text
    assert (
        "| DPO |" not in text
        and "`beta`" not in text
        and "`learning_rate`" not in text
        and "`sft_learning_rate`" in text
    )


def test_settings_of_an_adapter():
    text = card_of("adapter").text
    assert (
        "An adapter for [Qwen/Qwen2.5-7B-Instruct](" in text
        and "| `r` | 16 |" in text
        and "| `target_modules` | `q_proj, v_proj` |" in text
    )


def test_text_of_a_pair():
    text = card_of("pair").text
    assert "[org/weak-dpo]" in text and "| `alpha` | 0.4 |" in text and "`learning_rate`" not in text
    assert "Qwen2.5-7B" not in text and "org/prompts" not in text
    lora = pair_card(MANIFEST, repo_id="org/pair", model_type="contrastive_lora_pair")
    assert "LoRA adapter; both run in one forward" in lora
    text = card_of("steered", changed(settings={"alpha": 0.4, "beta": 2.0})).text
    assert "[Qwen/Qwen2.5-7B-Instruct]" in text and "| `beta` | 2.0 |" in text and "`alpha`" not in text
    assert "mitchell2024emulator" in text and "jiang2026" not in text


def test_text_of_a_dataset():
    text = card_of("data", repositories=RELATED).text
    for fact in (
        "| `preferences` | `eval` | 1 |",
        "| `prompt` | `messages` |",
        "| `chosen` | `messages` | the preferred answer, by the weak pair |",
        "| `alpha` | 0.4 |",
        "`5 identical`",
    ):
        assert fact in text, fact
    assert "beta" not in text and "loss" not in text


# What a card must not say when the manifest does not say it.
MISSING = {
    "sources": ("huggingface.co/Qwen/Qwen2.5-7B", "org/prompts", "base_model"),
    "settings": ("| `alpha`", "one seed"),
    "counts": ("Rows, counted", "were dropped"),
    "measures": ("logged last",),
    "versions": ("## Versions",),
    "stages": ("**ConG**", "trained with DPO"),
    "run": ("0123456789abcdef",),
}


@pytest.mark.parametrize("part", MISSING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_part_is_left_out(kind, part):
    without = KINDS[kind]({name: value for name, value in MANIFEST.items() if name != part}, ())
    none = KINDS[kind]({**MANIFEST, part: None}, ())
    assert without == none and "None" not in without and "undefined" not in without.lower()
    for words in MISSING[part]:
        assert words not in without, words
    if kind == "model":
        assert all(words in KINDS["model"](MANIFEST, ()) for words in MISSING[part])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_known_is_a_card_too(hub, kind):
    card = card_of(kind, {})
    card.validate()
    assert card.data.license == "unknown" and "**Unknown**" in card.text
    assert not {"base_model", "language", "model-index"} & card.data.to_dict().keys()
    if kind in ("model", "adapter"):
        assert "How it was trained is not known to this card." in card.text
        assert (
            "cong" not in (card.data.tags or ()) and "2510.07884" not in card.text and "## Citation" not in card.text
        )
    if kind == "model":  # no title without text
        assert "## How it was made" not in card.text and "## How it was made" in card_of(kind).text
    assert "No results were given to this card." in card.text or kind == "data"


def test_what_ran_is_what_is_told():
    def told(stages: dict, **sources) -> str:
        return " ".join(model_card(changed(stages=stages, sources=sources), repo_id=REPO_ID).split())

    whole = MANIFEST["stages"]
    assert "fine-tuned on what a weak pair wrote by contrastive decoding (stage I)" in told(whole)
    given = {name: value for name, value in whole.items() if name != "decode"}
    text = told(given, weak_model=None, weak_reference_model=None)
    assert "fine-tuned on given completions (stage I)" in text and "amplified" not in text and "weak pair" not in text
    without_sft = {name: value for name, value in whole.items() if name != "sft"}
    assert "trained with DPO to prefer what a weak pair wrote" in told(without_sft)
    text = told({"dpo": "finished"}, weak_model=None, weak_reference_model=None)
    assert (
        "trained with DPO on given preferences." in text and "weak" not in text.split("## Citation")[0].split("---")[2]
    )
    unfinished = {name: value for name, value in whole.items() if name != "dpo"}
    assert "The run had not ended" in told(unfinished) and "The run had not ended" not in told(whole)
    assert "in the middle of **ConG**" in told(unfinished) and "in the middle" not in told(whole)
    begun = told({"decode": {"train": "decode-train-0"}})  # DPO without stage I is saved in between
    assert "in the middle of a run. " in begun and "The run had not ended" in begun and "trained with" not in begun
    assert "trained with DPO" in told(whole) and "trained with DPO" not in told(unfinished)
    assert "as stage I left it" in told(whole) and "stage I left" not in told(without_sft)


STEERED = {"chosen_from": "steered", "rejected_from": "base", "plausibility_threshold": 0.1, "steering_beta": 4.0}
SEARCHED = {"chosen_from": "steered", "beam_width": 4, "successors_per_beam": 4, "chunk_length": 5}


@pytest.mark.parametrize("kind", ["model", "sft", "adapter", "data"])
def test_a_steered_run_is_not_called_contrastive_decoding(kind):
    steered, searched = (KINDS[kind](changed(settings=settings), ()) for settings in (STEERED, SEARCHED))
    for card in (steered, searched):
        assert "contrastive-decoding" not in card and "contrastive decoding" not in card and "(1 − α)" not in card
        assert "steered by a weak pair" in card or "in a search led by a weak pair" in card
    assert "β·(log π(v) − log π_ref(v))" in steered and "| `steering_beta` | 4.0 |" in steered
    assert "mitchell2024emulator" in steered and "zhou2024weak" not in steered
    assert "`beam_width` hypotheses" in searched and "| `chunk_length` | 5 |" in searched and "β" not in searched
    assert "zhou2024weak" in searched and "mitchell2024emulator" not in searched
    assert "(1 − α)" in KINDS[kind](MANIFEST, ())


def test_rejected_completions_of_the_untouched_model():
    untouched = changed(settings={**MANIFEST["settings"], "rejected_from": "base"})
    text = model_card(untouched, repo_id=REPO_ID)
    assert "a variant of **ConG**" in text and "to samples of the untouched strong model" in text
    assert "as stage I left it, wrote" not in text and "`rejected_from` | `base`" in text
    data = dataset_card(untouched, repo_id="org/data", files=FILES)
    assert "after it was fine-tuned" not in data and "after it was fine-tuned" in KINDS["data"](MANIFEST, ())
    assert "a variant of" not in model_card(MANIFEST, repo_id=REPO_ID)


def test_what_was_given_in_one_split_only():
    stages = {"decode": {"eval": "d"}, "sft": "s/final", "sample": {"train": "x", "eval": "y"}}
    stages |= {"pairs": {"train": "p", "eval": "q"}, "dpo": "finished"}
    text = model_card(changed(stages=stages), repo_id=REPO_ID)
    assert "fine-tuned on given completions" in text and "Given, not written here: `chosen` of `train`." in text
    assert "It imitates a contrast" not in text and "contrastive-decoding" not in text
    text = dataset_card(changed(stages=stages), repo_id="org/data", files=FILES)
    assert "`chosen` of `train`." in text and "the preferred answer |" in text and "fine-tuned on it" not in text
    assert "Given, not" not in model_card(MANIFEST, repo_id=REPO_ID)


def test_metadata_of_a_pair_names_its_members():
    data = card_of("pair").data
    assert data.base_model == ["org/weak-dpo", "Qwen/Qwen2.5-3B-Instruct"] and data.base_model_relation == "merge"
    assert card_of("steered").data.base_model[0] == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize("name", ["1e3", "12E03", "0o17", ".5", "no", "on", "null", "~", "2024-01-01", "1_000", "---"])
def test_text_is_text_to_every_reader_of_yaml(name):
    """Readers of YAML 1.2, as the Hub is, see numbers where PyYAML sees none."""
    line = front_matter({"tags": [name, 1, 0.5, "a\u202eb"]}).splitlines()
    assert line == ["tags:", f"- '{name}'", "- 1", "- 0.5", '- "a\\u202Eb"']
    assert "'1e3'" not in yaml.safe_dump(["1e3"])


def test_a_title_is_no_address():
    assert "# `www.evil.example`" in model_card(MANIFEST, repo_id="org/www.evil.example")


def test_a_local_source_is_no_link():
    card = card_of("model", changed(sources={"model": source("my base", None, None, ()), "prompts": None}))
    assert card.data.base_model is None and card.data.datasets is None
    assert "`my base`" in card.text and "| strong base | `my base` | unknown or local | unknown |" in card.text


@pytest.mark.parametrize("name", ["org/a--b", "a/b/c", "org/..", "../secret", "org/x" + "y" * 96, "org/a b"])
def test_a_name_that_the_hub_cannot_have_is_no_link(hub, name):
    facts = changed(sources={role: source(name) for role in MANIFEST["sources"]})
    for kind in KINDS:
        card = card_of(kind, facts)
        card.validate()
        assert f"`{name}`" in card.text and f"huggingface.co/{name}" not in card.text
        assert not {"base_model", "source_datasets"} & card.data.to_dict().keys()


def test_data_of_a_model_alone_is_not_called_contrastive():
    facts = {"sources": {"model": source("org/alone")}, "counts": MANIFEST["counts"]}
    text = dataset_card(facts, repo_id="org/data", files={"sft/train.parquet": FILES["sft/train.parquet"]})
    assert "Completions of [org/alone]" in text and "weak pair" not in text
    assert "license: apache-2.0" in text
    assert "wrote it" not in text and "- preference\n" not in text and "arxiv" not in text


@pytest.mark.parametrize(("languages", "found"), [(["no"], ["no"]), ("pt-BR", ["pt-BR"]), (None, ["en"])])
def test_languages(languages, found):
    card = card_of("model", language=languages)
    assert card.data.language == found
    assert yaml.safe_load(card.content.split("---")[1])["language"] == found  # Norwegian is not false


@pytest.mark.parametrize("language", ["english", ["en", "<b>"], "EN"])
def test_a_wrong_language_is_refused(language):
    with pytest.raises(ValueError, match="`language` must be codes"):
        model_card(MANIFEST, repo_id=REPO_ID, language=language)


@pytest.mark.parametrize("name", ["org/name\n", "a/b/c", "<b>", "org/..", "", "org/a--b", "../x", "https://x.y/z"])
def test_a_wrong_name_is_refused(name):
    for make in (
        lambda: model_card(MANIFEST, repo_id=name),
        lambda: pair_card(MANIFEST, repo_id=name),
        lambda: dataset_card(MANIFEST, repo_id=name, files=FILES),
        lambda: decoding_card(name),
        lambda: model_card(MANIFEST, repo_id=REPO_ID, repositories={"data": name}),
    ):
        with pytest.raises(ValueError, match="`repo_id` must be a name"):
            make()


def test_results_are_claimed_for_a_named_system_only():
    assert card_of("model", results=RESULTS).data.eval_results is None
    with pytest.raises(ValueError, match="`system` is 'other', of which there are no results"):
        model_card(MANIFEST, repo_id=REPO_ID, results=RESULTS, system="other")


def test_underscores_are_letters():
    text = body(model_card(MANIFEST, repo_id="org/__cong__"))
    assert "# \\_\\_cong\\_\\_" in text and 'from_pretrained("org/__cong__")' in text


def test_text_of_a_collection():
    text = collection_text(MANIFEST)
    assert "2510.07884" in text and "Qwen2.5-7B-Instruct" in text and "α = 0.4" in text and len(text) <= 150
    long = changed(sources={"model": source("o/" + "x" * 90)})
    assert len(collection_text(long)) <= 150 and collection_text({})
    evil = changed(sources={"model": source("<b>x", None)}, settings={"alpha": "<b>"})
    assert "<" not in collection_text(evil)


def test_templates_print_no_fact_that_is_not_there():
    """Negative control of the strictness: a template with an unknown name, and one that prints `None`."""
    from jinja2 import UndefinedError

    from hf_cong.cards.rendering import _environment

    with pytest.raises(UndefinedError):
        _environment().from_string("{{ alpha }}").render()
    with pytest.raises(ValueError, match="a fact that is missing"):
        _environment().from_string("{{ alpha }}").render(alpha=None)


def test_every_template_is_explained():
    readme = (templates() / "README.md").read_text(encoding="utf-8")
    named = {path.name for path in templates().glob("*.jinja") if not path.name.startswith("_")}
    assert named == set(re.findall(r"`(\w+\.md\.jinja)`", readme))


@pytest.mark.parametrize(("kind", "name"), [("model", "model_card.md"), ("data", "dataset_card.md")])
def test_golden(kind, name):
    more = {} if kind == "data" else {"system": "ConG"}
    card = KINDS[kind](MANIFEST, RESULTS, repositories=RELATED, **more)
    # what pyarrow and datasets make of three rows differs from version to version
    card = re.sub(r"(num_bytes|download_size|dataset_size): \d+", r"\1: 0", card)
    path = GOLDEN / name
    assert card == path.read_text(encoding="utf-8"), f"If this is meant: write the card to {path}."
    assert structure(card)["html_block"] == 0 and json.dumps([token.type for token in tokens(card)])
