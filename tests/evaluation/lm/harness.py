# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the tests of lm-eval's models share: requests of every type, their answers by hand, tasks on local files."""

import json
from pathlib import Path

import yaml
from lm_eval.api.instance import Instance

from tests.oracle import eft_greedy, eft_logps, oracle_greedy, oracle_logps
from tests.tiny import tiny_base, tiny_pair, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SHAPE = {"vocab_size": len(TOKENIZER), "tie_word_embeddings": False}
NEW_TOKENS = 10
# Contexts of different length, none, and one that ends with a space, which lm-eval moves to the continuation. Three
# continuations share a context, which lm-eval reads once.
CONTINUATIONS = [
    ("the cat", " sat on the mat"),
    ("the cat", " ran"),
    ("the cat", " on"),
    ("tell me about the old dog and the fox and the kind owl that ran on the mat ", "a small owl"),
    ("", "the fox sat"),
]
TEXTS = ["the cat sat on the mat and the dog ran on the old mat to tell me about a small kind fox", "owl"]
PROMPTS = ["the cat", "tell me about the old dog and the fox and the kind owl that ran on the mat", "a"]


def members(family, **overrides):
    return tiny_pair(family, **{**SHAPE, **overrides})


def triple(family):
    return tiny_base(family, **SHAPE), *members(family)


def save(directory, **models):
    """Saves models beside the tokenizer; returns their paths as strings."""
    paths = {}
    for name, model in models.items():
        paths[name] = str(directory / name)
        model.save_pretrained(paths[name])
        TOKENIZER.save_pretrained(paths[name])
    return paths


def save_members(directory, family="llama", **overrides):
    policy, reference = members(family, **overrides)
    return save(directory, policy=policy, reference=reference)


def requests(kind, arguments):
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


def generation_requests(prompts=PROMPTS, **gen_kwargs):
    gen_kwargs = {"until": ["\n\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False, **gen_kwargs}
    return requests("generate_until", [(prompt, gen_kwargs) for prompt in prompts])


def answers(lm):
    """`(loglikelihood, loglikelihood_rolling, generate_until)` of the requests above."""
    return (
        lm.loglikelihood(requests("loglikelihood", CONTINUATIONS)),
        lm.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS])),
        lm.generate_until(generation_requests()),
    )


def by_hand(models, max_length=512, masked=False, **settings):
    """The same answers, token by token, without a cache, padding or the package."""
    next_logps, greedy = (oracle_logps, oracle_greedy) if len(models) == 2 else (eft_logps, eft_greedy)

    def score(context, ids):
        steps = [next_logps(*models, context + ids[:t], mask=masked, **settings) for t in range(len(ids))]
        total = sum(step[id].item() for step, id in zip(steps, ids, strict=True))
        return total, all(int(step.argmax()) == id for step, id in zip(steps, ids, strict=True))

    encode, prefix = TOKENIZER.encode, [TOKENIZER.eos_token_id]
    scored = []
    for context, continuation in CONTINUATIONS:
        before = encode(context.rstrip())
        scored.append(score(before or prefix, encode(context + continuation)[len(before) :]))
    rolling = []
    for text in TEXTS:
        ids, total = encode(text), 0.0
        for start in range(0, len(ids), max_length):
            end = min(start + max_length, len(ids))
            window = (prefix + ids)[max(0, end - max_length) : start + 1]
            total += score(window, ids[start:end])[0]
        rolling.append(total)
    written = [greedy(*models, encode(prompt), max_new_tokens=NEW_TOKENS, **settings) for prompt in PROMPTS]
    return scored, rolling, [TOKENIZER.decode(ids, skip_special_tokens=True) for ids in written]


def furthest(got, expected):
    """The largest difference of two sets of answers, in nats; infinite if a text or a greedy flag differs."""
    if got[2] != expected[2] or [greedy for _, greedy in got[0]] != [greedy for _, greedy in expected[0]]:
        return float("inf")
    pairs = [(a, b) for (a, _), (b, _) in zip(got[0], expected[0], strict=True)]
    return max(abs(a - b) for a, b in [*pairs, *zip(got[1], expected[1], strict=True)])


def write_tasks(directory: Path) -> Path:
    """Three tasks, one for every type of request, on files of their own."""
    words = "cat dog fox owl mat user system small kind old rude about".split()
    rows = {
        "choice": [
            {"question": f"the {word}", "choices": words[i : i + 3], "answer": i % 3}
            for i, word in enumerate(words[:8])
        ],
        "text": [
            {"text": f"the {word} sat on the {other} mat"} for word, other in zip(words, words[::-1], strict=True)
        ],
        "write": [{"question": f"tell me about the {word}", "answer": word} for word in words[:4]],
    }
    types = {
        "choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}],
        },
        "text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
        "write": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    directory.mkdir(exist_ok=True)
    for name, task in types.items():
        data = directory / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        task = {"task": f"cong_{name}", **source, **task, "metadata": {"version": 1.0}}
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return directory
