# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What the baselines' configurations share: SFTConfig, without the settings of a loss that is not used."""

from dataclasses import dataclass

from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig


@dataclass
class BaselineConfig(SFTConfig):
    r"""
    [`~trl.SFTConfig`] for a trainer with a loss of its own. Not used directly.

    `bf16` defaults to `True` where the GPU supports it, and to `False` on CPU, as in [`ConGConfig`].

    Raises:
        ValueError: if `loss_type` or `label_smoothing_factor` is set, or `hub_token`.
    """

    def __post_init__(self):
        if self.hub_token is not None:
            raise ValueError(
                "`hub_token` would be written into `training_args.bin`, which is uploaded with the model. Leave it "
                "unset and log in with `hf auth login`, or set the environment variable `HF_TOKEN`."
            )
        if self.bf16 is None and not self.fp16:
            self.bf16 = is_torch_bf16_gpu_available() and not self.use_cpu
        super().__post_init__()
        if self.loss_type != "nll" or self.label_smoothing_factor != 0:
            raise ValueError(
                f"{type(self).__name__} is of a trainer with a loss of its own, so `loss_type` "
                f"({self.loss_type!r}) and `label_smoothing_factor` ({self.label_smoothing_factor}) must keep their "
                "defaults. Use `trl.SFTTrainer` for those."
            )
