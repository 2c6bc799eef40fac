# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A sweep's records to tables and pictures. All is computed from the records alone."""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ...journal import replacing
from ...report.statistics import Interval, WinRate, mean_interval, spearman, win_rate
from ...report.tables import render_table
from ..text_metrics import distinct_n
from .pictures import draw_sweep
from .recommendation import IMPLICIT, RULES, Records, difference
from .settings import Series, Setting, all_settings, labels, policy_alone

# Of `rows.csv`, before the explicit rewards. The texts are in `completions/`, under the same `prompt_id`.
COLUMNS = (
    *("alpha", "plausibility_threshold", "temperature", "prompt_id", "finish_reason", "tokens", "characters"),
    *("positions", "implicit_reward", IMPLICIT, "kl", "kl_sampled", "same_argmax", "acceptance", "nll", "nll_tokens"),
)


def summarise(records: Records, series: Series, judges: Sequence[str]) -> list[dict]:
    """
    One row per setting.

    Args:
        records (`Mapping[Setting, Sequence[Mapping]]`): For each setting a record of each prompt.
        series (`Mapping[str, Mapping[float, Setting]]`): See [`sweep_settings`].
        judges (`Sequence[str]`): Names of the explicit rewards.

    Returns:
        `list[dict]`: the setting; `prompts`; of every reward and of `nll` the mean over prompts, the ends of its 95%
        interval (`_low`, `_high`), and its difference to the policy alone, α = 1 on the same curve, with its own
        (`_gain`, `_gain_low`, `_gain_high`); `perplexity`, over all tokens; `kl`, `kl_sampled`, `same_argmax` and
        `acceptance` per token (see [`token_divergences`]); means of `tokens` and `characters`; `distinct_1` and
        `distinct_2`; the shares `truncated`, cut at the length limit, and `empty`, without a token; for every explicit
        reward its rank correlation over prompts with the implicit reward, in sum and per token (`_spearman`,
        `_spearman_per_token`). `None` where there is no such number.
    """
    alone = policy_alone(series)
    return [_summary(setting, records, alone[setting], judges) for setting in all_settings(series)]


def _summary(setting: Setting, records: Records, alone: Setting | None, judges: Sequence[str]) -> dict:
    rows = records[setting]
    row = {**setting._asdict(), "prompts": len(rows)}
    for name in ("implicit_reward", IMPLICIT, *judges, "nll"):
        values = [record[name] for record in rows if record[name] is not None]
        row |= _columns(name, mean_interval(values) if values else None)
        compared = alone not in (None, setting)
        row |= _columns(f"{name}_gain", difference(records, name, setting, alone) if compared else None)
    read = [record for record in rows if record["nll"] is not None]
    nll = _weighted(read, "nll", "nll_tokens") if read else None
    row["perplexity"] = math.exp(nll) if nll is not None and nll < 700 else None
    row |= {name: _weighted(rows, name, "positions") for name in ("kl", "kl_sampled", "same_argmax", "acceptance")}
    row |= {name: fmean(record[name] for record in rows) for name in ("tokens", "characters")}
    texts = [record["completion"] for record in rows]
    row |= {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2)}
    row["truncated"] = fmean(record["finish_reason"] == "length" for record in rows)
    row["empty"] = fmean(record["tokens"] == 0 for record in rows)
    for name in judges:
        for suffix, implicit in (("spearman", "implicit_reward"), ("spearman_per_token", IMPLICIT)):
            row[f"{name}_{suffix}"] = spearman(_values(rows, implicit), _values(rows, name))
    return row


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    mean, *ends = interval or (None, None, None)
    low, high = (end if end is not None and math.isfinite(end) else None for end in ends)  # of one prompt
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _weighted(rows: Sequence[Mapping], name: str, weight: str) -> float:
    """The mean over tokens of a quantity that is known per completion."""
    return sum(row[name] * row[weight] for row in rows) / sum(row[weight] for row in rows)


def _values(rows: Sequence[Mapping], name: str) -> list[float]:
    return [row[name] for row in rows]


def win_rates(records: Records, series: Series, name: str) -> list[dict]:
    """Every setting against every other one in a reward: a row for each ordered pair."""
    called = labels(series)
    found: dict[tuple[Setting, Setting], WinRate] = {}
    for setting, other in itertools.combinations(called, 2):
        others = {record["prompt_id"]: record[name] for record in records[other]}
        pairs = [(record[name], others[record["prompt_id"]]) for record in records[setting]]
        won = found[setting, other] = win_rate(*zip(*pairs, strict=True))
        found[other, setting] = WinRate(
            1 - won.rate, won.stderr, 1 - won.high, 1 - won.low, won.n, won.losses, won.ties, won.wins
        )
    return [
        {
            "reward": name,
            "setting": called[setting],
            "baseline": called[other],
            **won._asdict(),
            "stderr": won.stderr if math.isfinite(won.stderr) else None,
        }
        for (setting, other), won in sorted(found.items(), key=lambda item: [*map(list(called).index, item[0])])
    ]


def write_report(
    output_dir: Path, records: Records, series: Series, judges: Sequence[str], facts: Mapping
) -> tuple[str, ...]:
    """
    Writes tables and pictures.

    Args:
        output_dir (`Path`): Where to.
        records (`Mapping[Setting, Sequence[Mapping]]`): For each setting a record of each prompt.
        series (`Mapping[str, Mapping[float, Setting]]`): See [`sweep_settings`].
        judges (`Sequence[str]`): Names of the explicit rewards.
        facts (`Mapping`): `recommendation`, `summary`, `counts` and `identity`.

    Returns:
        `tuple[str, ...]`: names of the files.
    """
    settings, rewards = all_settings(series), judges or [IMPLICIT]
    rows = [{name: record[name] for name in (*COLUMNS, *judges)} for s in settings for record in records[s]]
    compared = {name: win_rates(records, series, name) for name in rewards}
    tables = {"rows.csv": rows, "summary.csv": facts["summary"]}
    if len(settings) > 1:
        tables["win_rates.csv"] = [row for table in compared.values() for row in table]
    for name, table in tables.items():
        with replacing(output_dir / name) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    with replacing(output_dir / "sweep.md") as temporary:
        temporary.write_text(render_sweep(series, judges, facts), encoding="utf-8")
    pictures = draw_sweep(output_dir, records, series, judges, compared)
    return (*tables, "sweep.md", *pictures)


def render_sweep(series: Series, judges: Sequence[str], facts: Mapping) -> str:
    """The Markdown page: the recommendation and its rule, the tables, how to read them, the setting."""
    recommendation, rewards = facts["recommendation"], [*judges, "implicit_reward", IMPLICIT]
    alpha = recommendation["alpha"]
    found = "Too thin to tell." if alpha is None else f"Recommended: α = {alpha:g}."
    called = labels(series)
    summary = {Setting(*(row[name] for name in Setting._fields)): row for row in facts["summary"]}
    gains = [f"{name}_gain" for name in (*judges, IMPLICIT)]
    first = [
        {
            "setting": text,
            **{name: _written(summary[setting], name) for name in rewards},
            **{f"{name.removesuffix('_gain')} over α = 1": _written(summary[setting], name) for name in gains},
            **{f"ρ with {name}": _number(summary[setting][f"{name}_spearman"], ".2f") for name in judges},
        }
        for setting, text in called.items()
    ]
    forms = {
        **{"perplexity": ".2f", "kl": ".3f", "kl_sampled": ".3f", "same_argmax": ".0%", "acceptance": ".0%"},
        **{"distinct_1": ".3f", "distinct_2": ".3f", "tokens": ".1f", "truncated": ".0%", "empty": ".0%"},
    }
    second = [
        {"setting": text, **{name: _number(summary[setting][name], form) for name, form in forms.items()}}
        for setting, text in called.items()
    ]
    counts, identity = facts["counts"], facts["identity"]
    drops = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items()) or "nothing"
    lines = [
        *("# α sweep", "", f"**{found}** {recommendation['reason']}", ""),
        *_price(summary, policy_alone(series), recommendation["setting"]),
        *_warnings(facts["summary"], called),
        *("## Rule", "", RULES["explicit" if judges else "implicit"], ""),
        *("## Rewards", "", render_table(first, markdown=True), ""),
        "Means over prompts ± half of the 95% interval; gains over the policy alone (α = 1 at the same threshold and "
        "temperature) are paired by prompt. The implicit reward is in nats per completion, then per token. ρ is "
        "Spearman's rank correlation with the implicit reward of a completion.",
        *("", "## Text and cost", "", render_table(second, markdown=True), ""),
        f"Perplexity is under {'the reference' if identity['perplexity'] == 'the reference' else 'the given model'}. "
        "Per token: kl is KL(p_α ‖ policy) in nats, both at temperature 1; kl_sampled that of what was sampled, at "
        "its temperature and before top-p; same_argmax how often both have the same most likely token; acceptance the "
        "probability that speculative sampling keeps what the policy drafts.",
        *("", "## Setting", "", f"- prompts: {counts['rows_in']} rows in, {counts['kept']} kept, dropped: {drops}"),
        *(f"- {name}: {value}" for name, value in identity.items()),
        "",
    ]
    return "\n".join(lines)


def _price(summary: Mapping[Setting, Mapping], alone: Mapping, chosen: Mapping | None) -> list[str]:
    """What else changes with the recommended setting, which a reward may not see."""
    if chosen is None or alone[Setting(**chosen)] in (None, Setting(**chosen)):
        return []
    here, there = summary[Setting(**chosen)], summary[alone[Setting(**chosen)]]
    forms = {"perplexity": ".1f", "distinct_2": ".2f", "tokens": ".0f", "truncated": ".0%", "empty": ".0%"}
    parts = [f"{name} {_number(here[name], form)} ({_number(there[name], form)})" for name, form in forms.items()]
    return [f"What comes with it, in brackets that of the policy alone: {', '.join(parts)}.", ""]


def _warnings(summary: Sequence[Mapping], called: Mapping[Setting, str]) -> list[str]:
    """What makes the rewards those of fragments."""
    cut = [text for row, text in zip(summary, called.values(), strict=True) if row["truncated"] > 0.5]
    if not cut:
        return []
    return [
        f"More than half of the completions were cut at the length limit in: {'; '.join(cut)}. Their rewards are "
        "those of fragments: raise `max_new_tokens`.",
        "",
    ]


def _written(row: Mapping, name: str) -> str | None:
    if row[name] is None or row[f"{name}_low"] is None:
        return _number(row[name], ".3f")
    return f"{Interval(row[name], row[f'{name}_low'], row[f'{name}_high']):.3f}"


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else f"{value:{form}}"
