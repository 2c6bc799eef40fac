# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Two checkpoints to one LoRA pair: the difference of their weights, cut to a low rank, and what the cut costs.

Memory is bounded by twice a layer, or twice the embeddings where those are larger. Only the measurement on prompts
loads the two models.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from .checkpoints import content_key, model_identity
from .compatibility import check_decoder_only, check_same_vocabulary, eos_token_ids
from .evaluation.fidelity import measure_fidelity
from .factors import EMBEDDINGS, Factors, energy_report, squared_norm, write_factors
from .functional import check_alpha
from .generation import generate_completions
from .journal import Journal, read_manifest, replacing, write_manifest
from .pair import ContrastiveLoraPairConfig, ContrastiveLoraPairForCausalLM, ContrastivePairForCausalLM
from .pair.configuration_contrastive_lora_pair import TARGETS
from .prompts import encode_prompt, read_prompts
from .report.plots import plot_ranks
from .report.tables import render_table
from .weights import Weights, check_same_tensors

logger = logging.getLogger(__name__)

_WORK, _REPORT, _PICTURE = "_compression", "compression.json", "compression.png"
_TARGET = re.compile(rf"layers\.\d+\.\w+\.({'|'.join(TARGETS)})\.weight$")
_DEFAULT_RANKS = (4, 8, 16, 32, 64)
# What may differ between two configurations of one architecture: shapes are compared on the tensors themselves.
_NO_EFFECT = {
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_position_embeddings",
    "max_window_layers",
    "pad_token_id",
    "tie_word_embeddings",
    "transformers_version",
    "use_cache",
    "vocab_size",
    "_name_or_path",
}


def compress_pair(
    policy: str | os.PathLike,
    reference: str | os.PathLike,
    *,
    output_dir: str | os.PathLike,
    rank: int = 16,
    ranks: Sequence[int] | None = None,
    alpha: float = 0.4,
    plausibility_threshold: float = 0.1,
    prompts: datasets.Dataset | list | str | Path | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 8,
    full_svd_limit: int = 4096,
    device: str = "cpu",
) -> dict:
    """
    Approximates a pair of full checkpoints by its reference and a low-rank adapter, and measures what that loses.

    Every matrix of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj` in the policy is
    replaced by the reference's plus the best rank-r approximation of their difference (truncated SVD). Embeddings,
    head, norms and biases are the reference's: how much of the difference sits there is reported, and warned of when
    it is more than 5%. The adapter is stored in the dtype of the matrix it belongs to; what rounding to it loses is
    reported as `rounding`. Checkpoints in bfloat16 are themselves rounded, which adds noise of full rank to their
    difference: no low rank captures that part of the energy, and nothing of the alignment is in it.

    Each factored matrix is on disk at once. After a kill, the same command goes on with the next one and ends with the
    bytes of a run that was not interrupted. Another `rank`, α, τ or set of prompts in the same `output_dir` reuses the
    factors and rewrites the pair.

    Args:
        policy (`str` or `os.PathLike`):
            The checkpoint after alignment: a directory or a Hub id, in safetensors.
        reference (`str` or `os.PathLike`):
            The checkpoint before alignment, of the same architecture and vocabulary.
        output_dir (`str` or `os.PathLike`):
            Receives the pair, which loads as a [`ContrastiveLoraPairForCausalLM`], `compression.png`, the factors
            under `_compression` and, last, `compression.json`.
        rank (`int`, *optional*, defaults to `16`):
            Rank of the adapter that is written.
        ranks (`Sequence[int]`, *optional*):
            Ranks to measure. Defaults to those of 4, 8, 16, 32, 64 that the matrices have; `rank` is always among
            them.
        alpha (`float`, *optional*, defaults to `0.4`):
            α in [0, 1], the weight kept on the policy.
        plausibility_threshold (`float`, *optional*, defaults to `0.1`):
            τ in [0, 1) of the plausible set.
        prompts (`datasets.Dataset`, `list`, `str` or `Path`, *optional*):
            Prompts to measure on: see [`read_prompts`]. The exact pair writes one completion for each, at temperature
            1, and both models are loaded to compare the pairs on these. Without prompts only weights are measured.
        max_new_tokens (`int`, *optional*, defaults to `128`):
            Longest completion, in tokens.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the completions.
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts per forward.
        full_svd_limit (`int`, *optional*, defaults to `4096`):
            Matrices whose smaller side is at most this get a full SVD. Larger ones get a randomised SVD (seeded, four
            power iterations) for the largest of `ranks`: their energy beyond that rank is known only in total.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where matrices are factored and models run.

    Returns:
        `dict`: the content of `compression.json`.

        - `ranks`: for each rank, from 0 (no adapter) to `"full"` (the whole difference of the seven matrices, the rest
          left out): `captured_energy`, the share of Σ‖ΔW‖² that rank r captures, `captured_of_all`, the same share
          with the tensors left out in the denominator, and with prompts the measures of
          [`~evaluation.fidelity.measure_fidelity`].
        - `curves`: `captured_energy` at ranks 1, 2, 3, ..., over all matrices (`all`) and by type.
        - `left_out`: `energy` (‖Δ‖²) of `embeddings`, `head`, `norms`, `biases`, its `shares` of the whole difference,
          and the `share` of them together.
        - `modules`: ‖ΔW‖² of each matrix, and whether its SVD was `exact`.
        - `rounding`: ‖BA − round(B)·round(A)‖² of the written adapter, over Σ‖ΔW‖².

    Raises:
        FileNotFoundError: if a shard of a checkpoint is missing.
        ValueError: if the two are not checkpoints of one architecture and vocabulary, are identical or quantised or
            not in safetensors; if a matrix belongs to a family that a LoRA pair does not cover; if a rank, α or τ is
            out of range; or if `output_dir` holds something else.
        BlockingIOError: if another process is writing to `output_dir`.

    Source: [ConG](https://huggingface.co/papers/2510.07884) leaves lighter approximations of alignment states to
    future work; truncated SVD is the best approximation of a given rank (Eckart and Young 1936).
    """
    check_alpha(alpha, plausibility_threshold)
    policy, reference = Weights(policy, "policy"), Weights(reference, "reference")
    matrices = _check_pair(policy, reference)
    ranks = _check_ranks(rank, ranks, max(min(policy.shapes[name]) for name in matrices))
    tokenizers = [_tokenizer(weights.directory) for weights in (policy, reference)]
    if None not in tokenizers:
        check_same_vocabulary(*tokenizers)
    rows = None
    if prompts is not None:
        if tokenizers[0] is None:
            raise ValueError(
                f"`prompts` need the tokenizer of `policy`, and {policy.directory} has none. Save it there, or leave "
                "`prompts` out."
            )
        rows, _ = read_prompts(prompts)

    output_dir = Path(output_dir)
    factors_identity = {
        "policy": model_identity(str(policy.directory)),
        "reference": model_identity(str(reference.directory)),
        "largest_rank": max(ranks),
        "full_svd_limit": full_svd_limit,
    }
    settings = {"rank": rank, "ranks": ranks, "alpha": alpha, "plausibility_threshold": plausibility_threshold}
    if rows is not None:
        settings["prompts"] = content_key(list(rows["prompt_id"]))
        settings |= {"max_new_tokens": max_new_tokens, "seed": seed, "batch_size": batch_size}
    journal = output_dir / _WORK / "journal.jsonl"
    if output_dir.exists() and not journal.exists() and any(output_dir.iterdir()):
        raise ValueError(f"`output_dir` {str(output_dir)!r} holds other files. Choose an empty or a new directory.")
    names = {"policy": str(policy.directory), "reference": str(reference.directory)}
    with Journal(journal, factors_identity, names) as journal:
        report = output_dir / _REPORT
        if report.exists():
            found = read_manifest(report)
            if found["settings"] == settings:
                return found
            report.unlink()  # it says that the pair beside it is complete, and that is about to change
        factors = Factors(output_dir / _WORK / "factors", matrices)
        records = write_factors(
            policy,
            reference,
            factors,
            journal,
            largest_rank=max(ranks),
            full_svd_limit=full_svd_limit,
            device=device,
        )
        content = {"identity": factors_identity, "names": names, "settings": settings}
        content |= energy_report(records, factors, ranks)
        files, lost = _write_pair(policy, reference, factors, output_dir, tokenizers[0], rank, settings)
        content["rounding"] = lost / sum(content["modules"][name]["energy"] for name in matrices)
        if rows is not None:
            key = content_key({name: value for name, value in settings.items() if name not in ("rank", "ranks")})
            measures = _measure(
                policy, reference, factors, rows, tokenizers[0], settings, output_dir / _WORK / key, device
            )
            for row in content["ranks"]:
                row |= measures[str(row["rank"])]
        title = f"Low-rank approximation of a pair, α = {alpha:g}, τ = {plausibility_threshold:g}"
        plot_ranks(output_dir / _PICTURE, content["curves"], content["ranks"], title=title)
        return write_manifest(report, content, files=(*files, _PICTURE))


def report_table(report: dict, *, markdown: bool = False) -> str:
    """The rows of a report of [`compress_pair`] as a table, as [`~report.tables.render_table`] draws them."""

    def short(value: float | None) -> str | None:
        return None if value is None else f"{value:.2g}"

    rows = []
    for row in report["ranks"]:
        cells = {"rank": row["rank"], "energy": row["captured_energy"], "of all": row["captured_of_all"]}
        if "kl" in row:
            cells |= {f"KL {name}": short(row["kl"][name]) for name in ("mean", "median", "p95")}
            cells |= {"KL unmasked": short(row["kl_unmasked"]["mean"]), "forbidden": short(row["forbidden"])}
            cells["same greedy token"] = row["greedy_agreement"]
            cells |= {"reward r": row["reward_pearson"], "reward ρ": row["reward_spearman"]}
        rows.append(cells)
    return render_table(rows, markdown=markdown)


def _check_ranks(rank: int, ranks: Sequence[int] | None, limit: int) -> list[int]:
    asked = [rank, *(ranks or ())]
    wrong = [value for value in asked if not isinstance(value, int) or not 1 <= value <= limit]
    if wrong:
        name = "rank" if wrong[0] is rank else "ranks"
        raise ValueError(
            f"`{name}` must lie in [1, {limit}], got {repr(wrong[0])[:80]}: no matrix of these checkpoints has a rank "
            f"above {limit}."
        )
    return sorted({*asked, *(value for value in _DEFAULT_RANKS if ranks is None and value <= limit)})


def _check_pair(policy: Weights, reference: Weights) -> list[str]:
    """Names of the matrices to factor, once the two are found to be one architecture that a LoRA pair covers."""
    for weights, role in ((policy, "policy"), (reference, "reference")):
        check_decoder_only(weights.config, role)
    if policy.config.model_type != reference.config.model_type:
        raise ValueError(
            f"`policy` is a {policy.config.model_type!r} model and `reference` a {reference.config.model_type!r} one. "
            "Pass two checkpoints of one model, before and after alignment."
        )
    _check_model(policy, "policy")
    _check_model(reference, "reference")
    check_same_tensors(policy, reference)
    there, here = policy.config.to_dict(), reference.config.to_dict()
    for name in sorted({**there, **here}.keys() - _NO_EFFECT):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"`policy` and `reference` must compute alike, but `{name}` is {repr(there.get(name))[:80]} in "
                f"`policy` and {repr(here.get(name))[:80]} in `reference`. A LoRA pair has one configuration; for "
                "these two use `ContrastivePairForCausalLM`."
            )
    return [name for name in reference.shapes if _TARGET.search(name)]


def _check_model(weights: Weights, role: str) -> None:
    """Refuses a checkpoint that is not just what its own model loads, and a model that no LoRA pair covers."""
    kind = weights.config.model_type
    with torch.device("meta"):
        places = AutoModelForCausalLM.from_config(weights.config).state_dict()
    for name, weight in sorted(places.items()):
        shape, found = tuple(weight.shape), weights.shapes.get(name)
        if len(shape) > 1 and name not in EMBEDDINGS and not _TARGET.search(name):
            raise ValueError(
                f"A LoRA pair covers {', '.join(TARGETS)}, and this {kind!r} model has the weight {name!r} of shape "
                f"{shape}. Use `ContrastivePairForCausalLM` with both checkpoints."
            )
        tied = name == "lm_head.weight" and weights.config.tie_word_embeddings
        if found != shape and not (tied and found is None):
            raise ValueError(
                f"`{role}` must be the {kind!r} model of its configuration: {name!r} is "
                f"{'absent' if found is None else f'of shape {found}'} instead of {shape}. Take the checkpoint from "
                "its source, or load it with `AutoModelForCausalLM` and save it again."
            )
    if unknown := [name for name in weights.shapes if name not in places]:
        logger.warning(
            "`%s` holds %d tensors for which a %r model has no place, such as %r. They are passed over.",
            role,
            len(unknown),
            kind,
            unknown[0][:80],
        )
        for name in unknown:
            del weights.shapes[name]


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase | None:
    return AutoTokenizer.from_pretrained(directory) if (directory / "tokenizer_config.json").exists() else None


def _write_pair(
    policy: Weights,
    reference: Weights,
    factors: Factors,
    output_dir: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    rank: int,
    settings: dict,
) -> tuple[tuple[str, ...], float]:
    """The pair's directory, a shard at a time. Returns the names of its files and what rounding the adapter lost."""
    # A target that alignment left alone in every layer has no adapter.
    targets = sorted({name.split(".")[-2] for name in factors.files if factors.squares(name).sum() > 0})
    config = ContrastiveLoraPairConfig(
        reference.config,
        lora_rank=rank,
        target_modules=targets,
        alpha=settings["alpha"],
        plausibility_threshold=settings["plausibility_threshold"],
        dtype=reference.config.dtype,
        **{name: policy.config.to_dict().get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    names = [name for name in reference.shapes if name != "lm_head.weight" or not reference.config.tie_word_embeddings]
    shards = {}  # one for each layer, and for each tensor outside the layers
    for name in names:
        layer = re.search(r"\.layers\.\d+\.", name)
        shards.setdefault(layer[0] if layer else name, []).append(name)
    lost, size, weight_map = 0.0, 0, {}
    for number, group in enumerate(shards.values(), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        sizes, lost_here = _write_shard(output_dir / file, group, reference, factors, targets, rank)
        lost, size = lost + lost_here, size + sum(sizes.values())
        weight_map |= dict.fromkeys(sizes, file)
    with replacing(output_dir / "model.safetensors.index.json") as temporary:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    with torch.device("meta"):
        pair = ContrastiveLoraPairForCausalLM(config)
    if (policy.directory / "generation_config.json").exists():
        pair.generation_config = GenerationConfig.from_pretrained(policy.directory)
    pair._tokenizer = tokenizer
    pair.save_description(output_dir)
    return (*dict.fromkeys(weight_map.values()), "model.safetensors.index.json", "config.json"), lost


def _write_shard(
    file: Path, names: list[str], reference: Weights, factors: Factors, targets: list[str], rank: int
) -> tuple[dict[str, int], float]:
    """Bytes by tensor, and what rounding the adapter lost. A function of its own, so that no tensor outlives it."""
    lost, tensors = 0.0, {}
    for name in names:
        weight = tensors[f"stack.{name}"] = reference.tensor(name)
        if name in factors.files and name.split(".")[-2] in targets:
            lora_A, lora_B = factors.adapter(name, rank, weight.dtype)
            exact_A, exact_B = factors.adapter(name, rank, torch.float32)
            lost += squared_norm(exact_B @ exact_A - lora_B.float() @ lora_A.float())
            padding = rank - len(lora_A)
            module = f"stack.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A"] = F.pad(lora_A, (0, 0, 0, padding))
            tensors[f"{module}.lora_B"] = F.pad(lora_B, (0, padding)).contiguous()
    with replacing(file) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    return {name: tensor.nbytes for name, tensor in tensors.items()}, lost


def _measure(
    policy: Weights,
    reference: Weights,
    factors: Factors,
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    settings: dict,
    output_dir: Path,
    device: str,
) -> dict[str, dict]:
    """The measures of [`measure_fidelity`] by rank, on completions that the exact pair samples."""
    contrast = {name: settings[name] for name in ("alpha", "plausibility_threshold")}
    models = [
        AutoModelForCausalLM.from_pretrained(weights.directory, dtype="auto", use_safetensors=True).to(device).eval()
        for weights in (policy, reference)
    ]
    pair = ContrastivePairForCausalLM.from_pair(*models, **contrast)
    completions = generate_completions(
        rows,
        pair,
        tokenizer=tokenizer,
        output_dir=output_dir,
        seed=settings["seed"],
        max_new_tokens=settings["max_new_tokens"],
        temperature=1.0,  # samples of p_α itself, so that the mean KL is the pair's own
        top_p=1.0,
        batch_size=settings["batch_size"],
    )
    end = {"stop": eos_token_ids(pair)[:1], "length": []}  # stopping is part of the answer
    texts = [
        (encode_prompt(tokenizer, row["prompt"]), row["completion_ids"] + end[row["finish_reason"]])
        for row in completions
    ]
    return measure_fidelity(
        *models,
        {"0": {}, **_approximations(factors, *models, settings["ranks"])},
        texts,
        **contrast,
        batch_size=settings["batch_size"],
    )


def _approximations(factors: Factors, policy, reference, ranks: list[int]) -> dict[str, dict]:
    """Hooks that make the reference compute as the policy of each rank, and as the policy in all matrices (`full`)."""
    hooks = {str(rank): {} for rank in (*ranks, "full")}
    for name in factors.files:
        module = name.removesuffix(".weight")
        weight = policy.get_submodule(module).weight
        lora = [
            t.to(weight.device)
            for t in factors.adapter(name, max(ranks), reference.get_submodule(module).weight.dtype)
        ]
        hooks["full"][module] = _replaced(weight)
        for rank in ranks:
            hooks[str(rank)][module] = _added(lora[0][:rank], lora[1][:, :rank])
    return hooks


def _added(lora_A: Tensor, lora_B: Tensor):
    return lambda module, inputs, output: output + F.linear(F.linear(inputs[0], lora_A), lora_B)


def _replaced(weight: Tensor):
    return lambda module, inputs, output: F.linear(inputs[0], weight.to(module.weight.dtype), module.bias)
