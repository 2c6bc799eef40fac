# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The commands, what each is for, and how their arguments are read."""

COMMANDS = {
    "demo": "run the whole job on the built-in sandbox, offline: table and plots in a few minutes",
    "check-pair": "is this weak pair any good? To be asked before anything long",
    "train": "ConG on your models and prompts: `--config recipe.yaml`",
    "plot": "pictures and a table of runs, from their logs: finished, killed, or still training",
    "generate": "prompts to completions, by a pair, a model that it steers, or one model",
    "search": "a frozen model steered by a pair's reward: results, table and picture by method",
    "sweep": "which alpha for this pair? Rewards, text and cost at each, with a recommendation",
    "evaluate": "systems side by side on tasks of lm-eval and on prompts, with paired differences",
    "build": "completions to an SFT or a preference dataset",
    "judge": "whose completions are better? by a reward model, or a model behind a URL in both orders",
    "export": "completions as a file for AlpacaEval 2 or Arena-Hard-Auto",
    "compress": "two full checkpoints to one LoRA pair, and what that loses",
    "publish": "a run (or: model, pair, dataset, decoding, results) on the Hub, with cards; `--dry_run` shows all",
    "bench": "how fast contrastive decoding is here, every way side by side",
}


def parse(command: str, dataclass_types: tuple, argv: list[str]) -> tuple:
    """The arguments of a command, one instance of each dataclass."""
    from ..recipes import parse

    return parse(dataclass_types, argv, prog=f"hf-cong {command}", description=COMMANDS[command])
