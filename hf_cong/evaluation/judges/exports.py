# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Completions in the file formats of two benchmarks with judges of their own: AlpacaEval 2 and Arena-Hard-Auto.

Only their own tools give comparable numbers; what is written here is their input.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from ...journal import replacing
from ...prompts import read_rows
from .answers import locate_completions, question_text, read_completions

logger = logging.getLogger(__name__)

FORMATS = ("alpaca_eval", "arena_hard")
_SHORT_UUID = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def to_alpaca_eval(
    rows: Iterable[Mapping], generator: str, *, questions: Sequence[Mapping] | None = None
) -> list[dict]:
    """
    Records of AlpacaEval's `model_outputs.json`.

    AlpacaEval joins systems by the text of the `instruction`, so a prompt must be the instruction itself: plain text,
    or the one message of the user. It has no place for a system message before that, which is left out.

    Args:
        rows (`Iterable[Mapping]`):
            Completions, with `prompt` and `completion`.
        generator (`str`):
            The system's name on the leaderboard.
        questions (`Sequence[Mapping]`, *optional*):
            The benchmark's own records, with `instruction` and perhaps `dataset`: theirs is then the order, and
            completions of other prompts are left out. The `output` of a reference system does no harm.

    Returns:
        `list[dict]`: `instruction`, `output`, `generator`, `dataset` (where the instruction is from; `"alpaca_eval"`
        if the questions do not tell) and `datasplit` (`"eval"`).

    Raises:
        ValueError: if a prompt is no instruction, or comes twice with different completions.

    Source: [AlpacaEval](https://github.com/tatsu-lab/alpaca_eval), `model_outputs.json`; https://huggingface.co/papers/2404.04475
    """
    outputs = _by_question(rows)
    if questions is None:
        questions = [{"instruction": instruction} for instruction in outputs]
    return [
        {
            "instruction": question["instruction"],
            "output": outputs[question["instruction"]]["completion"],
            "generator": generator,
            "dataset": question.get("dataset", "alpaca_eval"),
            "datasplit": "eval",
        }
        for question in questions
        if question["instruction"] in outputs
    ]


def to_arena_hard(
    rows: Iterable[Mapping],
    model: str,
    *,
    questions: Sequence[Mapping],
    answered_at: float,
    count_tokens: Callable[[str], int] | None = None,
) -> list[dict]:
    """
    Records of Arena-Hard-Auto's `model_answer/<model>.jsonl`. A system message before the question is kept in them.

    Args:
        rows (`Iterable[Mapping]`):
            Completions, with `prompt` and `completion`.
        model (`str`):
            The system's name, which must be the file's too.
        questions (`Sequence[Mapping]`):
            The benchmark's `question.jsonl`, with `uid` and `prompt`. Completions of other prompts are left out.
        answered_at (`float`):
            Time of the answers, in seconds since 1970.
        count_tokens (`Callable[[str], int]`, *optional*):
            Tokens in a text, by the benchmark's own tokenizer, GPT-4o's. With it the records have the `metadata` that
            style control reads; without it they have none, and the benchmark's `utils/add_markdown_info.py` adds it.

    Returns:
        `list[dict]`: `uid`, `ans_id` (made of the content), `model`, `messages`, `tstamp` and perhaps `metadata`.

    Raises:
        ValueError: if a prompt is not one question, or comes twice with different completions.

    Source: [Arena-Hard-Auto](https://github.com/lmarena/arena-hard-auto), `gen_answer.py`; https://huggingface.co/papers/2406.11939
    """
    answers, records = _by_question(rows), []
    for question in questions:
        if question["prompt"] not in answers:
            continue
        prompt, answer = (answers[question["prompt"]][name] for name in ("prompt", "completion"))
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        record = {
            "uid": question["uid"],
            "ans_id": _short_uuid(model, question["uid"], answer),
            "model": model,
            "messages": [
                *({"role": message["role"], "content": message["content"]} for message in prompt),
                {"role": "assistant", "content": {"answer": answer}},
            ],
            "tstamp": float(answered_at),
        }
        if count_tokens is not None:
            record["metadata"] = {"token_len": count_tokens(answer), **_count_markdown(answer)}
        records.append(record)
    return records


def export_completions(
    completions: str | Path,
    *,
    format: str,
    name: str,
    output_dir: str | Path,
    questions: str | Path | None = None,
    tokenizer: str | None = None,
) -> tuple[Path, dict[str, int]]:
    """
    Writes completions as a file for AlpacaEval 2 or Arena-Hard-Auto.

    Args:
        completions (`str` or `Path`):
            See [`read_completions`].
        format (`str`):
            `"alpaca_eval"` writes `model_outputs.json`, `"arena_hard"` writes `<name>.jsonl`.
        name (`str`):
            The system's name on the leaderboard.
        output_dir (`str` or `Path`):
            Where the file goes: for Arena-Hard its `data/<benchmark>/model_answer`.
        questions (`str` or `Path`, *optional*):
            The benchmark's own file: AlpacaEval's `alpaca_eval.json`, or Arena-Hard's `question.jsonl`, which must be
            given since it has the ids.
        tokenizer (`str`, *optional*):
            A tokenizer equal to GPT-4o's, path or Hub id such as `"Xenova/gpt-4o"`, to count tokens for Arena-Hard's
            style control; see [`to_arena_hard`].

    Returns:
        `tuple[Path, dict[str, int]]`: the file, and how many `records` it has, how many questions are `unanswered` and
        how many completions `unasked`, which are left out.

    Raises:
        ValueError: if the format is unknown, `name` is not one line of text or cannot be the file's name, the
            questions are not those of the format, no completion answers one, or the file exists and holds something
            else.
        FileNotFoundError: if there is no such file.
    """
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {repr(format)[:80]}.")
    if format == "arena_hard" and questions is None:
        raise ValueError(
            "`questions` is needed: Arena-Hard's answers have the `uid` of its `question.jsonl`. Pass it."
        )
    if format != "arena_hard" and tokenizer is not None:
        raise ValueError(f"`tokenizer` is for Arena-Hard's style control; {format} has none. Leave it out.")
    if not (name.strip() and name.isprintable()) or (format == "arena_hard" and re.search(r"^\.|[/\\]", name)):
        raise ValueError(
            f"`name` is {name[:80]!r}; it must be a line of text. Arena-Hard names a file by it: leave out slashes "
            "and leading dots there."
        )
    rows = read_completions(completions).values()
    if format == "alpaca_eval":
        if count := sum(_begins_with_system(row["prompt"]) for row in rows):
            logger.warning("%d prompts have a system message, for which AlpacaEval's file has no place.", count)
        asked = None if questions is None else _read_questions(questions, ("instruction",))
        path, key = Path(output_dir) / "model_outputs.json", "instruction"
        records = to_alpaca_eval(rows, name, questions=asked)
        text = json.dumps(records, indent=2) + "\n"
    else:
        asked = _read_questions(questions, ("uid", "prompt"))
        uid, times = Counter(question["uid"] for question in asked).most_common(1)[0]
        if times > 1:  # the benchmark would keep the last answer alone
            raise ValueError(f"`questions` has {times} records with the `uid` {uid[:80]!r}. Correct the file.")
        path, key = Path(output_dir) / f"{name}.jsonl", "prompt"
        answered_at = locate_completions(completions)[0].stat().st_mtime
        counter = None if tokenizer is None else _counter(tokenizer)
        records = to_arena_hard(rows, name, questions=asked, answered_at=answered_at, count_tokens=counter)
        text = "".join(json.dumps(record) + "\n" for record in records)
    texts = {_question(row["prompt"]) for row in rows}
    unasked = 0 if asked is None else len(texts - {question[key] for question in asked})
    if not records:
        raise ValueError(
            f"None of the {len(rows)} completions answers one of the {len(asked)} questions; the prompts must be the "
            "questions' text, to the letter. Pass completions of this benchmark's prompts."
        )
    if path.exists() and path.read_text(encoding="ascii", errors="replace") != text:
        raise ValueError(f"{path} exists and holds other answers. Choose another `output_dir`, or move the file away.")
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="ascii")
    unanswered = 0 if asked is None else len(asked) - len(records)
    return path, {"records": len(records), "unanswered": unanswered, "unasked": unasked}


def _by_question(rows: Iterable[Mapping]) -> dict[str, Mapping]:
    """Rows by the text of what they answer."""
    answers = {}
    for row in rows:
        question = _question(row["prompt"])
        if answers.setdefault(question, row)["completion"] != row["completion"]:
            raise ValueError(f"The prompt {question[:80]!r} has two completions. Pass those of one system, each once.")
    return answers


def _question(prompt: str | list[dict]) -> str:
    """The text of a prompt that is one question; a system message before it is the system's own matter."""
    text = question_text(prompt[1:] if _begins_with_system(prompt) else prompt)
    if text is None:
        raise ValueError(
            f"The prompt {repr(prompt)[:80]} is not one question; the benchmark's prompts are one message of the user "
            "each. Pass completions of its prompts."
        )
    return text


def _begins_with_system(prompt: str | list[dict]) -> bool:
    return not isinstance(prompt, str) and prompt[0]["role"] == "system"


def _read_questions(path: str | Path, needed: tuple[str, ...]) -> list[dict]:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`questions`: there is no file {path}.")
    if path.suffix == ".json":
        try:
            questions = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"`questions`: {path} is not JSON ({str(error)[:160]}). Correct the file.") from None
    else:
        questions = [dict(row) for row in read_rows(path, needed[-1], name="questions")]
    if not isinstance(questions, list) or not questions:
        raise ValueError(f"`questions`: {path} is not a list of records. Pass the benchmark's own file.")
    for index, question in enumerate(questions):
        if not isinstance(question, dict) or not all(isinstance(question.get(name), str) for name in needed):
            raise ValueError(
                f"`questions`: record {index} of {path} is {repr(question)[:80]}; each needs {' and '.join(needed)} "
                "as texts. Pass the benchmark's own file."
            )
    return questions


def _counter(name: str) -> Callable[[str], int]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    # What looks like a special token is text, as in the benchmark's own count.
    return lambda text: len(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _count_markdown(answer: str) -> dict[str, dict[str, int]]:
    """Headings, items and bold stretches, as the benchmark counts them: what stands in a fence does not count."""
    for code in re.findall("```([^`]*)```", answer):
        answer = answer.replace(code, "")

    def count(pattern: str) -> int:
        return len(re.findall(pattern, answer, re.MULTILINE))

    return {
        "header_count": {f"h{level}": count(rf"^#{{{level}}}\s") for level in range(1, 7)},
        "list_count": {"ordered": count(r"^\s*\d+\.\s"), "unordered": count(r"^\s*[-*+]\s")},
        "bold_count": {"**": count(r"\*\*[^*\n]+\*\*"), "__": count(r"__[^_\n]+__")},
    }


def _short_uuid(*parts: str) -> str:
    """Twenty-two characters of the alphabet of short UUIDs, made of the content: the same export, the same bytes."""
    number = int.from_bytes(hashlib.sha256(json.dumps(parts).encode("ascii")).digest()[:16], "big")
    digits = ""
    for _ in range(22):
        number, digit = divmod(number, len(_SHORT_UUID))
        digits = _SHORT_UUID[digit] + digits
    return digits
