# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The rules of a pair check about what was measured: from numbers to findings. Runs no model."""

import math

from ...rewards.reward_accuracy import RewardAccuracy
from .report import Agreement, Cost, Finding

# Rules of thumb, in nats per token on the policy's own samples at temperature 1. Equal weights give exactly 0. The
# same weights in bfloat16 and in float32 gave 1.5e-4 and 4.5e-4 on two small trained models, so below 1e-3 the
# log-ratio is as much rounding as alignment. Preference training moves a completion of some hundred tokens by some
# tens of nats, which is 0.01 to 0.5 per token; the sandbox's pair has 0.18. Above 1 the reference finds the policy's
# own text surprising in every token, as the base of another size or the wrong chat template would. Above 5, and worse
# than a uniform guess, its ids are not the policy's.
IDENTICAL_KL, FAINT_KL, FAR_KL, FOREIGN_KL = 1e-6, 1e-3, 1.0, 5.0
# A rule of thumb too: of the positions, how many may leave the contrast nothing to choose.
MOST_SINGLE = 0.95


def weights(dtypes: dict[str, str], defects: dict[str, list[str]]) -> Finding:
    """
    Whether all weights are there, and numbers, and of one dtype.

    Args:
        dtypes (`dict[str, str]`): Dtype of each member, by role.
        defects (`dict[str, list[str]]`): By role, the weights that the checkpoint lacks or that are not finite.
    """
    for role, names in defects.items():
        if names:
            return Finding(
                "fail",
                "weights",
                f"{len(names)} in `{role}`, such as {names[0]}, are missing, of another shape, or hold NaN or "
                "infinity: the checkpoint is damaged or of another model. Download or save it again.",
            )
    policy, reference = dtypes["policy"], dtypes["reference"]
    if policy != reference:
        return Finding(
            "warn",
            "weights",
            f"`policy` is in {policy}, `reference` in {reference}: the log-ratio holds the rounding of one of them. "
            "Load both alike: `--dtype`.",
        )
    return Finding("ok", "weights", f"complete, finite, {policy}")


def divergence(found: Agreement, alpha: float, vocabulary_size: int) -> Finding:
    """Whether policy and reference differ as before and after alignment."""
    kl = found.kl
    text = f"KL(policy ‖ reference) {kl.mean:.3g} nats per token on the policy's own {found.completions} completions"
    if math.isfinite(kl.low):
        text += f" (95% interval {max(kl.low, 0.0):.3g} to {kl.high:.3g})"
    if kl.mean < IDENTICAL_KL:
        return Finding(
            "fail",
            "divergence",
            f"{text}: the members are the same model, and there is nothing to contrast. Pass the checkpoints after "
            "and before alignment; look whether the adapter or the aligned weights were saved.",
        )
    if kl.mean > FOREIGN_KL and kl.mean + found.entropy > math.log(vocabulary_size):
        return Finding(
            "fail",
            "divergence",
            f"{text}: `reference` gives the policy's tokens less probability than a uniform guess "
            f"(log {vocabulary_size} = {math.log(vocabulary_size):.3g} nats). They do not mean the same by their ids, "
            "or one is damaged.",
        )
    if kl.mean < FAINT_KL:
        text += f": under {FAINT_KL:g}, where rounding to bfloat16 is as large as the signal (a rule of thumb)"
        if alpha > 0:
            shift = 500 * kl.mean * ((1 - alpha) / alpha) ** 2
            text += f"; the contrast moves a completion of 500 tokens by some {shift:.2g} nats"
        return Finding("warn", "divergence", f"{text}. Align the policy for longer, or with a smaller beta.")
    if kl.mean > FAR_KL:
        return Finding(
            "warn",
            "divergence",
            f"{text}: above {FAR_KL:g} (a rule of thumb) the two are more than one model before and after alignment, "
            "or the prompts' format is foreign to `reference`. Take the checkpoint that the policy was trained from.",
        )
    return Finding("ok", "divergence", text)


def contrast(found: Agreement, alpha: float, plausibility_threshold: float) -> Finding:
    """Whether the plausible sets leave the contrast something to choose."""
    text = (
        f"at alpha {alpha:g} it changes the most likely token at {found.contrast_differs:.1%} of {found.positions} "
        f"positions (the members' own differ at {found.argmax_differs:.1%}); at tau {plausibility_threshold:g} a "
        f"plausible set has {found.plausible_tokens:.1f} tokens, and {found.single_plausible:.0%} have one, where it "
        "can change nothing"
    )
    if alpha == 1:
        return Finding(
            "warn", "contrast", f"{text}. At alpha 1 there is no contrast: take less, 0.3 to 0.5 is the usual range."
        )
    if found.single_plausible > MOST_SINGLE:
        return Finding(
            "warn",
            "contrast",
            f"{text}. It writes what the policy writes: lower `plausibility_threshold`, or take a policy that is less "
            "certain.",
        )
    return Finding("ok", "contrast", text)


def accuracy(found: RewardAccuracy, skipped: int) -> Finding:
    """Whether the implicit reward agrees with preferences."""
    decided = found.n - found.ties
    text = (
        f"the implicit reward agrees with {found.accuracy:.1%} of {decided} preferences (95% interval "
        f"{found.low:.1%} to {found.high:.1%}; {found.ties} ties, {skipped} too long for the context)"
    )
    if found.high < 0.5:
        return Finding(
            "fail",
            "reward accuracy",
            f"{text}: below chance. `policy` and `reference` are swapped, or `chosen` and `rejected` are; or the "
            "policy was aligned to something else.",
        )
    if not found.above_chance:
        return Finding(
            "warn",
            "reward accuracy",
            f"{text}: not above chance. Measure on more preferences, of the kind that the policy was aligned to; if "
            "it stays so, guidance by this pair may do harm.",
        )
    return Finding("ok", "reward accuracy", text)


def cost(found: Cost) -> Finding:
    """What the planned run takes."""
    times = found.policy_tokens_per_second / found.pair_tokens_per_second
    how = "" if found.pair_measured else " by the sum of both members' times"
    return Finding(
        "ok",
        "cost",
        f"policy alone {_number(found.policy_tokens_per_second)} tokens/s, pair "
        f"{_number(found.pair_tokens_per_second)}{how} ({times:.2f} times the policy's time) in batches of "
        f"{found.batch_size} on {found.device}; weights {_bytes(found.weight_bytes)}, keys and values "
        f"{_bytes(found.cache_bytes_per_token)} per token and row; {found.planned_prompts:,} prompts x "
        f"{found.planned_max_new_tokens:,} tokens: {_hours(found.hours)} at this rate if every completion runs to its "
        "limit",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
