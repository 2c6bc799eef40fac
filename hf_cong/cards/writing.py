# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Who wrote what a run trains on? By it the words of a card differ."""

from collections.abc import Mapping
from typing import Any

from .rendering import Markdown, code

_CHOSEN = {
    "given": "given completions",
    "contrast": "what a weak pair wrote by contrastive decoding",
    "steered": "what the strong model itself wrote, steered by a weak pair",
    "searched": "what the strong model itself wrote, in a search led by a weak pair",
}
# Beside the paper of ConG; by the keys of the template of citations.
_PAPERS = {"steered": ["eft"], "searched": ["search"]}


def writing_facts(known: Mapping[str, Any]) -> dict[str, Any]:
    """
    What templates may use of who wrote.

    Args:
        known (`Mapping`): What [`read_manifest`] returned.

    Returns:
        `dict`: `writing` (a key of `_CHOSEN`) and the same in words, `chosen`; `rejected` in words; whether the run
        departs from the paper, `variant`; and what was `given` beside what is told, `chosen of eval`.
    """
    stages, settings = known["stages"], known["settings"]
    writing = _writing(stages, settings)
    untouched = settings.get("rejected_from") == "base"
    made = {"chosen": "decode", "rejected": "sample"}
    given = [
        Markdown(f"`{side}` of {code(split)}")
        for side, stage in made.items()
        for split in stages.get("pairs") or ()
        if split not in (stages.get(stage) or ())
    ]
    return {
        "writing": writing,
        "chosen": Markdown(_CHOSEN[writing]),
        "rejected": Markdown("samples of the untouched strong model" if untouched else "its own samples"),
        "untouched": untouched,
        "variant": untouched or writing in ("steered", "searched"),
        "given": given,
    }


def _writing(stages: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if "train" not in (stages.get("decode") or ()):
        return "given"
    if settings.get("chosen_from") != "steered":
        return "contrast"
    return "searched" if "beam_width" in settings else "steered"


def papers(writing: str) -> list[str]:
    """What is to be cited for it, but for ConG's own paper."""
    return _PAPERS.get(writing, [])
