# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a pair check found: findings with a level, measurements, a verdict. Knows no model."""

import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ...report.statistics import Interval
from ...rewards.reward_accuracy import RewardAccuracy

_WIDTH = 119
_VERDICTS = {"fail": "unusable", "warn": "doubtful"}


class Finding(NamedTuple):
    """
    One line of a report.

    Args:
        level (`str`): `"ok"`, `"skip"` (not looked at, and why), `"warn"` or `"fail"`.
        check (`str`): What was looked at, in one or two words.
        text (`str`): What was found; where something is wrong, also what to do.
    """

    level: str
    check: str
    text: str


@dataclass(frozen=True)
class Agreement:
    """
    How policy and reference differ on the policy's own completions, sampled at temperature 1.

    Args:
        completions (`int`): How many.
        positions (`int`): Next-token distributions that were compared, that of the end included.
        finished (`float`): Share of the completions that ended before the length limit.
        kl ([`~report.statistics.Interval`]):
            KL(policy ‖ reference), nats per token, exact over the vocabulary: the mean over completions of their mean.
        entropy (`float`): Mean entropy of the policy, nats per token.
        argmax_differs (`float`): Share of the positions at which the members' most likely tokens differ.
        contrast_differs (`float`): Share at which the contrast's most likely token is not the policy's.
        plausible_tokens (`float`): Mean size of the plausible set.
        single_plausible (`float`): Share of the positions with one plausible token, which the contrast cannot move.
    """

    completions: int
    positions: int
    finished: float
    kl: Interval
    entropy: float
    argmax_differs: float
    contrast_differs: float
    plausible_tokens: float
    single_plausible: float


@dataclass(frozen=True)
class Cost:
    """
    What writing with the pair costs, by a short run here.

    Args:
        device (`str`): Where it ran.
        batch_size (`int`): Prompts per batch.
        policy_tokens_per_second (`float`): Of the policy alone, prompts included.
        pair_tokens_per_second (`float`): Of the pair.
        pair_measured (`bool`):
            `False` if the pair cannot be one model: then its time is that of the policy plus that of the reference.
        weight_bytes (`int`): Parameters of both members; shared ones count once.
        cache_bytes_per_token (`int`): Keys and values of both members, per token of one row.
        planned_prompts (`int`): Prompts of the run that is planned.
        planned_max_new_tokens (`int`): Longest completion of that run that the context leaves room for.
        hours (`float`): That run, if every completion is as long as it may be.
    """

    device: str
    batch_size: int
    policy_tokens_per_second: float
    pair_tokens_per_second: float
    pair_measured: bool
    weight_bytes: int
    cache_bytes_per_token: int
    planned_prompts: int
    planned_max_new_tokens: int
    hours: float


@dataclass(frozen=True)
class PairReport:
    """
    The result of [`check_pair`]; as a `str` it is the whole report.

    Args:
        policy (`str`): Name of the policy.
        reference (`str`): Name of the reference.
        settings (`dict`): α, τ and how it was measured.
        findings (`tuple[Finding]`): What was found, in the order of the checks.
        agreement ([`Agreement`], *optional*): The members on the policy's own completions, if it came to that.
        reward_accuracy ([`RewardAccuracy`], *optional*): The pair on given preferences.
        cost ([`Cost`], *optional*): Speed, memory and time of the planned run.
    """

    policy: str
    reference: str
    settings: dict[str, Any]
    findings: tuple[Finding, ...]
    agreement: Agreement | None = None
    reward_accuracy: RewardAccuracy | None = None
    cost: Cost | None = None

    @property
    def verdict(self) -> str:
        """`"unusable"` if a check failed, `"doubtful"` if one warns, else `"good"`."""
        levels = {finding.level for finding in self.findings}
        return next((verdict for level, verdict in _VERDICTS.items() if level in levels), "good")

    @property
    def reasons(self) -> list[str]:
        """Why the verdict is not better, the most severe first."""
        return [f"{check}: {text}" for level in _VERDICTS for at, check, text in self.findings if at == level]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; a bound of an interval that is not finite is `None`."""
        content = asdict(self)
        content["findings"] = [finding._asdict() for finding in self.findings]
        if self.agreement is not None:
            content["agreement"]["kl"] = {
                name: value if math.isfinite(value) else None for name, value in self.agreement.kl._asdict().items()
            }
        return {"verdict": self.verdict, "reasons": self.reasons, **content}

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items() if value is not None)
        lines = [f"policy     {self.policy}", f"reference  {self.reference}", *_wrap(settings, "", ""), ""]
        width = max(len(finding.check) for finding in self.findings)
        for level, check, text in self.findings:
            first = f"{level.upper() if level == 'fail' else level:4}  {check:{width}}  "
            lines += _wrap(text, first, " " * len(first))
        lines += ["", f"Verdict: {self.verdict}."]
        if not self.reasons:
            lines[-1] += " Nothing speaks against this pair; whether the contrast helps, a sweep of alpha tells."
        for number, reason in enumerate(self.reasons, 1):
            lines += _wrap(reason, f"{number}. ", "   ")
        return "\n".join(lines)


def _wrap(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
