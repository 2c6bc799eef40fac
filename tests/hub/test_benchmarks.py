# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""lm-eval's own task files read the small data sets: who knows the answers gets all of them, who does not, none."""

import pytest

pytest.importorskip("lm_eval")
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from tests.task_data import FOLLOWED

METRICS = {
    "mmlu_anatomy": "acc,none",
    "arc_challenge": "acc,none",
    "hellaswag": "acc,none",
    "truthfulqa_mc2": "acc,none",
    "winogrande": "acc,none",
    "gsm8k": "exact_match,strict-match",
    "ifeval": "prompt_level_strict_acc,none",
}
SHOTS = {"mmlu_anatomy": 5, "arc_challenge": 25, "hellaswag": 10, "winogrande": 5, "gsm8k": 5}


class Examinee(LM):
    """Reads the answers in the documents themselves."""

    def __init__(self, knows: bool):
        super().__init__()
        self.knows, self.contexts = knows, {}

    def loglikelihood(self, requests):
        return [(0.0 if self._right(request) is self.knows else -1000.0, True) for request in requests]

    def _right(self, request) -> bool:
        doc, choice = request.doc, request.idx
        self.contexts[request.task_name] = request.args[0]
        if request.task_name == "arc_challenge":
            return doc["choices"]["label"][choice] == doc["answerKey"]
        if request.task_name == "truthfulqa_mc2":
            return doc["mc2_targets"]["labels"][choice] == 1
        if request.task_name == "winogrande":
            return choice == int(doc["answer"]) - 1
        return choice == (doc["gold"] if request.task_name == "hellaswag" else doc["answer"])

    def generate_until(self, requests):
        answers = []
        for request in requests:
            self.contexts[request.task_name] = request.args[0]
            right = FOLLOWED[request.doc["key"]] if request.task_name == "ifeval" else request.doc["answer"]
            answers.append(right if self.knows else "No, no. Not so. Never. #### -1")
        return answers

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


@pytest.fixture(scope="module")
def examined(benchmarks):
    pytest.importorskip("langdetect")
    tasks = TaskManager()

    def examine(knows: bool):
        examinee, results = Examinee(knows), {}
        for task in METRICS:
            options = {"num_fewshot": SHOTS.get(task), "bootstrap_iters": 0, "log_samples": False}
            results |= lm_eval.simple_evaluate(examinee, tasks=[task], task_manager=tasks, **options)["results"]
        return {task: results[task][metric] for task, metric in METRICS.items()}, examinee.contexts

    return examine


@pytest.mark.slow
def test_all_tasks_run_and_score(examined):
    scores, contexts = examined(knows=True)
    assert scores == pytest.approx(dict.fromkeys(METRICS, 1.0))
    for task, shots in SHOTS.items():
        assert contexts[task].count("\n\n") >= shots


@pytest.mark.slow
def test_wrong_answers_count_as_wrong(examined):
    scores, _ = examined(knows=False)
    assert scores == dict.fromkeys(METRICS, 0.0)
