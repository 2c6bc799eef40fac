# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Cards for the Hub, made of a run's manifest and of measured results, and of nothing else."""

from .adding import add_results, keep_results
from .cards import collection_text, decoding_card, model_card, pair_card
from .dataset_card import dataset_card
from .licenses import License, combine, describe_source, license_of
from .reading import measured_as, read_results
from .results import Result, eval_results_files

__all__ = [
    "License",
    "Result",
    "add_results",
    "collection_text",
    "combine",
    "dataset_card",
    "decoding_card",
    "describe_source",
    "eval_results_files",
    "keep_results",
    "license_of",
    "measured_as",
    "model_card",
    "pair_card",
    "read_results",
]
