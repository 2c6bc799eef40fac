# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Is this pair any good? Asked before anything long: what its files say, a short run, a verdict with the reason."""

from pathlib import Path

import datasets

from ...checkpoints import commit_of, content_key
from ...engines.named import named_engine
from ...functional import check_alpha
from ...journal import check_identity, read_manifest, write_manifest
from ...pair.modeling_stacks import is_adapter
from ...prompts import read_prompts
from ...rewards.reward_accuracy import read_preferences
from .report import Finding, PairReport
from .steps import PairCheck, spread

_MOST_ENCODED = 1000  # prompts of a large file that are looked at


def check_pair(
    policy: str,
    reference: str | None = None,
    *,
    prompts: datasets.Dataset | list | str | Path,
    preferences: datasets.Dataset | list | str | Path | None = None,
    output_dir: str | Path | None = None,
    alpha: float | None = None,
    plausibility_threshold: float | None = None,
    num_prompts: int = 16,
    max_new_tokens: int = 32,
    num_preferences: int = 128,
    planned_prompts: int | None = None,
    planned_max_new_tokens: int | None = None,
    batch_size: int = 8,
    dtype: str = "auto",
    seed: int = 0,
    chat_template_kwargs: dict | None = None,
    invalid_prompts: str = "raise",
) -> PairReport:
    """
    Looks at a weak pair before anything long is done with it, and ends with a verdict and its reasons.

    First what needs no weights: architecture, vocabulary, heads, chat template, context. Then, on a few of the
    prompts, what does: damaged weights, how far policy and reference differ on the policy's own samples, how often the
    contrast has a choice, whether the implicit reward agrees with preferences, and what a run costs here. What makes
    the rest meaningless ends the check there.

    A verdict of `"good"` says that nothing speaks against the pair, not that the contrast improves anything: that is
    what a sweep of α on held-out prompts tells.

    Args:
        policy (`str`): Path or Hub id of the model after alignment, of a LoRA adapter, or of a saved pair.
        reference (`str`, *optional*): Path or Hub id of the model before alignment.
        prompts (`datasets.Dataset`, `list`, `str` or `Path`):
            The prompts of the planned run: see [`read_prompts`]. `num_prompts` of them, evenly spread, are used.
        preferences (`datasets.Dataset`, `list`, `str` or `Path`, *optional*):
            Preferences that the pair should agree with: see [`read_preferences`]. Swapped members are told by nothing
            else.
        output_dir (`str` or `Path`, *optional*): Receives `pair_check.json`.
        alpha (`float`, *optional*): Weight kept on the policy. Defaults to a saved pair's own, else to 0.4.
        plausibility_threshold (`float`, *optional*): τ of the plausible set. Defaults to a saved pair's own, else to
            0.1.
        num_prompts (`int`, *optional*, defaults to `16`): Prompts to sample a completion for.
        max_new_tokens (`int`, *optional*, defaults to `32`): Longest of these completions, in tokens.
        num_preferences (`int`, *optional*, defaults to `128`): Most preferences to score, evenly spread.
        planned_prompts (`int`, *optional*): Prompts of the planned run. Defaults to all of `prompts`.
        planned_max_new_tokens (`int`, *optional*): Longest completion of the planned run. Defaults to 2048, or to what
            the context leaves.
        batch_size (`int`, *optional*, defaults to `8`): Prompts per batch.
        dtype (`str`, *optional*, defaults to `"auto"`): Dtype of the weights.
        seed (`int`, *optional*, defaults to `0`): Seed of the completions.
        chat_template_kwargs (`dict`, *optional*): Variables for the chat template.
        invalid_prompts (`str`, *optional*, defaults to `"raise"`): `"drop"` leaves bad rows out and counts them.

    Returns:
        [`PairReport`]: findings, measurements and the verdict `"good"`, `"doubtful"` or `"unusable"`.

    Raises:
        OSError: if a checkpoint is not there, or is not in safetensors.
        ValueError: if `policy` is one model without a reference, a setting, a prompt or a preference is refused, or
            `output_dir` holds another check.

    Source: thresholds of the divergence are rules of thumb, which `run_rules.py` gives reasons for.
    """
    counts = {
        "num_prompts": num_prompts,
        "max_new_tokens": max_new_tokens,
        "num_preferences": num_preferences,
        "planned_prompts": planned_prompts,
        "planned_max_new_tokens": planned_max_new_tokens,
        "batch_size": batch_size,
    }
    for name, value in counts.items():
        planned = name.startswith("planned_") and value is None
        if not planned and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {repr(value)[:80]}.")
    rows, dropped = read_prompts(prompts, invalid_prompts=invalid_prompts)
    if preferences is not None:
        preferences = list(zip(*read_preferences(preferences).values(), strict=True))
    if reference is not None and is_adapter(reference, None):
        raise ValueError(
            f"`reference` is an adapter, {reference!r:.80}. Merge it into its base model and save that first."
        )
    load, identity, tokenizer = named_engine(
        policy, reference, alpha=alpha, plausibility_threshold=plausibility_threshold, dtype=dtype
    )
    if "alpha" not in identity:
        raise ValueError(
            f"`policy` {policy!r:.80} is no pair. Pass the model before alignment as `reference`, or a LoRA adapter "
            "or a saved pair as `policy`."
        )
    formula = {name: identity[name] for name in ("alpha", "plausibility_threshold")}
    check_alpha(**formula)
    settings = {**formula, **counts, "planned_prompts": planned_prompts or len(rows), "dtype": dtype, "seed": seed}
    identity |= {
        **settings,
        "prompts": content_key(list(rows["prompt_id"])),
        "preferences": None if preferences is None else content_key(preferences),
    }
    path = None if output_dir is None else Path(output_dir) / "pair_check.json"
    if path is not None and path.exists():
        check_identity(identity, read_manifest(path)["identity"], path)

    commits = {role: commit_of(identity[role]) for role in ("policy", "reference") if role in identity}
    check = PairCheck(policy, reference, commits, tokenizer, formula, chat_template_kwargs)
    if dropped:
        left_out = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
        check.find(Finding("ok", "prompts", f"{len(rows)} kept, dropped: {left_out}"))
    check.files(spread(rows["prompt"][:], num_prompts))
    if not check.over:
        check.load(load, dtype, rows["prompt"][0])
    if not check.over:
        check.fit(spread(rows, _MOST_ENCODED), seed, num_prompts, max_new_tokens, planned_max_new_tokens)
    if not check.over:
        check.run(max_new_tokens, batch_size, settings["planned_prompts"])
    if not check.over:
        check.score(preferences, num_preferences, batch_size)
    report = PairReport(
        policy, check.reference, settings, tuple(check.findings), check.agreement, check.accuracy, check.cost
    )
    if path is not None:
        write_manifest(path, {"identity": identity, **report.to_dict()})
    return report
