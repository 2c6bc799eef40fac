# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Completions of several systems, judged pair by pair: joined by prompt, journaled, with a table and a picture."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...checkpoints import content_key
from ...journal import Journal, check_identity, check_manifest, read_manifest, replacing, write_manifest
from ...report.comparisons import plot_win_matrix
from ...report.statistics import Interval, mean_interval, win_rate
from ...report.tables import render_table
from .answers import read_completions
from .judge import Judge

logger = logging.getLogger(__name__)

_VERDICTS, _TABLE, _PICTURE, _MANIFEST = "verdicts.jsonl", "judge.md", "judge.png", "manifest.json"
_FILES = (_VERDICTS, _TABLE, _PICTURE)


def run_judge(
    systems: Mapping[str, object], judge: Judge, *, output_dir: str | Path, baseline: str | None = None
) -> list[dict]:
    """
    Judges the completions of every two systems for the prompts that both answered, and keeps all in `output_dir`.

    Every answer of the judge is journaled as it comes. After a kill, or a judge that fails half-way, the same command
    asks for what is missing and ends with the verdicts of a run that was not interrupted, even if completions were
    added, corrected or left out meanwhile; after the end it returns those that are stored. Systems are joined by
    `prompt_id`; what only one of two answered is counted and reported.

    Args:
        systems (`Mapping[str, object]`):
            By name, the completions of each system: see [`read_completions`].
        judge ([`Judge`]):
            A [`RewardModelJudge`] or an [`EndpointJudge`].
        output_dir (`str` or `Path`):
            Receives `journal.jsonl`, then `verdicts.jsonl` (a row for every two systems and prompt, with the share
            that the first wins and what the judge said), `judge.md` (the table), `judge.png` (the matrix of win rates)
            and, last, `manifest.json`.
        baseline (`str`, *optional*):
            The system that all others are compared with. Without it, every two are compared.

    Returns:
        `list[dict]`: the rows of `verdicts.jsonl`.

    Raises:
        FileNotFoundError: if there is no such run or file.
        ValueError: see [`check_systems`] and [`read_completions`]; or if two systems have no prompt in common, or
            `output_dir` holds another run.
        BlockingIOError: if another process is writing to `output_dir`.
        ConnectionError: if a judge behind a URL fails. What it answered is kept.
    """
    check_systems(systems, baseline)
    tables = {name: _read_system(name, source) for name, source in systems.items()}
    if baseline is None:
        contests = list(itertools.combinations(tables, 2))
    else:
        contests = [(name, baseline) for name in tables if name != baseline]
    shared = {contest: _shared_prompts(tables, *contest) for contest in contests}
    identity = {
        "judge": judge.identity,
        "systems": {name: content_key(table) for name, table in tables.items()},
        "baseline": baseline,
    }
    output_dir = Path(output_dir)
    check_manifest(output_dir / _MANIFEST, _FILES)
    if (output_dir / _MANIFEST).exists():
        check_identity(identity, read_manifest(output_dir / _MANIFEST)["identity"], output_dir / _MANIFEST)
        return _read_verdicts(output_dir)

    with Journal(output_dir / "journal.jsonl", {"judge": judge.identity}) as journal, judge.keep_answers(journal):
        rows = []
        for first, second in contests:
            names = shared[first, second]
            verdicts = judge.verdicts(
                [tables[first][name]["prompt"] for name in names],
                *([tables[system][name]["completion"] for name in names] for system in (first, second)),
            )
            rows += [
                {"first": first, "second": second, "prompt_id": name, **verdict}
                for name, verdict in zip(names, verdicts, strict=True)
            ]
    counts = {name: _count(table) for name, table in tables.items()}
    unmatched = {contest: [len(tables[name]) - len(shared[contest]) for name in contest] for contest in contests}
    facts = {"judge": judge.name, "cost": judge.cost, "identity": identity, "systems": counts}
    _finish(output_dir, rows, summarise_verdicts(rows, unmatched), facts)
    return _read_verdicts(output_dir)


def check_systems(systems: Mapping[str, object], baseline: str | None) -> None:
    """Raises `ValueError` unless there are two systems or more, with names, and the baseline, if any, is one."""
    named = isinstance(systems, Mapping) and all(
        isinstance(name, str) and name.strip() and name.isprintable() for name in systems
    )
    if not named or len(systems) < 2:
        raise ValueError(
            f"`systems` is {repr(systems)[:80]}; it must map two or more names to completions, such as "
            '{"ConG": "runs/cong", "base": "runs/base"}.'
        )
    if baseline not in (None, *systems):
        raise ValueError(f"`baseline` is {baseline!r:.80}; it must be one of the systems: {', '.join(systems)[:200]}.")


def _read_system(name: str, source: object) -> dict[str, dict]:
    try:
        return read_completions(source)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The completions of {name}: {error}") from error


def summarise_verdicts(rows: Sequence[Mapping], unmatched: Mapping[tuple[str, str], Sequence[int]]) -> list[dict]:
    """
    One row for every two systems.

    Args:
        rows (`Sequence[Mapping]`): What `verdicts.jsonl` holds.
        unmatched (`Mapping[tuple[str, str], Sequence[int]]`): For every two systems, the prompts that only the first
            answered, and those that only the second did.

    Returns:
        `list[dict]`: `first`, `second`, the `prompts` that both answered, `rate` (the share that the first wins, a tie
        counting half) with its `stderr` and the ends of its 95% `interval` (`None` without any verdict), `wins`,
        `ties` and `losses` of the first, `no_verdict`, `only_first`, `only_second`, and, of a judge that was asked in
        both orders, `disagree` (prompts where the order changed the verdict) and `first_place` (the share of decided
        verdicts for the answer that came first).
    """
    summary = []
    for (first, second), (only_first, only_second) in unmatched.items():
        found = [row for row in rows if (row["first"], row["second"]) == (first, second)]
        shares = [row["share"] for row in found if row["share"] is not None]
        won = win_rate(shares, [1 - share for share in shares]) if shares else None
        summary.append(
            {
                "first": first,
                "second": second,
                "prompts": len(found),
                "rate": won and won.rate,
                "stderr": won and won.stderr if len(shares) > 1 else None,
                "interval": won and [won.low, won.high],
                "wins": won.wins if won else 0,
                "ties": won.ties if won else 0,
                "losses": won.losses if won else 0,
                "no_verdict": len(found) - len(shares),
                "only_first": only_first,
                "only_second": only_second,
                **_order_effects([row["orders"] for row in found if row.get("orders")]),
            }
        )
    return summary


def _order_effects(orders: list[list[str | None]]) -> dict:
    """What the place of an answer did, of a judge that was asked in both orders."""
    if not orders:
        return {"disagree": None, "first_place": None}
    swapped = {"A": "B", "B": "A", "tie": "tie"}
    decided = [verdict for pair in orders for verdict in pair if verdict in ("A", "B")]
    return {
        "disagree": sum(None not in pair and pair[0] != swapped[pair[1]] for pair in orders),
        "first_place": decided.count("A") / len(decided) if decided else None,
    }


def _shared_prompts(tables: Mapping[str, Mapping], first: str, second: str) -> list[str]:
    names = [name for name in tables[first] if name in tables[second]]
    only = [len(tables[system]) - len(names) for system in (first, second)]
    if not names:
        raise ValueError(
            f"{first} and {second} have no prompt in common ({only[0]} against {only[1]} prompts). A text and a "
            "message of the same text are two prompts. Pass completions of the same prompts."
        )
    if any(only):
        logger.warning(
            "%s and %s share %d prompts; %d that only %s answered and %d that only %s did are not judged.",
            *(first, second, len(names), only[0], first, only[1], second),
        )
    return names


def _count(table: Mapping[str, Mapping]) -> dict[str, int]:
    rows = table.values()
    return {
        "completions": len(rows),
        "empty": sum(not row["completion"].strip() for row in rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
    }


def _finish(output_dir: Path, rows: list[dict], summary: list[dict], facts: dict) -> None:
    """Writes the verdicts, the table and the picture, then the manifest that says they are whole."""
    with replacing(output_dir / _VERDICTS) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    scores = {}  # of a reward model, each once
    for row in rows:
        for system, score in zip((row["first"], row["second"]), row.get("scores", ()), strict=False):
            if score is not None:
                scores.setdefault(system, {})[row["prompt_id"]] = score
    with replacing(output_dir / _TABLE) as temporary:
        temporary.write_text(_render(summary, scores, facts), encoding="utf-8")
    names = list(facts["systems"])
    rates, ties = ([[None] * len(names) for _ in names] for _ in range(2))
    for row in summary:
        i, j = names.index(row["first"]), names.index(row["second"])
        if row["rate"] is not None:
            rates[i][j], rates[j][i] = row["rate"], 1 - row["rate"]
            ties[i][j] = ties[j][i] = row["ties"] / (row["wins"] + row["ties"] + row["losses"])
    title = f"Win rate of the row over the column, judged by {facts['judge']}"
    plot_win_matrix(names, rates, ties, output_dir / _PICTURE, title=title)
    write_manifest(output_dir / _MANIFEST, {**facts, "summary": summary}, files=_FILES)


def _render(summary: list[dict], scores: dict[str, dict[str, float]], facts: dict) -> str:
    """The Markdown page: win rates, how to read them, scores, completions, costs, the setting."""
    both_orders = any(row["disagree"] is not None for row in summary)
    lines = [
        f"# Judged by {facts['judge']}",
        "",
        render_table([_table_row(row, both_orders) for row in summary], markdown=True),
        "",
        "The win rate is the share of prompts that the first system wins, a tie counting half, with its 95% interval "
        "by bootstrap over prompts. Prompts without a verdict, that is an answer that cannot be read or a text longer "
        "than a reward model's context, are in no share; what only one of the two answered was not judged.",
        "",
    ]
    if both_orders:
        lines += [
            "Every pair was judged in both orders. A system wins a prompt only if both verdicts say so; in “disagree” "
            "the order changed the verdict. “First place” is the share of all decided verdicts for the answer that "
            "came first: 50% of a judge that does not mind the order.",
            "",
        ]
    if scores:
        means = {system: mean_interval(list(of_system.values())) for system, of_system in scores.items()}
        rows = [
            {"system": system, "prompts": len(scores[system]), "mean score": _interval(mean)}
            for system, mean in means.items()
        ]
        lines += ["## Scores, in the reward model's unit", "", render_table(rows, markdown=True), ""]
    counts = [{"system": system, **found} for system, found in facts["systems"].items()]
    lines += ["## Completions", "", render_table(counts, markdown=True), ""]
    if facts["cost"] is not None:
        lines += ["## Cost, as the server counted it", "", render_table([facts["cost"]], markdown=True), ""]
    lines += ["## Setting", "", *(f"- {name}: {value}" for name, value in facts["identity"].items()), ""]
    return "\n".join(lines)


def _table_row(row: Mapping, both_orders: bool) -> dict[str, object]:
    rate = "-"
    if row["rate"] is not None:
        rate = f"{row['rate']:.1%} ({row['interval'][0]:.1%} to {row['interval'][1]:.1%})"
    cells = {
        "systems": f"{row['first']} against {row['second']}",
        "prompts": row["prompts"],
        "win rate": rate,
        "wins": row["wins"],
        "ties": row["ties"],
        "losses": row["losses"],
        "no verdict": row["no_verdict"],
        "unmatched": f"{row['only_first']} + {row['only_second']}",
    }
    if both_orders:
        cells["disagree"] = row["disagree"]
        cells["first place"] = None if row["first_place"] is None else f"{row['first_place']:.0%}"
    return cells


def _interval(mean: Interval) -> str:
    return f"{mean.mean:.3f}" if mean.high == float("inf") else f"{mean:.3f}"


def _read_verdicts(output_dir: Path) -> list[dict]:
    with open(output_dir / _VERDICTS, encoding="ascii") as file:
        return [json.loads(line) for line in file]
