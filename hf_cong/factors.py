# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The difference of two checkpoints, factored into files matrix by matrix, and how much of it each rank holds.

Straight from the files of the checkpoints, so memory is bounded by one matrix. Knows nothing of pairs and prompts.
"""

import logging
import math
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .journal import Journal, replacing
from .weights import Weights

logger = logging.getLogger(__name__)

EMBEDDINGS = {"model.embed_tokens.weight": "embeddings", "lm_head.weight": "head"}
_LOUD = 0.05  # share of the difference that the adapter leaves out


class Factors:
    """
    The factors of matrices, a file for each.

    Args:
        directory (`Path`): Where the files are, or will be.
        matrices (`list[str]`): Names of the matrices.

    Attributes:
        files (`dict[str, Path]`): the file of each matrix, by name.
    """

    def __init__(self, directory: Path, matrices: list[str]):
        self.files = {name: directory / f"{name.removesuffix('.weight')}.safetensors" for name in matrices}

    def squares(self, name: str) -> Tensor:
        """The squared singular values that are known, float64, in falling order."""
        return load_file(self.files[name])["squares"]

    def adapter(self, name: str, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`lora_A (k, in)` and `lora_B (out, k)` of the best approximation, k at most `rank`."""
        tensors = load_file(self.files[name])
        return tensors["lora_A"][:rank].to(dtype), tensors["lora_B"][:, :rank].to(dtype)


def write_factors(
    policy: Weights,
    reference: Weights,
    factors: Factors,
    journal: Journal,
    *,
    largest_rank: int,
    full_svd_limit: int,
    device: str,
) -> list[dict]:
    """
    Factors what is left to factor.

    Args:
        policy, reference ([`Weights`]): The checkpoints, with the same tensors.
        factors ([`Factors`]): Names the matrices to factor, and receives their files.
        journal ([`Journal`]): Gets a record per tensor; the factors of a matrix are on disk before its record.
        largest_rank (`int`): Components to keep.
        full_svd_limit (`int`): Smaller side up to which a matrix gets a full SVD.
        device (`str`): Where matrices are factored.

    Returns:
        `list[dict]`: for each `tensor` its `energy` ‖Δ‖² and, of a matrix, whether its SVD was `exact`.

    Raises:
        ValueError: if a weight is not finite.
    """
    done = {record["tensor"] for record in journal.records}
    for name in tqdm(reference.shapes, desc="Tensors", unit="tensor"):
        if name in done:
            continue
        record = {"tensor": name}
        if name in factors.files:
            difference = policy.tensor(name).to(device, torch.float32)
            difference -= reference.tensor(name).to(device)
            record["energy"] = squared_norm(difference)
            record["exact"] = min(difference.shape) <= full_svd_limit
        else:
            blocks = zip(policy.blocks(name), reference.blocks(name), strict=True)
            record["energy"] = sum(squared_norm(ours - theirs) for ours, theirs in blocks)
        if not math.isfinite(record["energy"]):
            raise ValueError(
                f"{name!r} is not finite in `policy` or `reference`. Take the checkpoints from their source."
            )
        if name in factors.files:
            with replacing(factors.files[name]) as temporary:
                save_file(factor(difference, largest_rank, exact=record["exact"]), temporary)
        journal.append([record])
    return journal.records


def factor(difference: Tensor, rank: int, *, exact: bool = True) -> dict[str, Tensor]:
    """
    The truncated SVD of a matrix, as the two matrices of a LoRA.

    Args:
        difference (`torch.FloatTensor` of shape `(out, in)`): Policy minus reference.
        rank (`int`): Components to keep; `k = min(rank, out, in)`.
        exact (`bool`, *optional*, defaults to `True`): `False` computes the leading components only, by a seeded
            randomised SVD.

    Returns:
        `dict[str, torch.Tensor]` on the CPU: `lora_A` of shape `(k, in)` and `lora_B` of shape `(out, k)`, whose first
        r rows and columns are the best approximation of rank r; and `squares`, float64, the squared singular values
        that are known, in falling order.
    """
    rank = min(rank, *difference.shape)
    if exact:
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            oversampled = min(rank + 16, *difference.shape)
            left, values, right = torch.svd_lowrank(difference, q=oversampled, niter=4)
        values, right = values[:rank], right.T  # the last ones are only there to make the first ones right
    root = values[:rank].sqrt()
    return {
        "lora_A": (root[:, None] * right[:rank]).contiguous().cpu(),
        "lora_B": (left[:, :rank] * root).contiguous().cpu(),
        "squares": values.double().square().cpu(),
    }


def squared_norm(difference: Tensor) -> float:
    """‖Δ‖², the energy, summed in float64."""
    return torch.linalg.vector_norm(difference, dtype=torch.float64).item() ** 2


def energy_report(records: list[dict], factors: Factors, ranks: list[int]) -> dict:
    """
    Everything that is known from the weights alone.

    Args:
        records (`list[dict]`): What [`write_factors`] returned.
        factors ([`Factors`]): The factors it wrote.
        ranks (`list[int]`): Ranks to report.

    Returns:
        `dict`: `ranks`, `left_out`, `curves` and `modules`, as in the report of [`~compress.compress_pair`].

    Raises:
        ValueError: if the checkpoints are equal in every matrix.
    """
    modules = {
        r["tensor"]: {"energy": r["energy"], "exact": r["exact"]} for r in records if r["tensor"] in factors.files
    }
    left_out = dict.fromkeys(("embeddings", "head", "norms", "biases"), 0.0)
    for record in records:
        if record["tensor"] not in modules:
            left_out[_kind(record["tensor"])] += record["energy"]
    inside, outside = sum(module["energy"] for module in modules.values()), sum(left_out.values())
    if inside == 0:
        where = ", ".join(kind for kind, energy in left_out.items() if energy) or "nowhere"
        raise ValueError(
            "`policy` and `reference` are equal in every matrix that an adapter can change, so there is nothing to "
            f"compress. They differ elsewhere: {where}. Pass the checkpoints after and before alignment."
        )
    share = outside / (inside + outside)
    if share > _LOUD:
        largest = max(left_out, key=left_out.get)
        logger.warning(
            "%.0f%% of the squared difference between `policy` and `reference` is in tensors that an adapter leaves "
            "out, most of it in the %s. The row `full` of the report says what they cost.",
            100 * share,
            largest,
        )
    by_type = defaultdict(list)
    for name in modules:
        by_type[name.split(".")[-2]].append(name)
    curves = {"all": _curve(list(modules), modules, factors)}
    for target, names in by_type.items():
        if sum(modules[name]["energy"] for name in names):
            curves[target] = _curve(names, modules, factors)
    captured = {0: 0.0, **{rank: curves["all"][min(rank, len(curves["all"])) - 1] for rank in ranks}, "full": 1.0}
    return {
        "ranks": [
            {"rank": rank, "captured_energy": value, "captured_of_all": value * (1 - share)}
            for rank, value in captured.items()
        ],
        "left_out": {
            "energy": left_out,
            "shares": {kind: energy / (inside + outside) for kind, energy in left_out.items()},
            "share": share,
        },
        "curves": curves,
        "modules": modules,
    }


def _kind(name: str) -> str:
    return EMBEDDINGS.get(name, "biases" if name.endswith(".bias") else "norms")


def _curve(names: list[str], modules: dict, factors: Factors) -> list[float]:
    """Share of the matrices' energy that ranks 1, 2, 3, ... capture, as far as all their singular values are known."""
    sums = [factors.squares(name).cumsum(0) for name in names]
    known = min(
        (len(s) for name, s in zip(names, sums, strict=True) if not modules[name]["exact"]),
        default=max(map(len, sums)),
    )
    # a matrix with fewer singular values has been captured whole by then
    padded = [F.pad(s[:known], (0, max(0, known - len(s))), value=s[-1].item()) for s in sums]
    total = sum(modules[name]["energy"] for name in names)
    return (torch.stack(padded).sum(0) / total).clamp(max=1.0).tolist()
