# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Systems joined by prompt, judged, resumed, and shown."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
from PIL import Image

from hf_cong import generate_completions
from hf_cong.arguments import JudgeArguments
from hf_cong.cli import main
from hf_cong.evaluation.judges import EndpointJudge, RewardModelJudge
from hf_cong.evaluation.judges.answers import read_completions
from hf_cong.evaluation.judges.run import run_judge, summarise_verdicts
from hf_cong.journal import read_journal
from hf_cong.prompts import prompt_id
from hf_cong.recipes import parse
from hf_cong.report.statistics import win_rate
from tests.evaluation.judges.reward_models import reward_model, tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

PROMPTS = [f"tell me about fox {number}" for number in range(12)]


def rows(texts, start=0):
    return [{"prompt": prompt, "completion": text} for prompt, text in zip(PROMPTS[start:], texts, strict=False)]


SYSTEMS = {
    "short": rows(["a fox"] * 10),  # the first ten prompts
    "long": rows(["a big old fox"] * 4 + ["fox"] * 4 + ["a fox"] * 2 + ["what?"] * 2)[::-1],  # all, in another order
    "other": rows(["an owl sat"] * 6, start=6),  # the last six
}


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_systems_are_joined_by_prompt(server, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        verdicts = run_judge(SYSTEMS, EndpointJudge(server.url), output_dir=tmp_path)
    by_pair = {}
    for row in verdicts:
        by_pair.setdefault((row["first"], row["second"]), []).append((row["prompt_id"], row["share"]))
    names = [prompt_id(prompt) for prompt in PROMPTS]
    assert by_pair["short", "long"] == list(zip(names[:10], [0.0] * 4 + [1.0] * 4 + [0.5] * 2, strict=True))
    assert dict(by_pair["long", "other"]) == dict(zip(names[6:], [0.0] * 6, strict=True))
    assert "short and long share 10 prompts; 0 that only short answered and 2 that only long did" in caplog.text
    summary = json.loads((tmp_path / "manifest.json").read_text())["summary"]
    assert [(row["first"], row["second"]) for row in summary] == [
        ("short", "long"),
        ("short", "other"),
        ("long", "other"),
    ]
    assert summary[0] | {"stderr": None, "interval": None} == {
        "first": "short",
        "second": "long",
        "prompts": 10,
        "rate": 0.5,
        "stderr": None,
        "interval": None,
        "wins": 4,
        "ties": 2,
        "losses": 4,
        "no_verdict": 0,
        "only_first": 0,
        "only_second": 2,
        "disagree": 0,
        "first_place": 0.5,
    }
    expected = win_rate([0.0] * 4 + [1.0] * 4 + [0.5] * 2, [0.5] * 10)
    assert summary[0]["interval"] == [expected.low, expected.high] and summary[0]["stderr"] == expected.stderr
    # the negative control: by position, the first four would not all be lost
    lengths = [[len(row["completion"]) for row in SYSTEMS[name][:4]] for name in ("short", "long")]
    assert not all(a < b for a, b in zip(*lengths, strict=True))

    page = (tmp_path / "judge.md").read_text()
    assert "| short against long  |      10 | 50.0%" in page and "0 + 2" in page and "judge-1" in page
    image = Image.open(tmp_path / "judge.png")
    assert image.width >= 800 and len(image.convert("RGB").getcolors(image.width * image.height)) > 50


def test_the_order_and_what_cannot_be_read_are_counted(server, tmp_path):
    answers = {"a big old fox": "Verdict: A", "fox": "Verdict: tie"}
    server.rule = lambda prompt, a, b: answers.get(a, answers.get(b, "I cannot tell."))
    run_judge({name: SYSTEMS[name] for name in ("short", "long")}, EndpointJudge(server.url), output_dir=tmp_path)
    (row,) = json.loads((tmp_path / "manifest.json").read_text())["summary"]
    # four prompts always for the first place, four ties, two of equal texts that nobody is asked about
    assert (row["ties"], row["disagree"], row["first_place"], row["no_verdict"]) == (10, 4, 1.0, 0)
    server.rule = lambda prompt, a, b: "I cannot tell."
    run_judge(SYSTEMS, EndpointJudge(server.url), output_dir=tmp_path / "mute", baseline="other")
    mute = json.loads((tmp_path / "mute" / "manifest.json").read_text())["summary"]
    assert [(row["first"], row["rate"], row["interval"], row["no_verdict"]) for row in mute] == [
        ("short", None, None, 4),
        ("long", None, None, 6),
    ]
    shares = [json.loads(line)["share"] for line in (tmp_path / "mute" / "verdicts.jsonl").read_text().splitlines()]
    assert shares == [None] * 10
    kept = read_journal(tmp_path / "mute" / "journal.jsonl")[1]
    assert {record["answer"]["content"] for record in kept} == {"I cannot tell."}


def test_a_baseline_spares_the_other_pairs(server, tmp_path):
    verdicts = run_judge(SYSTEMS, EndpointJudge(server.url), output_dir=tmp_path, baseline="long")
    assert {(row["first"], row["second"]) for row in verdicts} == {("short", "long"), ("other", "long")}


def test_the_same_command_goes_on_where_the_judge_failed(server, tmp_path, capsys):
    for name, table in SYSTEMS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    argv = ["judge", "--systems", json.dumps({name: f"{tmp_path / name}.jsonl" for name in SYSTEMS})]
    argv += ["--judge", server.url, "--concurrency", "3", "--output_dir"]
    assert main([*argv, str(tmp_path / "whole")]) == 0
    once = len(server.answered)
    assert "Judged by judge-1" in capsys.readouterr().out
    server.reset()
    server.misbehave = lambda number, body: 400 if number >= 17 else None
    assert main([*argv, str(tmp_path / "torn")]) == 2
    error = capsys.readouterr().err
    assert "Every answer is kept; repeat the command to go on." in error
    assert not (tmp_path / "torn" / "manifest.json").exists()
    server.misbehave = lambda number, body: None
    assert main([*argv, str(tmp_path / "torn")]) == 0
    assert len(server.answered) == len(set(server.answered)) == once
    whole, torn = files(tmp_path / "whole"), files(tmp_path / "torn")
    for name in ("verdicts.jsonl", "judge.md", "judge.png", "manifest.json"):
        assert whole[name] == torn[name], name
    # a finished run is returned, and asks for nothing
    assert main([*argv, str(tmp_path / "torn")]) == 0
    assert len(server.answered) == once
    # other completions, or another judge, are another run
    assert main([*argv, str(tmp_path / "torn"), "--max_new_tokens", "7"]) == 2
    assert "belongs to another run: `judge.max_new_tokens` 1024 there, 7 here" in capsys.readouterr().err
    table = (tmp_path / "short.jsonl").read_text()
    (tmp_path / "short.jsonl").write_text(table.replace("a fox", "no fox", 1))
    assert main([*argv, str(tmp_path / "torn")]) == 2
    assert "belongs to another run: `systems.short`" in capsys.readouterr().err
    assert files(tmp_path / "torn") == torn


def test_what_the_server_refuses_for_good_can_be_left_out(server, tmp_path):
    systems = {"a": rows(["an owl"] * 4), "b": rows(["a fox"] * 4)}
    server.misbehave = lambda number, body: 400 if PROMPTS[2] in body["messages"][0]["content"] else None
    for asked in (5, 1):  # the fifth is refused, and so it is again
        server.requests.clear()
        with pytest.raises(ConnectionError, match=f"failed after 4 of 8 .* is about the prompt '{PROMPTS[2]}'"):
            run_judge(systems, EndpointJudge(server.url, concurrency=1), output_dir=tmp_path)
        assert len([body for body in server.requests if "temperature" in body]) == asked
    answered = len(server.answered)
    verdicts = run_judge({**systems, "b": systems["b"][:2]}, EndpointJudge(server.url), output_dir=tmp_path)
    assert [row["share"] for row in verdicts] == [1.0, 1.0] and len(server.answered) == answered == 4


def test_a_reward_model_goes_on_where_it_was_killed(tmp_path):
    def judge():
        return RewardModelJudge(reward_model(pad_token_id=0), tokenizer(), batch_size=2)

    first = judge()
    run_judge(SYSTEMS, first, output_dir=tmp_path / "whole")
    whole = files(tmp_path / "whole")
    # a judge that has judged still scores, and leaves the journal alone
    assert first.score(["a new prompt"], ["a fox"]) == judge().score(["a new prompt"], ["a fox"])
    assert files(tmp_path / "whole") == whole
    lines = whole["journal.jsonl"].splitlines(keepends=True)
    for kept in (1, 5, len(lines)):
        folder = tmp_path / f"torn-{kept}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:kept]) + b'{"request": "to')
        run_judge(SYSTEMS, judge(), output_dir=folder)
        assert files(folder) == whole
    verdicts = [json.loads(line) for line in whole["verdicts.jsonl"].splitlines()]
    tables = {name: read_completions(table) for name, table in SYSTEMS.items()}
    for row in verdicts:
        texts = [tables[row[side]][row["prompt_id"]] for side in ("first", "second")]
        scores = judge().score([text["prompt"] for text in texts], [text["completion"] for text in texts])
        assert row["scores"] == pytest.approx(scores, abs=2e-5)
        a, b = row["scores"]
        assert row["share"] == (0.5 if a == b else float(a > b))
    assert "## Scores, in the reward model's unit" in whole["judge.md"].decode()
    assert "disagree" not in whole["judge.md"].decode()


@pytest.mark.slow
def test_a_killed_process_loses_no_answer(server, tmp_path):
    for name, table in SYSTEMS.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    argv = ["judge", "--systems", json.dumps({name: f"{tmp_path / name}.jsonl" for name in SYSTEMS})]
    argv += ["--judge", server.url, "--concurrency", "1", "--output_dir", str(tmp_path / "run")]
    rule = server.rule

    def slow(*texts):
        time.sleep(0.1)
        return rule(*texts)

    server.rule = slow
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_cong.cli", *argv], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while len(server.answered) < 9:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.rule = rule
    kept = len(read_journal(tmp_path / "run" / "journal.jsonl")[1])
    assert kept >= 8
    before = len(server.requests)
    assert main(argv) == 0
    assert len(server.requests) - before == len(set(server.answered)) - kept


def test_the_command_on_runs_of_this_package(tmp_path, capsys):
    """`hf-cong generate`'s output judged by a reward model on disk, its settings from a recipe."""
    prompts = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    tokens = tiny_tokenizer()
    for name, seed, wanted in (("weak", 0, prompts), ("strong", 1, prompts[:9][::-1])):
        model = tiny_model("llama", seed, vocab_size=320, eos_token_id=2, pad_token_id=0)
        generate_completions(wanted, model, tokenizer=tokens, output_dir=tmp_path / name, max_new_tokens=8)
    reward_model(pad_token_id=0).save_pretrained(tmp_path / "reward")
    tokens.save_pretrained(tmp_path / "reward")
    recipe = tmp_path / "judge.yaml"
    recipe.write_text(
        f"systems: {{strong: {tmp_path}/strong, weak: {tmp_path}/weak}}\njudge: {tmp_path}/reward\n"
        f"output_dir: {tmp_path}/judged\nbaseline: weak\ndtype: float32\n"
    )
    assert main(["judge", "--config", str(recipe)]) == 0
    out = capsys.readouterr().out
    assert "strong against weak" in out and "0 + 3" in out
    written = [
        datasets.Dataset.from_parquet(str(tmp_path / name / "completions.parquet")) for name in ("strong", "weak")
    ]
    strong, weak = ({row["prompt_id"]: row for row in table} for table in written)
    judge = RewardModelJudge(reward_model(pad_token_id=0), tokens)
    shares = judge.compare(
        [strong[name]["prompt"] for name in strong],
        *([table[n]["completion"] for n in strong] for table in (strong, weak)),
    )
    verdicts = [json.loads(line) for line in (tmp_path / "judged" / "verdicts.jsonl").read_text().splitlines()]
    assert [row["share"] for row in verdicts] == shares and [row["prompt_id"] for row in verdicts] == list(strong)
    truncated = json.loads((tmp_path / "judged" / "manifest.json").read_text())["systems"]["weak"]["truncated"]
    assert truncated == sum(row["finish_reason"] == "length" for row in weak.values())


def test_completions_of_a_search_are_named_by_method(tmp_path):
    lines = [
        {"method": method, "prompt": prompt, "completion": f"{method} {prompt}", "finish_reason": "stop", "trace": []}
        for method in ("base", "best_of_n")
        for prompt in PROMPTS[:3]
    ]
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_completions(f"{path}#best_of_n")
    assert [row["completion"] for row in found.values()] == [f"best_of_n {prompt}" for prompt in PROMPTS[:3]]
    with pytest.raises(ValueError, match="by several methods, base, best_of_n. Name one"):
        read_completions(path)
    with pytest.raises(ValueError, match="no completions by the method 'chunk'; there are: base, best_of_n"):
        read_completions(f"{path}#chunk")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([{"prompt": "a"}], "Row 0 of the completions has the `completion` None"),
        ([{"prompt": "a", "completion": 7}], "Row 0 of the completions has the `completion` 7"),
        ([{"prompt": "a", "completion": "b\ud83d"}], r"has the `completion` 'b\\ud83d'; it must be a string of valid"),
        ([{"prompt": "a", "completion": "b"}] * 2, "is a duplicate of row 0"),
        ([{"prompt": "", "completion": "b"}], "Row 0 of the prompts is empty"),
        ([{"completion": "b"}], "`completions` needs the column `prompt`"),
        ([], "No prompts"),
    ],
)
def test_completions_that_are_none_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_completions(source)


def test_a_folder_without_completions_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no .*manifest.json"):
        read_completions(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_completions(tmp_path / "none.jsonl")


def test_refused(server, tmp_path):
    judge = EndpointJudge(server.url)
    with pytest.raises(ValueError, match="`baseline` is 'none'; it must be one of the systems: short, long, other"):
        run_judge(SYSTEMS, judge, output_dir=tmp_path / "a", baseline="none")
    messages = [{"prompt": [{"role": "user", "content": PROMPTS[0]}], "completion": "a"}]
    with pytest.raises(ValueError, match=r"no prompt in common \(10 against 1 prompts\). A text and a message"):
        run_judge({"short": SYSTEMS["short"], "messages": messages}, judge, output_dir=tmp_path / "a")
    with pytest.raises(ValueError, match="The completions of bad: Row 1 of the completions has the `completion` None"):
        run_judge({**SYSTEMS, "bad": [*rows(["a"]), {"prompt": "b"}]}, judge, output_dir=tmp_path / "a")
    with pytest.raises(ValueError, match="The completions of bad: `completions` is a int"):
        run_judge({**SYSTEMS, "bad": 3}, judge, output_dir=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_text_longer_than_a_reward_model_takes_stops_nothing(tmp_path):
    systems = {"short": rows(["a fox"] * 3), "long": rows(["an owl", "an owl " * 999, "a cat"])}
    judge = RewardModelJudge(reward_model(pad_token_id=0), tokenizer())
    verdicts = run_judge(systems, judge, output_dir=tmp_path)
    assert [row["share"] is None for row in verdicts] == [False, True, False]
    (summary,) = json.loads((tmp_path / "manifest.json").read_text())["summary"]
    assert (summary["prompts"], summary["no_verdict"]) == (3, 1)
    assert summary["rate"] == (verdicts[0]["share"] + verdicts[2]["share"]) / 2
    page = (tmp_path / "judge.md").read_text()
    assert re.search(r"\| short +\| +3 \| -?\d", page) and re.search(r"\| long +\| +2 \| -?\d", page)


@pytest.mark.parametrize(
    "systems", ["a", "{}", '{"a\\nb": "c", "d": "e"}', '{"a": "b"}', '{"": "b", "c": "d"}', '["a", "b"]', None]
)
def test_two_systems_have_names(systems, tmp_path, capsys):
    given = [] if systems is None else ["--systems", systems]
    assert main(["judge", *given, "--judge", "http://127.0.0.1:1/v1", "--output_dir", str(tmp_path)]) == 2
    assert "it must map two or more names to completions" in capsys.readouterr().err
    assert main(["judge", "--systems", "{a", "--judge", "x", "--output_dir", str(tmp_path)]) == 2
    assert "`systems` is not JSON" in capsys.readouterr().err


def test_what_only_the_users_hand_may_set(gated, tmp_path, capsys):
    (name, _), _ = gated
    for key, table in SYSTEMS.items():
        (tmp_path / f"{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    recipe = tmp_path / "judge.yaml"
    base = f"systems: {{short: {tmp_path}/short.jsonl, long: {tmp_path}/long.jsonl}}\noutput_dir: {tmp_path}/out\n"
    recipe.write_text(base + "judge: http://evil/v1\n")
    assert main(["judge", "--config", str(recipe)]) == 2
    assert "sets `judge` to a URL: a server gets your prompts" in capsys.readouterr().err
    recipe.write_text(base + f"judge: {name}\ntrust_remote_code: true\n")
    assert main(["judge", "--config", str(recipe)]) == 2
    assert "sets `trust_remote_code`" in capsys.readouterr().err
    recipe.write_text(base + f"judge: {name}\n")
    assert main(["judge", "--config", str(recipe)]) == 2
    assert "`--trust_remote_code` by hand" in capsys.readouterr().err
    assert main(["judge", "--config", str(recipe), "--trust_remote_code"]) == 0


def test_the_repositorys_recipe_parses():
    path = Path(__file__).parents[3] / "recipes" / "qwen2.5" / "judge.yaml"
    (args,) = parse((JudgeArguments,), ["--config", str(path)], prog="hf-cong judge")
    assert args.baseline in args.systems


def test_a_summary_by_hand():
    rows_ = [
        {"first": "a", "second": "b", "prompt_id": str(number), "share": share, "orders": orders}
        for number, (share, orders) in enumerate(
            [(1.0, ["A", "B"]), (0.5, ["A", "A"]), (0.5, ["tie", "B"]), (None, ["A", None]), (0.5, None)]
        )
    ]
    (row,) = summarise_verdicts(rows_, {("a", "b"): (3, 1)})
    assert (row["prompts"], row["wins"], row["ties"], row["losses"], row["no_verdict"]) == (5, 1, 3, 0, 1)
    assert row["rate"] == pytest.approx(2.5 / 4)
    # "A" and "A" disagree, and so do a tie and a "B"; four of six decided verdicts are for the first place
    assert (row["disagree"], row["first_place"]) == (2, pytest.approx(4 / 6))
