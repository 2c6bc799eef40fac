# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Settings of [`WSPOTrainer`]."""

import math
from dataclasses import dataclass, field

from .base_config import BaselineConfig


@dataclass
class WSPOConfig(BaselineConfig):
    r"""
    Configuration class for the [`WSPOTrainer`].

    This class includes only the parameters that are specific to WSPO. For a full list of training arguments, please
    refer to the [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] documentation.

    Parameters:
        beta (`float`, *optional*, defaults to `0.1`):
            β above 0, the scale of the strong model's log-ratio: the smaller, the further the strong model is moved.
            At 0.1 it is asked for ten times the log-ratio of the weak pair. `pref_beta` in the released code.

    > [!NOTE]
    > `learning_rate` defaults to `1e-5` instead of `2e-5`: that of the released recipe for full fine-tuning.

    Raises:
        ValueError: if `beta` is not a finite number above 0, or sequences are to share a row (`packing`,
            `padding_free`): the loss is a mean over sequences.
    """

    learning_rate: float = field(default=1e-5, metadata={"help": "The initial learning rate."})
    beta: float = field(
        default=0.1, metadata={"help": "Scale of the strong model's log-ratio; the weak pair's is divided by it."}
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.beta < math.inf:
            raise ValueError(f"`beta` must be finite and above 0, got {self.beta!r}. The paper's is 0.1.")
        if self.packing or self.eval_packing or self.padding_free:
            raise ValueError(
                "WSPO's loss is a mean over sequences, so each needs a row of its own. Leave `packing`, "
                "`eval_packing` and `padding_free` off; `train_sampling_strategy='group_by_length'` saves padding."
            )
