# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The sandbox's world: thirty animals, the facts about them, what is asked, and how people answer.

This module knows nothing about models or quality; `gold.py` grades, `models.py` learns.

Facts are drawn once, not true: nobody can know them except from the text. Requests ask for one to three facts. The
text is written by writers of differing care: a writer's care is drawn per answer, low more often than high, and each
slip (a wrong fact, another animal, an omission, an aside, a repetition, a lost word, rudeness, no end) is drawn on its
own, more often for careless writers. A model trained on all of them has learnt good and bad answers alike.
"""

import random
from dataclasses import dataclass
from zlib import crc32

from datasets import Dataset

Fact = tuple[str, str]  # (animal, attribute)

ANIMALS = (
    *("fox", "owl", "bear", "wolf", "hare", "deer", "mole", "crow", "swan", "toad"),
    *("seal", "crab", "moth", "wasp", "goat", "lynx", "boar", "duck", "hawk", "newt"),
    *("otter", "badger", "heron", "raven", "lizard", "beetle", "pigeon", "spider", "turtle", "donkey"),
)


@dataclass(frozen=True)
class Attribute:
    """One thing that can be asked about an animal: its values, its question, and the sentences that state it."""

    values: tuple[str, ...]
    question: str
    sentences: tuple[str, ...]


ATTRIBUTES = {
    "food": Attribute(
        ("moss", "berries", "worms", "nuts", "grass", "honey", "seeds", "fish"),
        "what does the {animal} eat",
        ("the {animal} eats {value} .", "a {animal} will eat {value} .", "for dinner the {animal} takes {value} ."),
    ),
    "home": Attribute(
        ("forest", "river", "desert", "valley", "swamp", "cave", "meadow", "harbour"),
        "where does the {animal} live",
        ("the {animal} lives in the {value} .", "you will find the {animal} in the {value} ."),
    ),
    "colour": Attribute(
        ("red", "grey", "white", "black", "golden", "green", "blue", "brown"),
        "which colour is the {animal}",
        ("the {animal} is {value} .", "the colour of the {animal} is {value} ."),
    ),
    "hour": Attribute(
        ("dawn", "noon", "dusk", "midnight", "sunrise", "evening", "breakfast", "twilight"),
        "when does the {animal} wake",
        ("the {animal} wakes at {value} .", "at {value} the {animal} wakes up ."),
    ),
    "fear": Attribute(
        ("thunder", "fire", "snow", "wind", "people", "darkness", "music", "mirrors"),
        "what does the {animal} fear",
        ("the {animal} fears {value} .", "nothing scares the {animal} like {value} ."),
    ),
}

_table = random.Random("facts of the sandbox")  # noqa: S311
FACTS: dict[Fact, str] = {
    (animal, name): _table.choice(attribute.values) for animal in ANIMALS for name, attribute in ATTRIBUTES.items()
}

GREETINGS = (
    "",
    "hello ,",
    "please ,",
    "tell me ,",
    "quick question :",
    "my child asks ,",
    "for my book ,",
    "dear friend ,",
)
COURTEOUS_OPENINGS = ("thank you for asking .", "happy to help .", "what a lovely question .", "certainly .")
COURTEOUS_CLOSINGS = ("i hope this helps .", "ask me any time .", "have a good day .")
RUDE_OPENINGS = ("not this again .", "what a silly question .", "you should know this .")
RUDE_CLOSINGS = ("now go away .", "stop asking me .", "read a book .")
ASIDES = (
    "the weather is fine today .",
    "my uncle had a boat .",
    "i like old songs .",
    "some people say many things .",
    "it was a long winter .",
    "we went to the market .",
    "that is another story .",
)
LONGEST_RAMBLE = 60  # words; longer than any decoding budget of the demo


def _chat(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def request(facts: list[Fact], greeting: str = "") -> list[dict[str, str]]:
    """The messages that ask for `facts`, in that order."""
    questions = " and ".join(ATTRIBUTES[attribute].question.format(animal=animal) for animal, attribute in facts)
    return _chat(f"{greeting} {questions} ?".strip())


def _draw_request(rng: random.Random) -> list[Fact]:
    """One to three facts; two parts in three stay with the animal of the part before."""
    facts = [(rng.choice(ANIMALS), rng.choice(list(ATTRIBUTES)))]
    for _ in range(rng.choices((0, 1, 2), weights=(3, 5, 2))[0]):
        animal = facts[-1][0] if rng.random() < 2 / 3 else rng.choice(ANIMALS)
        fact = (animal, rng.choice(list(ATTRIBUTES)))
        if fact not in facts:
            facts.append(fact)
    return facts


def prompts(n: int, seed: int = 0, *, split: str = "train") -> Dataset:
    """`n` different requests in TRL's conversational prompt-only format.

    Args:
        n (`int`):
            Number of prompts.
        seed (`int`, *optional*, defaults to `0`):
            Another seed draws other prompts of the same split.
        split (`str`, *optional*, defaults to `"train"`):
            `"pretrain"`, `"align"` (the weak pair's preferences), `"train"` (ConG) or `"test"`. A prompt belongs to
            exactly one split, by a hash of its text, so that no seed can leak a test prompt into training.

    Returns:
        [`~datasets.Dataset`] with the column `prompt` (one user message each).
    """
    splits = ("pretrain", "align", "train", "test")
    if split not in splits:
        raise ValueError(f"`split` must be one of {splits}, got {split!r}.")
    rng = random.Random(f"prompts {split} {seed}")  # noqa: S311
    rows: dict[str, list] = {}
    while len(rows) < n:
        messages = request(_draw_request(rng), rng.choice(GREETINGS))
        text = messages[0]["content"]
        if crc32(text.encode()) % len(splits) == splits.index(split):
            rows[text] = messages
    return Dataset.from_list([{"prompt": messages} for messages in rows.values()])


def asked_facts(prompt: str | list[dict[str, str]]) -> list[Fact]:
    """The facts that a request asks for: the inverse of [`request`]."""
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    facts = []
    for part in text.removesuffix("?").split(" and "):
        facts += [
            (word, name)
            for name, attribute in ATTRIBUTES.items()
            for word in part.split()
            if word in ANIMALS and attribute.question.format(animal=word) in part
        ]
    if not facts:
        raise ValueError(f"the sandbox cannot read this request: {text[:80]!r}. Use prompts from `sandbox.prompts`.")
    return facts


def state(fact: Fact, value: str, rng: random.Random) -> str:
    """A sentence that states `value` for `fact`."""
    animal, attribute = fact
    return rng.choice(ATTRIBUTES[attribute].sentences).format(animal=animal, value=value)


def write_answer(facts: list[Fact], care: float, rng: random.Random) -> str:
    """An answer to a request for `facts` by a writer of the given `care` in [0, 1]; see the module's docstring."""
    haste = 1 - care

    def slips(rate: float) -> bool:
        return rng.random() < rate * haste

    sentences: list[str] = []
    if slips(0.5):
        sentences.append(rng.choice(RUDE_OPENINGS))
    elif rng.random() < 0.7 * care:
        sentences.append(rng.choice(COURTEOUS_OPENINGS))
    for fact in facts:
        attribute = fact[1]
        if slips(0.25):
            continue
        if slips(0.25):
            fact = (rng.choice(ANIMALS), attribute)
        value = rng.choice(ATTRIBUTES[attribute].values) if slips(0.6) else FACTS[fact]
        sentences.append(state(fact, value, rng))
        if slips(0.3):
            sentences.append(sentences[-1])
        if slips(0.4):
            sentences.append(rng.choice(ASIDES))
    if slips(0.4):
        sentences.append(rng.choice(RUDE_CLOSINGS))
    elif rng.random() < 0.7 * care:
        sentences.append(rng.choice(COURTEOUS_CLOSINGS))
    if slips(0.2) or not sentences:
        while sum(len(sentence.split()) for sentence in sentences) < LONGEST_RAMBLE:
            sentences.append(rng.choice((*ASIDES, *sentences[-1:])))
    return " ".join(_lose_a_word(sentence, rng) if slips(0.1) else sentence for sentence in sentences)


def _lose_a_word(sentence: str, rng: random.Random) -> str:
    words = sentence.split()
    del words[rng.randrange(len(words))]
    return " ".join(words)


def dialogues(n: int, seed: int, *, least_care: float = 0.0, split: str = "pretrain") -> list[list[dict[str, str]]]:
    """`n` requests with one answer each; care is the square of a uniform number, scaled to `[least_care, 1]`."""
    rng = random.Random(f"writers {split} {seed}")  # noqa: S311
    rows = []
    for prompt in prompts(n, seed, split=split)["prompt"]:
        care = least_care + (1 - least_care) * rng.random() ** 2
        rows.append([*prompt, {"role": "assistant", "content": write_answer(asked_facts(prompt), care, rng)}])
    return rows


def vocabulary() -> list[str]:
    """Every word of the world, sorted."""
    texts = [*GREETINGS, *COURTEOUS_OPENINGS, *COURTEOUS_CLOSINGS, *RUDE_OPENINGS, *RUDE_CLOSINGS, *ASIDES, *ANIMALS]
    for attribute in ATTRIBUTES.values():
        texts += [*attribute.values, attribute.question, *attribute.sentences]
    words = {word for text in texts for word in text.split()} | {"and", "?", "user", "assistant", "system"}
    return sorted(words - {"{animal}", "{value}"})
