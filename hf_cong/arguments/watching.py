# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the command that shows what runs have logged."""

from dataclasses import dataclass, field


@dataclass
class PlotArguments:
    """
    Arguments of `hf-cong plot`: see [`plot_runs`].

    Args:
        output_dir (`str` or `list[str]`): The `output_dir` of a run; several are drawn over each other.
        plot_dir (`str`, *optional*): Where the pictures go. Defaults to `_cong/plots` in the first run.
    """

    output_dir: list[str] | str = field(metadata={"help": "The `output_dir` of a run, or of several to compare."})
    plot_dir: str | None = field(
        default=None, metadata={"help": "Where the pictures go (`_cong/plots` in the first run)."}
    )

    def __post_init__(self):
        self.output_dir = [self.output_dir] if isinstance(self.output_dir, str) else self.output_dir
