# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The grid of a sweep: α, the plausibility threshold, and the temperature, which α acts on too."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...functional import check_alpha


class Setting(NamedTuple):
    """One way of decoding a pair. The temperature is the one that was sampled at."""

    alpha: float
    plausibility_threshold: float
    temperature: float

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"alpha-{self.alpha}_threshold-{self.plausibility_threshold}_temperature-{self.temperature}"


Series = Mapping[str, Mapping[float, Setting]]  # curves over α, by label


def sweep_settings(
    alphas: Sequence[float],
    plausibility_thresholds: Sequence[float],
    temperatures: Sequence[float],
    temperatures_times_alpha: Sequence[float],
) -> Series:
    """
    All combinations, as curves over α.

    α = 0 has no place in a curve whose temperature is multiplied by α; without another curve it is refused.

    Args:
        alphas (`Sequence[float]`): Weights kept on the policy, in [0, 1].
        plausibility_thresholds (`Sequence[float]`): τ, in [0, 1).
        temperatures (`Sequence[float]`): Temperatures, the same for every α.
        temperatures_times_alpha (`Sequence[float]`): Temperatures to be multiplied by α.

    Returns:
        `dict[str, dict[float, Setting]]`: for the label of each curve and each α, in rising order, the setting.
        Curves meet at α = 1.

    Raises:
        ValueError: if nothing is given, something comes twice, or a number is out of range.
    """
    axes = {
        "alphas": list(alphas),
        "plausibility_thresholds": list(plausibility_thresholds),
        "temperatures": list(temperatures),
        "temperatures_times_alpha": list(temperatures_times_alpha),
    }
    alphas, plausibility_thresholds, temperatures, temperatures_times_alpha = axes.values()
    if not alphas or not plausibility_thresholds or not (temperatures or temperatures_times_alpha):
        raise ValueError("A sweep needs at least one of `alphas`, one threshold and one temperature. Name them.")
    for alpha in alphas:
        for threshold in plausibility_thresholds:
            check_alpha(alpha, threshold)
    for temperature in (*temperatures, *temperatures_times_alpha):
        if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
            raise ValueError(f"A temperature must be a number above 0 and finite, got {temperature!r:.80}.")
    for name, values in axes.items():
        if len({f"{value:g}" for value in values}) < len(values):  # as tables and pictures call them
            raise ValueError(
                f"`{name}` must hold each number once, got {repr(values)[:80]}. Drop what is the same in six digits."
            )
    if 0 in alphas and not temperatures:
        raise ValueError("`alphas` holds 0, and a temperature of 0 · T is none. Add `temperatures`, or drop the 0.")
    series: dict[str, dict[float, Setting]] = {}
    for threshold in plausibility_thresholds:
        suffix = f", τ = {threshold:g}" if len(plausibility_thresholds) > 1 else ""
        for temperature in temperatures:
            series[f"T = {temperature:g}{suffix}"] = {
                float(alpha): Setting(float(alpha), float(threshold), float(temperature)) for alpha in sorted(alphas)
            }
        for temperature in temperatures_times_alpha:
            series[f"T = {temperature:g}·α{suffix}"] = {
                # rounded, so that 0.8 · 0.7 is 0.56
                float(alpha): Setting(float(alpha), float(threshold), round(temperature * alpha, 12))
                for alpha in sorted(alphas)
                if alpha > 0
            }
    return {label: curve for label, curve in series.items() if curve}


def all_settings(series: Series) -> list[Setting]:
    """Every setting once, in the order of the curves."""
    return list(dict.fromkeys(setting for curve in series.values() for setting in curve.values()))


def policy_alone(series: Series) -> dict[Setting, Setting | None]:
    """For every setting what it is compared with: α = 1 on its curve, `None` if that was not asked for."""
    found: dict[Setting, Setting | None] = {}
    for curve in series.values():
        for setting in curve.values():
            found.setdefault(setting, curve.get(1.0))
    return found


def labels(series: Series) -> dict[Setting, str]:
    """What a reader calls each setting: τ is said only where it differs."""
    settings = all_settings(series)
    several = len({setting.plausibility_threshold for setting in settings}) > 1
    return {
        setting: f"α = {setting.alpha:g}, T = {setting.temperature:g}"
        + (f", τ = {setting.plausibility_threshold:g}" if several else "")
        for setting in settings
    }
