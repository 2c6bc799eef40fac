# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Batches of rows of like length whose order any launch can find again, whatever its number of processes."""

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler


class ReproducibleLengthGroupedSampler(LengthGroupedSampler):
    """
    Orders the rows of an epoch by its number alone.

    transformers' own takes what the global generator holds when the epoch begins: a run that goes on within its second
    epoch sees other batches, and processes that drew differently since see rows twice or never.

    Args:
        batch_size (`int`): Rows of an update.
        lengths (`list[int]`): Length of each row.
        seed (`int`): With the number of the epoch, it determines the order.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class GroupsByLength:
    """
    Of a trainer with `train_sampling_strategy="group_by_length"`: groups are of updates, not of a process's batches.

    Overrides `_get_train_sampler` and `_set_signature_columns_if_needed`.
    """

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self.args.length_column_name not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, self.args.length_column_name]  # the sampler reads it

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ReproducibleLengthGroupedSampler(sampler.batch_size * self.args.world_size, sampler.lengths, seed)


def add_lengths(pairs: Dataset, column: str) -> Dataset:
    """Tokenised pairs with the length of the longer one of each, by which transformers then groups them."""
    if column in pairs.column_names:
        return pairs
    ids = (pairs[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    lengths = [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in zip(*ids, strict=True)]
    return pairs.add_column(column, lengths)
