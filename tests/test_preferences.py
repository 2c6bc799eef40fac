# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
import json

import datasets
import pytest
from trl.data_utils import is_conversational

from hf_cong import build_preference_dataset, build_sft_dataset, generate_completions
from hf_cong.prompts import prompt_id
from tests.tiny import tiny_model, tiny_tokenizer

SCHEMA = ("prompt_id", "prompt", "completion", "finish_reason")


def completions_of(texts, *, reasons=None, conversational=False, writer="w"):
    """Completions as `generate_completions` returns them; `texts` maps a prompt to its completion."""
    rows = []
    for text, completion in texts.items():
        prompt = [{"role": "user", "content": text}] if conversational else text
        reason = (reasons or {}).get(text, "stop")
        rows.append(
            dict(zip(SCHEMA, (prompt_id(prompt), prompt, completion, reason), strict=True)) | {"model": writer}
        )
    return datasets.Dataset.from_list(rows)


def adds_up(counts):
    return counts["rows_in"] == counts["kept"] + sum(counts["dropped"].values())


def test_sft_keeps_what_teaches_and_counts_the_rest():
    completions = completions_of(
        {"a": " A", "b": "", "c": " \n", "d": "D, cut", "e": "", "f": "F"}, reasons={"d": "length", "e": "length"}
    )
    dataset, counts = build_sft_dataset(completions)
    assert dataset.column_names == ["prompt_id", "prompt", "completion"]
    assert list(zip(dataset["prompt"], dataset["completion"], strict=True)) == [("a", " A"), ("f", "F")]
    assert counts == {"rows_in": 6, "kept": 2, "dropped": {"empty": 3, "truncated": 1}}
    dataset, counts = build_sft_dataset(completions, drop_truncated=False)
    assert dataset["completion"][:] == [" A", "D, cut", "F"]
    assert adds_up(counts)


def test_preferences_count_every_reason():
    chosen = completions_of(
        {"good": "A", "cut": "B", "same": "C", "blank": " ", "only chosen": "D", "worse cut": "E"},
        reasons={"cut": "length"},
    )
    rejected = completions_of(
        {"only rejected": "a", "worse cut": "e", "blank": "f", "same": "C", "cut": "g", "good": "h"},
        reasons={"worse cut": "length"},
    )
    dataset, counts = build_preference_dataset(chosen, rejected)
    assert dataset.column_names == ["prompt_id", "prompt", "chosen", "rejected"]
    assert [tuple(row.values())[1:] for row in dataset] == [("good", "A", "h"), ("worse cut", "E", "e")]
    assert counts == {
        "rows_in": 7,
        "kept": 2,
        "dropped": {"empty": 1, "identical": 1, "missing": 2, "truncated": 1},
    }
    dataset, counts = build_preference_dataset(chosen, rejected, drop_truncated=False)
    assert "cut" in dataset["prompt"][:]
    assert adds_up(counts)


@pytest.mark.parametrize("conversational", [False, True])
def test_pairs_are_joined_by_content_not_by_position(conversational):
    """One failed row shifts every later row of a positional join."""
    texts = [f"prompt {i}" for i in range(1000)]
    failed_chosen, failed_rejected = set(texts[3::29]), set(texts[5::31])
    chosen = {t: f"chosen of {t}" for t in texts if t not in failed_chosen}
    rejected = {t: f"rejected of {t}" for t in reversed(texts) if t not in failed_rejected}
    dataset, counts = build_preference_dataset(
        completions_of(chosen, conversational=conversational), completions_of(rejected, conversational=conversational)
    )
    by_position = list(zip(chosen, rejected, strict=False))
    assert sum(a != b for a, b in by_position) > 900  # the trap is set
    for row in dataset:
        text = row["prompt"][0]["content"] if conversational else row["prompt"]
        expected = [f"chosen of {text}", f"rejected of {text}"]
        if conversational:
            expected = [[{"role": "assistant", "content": content}] for content in expected]
        assert [row["chosen"], row["rejected"]] == expected
    assert counts["dropped"] == {"missing": len(failed_chosen ^ failed_rejected)}
    assert counts["rows_in"] == len(set(texts) - (failed_chosen & failed_rejected))
    assert adds_up(counts)
    assert dataset["prompt_id"][:] == [prompt_id(prompt) for prompt in dataset["prompt"]]


def test_formats_are_trls():
    for conversational in (False, True):
        chosen = completions_of({"a": "A"}, conversational=conversational)
        rejected = completions_of({"a": "B"}, conversational=conversational)
        assert is_conversational(build_sft_dataset(chosen)[0][0]) is conversational
        assert is_conversational(build_preference_dataset(chosen, rejected)[0][0]) is conversational


def test_saved_with_a_manifest_of_both_sources(tmp_path):
    tokenizer = tiny_tokenizer()
    prompts = [[{"role": "user", "content": f"tell me {i}"}] for i in range(6)]
    for name, seed in (("chosen", 0), ("rejected", 1)):
        model = tiny_model("llama", seed, vocab_size=len(tokenizer))
        generate_completions(
            prompts, model, tokenizer=tokenizer, output_dir=tmp_path / name, max_new_tokens=4, seed=seed
        )
    dataset, counts = build_preference_dataset(
        tmp_path / "chosen", tmp_path / "rejected", output_dir=tmp_path / "pairs", drop_truncated=False
    )
    saved = datasets.Dataset.from_parquet(
        str(tmp_path / "pairs" / "preferences.parquet"), cache_dir=tmp_path / "cache"
    )
    assert saved[:] == dataset[:]
    manifest = json.loads((tmp_path / "pairs" / "manifest.json").read_text())
    assert manifest["counts"] == counts
    assert manifest["drop_truncated"] is False
    assert [manifest["sources"][side]["identity"]["seed"] for side in ("chosen", "rejected")] == [0, 1]
    for side in ("chosen", "rejected"):
        own = json.loads((tmp_path / side / "manifest.json").read_text())
        assert manifest["sources"][side] == own
        assert own["generation"]["temperature"] == 0.8
        assert "weights" in own["engine"]
    assert {"transformers", "trl", "datasets"} <= set(manifest["versions"])

    sft, _ = build_sft_dataset(tmp_path / "chosen", output_dir=tmp_path / "sft", drop_truncated=False)
    assert sft["prompt"][:] == prompts
    assert (tmp_path / "sft" / "sft.parquet").exists()
    again = (tmp_path / "sft" / "sft.parquet").read_bytes()
    build_sft_dataset(tmp_path / "chosen", output_dir=tmp_path / "sft", drop_truncated=False)
    assert (tmp_path / "sft" / "sft.parquet").read_bytes() == again


def test_the_writers_of_a_dataset_are_in_the_manifest(tmp_path):
    build_sft_dataset(completions_of({"a": "A"}, writer="org/weak"), output_dir=tmp_path)
    sources = json.loads((tmp_path / "manifest.json").read_text())["sources"]
    assert sources == {"completions": {"model": ["org/weak"]}}


def test_wrong_inputs_are_refused(tmp_path):
    good = completions_of({"a": "A"})
    with pytest.raises(ValueError, match=r"`rejected` has the columns .*\['finish_reason'\] are missing"):
        build_preference_dataset(good, good.remove_columns("finish_reason"))
    with pytest.raises(ValueError, match="twice"):
        build_sft_dataset(datasets.concatenate_datasets([good, good]))
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        build_sft_dataset(tmp_path)
    with pytest.raises(
        ValueError, match=r"for preferences\.parquet: 1 arrived, dropped {'identical': 1}; at least one"
    ):
        build_preference_dataset(good, good, output_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="`chosen` is a DatasetDict"):
        build_preference_dataset(datasets.DatasetDict(train=good), good)
    for wrong in (None, [{"role": "assistant", "content": "A"}]):
        columns = {name: [good[0][name], name] for name in SCHEMA} | {"completion": [wrong, wrong]}
        with pytest.raises(ValueError, match="Row 0 of `completions` has the `completion` .* must be a string"):
            build_sft_dataset(datasets.Dataset.from_dict(columns))


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    run = {"tokenizer": tokenizer, "output_dir": tmp_path / "run", "max_new_tokens": 4}
    model = tiny_model("llama", vocab_size=len(tokenizer))
    written = generate_completions(["a", "b"], model, **run)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    good, other = completions_of({"a": "A"}), completions_of({"a": "B"})
    with pytest.raises(ValueError, match=r"holds completions\.parquet, .* sft\.parquet would .* another `output_dir`"):
        build_sft_dataset(tmp_path / "run", output_dir=tmp_path / "run", drop_truncated=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == files
    assert generate_completions(["a", "b"], model, **run)[:] == written[:]
    (tmp_path / "run" / "manifest.json").unlink()  # as a killed run leaves it
    with pytest.raises(ValueError, match=r"holds journal-00000\.jsonl"):
        build_sft_dataset(good, output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()

    build_sft_dataset(good, output_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=r"holds sft\.parquet, .* preferences\.parquet would"):
        build_preference_dataset(good, other, output_dir=tmp_path / "data")
    build_sft_dataset(other, output_dir=tmp_path / "data")  # the same dataset anew
    saved = datasets.Dataset.from_parquet(str(tmp_path / "data" / "sft.parquet"), cache_dir=tmp_path / "cache")
    assert saved["completion"][:] == ["B"]
