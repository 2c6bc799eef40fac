# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The console script `hf-cong`. Each command parses, makes one call, and prints; all work is elsewhere."""

import signal
import sys

from .commands import COMMANDS
from .evaluation import evaluate, export, judge
from .generation import bench, generate, search
from .pair import check_pair, compress, sweep
from .publishing import publish
from .training import build, demo, train
from .watching import plot

__all__ = ["COMMANDS", "main"]


def main(argv: list[str] | None = None) -> int:
    """
    Runs one command; a refusal is one line on stderr and exit status 2, `--debug` shows the traceback. Status 1 is of
    a pair that `check-pair` finds unusable.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [arg for arg in argv if arg != "--debug"]
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: hf-cong COMMAND [--config recipe.yaml] [--key value ...] [--debug]\n")
        print("\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items()))
        return 0 if argv else 2
    from ..recipes import check_command_line

    try:
        check_command_line(argv)  # before anything shows what was typed
    except ValueError as error:
        print(f"hf-cong: {error}", file=sys.stderr)
        return 2
    command = {
        "demo": demo,
        "check-pair": check_pair,
        "train": train,
        "plot": plot,
        "generate": generate,
        "search": search,
        "sweep": sweep,
        "evaluate": evaluate,
        "build": build,
        "judge": judge,
        "export": export,
        "compress": compress,
        "publish": publish,
        "bench": bench,
    }.get(argv[0])
    if command is None:
        print(f"hf-cong: there is no command {argv[0]!r}. Commands: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return command(argv[1:]) or 0
    except (ValueError, TypeError, OSError, NotImplementedError, ImportError) as error:
        if debug:
            raise
        print(f"hf-cong {argv[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"hf-cong {argv[0]}: interrupted. What was finished is kept; the same command goes on.", file=sys.stderr)
        return 128 + signal.SIGINT
