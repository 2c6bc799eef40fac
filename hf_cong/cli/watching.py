# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The command that shows what runs have logged."""

from .commands import parse


def plot(argv: list[str]):
    from ..arguments import PlotArguments
    from ..watching.plots import plot_runs

    (args,) = parse("plot", (PlotArguments,), argv)
    table, pictures = plot_runs(args.output_dir, args.plot_dir)
    print(table)
    for picture in pictures:
        print(picture)
