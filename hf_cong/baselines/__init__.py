# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What ConG is compared with, where a loss of its own makes it a trainer: WSPO and the auxiliary confidence loss.

Both are [`~trl.SFTTrainer`] with another loss. Its `compute_loss` asks the model for the log-probabilities of the
labels and sums them; they hand it a model that answers with minus their own loss instead, and keep its metrics and its
scaling over accumulated steps and processes. `recipes/compare` runs them beside ConG and beside those baselines that
are existing parts put together.
"""
