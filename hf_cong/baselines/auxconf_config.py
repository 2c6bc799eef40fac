# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Settings of [`AuxConfTrainer`]."""

from dataclasses import dataclass, field

from .base_config import BaselineConfig


@dataclass
class AuxConfConfig(BaselineConfig):
    r"""
    Configuration class for the [`AuxConfTrainer`].

    This class includes only the parameters that are specific to the auxiliary confidence loss. For a full list of
    training arguments, please refer to the [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] documentation.

    Parameters:
        aux_coef (`float`, *optional*, defaults to `0.5`):
            Final weight in [0, 1] of the model's own predictions; the weak labels keep the rest. `0.0` is plain SFT.
        aux_warmup_ratio (`float`, *optional*, defaults to `0.1`):
            Share of the training steps, in [0, 1], over which the weight grows linearly from 0 to `aux_coef`.

    Raises:
        ValueError: if either lies outside [0, 1].
    """

    aux_coef: float = field(
        default=0.5, metadata={"help": "Final weight in [0, 1] of the model's own predictions; 0 is plain SFT."}
    )
    aux_warmup_ratio: float = field(
        default=0.1, metadata={"help": "Share of the steps over which that weight grows linearly from 0."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("aux_coef", "aux_warmup_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {getattr(self, name)!r}.")
