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
_REJECTED = {
    "policy": "its own samples",
    "base": "samples of the untouched strong model",
    "worst": "the one of several samples that the weak pair rewards least",
}
# What was done by the pair's reward, by the setting that says so.
_RANKED = {
    "num_chosen_samples": "of `num_chosen_samples` completions of each prompt, the one that it rewards most was kept",
    "chosen_share": "the share `chosen_share` of the completions, those that it rewards most, was kept",
    "drop_contradicting": "pairs that it contradicts were dropped",
}
_MARGIN = "DPO was asked for a margin, `reward_margin` times the reward of the chosen less that of the rejected one"
# Beside the paper of ConG; by the keys of the template of citations.
_PAPERS = {"steered": ["eft"], "searched": ["search"]}


def writing_facts(known: Mapping[str, Any], of: str = "dpo") -> dict[str, Any]:
    """
    What templates may use of who wrote.

    Args:
        known (`Mapping`): What [`read_manifest`] returned.
        of (`str`, *optional*, defaults to `"dpo"`): Of the model after `"sft"` or `"dpo"`, or of `"data"`.

    Returns:
        `dict`: `writing` (a key of `_CHOSEN`) and the same in words, `chosen`; `rejected` in words; whether the run
        departs from the paper, `variant`; what was `given` beside what is told, `chosen of eval`; what was done by the
        pair's reward, `ranked` and `margin`; how many `samples` were written of each prompt, and whether the rejected
        ones are the `worst` of them.
    """
    stages, settings = known["stages"], known["settings"]
    writing = _writing(stages, settings)
    rejected = settings.get("rejected_from", "policy")
    ranked = [
        Markdown(words)
        for name, words in _RANKED.items()
        if settings.get(name) and (name, of) != ("drop_contradicting", "sft")
    ]
    margin = Markdown(_MARGIN) if of == "dpo" and settings.get("reward_margin") else None
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
        "rejected": Markdown(_REJECTED.get(rejected, _REJECTED["policy"])),
        "untouched": rejected == "base",
        "worst": rejected == "worst",
        "variant": rejected != "policy" or writing in ("steered", "searched") or bool(ranked or margin),
        "given": given,
        "ranked": ranked,
        "margin": margin,
        "samples": settings.get("num_chosen_samples"),
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
