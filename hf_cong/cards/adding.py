# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Results in a card that exists already: whoever wrote it, all else in it stays."""

import re
from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from .facts import result_facts
from .rendering import render_body
from .results import Result, model_index

_SECTION = re.compile(r"^## Results[ \t]*$.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


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
    parsed = ModelCard(card)
    measured = model_index(name, [result for result in results if result.system == system])
    if measured:
        given = parsed.data.eval_results or []
        _, new = model_index_to_eval_results(measured)
        kept = [entry for entry in given if not any(entry.is_equal_except_value(other) for other in new)]
        if not replace:
            _refuse_other_values(given, new)
        if [*kept, *new] != given:
            parsed.data.eval_results = [*kept, *new]
            parsed.data.model_name = parsed.data.model_name or name
            card = str(parsed)
    section = render_body("_results", result_facts(results))
    found = _SECTION.search(card)
    if found is None:
        return f"{card.rstrip()}\n\n{section}\n".lstrip()
    there = found[0].strip()
    if there == render_body("_results", result_facts(())) or replace:
        whole = section
    elif section.removeprefix("## Results").strip() in there:
        return card
    else:
        whole = f"{there}\n\n{section.removeprefix('## Results').strip()}"
    return f"{card[: found.start()]}{whole}\n\n{card[found.end() :]}".rstrip() + "\n"


def _refuse_other_values(given: Sequence[EvalResult], new: Sequence[EvalResult]) -> None:
    for one in new:
        for other in given:
            if one.is_equal_except_value(other) and one.metric_value != other.metric_value:
                raise ValueError(
                    f"The card says that {one.task_name}, {one.metric_name} is {other.metric_value}; the evaluation "
                    f"says {one.metric_value}. Pass `replace` to have the latter; the history keeps the card."
                )
