# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Completions in the formats of two benchmarks, to the letter."""

import json
import os
import re
from pathlib import Path

import pytest

from hf_cong.cli import main
from hf_cong.evaluation.judges.exports import export_completions, to_alpaca_eval, to_arena_hard
from tests.tiny import tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
ANSWERED_AT = 1763755200.25

# What is asked: the third twice under two ids, and the last by nobody answered.
QUESTIONS = [
    {"uid": "q1", "category": "hard_prompt", "subcategory": "coding", "prompt": "Sort three owls by size."},
    {"uid": "q2", "category": "creative_writing", "subcategory": "", "prompt": "Name a cat.\nOne word — no more."},
    {"uid": "q3", "category": "hard_prompt", "subcategory": "math", "prompt": "What is 2 + 2?"},
    {"uid": "q4", "category": "hard_prompt", "subcategory": "math", "prompt": "What is 2 + 2?"},
    {"uid": "q5", "category": "hard_prompt", "subcategory": "math", "prompt": "What is 3 + 3?"},
]
ALPACA = [
    {"instruction": question["prompt"], "output": "a reference", "generator": "baseline", "dataset": dataset}
    for question, dataset in zip(QUESTIONS, ("koala", "vicuna", "oasst", "oasst", "oasst"), strict=True)
]
MARKDOWN = """\
# Owls

1. **pygmy** owl
2. barn owl
   - __face__ like a heart
* great grey owl

```python
# not a heading
sorted(owls)  # **not bold**
```

### Sources
**two** of **them**, but not **
here**
"""
# In another order than the questions, one of nobody's asking, with a system message, one plain.
ROWS = [
    {"prompt": "What is 2 + 2?", "completion": "4", "finish_reason": "stop"},
    {"prompt": [{"role": "user", "content": QUESTIONS[1]["prompt"]}], "completion": ' Möwe 😺 "{}" </s>'},
    {"prompt": "Who asked?", "completion": "Nobody."},
    {
        "prompt": [
            {"role": "system", "content": "You know owls."},
            {"role": "user", "content": QUESTIONS[0]["prompt"]},
        ],
        "completion": MARKDOWN,
    },
]


def letters(text):
    return len(text)


def test_alpaca_eval_is_its_format_to_the_letter():
    records = to_alpaca_eval(ROWS, "tiny-cong", questions=ALPACA)
    assert json.dumps(records, indent=2) + "\n" == (GOLDEN / "alpaca_eval.json").read_text()
    assert [record["instruction"] for record in records] == [question["prompt"] for question in QUESTIONS[:4]]
    assert [record["dataset"] for record in records] == ["koala", "vicuna", "oasst", "oasst"]
    # the negative control: by position, other answers would stand beside the instructions
    assert [record["output"] for record in records] != [row["completion"] for row in ROWS]


def test_arena_hard_is_its_format_to_the_letter():
    records = to_arena_hard(ROWS, "tiny-cong", questions=QUESTIONS, answered_at=ANSWERED_AT, count_tokens=letters)
    assert "".join(json.dumps(record) + "\n" for record in records) == (GOLDEN / "arena_hard.jsonl").read_text()
    assert [record["uid"] for record in records] == ["q1", "q2", "q3", "q4"]
    first = records[0]
    # by hand: the fence and what is in it does not count, nor does bold across lines
    assert first["metadata"] == {
        "token_len": len(MARKDOWN),
        "header_count": {"h1": 1, "h2": 0, "h3": 1, "h4": 0, "h5": 0, "h6": 0},
        "list_count": {"ordered": 2, "unordered": 2},
        "bold_count": {"**": 3, "__": 1},
    }
    assert first["messages"][-1]["content"]["answer"] == MARKDOWN  # a dict, as its judge reads it
    assert first["messages"][:-1] == ROWS[-1]["prompt"]  # with the system message, as the benchmark keeps its own
    assert re.fullmatch(r"[2-9A-HJ-NP-Za-km-z]{22}", first["ans_id"])
    assert len({record["ans_id"] for record in records}) == 4


def test_without_questions_alpaca_eval_has_all_in_their_order():
    records = to_alpaca_eval(ROWS, "tiny-cong")
    assert [record["output"] for record in records] == [row["completion"] for row in ROWS]
    assert {record["dataset"] for record in records} == {"alpaca_eval"}


def test_without_a_tokenizer_there_is_no_style_metadata():
    (record, *_) = to_arena_hard(ROWS, "tiny-cong", questions=QUESTIONS, answered_at=ANSWERED_AT)
    assert list(record) == ["uid", "ans_id", "model", "messages", "tstamp"]


def test_a_conversation_is_no_instruction():
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    with pytest.raises(ValueError, match="is not one question"):
        to_alpaca_eval([{"prompt": turns, "completion": "b"}], "tiny-cong")


def test_two_answers_to_one_question_are_refused():
    rows = [{"prompt": prompt, "completion": f"{prompt}"} for prompt in ("a", [{"role": "user", "content": "a"}])]
    with pytest.raises(ValueError, match="'a' has two completions"):
        to_alpaca_eval(rows, "tiny-cong")


@pytest.fixture
def files(tmp_path):
    for name, rows in (("rows", ROWS[:1] + ROWS[2:3]), ("question", QUESTIONS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "alpaca_eval.json").write_text(json.dumps(ALPACA))
    os.utime(tmp_path / "rows.jsonl", (ANSWERED_AT, ANSWERED_AT))
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def test_the_command_writes_alpaca_eval(files, capsys):
    argv = ["export", "--completions", str(files / "rows.jsonl"), "--format", "alpaca_eval", "--name", "org/tiny"]
    argv += ["--output_dir", str(files / "out")]
    assert main([*argv, "--questions", str(files / "alpaca_eval.json")]) == 0
    assert "2 records are in" in (out := capsys.readouterr().out)
    assert "3 questions without a completion, 1 completions of other prompts" in out
    records = json.loads((files / "out" / "model_outputs.json").read_text())
    assert records == to_alpaca_eval(ROWS[:1], "org/tiny", questions=ALPACA)
    assert main([*argv, "--questions", str(files / "alpaca_eval.json")]) == 0  # the same again is the same
    assert main(argv) == 2  # all completions would be another file
    assert "exists and holds other answers" in capsys.readouterr().err
    assert json.loads((files / "out" / "model_outputs.json").read_text()) == records


def test_a_system_message_that_the_format_has_no_place_for_is_told(files, caplog):
    asked = [{"role": "system", "content": "Be kind."}, *ROWS[1]["prompt"]]
    rows = [
        {"prompt": asked, "completion": "a"},
        {"prompt": [{"role": "user", "content": "Who asked?"}], "completion": "b"},
    ]
    (files / "systems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    export_completions(files / "systems.jsonl", format="alpaca_eval", name="tiny", output_dir=files / "out")
    assert "1 prompts have a system message, for which AlpacaEval's file has no place" in caplog.text
    assert "Be kind." not in (files / "out" / "model_outputs.json").read_text()


def test_the_command_writes_arena_hard(files, capsys):
    argv = ["export", "--completions", str(files / "rows.jsonl"), "--format", "arena_hard", "--name", "tiny-cong"]
    argv += ["--questions", str(files / "question.jsonl")]
    assert main([*argv, "--output_dir", str(files / "plain")]) == 0
    assert "add_markdown_info.py" in capsys.readouterr().out
    styled = [*argv, "--output_dir", str(files / "styled"), "--tokenizer", str(files / "tokenizer")]
    assert main(styled) == 0
    assert "add_markdown_info.py" not in capsys.readouterr().out

    def count(text):
        return len(tiny_tokenizer()(text, add_special_tokens=False)["input_ids"])

    for folder, counter in (("plain", None), ("styled", count)):
        records = [json.loads(line) for line in (files / folder / "tiny-cong.jsonl").read_text().splitlines()]
        assert records == to_arena_hard(
            ROWS[:1], "tiny-cong", questions=QUESTIONS, answered_at=ANSWERED_AT, count_tokens=counter
        )
        assert [record["uid"] for record in records] == ["q3", "q4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "mt_bench"}, "`format` must be one of alpaca_eval, arena_hard"),
        ({"questions": None}, "`questions` is needed"),
        ({"name": "../up"}, "names a file by it"),
        ({"name": ".hidden"}, "names a file by it"),
        ({"name": " "}, "it must be a line of text"),
        ({"name": "", "format": "alpaca_eval", "questions": None}, "it must be a line of text"),
        ({"name": "two\nlines"}, "it must be a line of text"),
        ({"questions": "twice.jsonl"}, "`questions` has 2 records with the `uid` 'q4'"),
        ({"questions": "none.jsonl"}, "is not a list of records"),
        ({"questions": "one.json", "format": "alpaca_eval"}, "is not a list of records"),
        ({"completions": "surrogate.jsonl"}, "must be a string of valid Unicode"),
        ({"questions": "alpaca_eval.json"}, "each needs uid and prompt as texts"),
        ({"questions": "rows.jsonl"}, "each needs uid and prompt as texts"),
        ({"format": "alpaca_eval", "tokenizer": "x"}, "`tokenizer` is for Arena-Hard's style control"),
        ({"completions": "other.jsonl"}, "None of the 1 completions answers one of the 5 questions"),
    ],
)
def test_refused(files, changes, message):
    (files / "other.jsonl").write_text(json.dumps(ROWS[2]) + "\n")
    (files / "surrogate.jsonl").write_text(json.dumps({**ROWS[0], "completion": "4\ud83d"}) + "\n")
    (files / "twice.jsonl").write_text((files / "question.jsonl").read_text() + json.dumps(QUESTIONS[3]) + "\n")
    (files / "none.jsonl").write_text("")
    (files / "one.json").write_text(json.dumps(ALPACA[0]))
    values = {"completions": "rows.jsonl", "format": "arena_hard", "name": "tiny", "questions": "question.jsonl"}
    values |= changes
    for name in ("completions", "questions"):
        values[name] = values[name] and files / values[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        export_completions(**values, output_dir=files / "out")
    assert not (files / "out").exists()


def test_a_missing_file_is_named(files):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        export_completions(
            files / "rows.jsonl", format="alpaca_eval", name="a", output_dir=files, questions=files / "none.json"
        )
