# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""AlpacaEval's own command, with its own default judge, takes our file; the judge's model is a server of this test.

This file imports nothing of ours: AlpacaEval's environment has other versions. What it reads is what `to_alpaca_eval`
writes, says `tests/evaluation/test_exports.py`.
"""

import csv
import json
import math
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.alpaca

OURS = Path(__file__).parents[1] / "golden" / "alpaca_eval.json"
OUTPUT = re.compile(r'"model_identifier": "(m|M)",\s*"output": """(.*?)"""', re.DOTALL)
SURE = 0.75  # how sure the judge is of the longer output


class Judge(BaseHTTPRequestHandler):
    """Answers as GPT-4 does there: one token, `m` or `M`, with the log-probabilities of both."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        outputs = dict(OUTPUT.findall(body["messages"][-1]["content"]))
        self.server.judged.append((body["model"], tuple(sorted(outputs.values()))))
        longer = max(outputs, key=lambda name: len(outputs[name]))
        logprobs = [
            {"token": name, "bytes": None, "logprob": math.log(SURE if name == longer else 1 - SURE)} for name in "mM"
        ]
        choice = {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": longer},
            "logprobs": {"content": [{**logprobs["mM".index(longer)], "top_logprobs": logprobs}]},
        }
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "x",
            "choices": [choice],
            "usage": usage,
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def judge(tmp_path):
    """The server, and the environment in which AlpacaEval asks it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        server.judged = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        config = tmp_path / "clients.yaml"
        config.write_text(
            f"default:\n  - api_key: none\n    base_url: http://127.0.0.1:{server.server_address[1]}/v1\n"
        )
        server.env = {**os.environ, "OPENAI_CLIENT_CONFIG_PATH": str(config), "HF_HUB_OFFLINE": "1"}
        yield server
        server.shutdown()


def alpaca_eval(judge, model_outputs, reference_outputs, output_path):
    """Its command; the metric is the win rate as such, since the length-controlled one needs files of the Hub."""
    options = {
        "model_outputs": model_outputs,
        "reference_outputs": reference_outputs,
        "output_path": output_path,
        "precomputed_leaderboard": None,
        "caching_path": None,
        "fn_metric": "get_winrate",
        "sort_by": "win_rate",
    }
    command = [str(Path(sys.executable).parent / "alpaca_eval")]
    command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
    run = subprocess.run(command, env=judge.env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    (leaderboard,) = output_path.rglob("leaderboard.csv")
    with open(leaderboard, newline="") as file:
        (row,) = csv.DictReader(file)
    return row, json.loads(leaderboard.with_name("annotations.json").read_text())


def test_its_own_command_judges_our_file(judge, tmp_path):
    ours = json.loads(OURS.read_text())
    # A reference whose answer is longer than ours to the last question alone; in another order.
    reference = [
        {**record, "generator": "baseline", "output": "a very long answer" if record["output"] == "4" else "no"}
        for record in reversed(ours)
    ]
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(reference))
    row, annotations = alpaca_eval(judge, OURS, path, tmp_path / "results")

    questions = {record["instruction"]: record["output"] for record in ours}  # one comes twice, and is judged once
    assert {one["instruction"]: one["output_2"] for one in annotations} == questions
    assert len(annotations) == len(judge.judged) == len(questions) == 3
    assert {one["generator_2"] for one in annotations} == {"tiny-cong"}
    preferences = {one["instruction"]: one["preference"] for one in annotations}
    expected = {name: 1 + (1 - SURE if output == "4" else SURE) for name, output in questions.items()}
    assert preferences == pytest.approx(expected)
    assert float(row["win_rate"]) == pytest.approx(100 * (SURE + SURE + 1 - SURE) / 3)
    assert int(float(row["n_total"])) == 3 and row[""] == "tiny-cong"
    assert int(float(row["avg_length"])) == sum(len(record["output"]) for record in ours) // len(ours)


def test_the_instruction_is_what_joins(judge, tmp_path):
    """The negative control: an instruction that differs by one letter meets no reference."""
    ours = json.loads(OURS.read_text())
    reference = [{**record, "output": "no", "generator": "baseline"} for record in ours]
    ours[0]["instruction"] += " "
    paths = [tmp_path / name for name in ("ours.json", "reference.json")]
    for file, records in zip(paths, (ours, reference), strict=True):
        file.write_text(json.dumps(records))
    _, annotations = alpaca_eval(judge, *paths, tmp_path / "results")
    assert {one["instruction"] for one in annotations} == {record["instruction"] for record in ours[1:]}
