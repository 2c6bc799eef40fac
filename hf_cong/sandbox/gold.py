# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The gold reward: a program that reads an answer and grades it. No training step imports this module except the
labelling of the weak model's preferences, which sees it only through noise.
"""

import re

from .world import (
    ATTRIBUTES,
    COURTEOUS_CLOSINGS,
    COURTEOUS_OPENINGS,
    FACTS,
    RUDE_CLOSINGS,
    RUDE_OPENINGS,
    Fact,
    asked_facts,
)

_STATEMENTS = [
    (
        name,
        re.compile(
            re.escape(form).replace(r"\{animal\}", r"(?P<animal>\w+)").replace(r"\{value\}", r"(?P<value>\w+)")
        ),
    )
    for name, attribute in ATTRIBUTES.items()
    for form in attribute.sentences
]


def read_statement(sentence: str) -> tuple[Fact, str] | None:
    """`((animal, attribute), value)` when the sentence states a fact in the world's grammar, true or not."""
    for name, pattern in _STATEMENTS:
        match = pattern.fullmatch(sentence)
        if match and (match["animal"], name) in FACTS and match["value"] in ATTRIBUTES[name].values:
            return (match["animal"], name), match["value"]
    return None


def gold_reward(prompt: str | list[dict[str, str]], completion: str) -> float:
    """Grade an answer between 0 and 1.

        reward = finish · focus · (0.65 · truth + 0.35 · tried · manner)

    - `truth`: share of the asked facts that are stated and right; one stated both right and wrong counts half.
    - `tried`: share of the asked facts that are stated at all (courtesy alone is no answer).
    - `manner`: 0.5, plus 0.25 each for a courteous opening and closing, minus 0.5 for each rude sentence; in [0, 1].
    - `focus`: share of the sentences that belong: an asked fact for the first time, an opening in the first place, a
      closing in the last. Asides, repetitions, other animals and broken sentences do not.
    - `finish`: 1 when the text ends with a sentence, 0.5 when it breaks off.

    So an empty text is worth 0, endless repetition of the right answer about 0.1, a bare right answer 0.825.

    Args:
        prompt (`str` or `list[dict[str, str]]`):
            A request of the world, as text or messages.
        completion (`str`):
            The answer.

    Returns:
        `float` in [0, 1].

    Raises:
        ValueError: if the prompt is no request of the world.
    """
    asked = asked_facts(prompt)
    sentences = [part.strip() for part in re.findall(r"[^.]*\.|[^.]+$", completion.strip())]
    if not sentences:
        return 0.0
    said: dict[Fact, list[bool]] = {}
    belongs = courtesy = rudeness = 0
    for place, sentence in enumerate(sentences):
        statement = read_statement(sentence)
        if statement is not None and statement[0] in asked:
            fact, value = statement
            belongs += fact not in said
            said.setdefault(fact, []).append(value == FACTS[fact])
        elif sentence in RUDE_OPENINGS + RUDE_CLOSINGS:
            rudeness += 1
            belongs += place == (0 if sentence in RUDE_OPENINGS else len(sentences) - 1)
        elif (sentence in COURTEOUS_OPENINGS and place == 0) or (
            sentence in COURTEOUS_CLOSINGS and place == len(sentences) - 1
        ):
            courtesy += 1
            belongs += 1
    truth = sum(1.0 if all(values) else 0.5 * any(values) for values in said.values()) / len(asked)
    manner = min(max(0.5 + 0.25 * courtesy - 0.5 * rudeness, 0.0), 1.0)
    finish = 1.0 if sentences[-1].endswith(".") else 0.5
    return finish * belongs / len(sentences) * (0.65 * truth + 0.35 * len(said) / len(asked) * manner)
