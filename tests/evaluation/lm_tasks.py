# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Tasks of lm-eval on files, one of every kind, and a folder with systems: no network, no public data."""

import json

from tests.tiny import tiny_base, tiny_lora, tiny_pair, tiny_tokenizer

WORDS = "cat dog fox owl mat rude kind old small".split()
_DATA = """
dataset_path: json
dataset_kwargs: {data_files: {train: FOLDER/train.jsonl, test: FOLDER/DATA.jsonl}}
training_split: train
test_split: test
"""
_CHOICE = """
output_type: multiple_choice
doc_to_text: "tell me about a {{question}}:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
_FILES = {
    "choice": "task: choice\ntag: all_kinds" + _DATA.replace("DATA", "first") + _CHOICE,
    "other_choice": "task: other_choice" + _DATA.replace("DATA", "second") + _CHOICE,
    "unshown": "task: unshown\nnum_fewshot: 0" + _DATA.replace("DATA", "first") + _CHOICE,
    "writing": "task: writing\ntag: all_kinds"
    + _DATA.replace("DATA", "first")
    + """
output_type: generate_until
doc_to_text: "tell me about a {{question}}:"
doc_to_target: "{{choices[answer]}}"
process_results: !function helpers.score
generation_kwargs: {until: ["."], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: has_vowel, aggregation: mean, higher_is_better: true}
  - {metric: characters, aggregation: mean, higher_is_better: false}
""",
    "long_writing": "task: long_writing"
    + _DATA.replace("DATA", "first")
    + """
output_type: generate_until
doc_to_text: "tell me about a {{question}}:"
doc_to_target: ""
generation_kwargs: {until: ["."], max_gen_toks: 600}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
    "rolling": "task: rolling"
    + _DATA.replace("DATA", "first")
    + """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "the {{question}} sat on a {{choices[0]}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
    "by_size": "group: by_size\ntask: [choice, other_choice]\n"
    "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n",
    "by_task": "group: by_task\ntask: [choice, other_choice]\n"
    "aggregate_metric_list: [{metric: acc, weight_by_size: false}]\n",
    "nested": "group: nested\ntask: [by_size]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n",
    "dangerous": "task: dangerous\nunsafe_code: true" + _DATA.replace("DATA", "first") + _CHOICE,
}
_HELPERS = """
def score(doc, results):
    text = results[0]
    return {"has_vowel": float(any(letter in "aeiou" for letter in text)), "characters": len(text)}
"""


def write_tasks(folder) -> str:
    """Writes task files and their data: 8 documents in `first`, of which two are equal, and 5 in `second`."""
    folder.mkdir()
    documents = [
        {"question": f"{a} and a {b}", "choices": [b, a, "the", "user"], "answer": (i + j) % 4}
        for i, a in enumerate(WORDS[:5])
        for j, b in enumerate(WORDS[5:])
    ]
    parts = {"train": documents[12:], "first": [*documents[:7], documents[0]], "second": documents[7:12]}
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in _FILES.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    (folder / "helpers.py").write_text(_HELPERS)
    return str(folder)


def write_systems(folder, **overrides) -> dict[str, str]:
    """Writes a weak pair, an adapter with its base, and a stronger model, each with the tokenizer; their paths."""
    tokenizer = tiny_tokenizer()
    settings = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0, **overrides}
    policy, reference = tiny_pair("llama", **settings)
    adapted, _, adapter_base = tiny_lora("llama", 3, **settings)
    models = {"policy": policy, "reference": reference, "strong": tiny_base("llama", **settings), "base": adapter_base}
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return {name: str(folder / name) for name in (*models, "adapter")}
