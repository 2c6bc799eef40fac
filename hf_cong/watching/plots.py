# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Pictures and a table of runs, from their logs on disk: of one that is finished, killed, or still training."""

from collections.abc import Sequence
from pathlib import Path

from ..report.lines import Line, plot_bars, plot_lines
from ..report.tables import render_table
from .run_log import evaluations, has_run_log, read_run_log

# What is drawn of each training: the title of a panel, and the names of its lines, with what tells several apart.
_SFT = {
    "loss (nats per token)": {"loss": ""},
    "accuracy (share of the tokens)": {"mean_token_accuracy": ""},
}
_DPO = {
    "loss": {"loss": ""},
    "implicit reward (nats × β)": {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    "margin of the implicit reward (nats × β)": {"rewards/margins": ""},
    "accuracy (share of the pairs)": {"rewards/accuracies": ""},
    "KL to the reference (nats per completion)": {"kl_to_reference": ""},
    "length gap, chosen less rejected (tokens)": {"length_gap": ""},
}
_FIGURES = {
    "sft": ("stage_1.png", "Stage I: supervised fine-tuning", _SFT),
    "dpo": ("stage_2.png", "Stage II: DPO", _DPO),
}
_SPEED = "train_samples_per_second"


def plot_runs(runs: Sequence[str | Path], plot_dir: str | Path | None = None) -> tuple[str, list[Path]]:
    """
    Draws what runs have logged: `stage_1.png`, `stage_2.png` and, of speed and memory, `cost.png`.

    Args:
        runs (`Sequence[str or Path]`):
            Their `output_dir`s. Several are drawn over each other, as are the rounds of [`train_rounds`].
        plot_dir (`str` or `Path`, *optional*):
            Where the pictures go. Defaults to `_cong/plots` in the first of them.

    Returns:
        `tuple[str, list[Path]]`: a table of what each logged last, and the pictures. A stage of which there is no
        line yet has none.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: if there is nothing in it yet.
    """
    plot_dir = Path(runs[0]) / "_cong" / "plots" if plot_dir is None else Path(plot_dir)
    runs = [part for run in runs for part in _with_rounds(Path(run))]
    logs = {name: read_run_log(run) for name, run in zip(_names(runs), runs, strict=True)}
    table = _table(logs)
    plot_dir.mkdir(parents=True, exist_ok=True)
    drawn, of = [], ", ".join(logs)
    for stage, (file, title, panels) in _FIGURES.items():
        if len(logs) > 1:  # then a panel has lines of one kind, and their colours are those of the runs
            kinds = [(quantity, name, kind) for quantity, names in panels.items() for name, kind in names.items()]
            panels = {f"{kind} {quantity}".strip(): {name: ""} for quantity, name, kind in kinds}
        lines = {quantity: _lines(logs, stage, names) for quantity, names in panels.items()}
        lines = {quantity: found for quantity, found in lines.items() if found}
        if lines:
            plot_lines(plot_dir / file, lines, title=f"{title} ({of})", xlabel="step")
            drawn.append(plot_dir / file)
    bars = {
        "peak memory (GiB)": _bars(logs, "memory/", "_peak_gib"),
        "writing (tokens per second)": _bars(logs, "", "/tokens_per_second"),
        "training (samples per second)": {name: _speeds(log) for name, log in logs.items() if _speeds(log)},
    }
    bars = {quantity: found for quantity, found in bars.items() if found}
    if bars:
        plot_bars(plot_dir / "cost.png", bars, title=f"Cost of the stages ({of})")
        drawn.append(plot_dir / "cost.png")
    return table, drawn


def _with_rounds(run: Path) -> list[Path]:
    """The rounds before it that have begun, by number; and the run itself, unless it is still in one of those."""
    rounds = [path for path in run.glob("round-*") if has_run_log(path)]
    rounds.sort(key=lambda path: (len(path.name), path.name))
    return [*rounds, run] if has_run_log(run) or not rounds else rounds


def _names(runs: Sequence[str | Path]) -> list[str]:
    """The last parts of the paths; whole paths, if two have the same."""
    names = [Path(run).absolute().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _lines(logs: dict, stage: str, names: dict[str, str]) -> list[Line]:
    lines, kinds = [], len(logs) if len(logs) > 1 else 3  # of training: those of several data sets follow
    for colour, (run, log) in enumerate(logs.items()):
        logged, prefixes = log[stage].items(), ["", *_evaluations(log[stage])]
        for number, (name, kind) in enumerate(names.items()):
            for place, prefix in enumerate(prefixes):
                points = {step: values[prefix + name] for step, values in logged if prefix + name in values}
                data = prefix.removeprefix("eval_").removesuffix("_")
                when = f"evaluation on {data}" if data else "evaluation" if prefix else "training"
                label = ", ".join(part for part in (run if len(logs) > 1 else kind, when) if part)
                own = colour if len(names) == 1 else 1 + number
                if points:
                    lines.append(Line(label, points, own + kinds * max(0, place - 1), rare=prefix != ""))
    return lines


def _evaluations(log: dict[int, dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(prefix for values in log.values() for prefix in evaluations(values)))


def _bars(logs: dict, start: str, end: str) -> dict[str, dict[str, float]]:
    found = {
        run: {
            name.removeprefix(start).removesuffix(end): value
            for name, value in log["stages"][0].items()
            if name.startswith(start) and name.endswith(end)
        }
        for run, log in logs.items()
    }
    return {run: values for run, values in found.items() if values}


def _speeds(log: dict) -> dict[str, float]:
    return {stage: values[_SPEED] for stage in _FIGURES for values in log[stage].values() if _SPEED in values}


def _table(logs: dict) -> str:
    """What each run logged last, under the names that trackers have."""
    columns = {}
    for run, log in logs.items():
        last = dict(log["stages"][0])
        for stage, (_, _, panels) in _FIGURES.items():
            names = [name for lines in panels.values() for name in lines]
            prefix = "sft/" if stage == "sft" else ""
            if log[stage]:
                last[f"{stage} step"] = max(log[stage])
            for name in (*(start + name for start in ("", *_evaluations(log[stage])) for name in names), _SPEED):
                for values in log[stage].values():
                    if name in values:
                        last[prefix + name] = values[name]
        columns[run] = last
    names = dict.fromkeys(name for last in columns.values() for name in last)
    if not names:
        raise ValueError(f"Nothing is logged yet of {', '.join(logs)}. Wait until its first stage has ended.")
    return render_table([{"last logged": name, **{run: columns[run].get(name) for run in columns}} for name in names])
