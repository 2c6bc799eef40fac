# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results in a card that exists already: whoever wrote it, all else in it stays."""

import re
from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from .facts import result_facts
from .rendering import render_body
from .results import Result, model_index

# In fenced code a line that begins with `#` is no heading.
_FENCE = r"^(?P<{0}>`{{3,}}|~{{3,}}).*?^(?P={0})"
_SECTION = re.compile(
    rf"{_FENCE.format('before')}|(?P<section>^## Results[ \t\r]*$(?:{_FENCE.format('within')}|.)*?(?=^##? |\Z))",
    re.MULTILINE | re.DOTALL,
)


def add_results(card: str, results: Sequence[Result], *, system: str, name: str, replace: bool = False) -> str:
    """
    A card with results in its metadata and in its section "Results".

    Args:
        card (`str`):
            The whole README.md; empty if there is none.
        results (`Sequence[Result]`):
            What was measured: see [`read_results`].
        system (`str`):
            Which of the systems the card is about. Benchmarks of it go into the `model-index`.
        name (`str`):
            What the `model-index` calls the model, if it has none yet.
        replace (`bool`, *optional*, defaults to `False`):
            Whether another value of the same metric in the `model-index` gives way, and the section too.

    Returns:
        `str`: the card; the same if it has them already.

    Raises:
        ValueError: if the metadata is damaged, or has another value of the same metric.
    """
    measured = model_index(name, [result for result in results if result.system == system])
    new = model_index_to_eval_results(measured)[1] if measured else []
    card = _with_index(card, ModelCard(card).data.eval_results, new, name, replace)
    section = render_body("_results", result_facts(results))
    there = _section(card)
    if there is None:
        return f"{card.rstrip()}\n\n{section}\n".lstrip()
    return _with_section(card, _joined(there, section, replace))


def keep_results(card: str, earlier: str, *, replace: bool = False) -> str:
    """
    A card that was written anew, with the results that an earlier one of the same model has.

    Args:
        card (`str`):
            The new card, with or without results of its own: they are added to the earlier ones as [`add_results`]
            adds them.
        earlier (`str`):
            The card that it takes the place of.
        replace (`bool`, *optional*, defaults to `False`):
            As for [`add_results`].

    Returns:
        `str`: the new card; as it is, if the earlier one has no results or is damaged.

    Raises:
        ValueError: if the two have different values of the same metric.
    """
    there, section = _section(earlier), _section(card)
    if there is None or section is None:
        return card
    try:
        before = ModelCard(earlier).data
    except ValueError:  # damaged by hand
        return card
    own = ModelCard(card).data.eval_results or []
    card = _with_index(card, before.eval_results, own, before.model_name, replace)
    return _with_section(card, _joined(there, section, replace))


def _section(card: str) -> str | None:
    found = _find(card)
    return None if found is None else found[0].strip()


def _find(card: str) -> re.Match | None:
    return next((found for found in _SECTION.finditer(card) if found["section"]), None)


def _with_section(card: str, section: str) -> str:
    there = _find(card)
    if there[0].strip() == section:
        return card
    return f"{card[: there.start()]}{section}\n\n{card[there.end() :]}".rstrip() + "\n"


def _joined(there: str, section: str, replace: bool) -> str:
    """Two sections of results as one; the second takes the place of the first if it may, and has any."""
    empty = render_body("_results", result_facts(()))
    body, other = (one.removeprefix("## Results").strip() for one in (section, there))
    if section == empty or (body in other and not replace):
        return there
    if there == empty or replace or other in body:
        return section
    return f"{there}\n\n{body}"


def _with_index(
    card: str, given: Sequence[EvalResult] | None, new: Sequence[EvalResult], name: str, replace: bool
) -> str:
    """The card with these results in its `model-index`, in which every one keeps its place."""
    given = given or []
    if not replace:
        _refuse_other_values(given, new)
    index = [next(filter(entry.is_equal_except_value, new), entry) for entry in given]
    index += [entry for entry in new if not any(map(entry.is_equal_except_value, given))]
    parsed = ModelCard(card)
    if index == (parsed.data.eval_results or []):
        return card
    parsed.data.eval_results, parsed.data.model_name = index, parsed.data.model_name or name
    return str(parsed)


def _refuse_other_values(given: Sequence[EvalResult], new: Sequence[EvalResult]) -> None:
    for one in new:
        for other in given:
            if one.is_equal_except_value(other) and one.metric_value != other.metric_value:
                raise ValueError(
                    f"The card says that {one.task_name}, {one.metric_name} is {other.metric_value}; the evaluation "
                    f"says {one.metric_value}. Pass `replace` to have the latter; the history keeps the card."
                )
