# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Arguments of `hf-cong train` beside those of [`ConGConfig`] and of TRL."""

from dataclasses import dataclass, field


@dataclass
class RoundsArguments:
    """
    How many rounds: see [`train_rounds`].

    Args:
        num_rounds (`int`, *optional*, defaults to `1`): Rounds of ConG, each from the result of the one before.
        round_alphas (`list[float]`, *optional*): α of each round. By default it is `alpha` in all.
        sft_every_round (`bool`, *optional*, defaults to `True`): Whether later rounds do stage I too.
    """

    num_rounds: int = field(
        default=1, metadata={"help": "Rounds of ConG, each from the result of the one before, with fresh samples."}
    )
    round_alphas: list[float] | None = field(default=None, metadata={"help": "Alpha of each round."})
    sft_every_round: bool = field(default=True, metadata={"help": "Whether later rounds do stage I too."})
