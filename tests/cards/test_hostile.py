# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Whatever a name, a setting or a result holds, a card stays a card: it is no markup, no metadata and no template."""

import dataclasses
import io

import datasets
import pytest
from huggingface_hub import DatasetCard, ModelCard

from hf_cong.cards import Result, dataset_card, eval_results_files, rendering
from tests.cards.examples import KINDS, MANIFEST, PROMPT, structure, tokens

MARK, HARMLESS = "zzevil", "two words"
HOSTILE = {
    "script": "<script>zzevil()</script>",
    "image": "<img src=x onerror=zzevil()>",
    "comment": "zzevil <!-- ",
    "details": "</details></td></table>zzevil",
    "code": "`zzevil`",
    "two backticks": "``zzevil` ```",
    "fence": "```\nzzevil\n```\n",
    "tilde fence": "~~~\nzzevil",
    "cells": "a|zzevil|b \\| c",
    "table": "| zzevil | b |\n| --- | --- |\n| 1 | 2 |",
    "heading": "x\n\n# zzevil\n",
    "setext": "zzevil\n===\n",
    "list": "- zzevil\n- b\n1. c",
    "indented": "\n\n    zzevil",
    "link": "[zzevil](https://evil.example)",
    "image link": "![zzevil](https://evil.example/x.png)",
    "reference": "[zzevil]: https://evil.example\n[zzevil]",
    "address": "https://evil.example/zzevil",
    "angle": "<https://evil.example/zzevil>",
    "script address": "[zzevil](javascript:alert(1))",
    "emphasis": "*zzevil* __b__ ~~c~~",
    "entity": "&lt;b&gt;zzevil&#60;b&#62;",
    "front matter": "\n---\nlicense: mit\ntags:\n- zzevil\n---\n",
    "carriage returns": "x\r---\rlicense: mit # zzevil\r---\r",
    "yaml tag": "!!python/object/apply:os.system ['zzevil']",
    "yaml anchor": "&a {zzevil: *a}",
    "quotes": "'\"zzevil\\\"'\\",
    "variable": "{{ 7 * 7 }} zzevil {{ terms }}",
    "statement": "{% include 'model.md.jinja' %}{% raw %}zzevil",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}zzevil",
    "backwards": "zzevil\u202egnp.exe\u2066",
    "invisible": "zz\u200be\u200dvi\ufeffl\u00ad",
    "control": "\x00\x1b[31mzzevil\x07\x7f\x85",
    "surrogate": "\ud800zzevil\udfff",
    "line separators": "zzevil\u2028# b\u2029# c",
    "long": "zzevil" * 2000,
    "long markup": "<b>zzevil</b>|`" * 800,
    "formula": "$$zzevil$$ \\(x\\) $zzevil$",
    "bare address": "www.zzevil.example mail@zzevil.example ftp://zzevil.example",
    "mention": "@zzevil #123 org/zzevil#1 :tada: GH-1",
    "footnote": "x[^zzevil]\n\n[^zzevil]: y",
    "task list": "- [ ] zzevil\n  - [x] b\n    1. c",
    "windows lines": "x\r\n---\r\nlicense: mit # zzevil\r\n---\r\n# y",
    "documents": "...\n---\nzzevil: 1\n...\n%YAML 1.1",
    "yaml bomb": "a: &a [zzevil]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]",
    "merge key": "<<: *zzevil",
    "details block": "<details><summary>zzevil</summary>\n\n# b\n\n</details>",
    "bibtex": "}\n@misc{zzevil, title={x}}\n```\n# zzevil",
    "template comment": "{# zzevil #}{%- endblock -%}{{ '%s' % zzevil }}",
    "marks": "z\u0301\u0301\u0301zevil zzevil\U000e0041\u2800\u3164",
}


def planted(value: str) -> dict:
    """The manifest with a value wherever it holds a string that somebody named."""
    license = {"id": "other", "name": value, "link": value}
    return {
        "run": value,
        "method": value,
        "sources": {
            "model": {"name": value, "commit": value, "license": license, "language": [value]},
            "weak_model": {"name": value, "commit": None, "license": {**license, "id": value}, "language": [value]},
            "weak_reference_model": {"name": value, "commit": value, "license": None, "language": [value]},
            "prompts": {"name": value, "commit": value, "license": license, "language": []},
        },
        "settings": {
            "alpha": value,
            "beta": value,
            "plausibility_threshold": value,
            "seed": value,
            f"x{value}": [value, value],
        },
        "adapter": {"r": 8, "target_modules": [value, value], f"x{value}": value},
        "stages": MANIFEST["stages"],
        "counts": {
            f"sft/{value}": {"rows_in": 2, "kept": 1, "dropped": {value: 1}},
            "dpo/train": {"rows_in": 2, "kept": 1, "dropped": {value: 1}},
        },
        "measures": {"sft": {value: 1.0}, "dpo": {value: value}},
        "versions": {value: value},
    }


def results(value: str) -> list[Result]:
    one = Result(
        system=value,
        task=value,
        metric=value,
        filter=value,
        value=0.5,
        model=value,
        difference={"mean": 0.1, "low": None, "high": None},
        reading=value,
        baseline=value,
        note=value,
    )
    return [one, dataclasses.replace(one, system="other", dataset=value, config=value, split=value)]


def card_of(kind: str, value: str) -> str:
    more = {} if kind == "data" else {"system": value}
    return KINDS[kind](planted(value), results(value), **more)


def seen_outside_code(card: str) -> list[str]:
    """Where the mark stands in what a reader sees, but as code of one line or in a Python string."""
    found = []
    for token in tokens(card):
        attributes = " ".join(map(str, token.attrs.values()))
        if token.type not in ("code_inline", "inline", "fence") and MARK in token.content.lower() + attributes.lower():
            found.append(f"{token.type}: {token.content[:80]}")
    return found


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_card_stays_a_card(hub, kind, value):
    card = card_of(kind, value)
    # the same elements, and the same links, as for a harmless word in its place
    assert structure(card) == structure(card_of(kind, HARMLESS))
    assert not seen_outside_code(card)
    assert "html_inline" not in structure(card) and "html_block" not in structure(card)
    for line in card.splitlines():
        assert not line.startswith(("# zz", "<", "{")) or line == "# strong-cong"
    # what is invisible or turns the text around is gone, and no value is long
    assert not [letter for letter in card if not letter.isprintable() and letter != "\n"]
    assert max(len(line) for line in card.splitlines() if not line.startswith("base = ")) < 3000
    card.encode()
    parsed = (DatasetCard if kind == "data" else ModelCard)(card)
    parsed.validate()
    data = parsed.data.to_dict()
    expected = (DatasetCard if kind == "data" else ModelCard)(card_of(kind, HARMLESS)).data.to_dict()
    assert data.keys() == expected.keys()
    for name in data.keys() - {"license_name", "model-index"}:
        assert data[name] == expected[name], name
    if "license_name" in data:
        assert set(data["license_name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789.+-")


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_string_in_code_stays_a_string(value):
    def card_of_adapter(base: str) -> str:
        return KINDS["adapter"]({"sources": {"model": {"name": base, "commit": None}}}, ())

    card = card_of_adapter(value)
    assert structure(card) == structure(card_of_adapter(HARMLESS))
    (block,) = [token.content for token in tokens(card) if token.type == "fence" and token.info == "python"]
    (line,) = [line for line in block.splitlines() if line.startswith("base = ")]
    seen = []
    exec(line, {"AutoModelForCausalLM": type("_", (), {"from_pretrained": seen.append})})  # noqa: S102
    assert seen == [value] and block.isascii()


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_columns_of_a_dataset(hub, value):
    value = value.encode(errors="replace").decode().replace("\0", "")  # Arrow holds neither surrogates nor zeros
    buffer = io.BytesIO()
    datasets.Dataset.from_list([{"prompt": PROMPT, value: "x", "completion": "y"}]).to_parquet(buffer)
    card = dataset_card({}, repo_id="org/data", files={"sft/train.parquet": buffer.getvalue()})
    parsed = DatasetCard(card)
    parsed.validate()
    assert [feature["name"] for feature in parsed.data.to_dict()["dataset_info"]["features"]] == [
        "prompt",
        value,
        "completion",
    ]
    assert not seen_outside_code(card)


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_results_for_a_leaderboard(value):
    result = Result("x", "gsm8k", "exact_match", 0.5, filter="strict-match", num_fewshot=5)
    (content,) = eval_results_files([result], repo_id="org/x").values()
    assert eval_results_files([dataclasses.replace(result, system=value, model=value)], repo_id="org/x") == {
        ".eval_results/gsm8k.yaml": content
    }
    assert not eval_results_files([dataclasses.replace(result, task=value)], repo_id="org/x")


def test_without_the_filter_values_are_markup(monkeypatch):
    """Negative control: when the one filter lets text through, most values are seen to change the card."""
    harmless = structure(card_of("model", HARMLESS))
    assert structure(card_of("model", HOSTILE["script"])) == harmless
    monkeypatch.setattr(rendering, "code", lambda value: rendering.Markdown(value))
    rendering._environment.cache_clear()
    harmless = structure(card_of("model", HARMLESS))
    changed = [name for name, value in HOSTILE.items() if structure(card_of("model", value)) != harmless]
    rendering._environment.cache_clear()
    assert len(changed) > 15, changed
