# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What systems scored to one table with paired differences, and a picture. All is computed from the records alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ...report.comparisons import plot_differences
from ...report.statistics import Interval, paired_difference
from ...report.tables import render_table


def compare(
    records: Mapping[tuple[str, str], Mapping],
    systems: Sequence[str],
    metrics: Mapping[str, str | None],
    baseline: str,
) -> list[dict]:
    """
    One row for every task and system that was asked for.

    A difference is the mean, over the documents that both have, of what the system scored on a document minus what the
    baseline did. Documents are joined by their content, never by their position.

    Args:
        records (`Mapping[tuple[str, str], Mapping]`):
            By system and task what [`evaluate_task`] measured, or a `reason` why there is nothing.
        systems (`Sequence[str]`):
            Names, in the order of the rows.
        metrics (`Mapping[str, str]`):
            For every task the metric that is its score. `None` is the first that was measured.
        baseline (`str`):
            The system that the others are compared with.

    Returns:
        `list[dict]`: `task`, `system`, `metric`, `num_fewshot`, `documents` (how many), `score`, `stderr`,
        `higher_is_better`, `difference` (its `mean`, the ends `low` and `high` of the 95% interval, both `None` where
        there is none, and the number of `documents` that it is of), `reading` (`"better"`, `"worse"`, or `"higher"`,
        `"lower"` where neither is good; `"undecided"` if the interval holds 0, `"equal"` if no document differs) and
        `reason`, if something is missing.

    Raises:
        ValueError: if a task has no such metric.
    """
    rows = []
    for task, wanted in metrics.items():
        theirs = records.get((baseline, task))
        for system in systems:
            record = records.get((system, task))
            if record is None:
                continue
            row = dict.fromkeys(("metric", "num_fewshot", "documents", "score", "stderr", "higher_is_better"))
            row |= {"difference": None, "reading": None, "reason": record.get("reason")}
            if row["reason"] is None:
                metric = _metric(task, record["metrics"], wanted)
                row |= {"metric": metric, "num_fewshot": record["num_fewshot"], **record["metrics"][metric]}
                row["documents"] = len(record["documents"]["names"]) or None
                if row["score"] is None:
                    row["reason"] = "the score is no finite number"
                elif system != baseline:
                    row |= _against(record, theirs, metric)
                row["reason"] = "; ".join(filter(None, (row["reason"], *_defects(record)))) or None
            rows.append({"task": task, "system": system, **row})
    return rows


def _defects(record: Mapping) -> Iterator[str]:
    """What a reader must know of a score."""
    if record.get("cut"):
        yield f"{record['cut']} prompts longer than the context were cut"
    if record.get("unread"):
        yield f"{record['unread']} verdicts could not be read"


def _metric(task: str, measured: Mapping, wanted: str | None) -> str:
    """The measured metric of this name, whose filter need not be named."""
    names = [name for name in measured if wanted is None or wanted in (name, name.split(",")[0])]
    if not names:
        raise ValueError(f"The task {task!r:.80} has no metric {wanted!r:.80}; it has {', '.join(measured)}.")
    return names[0]


def _against(record: Mapping, theirs: Mapping | None, metric: str) -> dict:
    """`difference`, `reading` and `reason` of one system."""
    better = record["metrics"][metric]["higher_is_better"]
    if "difference" in record:  # of a judge, who compares by himself
        difference = {**record["difference"], "documents": len(_values(record, metric))}
        return {"difference": difference, "reading": _reading(difference, better)}
    if theirs is None or theirs.get("reason") or theirs["metrics"][metric]["score"] is None:
        return {"reason": "the baseline has no score"}
    apart = record["metrics"][metric]["score"] - theirs["metrics"][metric]["score"]
    mine, other = (_values(each, metric) for each in (record, theirs))
    if not (_is_mean(record, metric, mine) and _is_mean(theirs, metric, other)):
        difference = {"mean": apart, "low": None, "high": None, "documents": None}
        return {"difference": difference, "reason": "no interval: not a mean over documents"}
    both = [name for name in mine if name in other]
    if not both:
        return {"reason": "no document in common with the baseline"}
    found = paired_difference([mine[name] for name in both], [other[name] for name in both])
    ends = (found.low, found.high) if math.isfinite(found.low) else (None, None)
    difference = {"mean": found.mean, "low": ends[0], "high": ends[1], "documents": len(both)}
    total = max(len(record["documents"]["names"]), len(theirs["documents"]["names"]))
    reason = None if len(both) == total else f"the difference is over {len(both)} of {total} documents"
    return {"difference": difference, "reading": _reading(difference, better), "reason": reason}


def _values(record: Mapping, metric: str) -> dict[str, float]:
    documents = record["documents"]
    pairs = zip(documents["names"], documents["values"][metric], strict=True)
    return {name: value for name, value in pairs if value is not None}


def _is_mean(record: Mapping, metric: str, values: Mapping[str, float]) -> bool:
    """Whether the score is the mean of its documents, as an accuracy is and a perplexity is not."""
    score = record["metrics"][metric]["score"]
    return bool(values) and math.isclose(math.fsum(values.values()) / len(values), score, rel_tol=1e-6, abs_tol=1e-9)


def _reading(difference: Mapping, higher_is_better: bool | None) -> str | None:
    low, high = difference["low"], difference["high"]
    if low is None:
        return None
    if low <= 0 <= high:
        return "equal" if low == high else "undecided"
    if higher_is_better is None:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) == higher_is_better else "worse"


def _labels(rows: Sequence[Mapping]) -> dict[str, str]:
    """Every task with its metric and the number of examples shown, where one of its rows knows them."""
    labels = {}
    for row in sorted(rows, key=lambda row: row["metric"] is None):
        parts = [row["task"]]
        if row["metric"] not in (None, "mean"):
            parts.append(row["metric"].removesuffix(",none"))
        if row["num_fewshot"] is not None:
            parts.append(f"{row['num_fewshot']}-shot")
        labels.setdefault(row["task"], ", ".join(parts))
    return labels


def render_comparison(rows: Sequence[Mapping], baseline: str, facts: Mapping) -> str:
    """
    The Markdown page: the table, how to read it, the systems and the setting.

    Args:
        rows (`Sequence[Mapping]`): What [`compare`] gives.
        baseline (`str`): The system that the others are compared with.
        facts (`Mapping`): The `systems` as they were given, and the `settings`, with their `limit`.
    """
    cells, before, labels = [], None, _labels(rows)
    for row in rows:
        cells.append(
            {
                "task": labels[row["task"]] if row["task"] != before else "",
                "system": row["system"],
                "n": row["documents"],
                "score": _score_cell(row),
                f"difference to {baseline}": _difference_cell(row["difference"]),
                "reading": ", ".join(filter(None, (row["reading"], row["reason"]))) or None,
            }
        )
        before = row["task"]
    compared = sum(row["reading"] is not None for row in rows)
    lines = [
        "# Evaluation",
        "",
        render_table(cells, markdown=True),
        "",
        "Score ± its standard error over n documents. The difference is paired: its mean over the same documents, and "
        "the 95% interval of that, by bootstrap over documents. Better or worse: the interval excludes 0, which takes "
        f"six documents at least. Equal: no document differs. Of {compared} comparisons, "
        f"{compared * 0.05:.1f} would exclude it by chance alone if nothing differed.",
        "",
    ]
    if facts["settings"]["limit"] is not None:
        lines += [f"**A trial: only the first {facts['settings']['limit']} documents of each task.**", ""]
    for title, entries in (("Systems", facts["systems"]), ("Setting", facts["settings"])):
        lines += [f"## {title}", "", *(f"- {name}: {_words(value)}" for name, value in entries.items()), ""]
    return "\n".join(lines)


def _words(value: object) -> str:
    return ", ".join(f"{name} {inner}" for name, inner in value.items()) if isinstance(value, Mapping) else str(value)


def _score_cell(row: Mapping) -> str | None:
    if row["score"] is None:
        return None
    return f"{row['score']:.3f}" + ("" if row["stderr"] is None else f" ± {row['stderr']:.3f}")


def _difference_cell(difference: Mapping | None) -> str | None:
    if difference is None:
        return None
    ends = "" if difference["low"] is None else f" [{difference['low']:+.3f}, {difference['high']:+.3f}]"
    return f"{difference['mean']:+.3f}{ends}"


def plot_comparison(path: str | Path, rows: Sequence[Mapping], baseline: str) -> None:
    """The paired differences to the baseline: a panel for each task, in it every system with its interval."""
    panels: dict[str, dict[str, Interval | None]] = {}
    labels, alone = _labels(rows), all(row["system"] == baseline for row in rows)
    for row in rows:
        if row["system"] != baseline or alone:
            panels.setdefault(labels[row["task"]], {})[row["system"]] = _interval(row, baseline)
    title = f"Difference to {baseline}, on the same documents"
    plot_differences(path, panels, baseline=baseline, title=title)


def _interval(row: Mapping, baseline: str) -> Interval | None:
    if row["system"] == baseline:
        return Interval(0.0, 0.0, 0.0)
    if row["difference"] is None:
        return None
    low, high = row["difference"]["low"], row["difference"]["high"]
    return Interval(row["difference"]["mean"], -math.inf if low is None else low, math.inf if high is None else high)
