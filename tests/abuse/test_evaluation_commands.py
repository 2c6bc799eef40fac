# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the commands of an evaluation refuse: in one line, before anything is written, whatever arrives."""

import json

import pytest
import torch
from transformers import LlamaForSequenceClassification

from hf_cong.cli import main
from tests.tiny import tiny_config, tiny_pair, tiny_tokenizer

NEAR = {"vocab_size": 320, "initializer_range": 0.1, "eos_token_id": 2, "pad_token_id": 0}
PROMPTS = [[{"role": "user", "content": f"tell me about the {word}"}] for word in ("cat", "dog", "fox", "owl")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths by name: a pair, a reward model, prompts, completions of two systems, and files that are wrong."""
    root = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    reward_model = LlamaForSequenceClassification(tiny_config("llama", **NEAR, num_labels=1))
    models = dict(zip(("policy", "reference"), tiny_pair("llama", **NEAR), strict=True))
    for name, model in (models | {"reward_model": reward_model}).items():
        model.save_pretrained(root / name)
        tiny_tokenizer().save_pretrained(root / name)
    rows = {
        "prompts": [{"prompt": prompt} for prompt in PROMPTS],
        "first": [{"prompt": prompt, "completion": "the cat"} for prompt in PROMPTS],
        "second": [{"prompt": prompt, "completion": "a dog"} for prompt in PROMPTS],
        "twice": [{"prompt": PROMPTS[0], "completion": "a dog"}] * 2,
        "no_text": [{"prompt": PROMPTS[0], "completion": None}],
        "a_number": [{"prompt": PROMPTS[0], "completion": 3}],
        "another_prompt": [{"prompt": "another", "completion": "a dog"}],
        "no_rows": [],
        "two_turns": [
            {"prompt": [*PROMPTS[0], {"role": "assistant", "content": "a"}, *PROMPTS[1]], "completion": "a"}
        ],
        "no_uid": [{"prompt": "tell me about the cat"}],
    }
    for name, lines in rows.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "torn.jsonl").write_text('{"prompt": "a", "compl')
    return {path.stem: str(path) for path in root.iterdir()}


JUDGE = ["judge", "--judge", "{reward_model}"]
EXPORT = ["export", "--format", "alpaca_eval", "--name", "me"]
ARENA = ["export", "--format", "arena_hard", "--completions", "{first}"]
PAIR = ["--policy", "{policy}", "--reference", "{reference}", "--prompts", "{prompts}", "--max_new_tokens", "4"]
SWEEP, CHECK = ["sweep", *PAIR], ["check-pair", *PAIR]
EVALUATE = ["evaluate", "--baseline", "base", "--prompts", "{prompts}", "--max_new_tokens", "4"]


def systems(**named):
    return ["--systems", json.dumps(named).replace("{", "{{").replace("}", "}}").replace("<", "{").replace(">", "}")]


def judged(second):
    return [*JUDGE, *systems(first="<first>", second=second)]


def evaluated(**more):
    return [*EVALUATE, *systems(base={"model": "<policy>"}, **more)]


REFUSED = {
    "judge: one system": ([*JUDGE, *systems(first="<first>")], "two or more"),
    "judge: no systems": (JUDGE, "`systems` is None"),
    "judge: no JSON": ([*JUDGE, "--systems", "a=b"], "`systems` is 'a=b'"),
    "judge: no such baseline": ([*judged("<second>"), "--baseline", "third"], "`baseline` is 'third'"),
    "judge: no such file": (judged("<first>.gone.jsonl"), "gone.jsonl"),
    "judge: a causal model": (["judge", "--judge", "{policy}", *judged("<second>")[3:]], "labels"),
    "judge: a prompt twice": (judged("<twice>"), "duplicate"),
    "judge: no text": (judged("<no_text>"), "`completion` None"),
    "judge: a number": (judged("<a_number>"), "`completion` 3"),
    "judge: other prompts": (judged("<another_prompt>"), "no prompt in common"),
    "judge: no rows": (judged("<no_rows>"), "0 rows arrived"),
    "judge: a torn file": (judged("<torn>"), "line 1 is not JSON"),
    "judge: batches of 0": ([*judged("<second>"), "--batch_size", "0"], "`batch_size` must be at least 1"),
    "judge: no server": (["judge", "--judge", "http://localhost:9/v1", *judged("<second>")[3:]], "localhost:9"),
    "export: no text": ([*EXPORT, "--completions", "{no_text}"], "`completion` None"),
    "export: two turns": ([*EXPORT, "--completions", "{two_turns}"], "not one question"),
    "export: no questions": ([*ARENA, "--name", "me"], "`questions` is needed"),
    "export: no ids": ([*ARENA, "--name", "me", "--questions", "{no_uid}"], "each needs uid and prompt"),
    "export: a path for a name": ([*ARENA, "--name", "../me", "--questions", "{no_uid}"], "leave out slashes"),
    "sweep: alpha above 1": ([*SWEEP, "--alphas", "0.4", "1.4"], "`alpha` must lie in [0, 1], got 1.4"),
    "sweep: alpha is no number": ([*SWEEP, "--alphas", "nan"], "`alpha` must lie in [0, 1], got nan"),
    "sweep: an alpha twice": ([*SWEEP, "--alphas", "0.4", "0.4"], "each number once"),
    "sweep: a threshold of 1": ([*SWEEP, "--plausibility_thresholds", "1"], "must lie in [0, 1), got 1.0"),
    "sweep: temperature 0": ([*SWEEP, "--temperatures", "0"], "above 0"),
    "sweep: a causal reward model": ([*SWEEP, "--reward_model", "{policy}"], "labels"),
    "sweep: no pair": (["sweep", "--policy", "{policy}", "--prompts", "{prompts}"], "is no pair"),
    "sweep: too long": ([*SWEEP, "--max_new_tokens", "600"], "context leaves"),
    "evaluate: nothing to measure": ([*evaluated()[:3], *evaluated()[7:]], "nothing to measure"),
    "evaluate: no systems": ([*EVALUATE, *systems()], "Name at least one"),
    "evaluate: no settings": (evaluated(a=None), "The system 'a' is None"),
    "evaluate: an unknown setting": (evaluated(a={"policy": "<policy>", "alfa": 1}), "did you mean `alpha`"),
    "evaluate: alpha of one model": (evaluated(a={"model": "<policy>", "alpha": 0.4}), "no setting 'alpha'"),
    "evaluate: a text for alpha": (
        evaluated(a={"policy": "<policy>", "reference": "<reference>", "alpha": "0.4"}),
        "must be an int or a float, got '0.4'",
    ),
    "evaluate: a path for a name": (evaluated(**{"../a": {"model": "<policy>"}}), "no slash"),
    "evaluate: a long name": (evaluated(**{"a" * 300: {"model": "<policy>"}}), "1 to 80"),
    "evaluate: a model rewards": ([*evaluated(), "--reward", "base"], "is no pair"),
    "evaluate: no documents": ([*evaluated(), "--tasks", "arc_easy", "--limit", "0"], "`limit`"),
    "evaluate: temperature is no number": ([*evaluated(), "--temperature", "nan"], "`temperature` (=nan)"),
    "evaluate: temperature 0": ([*evaluated(), "--temperature", "0"], "`temperature` (=0.0)"),
    "evaluate: endless temperature": ([*evaluated(), "--temperature", "inf"], "`temperature` must be finite"),
    "evaluate: batches of 0": ([*evaluated(), "--batch_size", "0"], "`batch_size` must be"),
    "evaluate: no tokens": ([*EVALUATE[:-1], "0", *evaluated()[7:]], "`max_new_tokens` must be at least 1"),
    "evaluate: top_p above 1": ([*evaluated(), "--top_p", "1.5"], "top_p"),
    "check-pair: alpha above 1": ([*CHECK, "--alpha", "1.4"], "`alpha` must lie in [0, 1], got 1.4"),
    "check-pair: no prompts": ([*CHECK, "--num_prompts", "0"], "`num_prompts`"),
    "check-pair: no pair": (["check-pair", "{policy}", "--prompts", "{prompts}"], "is no pair"),
    "check-pair: prompts are no preferences": ([*CHECK, "--preferences", "{prompts}"], "column `chosen`"),
    "check-pair: a torn file": ([*CHECK, "--preferences", "{torn}"], "line 1 is not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_and_nothing_is_written(files, tmp_path, capsys, case):
    argv, reason = REFUSED[case]
    argv = [part.format(**files) for part in argv]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    refusals = [line for line in captured.err.splitlines() if line.startswith(f"hf-cong {argv[0]}: ")]
    assert len(refusals) == 1 and reason in refusals[0], captured.err
    assert "Traceback" not in captured.err and not captured.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [
        judged("<second>"),
        [*EXPORT, "--completions", "{second}"],
        [*SWEEP, "--alphas", "0.4", "1"],
        evaluated(pair={"policy": "<policy>", "reference": "<reference>"}),
        [*CHECK, "--planned_max_new_tokens", "64"],
    ],
    ids=lambda argv: argv[0],
)
def test_what_they_are_made_of_is_accepted(files, tmp_path, argv):
    assert main([part.format(**files) for part in [*argv, "--output_dir", str(tmp_path / "out")]]) == 0
    assert any((tmp_path / "out").iterdir())
