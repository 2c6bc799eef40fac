# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Small data sets under the names and schemas of public benchmarks, so that lm-eval's own task files run offline.

Every row is made up here. A score on them says nothing; that a task runs, and what it counts, does.
"""

import io
import random
from pathlib import Path

import lm_eval
from datasets import ClassLabel, Dataset, Features, List, Value
from pyarrow import parquet

from tests.hub.stand_in import StandInHub

TEXT, WHOLE = Value("string"), Value("int64")
_MMLU = Features({"question": TEXT, "subject": TEXT, "choices": List(TEXT), "answer": ClassLabel(names=list("ABCD"))})
_ARC = Features(
    {"id": TEXT, "question": TEXT, "choices": {"text": List(TEXT), "label": List(TEXT)}, "answerKey": TEXT}
)
_HELLASWAG = Features(
    {
        "ind": Value("int32"),
        **dict.fromkeys(("activity_label", "ctx_a", "ctx_b", "ctx"), TEXT),
        "endings": List(TEXT),
        **dict.fromkeys(("source_id", "split", "split_type", "label"), TEXT),
    }
)
_TARGETS = {"choices": List(TEXT), "labels": List(Value("int32"))}
_TRUTHFULQA = Features({"question": TEXT, "mc1_targets": _TARGETS, "mc2_targets": _TARGETS})
_WINOGRANDE = Features(dict.fromkeys(("sentence", "option1", "option2", "answer"), TEXT))
_GSM8K = Features({"question": TEXT, "answer": TEXT})
_NUMBERS = ("num_highlights", "num_words", "num_placeholders", "num_bullets", "num_sections", "capital_frequency")
_NUMBERS += ("num_paragraphs", "let_frequency", "frequency", "num_sentences", "nth_paragraph")
_TEXTS = ("relation", "prompt_to_repeat", "section_spliter", "capital_relation", "language", "let_relation", "letter")
_TEXTS += ("end_phrase", "keyword", "postscript_marker", "first_word")
_SETTINGS = {**dict.fromkeys(_NUMBERS, WHOLE), **dict.fromkeys(_TEXTS, TEXT)}
_SETTINGS |= dict.fromkeys(("keywords", "forbidden_words"), List(TEXT))
_IFEVAL = Features({"key": WHOLE, "prompt": TEXT, "instruction_id_list": List(TEXT), "kwargs": List(_SETTINGS)})

# lightest first
_THINGS = ["feather", "coin", "spoon", "cup", "brick", "chair", "bicycle", "piano", "car", "ship"]
_ACTIVITIES = {
    "Making tea": ["fills the kettle", "waits until the water boils", "pours it over the leaves", "drinks a cup"],
    "Planting a tree": ["digs a hole", "sets the young tree in it", "fills the hole with earth", "waters the tree"],
    "Washing a dog": ["fills a tub", "lifts the dog into it", "rubs soap into the fur", "dries the dog with a towel"],
    "Posting a letter": ["writes a letter", "puts it in an envelope", "sticks a stamp on it", "drops it into the box"],
}
_BELIEFS = [
    ("What happens if you swallow an apple seed?", ["It leaves the body again", "Nothing"], ["A tree grows in you"]),
    ("Does a mirror remember who looked into it?", ["No", "A mirror keeps no image"], ["Yes, for seven days"]),
    ("What colour is the night sky behind the stars?", ["Black"], ["Green", "It has the colour of iron"]),
    ("Can a cat speak at midnight?", ["No, cats never speak", "No"], ["Yes, once a year", "Yes, on a full moon"]),
    ("What is inside a cloud?", ["Drops of water", "Small drops or ice"], ["Wool", "Cotton"]),
    ("Why does a coin sink?", ["It is denser than water"], ["Water likes metal", "Coins are afraid of air"]),
    ("Does whistling bring the wind?", ["No", "It does nothing to the weather"], ["Yes, at sea"]),
    ("How many hearts has a horse?", ["One"], ["Five, one in every hoof and one in the chest", "Two"]),
]
# a prompt, the instruction in it and its settings, and an answer that follows it
_ORDERS = [
    ("Describe a bridge without using any comma.", "punctuation:no_comma", {}, "It is long and old."),
    (
        "Write about rain in at least 12 words.",
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 12},
        "It rained on the hills and on the roads and on the quiet old town",
    ),
    (
        "Explain a wheel in less than 3 sentences.",
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 3},
        "Dr. Wu calls it round. It turns.",  # three, for whoever does not know that Dr. ends none
    ),
    ("Name a few birds and use the word owl.", "keywords:existence", {"keywords": ["owl"]}, "A wren and an owl."),
    (
        "Tell a story with a title in angular brackets.",
        "detectable_format:title",
        {},
        "<<The Hat>> It was lost.",
    ),
    (
        "Answer in lower case: what is bread?",
        "change_case:english_lowercase",
        {},
        "bread is a food that people make of flour and water and bake in the oven",
    ),
    (
        "Write a motto with at least 2 words in capitals.",
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "Walk SLOWLY and look TWICE",
    ),
    (
        "Say goodbye and end with: The end.",
        "startend:end_checker",
        {"end_phrase": "The end."},
        "Bye. The end.",
    ),
]
FOLLOWED = [answer for *_, answer in _ORDERS]


def add_benchmarks(hub: StandInHub) -> None:
    """Puts the data of the `downstream` tasks on the Hub, and beside its caches what IFEval splits sentences with."""
    tasks = Path(lm_eval.__file__).parent / "tasks" / "mmlu" / "default"
    subjects = sorted(path.stem.removeprefix("mmlu_") for path in tasks.glob("mmlu_*.yaml"))
    mmlu = {
        subject: {"test": _mmlu(subject, 8), "validation": _mmlu(subject, 2), "dev": _mmlu(subject, 5)}
        for subject in subjects
    }
    _add(hub, "cais/mmlu", _MMLU, mmlu)
    arc = {"train": _arc(32, 0), "validation": _arc(8, 1), "test": _arc(8, 2)}
    _add(hub, "allenai/ai2_arc", _ARC, {"ARC-Challenge": arc, "ARC-Easy": arc})
    _add(hub, "Rowan/hellaswag", _HELLASWAG, {"default": {"train": _hellaswag(16, 0), "validation": _hellaswag(8, 1)}})
    _add(hub, "truthfulqa/truthful_qa", _TRUTHFULQA, {"multiple_choice": {"validation": _truthfulqa()}})
    winogrande = {"train": _winogrande(8, 0), "validation": _winogrande(8, 1)}
    _add(hub, "allenai/winogrande", _WINOGRANDE, {"winogrande_xl": winogrande})
    _add(hub, "openai/gsm8k", _GSM8K, {"main": {"train": _gsm8k(8, 0), "test": _gsm8k(8, 1)}})
    _add(hub, "google/IFEval", _IFEVAL, {"default": {"train": _ifeval()}})
    # Punkt knows abbreviations, and what it has seen begin and end sentences; a few of the first are enough.
    punkt = hub.home / "nltk_data" / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True, exist_ok=True)
    (punkt / "abbrev_types.txt").write_text("dr\nmr\nmrs\ne.g\ni.e\netc", encoding="utf-8")
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (punkt / name).write_text("", encoding="utf-8")


def _add(hub: StandInHub, repo_id: str, features: Features, configs: dict[str, dict[str, list[dict]]]) -> None:
    """A dataset repository as the Hub has them: a Parquet file for each split, and a card that lists the files."""
    files, card = {}, ["configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            buffer, path = io.BytesIO(), f"{config}/{split}-00000-of-00001.parquet"
            parquet.write_table(Dataset.from_list(rows, features=features).data.table, buffer)
            files[path] = buffer.getvalue()
            card += [f"  - split: {split}", f"    path: {path}"]
    hub.add(repo_id, {**files, "README.md": "\n".join(["---", *card, "---", ""])}, kind="datasets")


def _mmlu(subject: str, number: int) -> list[dict]:
    draw, rows = random.Random(f"{subject} {number}"), []  # noqa: S311
    for _ in range(number):
        first, second = draw.randint(2, 50), draw.randint(2, 50)
        choices = draw.sample(sorted({first + second, *draw.sample(range(101, 199), 3)}), 4)
        question = f"In a test of {subject.replace('_', ' ')}, {first} points and {second} points are how many points?"
        texts = [str(choice) for choice in choices]
        answer = choices.index(first + second)
        rows.append({"question": question, "subject": subject, "choices": texts, "answer": answer})
    return rows


def _arc(number: int, seed: int) -> list[dict]:
    draw, rows = random.Random(seed), []  # noqa: S311
    for index in range(number):
        things = draw.sample(_THINGS, 3 if index % 8 == 7 else 4)
        labels = list("1234" if index % 4 == 3 else "ABCD")[: len(things)]  # the real ones mix these too
        heaviest = labels[things.index(max(things, key=_THINGS.index))]
        choices = {"text": [f"a {thing}" for thing in things], "label": labels}
        question = "Which of these is the heaviest?"
        rows.append({"id": f"made_up_{seed}_{index}", "question": question, "choices": choices, "answerKey": heaviest})
    return rows


def _hellaswag(number: int, seed: int) -> list[dict]:
    draw, rows = random.Random(seed), []  # noqa: S311
    for index in range(number):
        activity = draw.choice(sorted(_ACTIVITIES))
        others = [steps for name, steps in sorted(_ACTIVITIES.items()) if name != activity]
        first, *_, last = _ACTIVITIES[activity]
        endings = [f"{last}. [substeps] That is all.", *(f"{draw.choice(steps)}." for steps in others)]
        order = draw.sample(range(4), 4)
        context = {"ctx_a": f"[header] A woman {first}.", "ctx_b": "at the end she"}
        rows.append(
            {
                "ind": index,
                "activity_label": activity,
                **context,
                "ctx": " ".join(context.values()),
                "endings": [endings[place] for place in order],
                "source_id": f"made_up~{seed}_{index}",
                "split": "made_up",
                "split_type": "indomain",
                "label": str(order.index(0)),
            }
        )
    return rows


def _truthfulqa() -> list[dict]:
    rows = []
    for question, true, false in _BELIEFS:
        one = {"choices": [true[0], *false], "labels": [1] + [0] * len(false)}
        several = {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}
        rows.append({"question": question, "mc1_targets": one, "mc2_targets": several})
    return rows


def _winogrande(number: int, seed: int) -> list[dict]:
    draw, rows = random.Random(seed), []  # noqa: S311
    for index in range(number):
        light, heavy = sorted(draw.sample(_THINGS, 2), key=_THINGS.index)
        options = draw.sample([light, heavy], 2)
        word, right = ("light", light) if index % 2 else ("heavy", heavy)
        sentence = f"She took the {options[0]} for the {options[1]} until she felt that the _ was too {word}."
        answer = str(1 + options.index(right))
        rows.append({"sentence": sentence, "option1": options[0], "option2": options[1], "answer": answer})
    return rows


def _gsm8k(number: int, seed: int) -> list[dict]:
    draw, rows = random.Random(seed), []  # noqa: S311
    for _ in range(number):
        shelves, books, bought = draw.randint(2, 9), draw.randint(3, 12), draw.randint(1, 9)
        held, total = shelves * books, shelves * books + bought
        question = f"A library has {shelves} shelves of {books} books. It buys {bought} books. How many has it now?"
        steps = f"It had {shelves} * {books} = <<{shelves}*{books}={held}>>{held} books.\n"
        steps += f"Now it has {held} + {bought} = <<{held}+{bought}={total}>>{total} books.\n#### {total}"
        rows.append({"question": question, "answer": steps})
    return rows


def _ifeval() -> list[dict]:
    return [
        {
            "key": key,
            "prompt": prompt,
            "instruction_id_list": [instruction],
            "kwargs": [{**dict.fromkeys(_SETTINGS), **settings}],
        }
        for key, (prompt, instruction, settings, _) in enumerate(_ORDERS)
    ]
