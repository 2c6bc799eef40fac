# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The rules of a pair check: from tokenizers, configurations and measurements to findings. Runs no model.

What makes two models impossible to contrast is refused by `compatibility.py` and by the pair itself; here such a
refusal becomes a line of the report.
"""

import math
from collections.abc import Callable, Sequence

import jinja2
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...compatibility import check_decoder_only, check_head_widths, check_same_vocabulary, differing_tokens
from ...pair.configuration_stacks import check_one_family
from ...prompts import encode_prompt
from ...rewards.likelihood import common_prefix
from ...rewards.reward_accuracy import RewardAccuracy
from .report import Agreement, Cost, Finding

Prompts = Sequence[str] | Sequence[list[dict]]

# Rules of thumb, in nats per token on the policy's own samples at temperature 1. Equal weights give exactly 0. The
# same weights in bfloat16 and in float32 gave 1.5e-4 and 4.5e-4 on two small trained models, so below 1e-3 the
# log-ratio is as much rounding as alignment. Preference training moves a completion of some hundred tokens by some
# tens of nats, which is 0.01 to 0.5 per token; the sandbox's pair has 0.18. Above 1 the reference finds the policy's
# own text surprising in every token, as the base of another size or the wrong chat template would. Above 5, and worse
# than a uniform guess, its ids are not the policy's.
IDENTICAL_KL, FAINT_KL, FAR_KL, FOREIGN_KL = 1e-6, 1e-3, 1.0, 5.0
# A rule of thumb too: of the positions, how many may leave the contrast nothing to choose.
MOST_SINGLE = 0.95
# Of a head's columns, how many at least have a token: padding and reserved ids take some percent.
LEAST_USED = 0.75
# Longest completion of a run that nobody has planned otherwise: the paper's.
_USUAL_PLAN = 2048
# In front of a chat template, it takes the place of the clock.
_ANOTHER_DAY = "{% macro strftime_now(format) %}1 January 1900{% endmacro %}"


def refusal(check: Callable, *args, **kwargs) -> str | None:
    """Why a check refuses, `None` if it does not."""
    try:
        check(*args, **kwargs)
    except ValueError as error:
        return str(error)
    return None


def architecture(policy: PreTrainedConfig, reference: PreTrainedConfig) -> Finding:
    """Whether both are decoder-only, and of one family and shape."""
    for config, role in ((policy, "policy"), (reference, "reference")):
        if reason := refusal(check_decoder_only, config, role):
            return Finding("fail", "architecture", reason)
    if reason := refusal(check_one_family, "ContrastiveLogitsProcessor", policy=policy, reference=reference):
        return Finding("warn", "architecture", f"{reason} `hf-cong generate` and training need one model type.")
    texts = [config.get_text_config() for config in (policy, reference)]
    shapes = [f"{text.num_hidden_layers} layers of width {text.hidden_size}" for text in texts]
    tied = ["tied" if text.tie_word_embeddings else "untied" for text in texts]
    if shapes[0] != shapes[1]:
        return Finding(
            "warn",
            "architecture",
            f"`policy` has {shapes[0]}, `reference` {shapes[1]}: these are not one model before and after alignment, "
            "so their log-ratio also holds what size makes of a model. Take the checkpoint that the policy was "
            "trained from as `reference`.",
        )
    embeddings = tied[0] if tied[0] == tied[1] else f"{tied[0]} in `policy`, {tied[1]} in `reference`"
    return Finding("ok", "architecture", f"both {policy.model_type}, {shapes[0]}; embeddings and head {embeddings}")


def vocabulary(policy: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase | None) -> Finding:
    """Whether every id is the same token in both."""
    if reference is None:
        return Finding(
            "warn",
            "vocabulary",
            "`reference` has no tokenizer beside it, so tokens cannot be compared. Save its tokenizer there.",
        )
    if reason := refusal(check_same_vocabulary, policy, reference):
        differing = differing_tokens(policy, reference)
        some = ", ".join(f"{id} {ours!r}/{theirs!r}" for id, (ours, theirs) in list(differing.items())[:5])
        return Finding("fail", "vocabulary", f"{reason} Differing ids (policy/reference): {some:.400}.")
    specials = [tokenizer.special_tokens_map for tokenizer in (policy, reference)]
    names = [name for name in {**specials[0], **specials[1]} if specials[0].get(name) != specials[1].get(name)]
    others = "; ".join(f"{name} {specials[0].get(name)!r}/{specials[1].get(name)!r}" for name in names)
    added = len(policy.added_tokens_decoder)
    return Finding(
        "ok",
        "vocabulary",
        f"{len(policy)} tokens, {added} of them added, the same in both"
        + (f"; special tokens differ (policy/reference): {others:.300}" if names else ""),
    )


def heads(policy: PreTrainedConfig, reference: PreTrainedConfig, tokens: int) -> Finding:
    """Whether the logits of both are as wide as the vocabulary, up to padding."""
    widths = {"policy": policy.get_text_config().vocab_size, "reference": reference.get_text_config().vocab_size}
    if reason := refusal(check_head_widths, **widths):
        return Finding("fail", "heads", reason)
    if tokens > min(widths.values()):
        return Finding(
            "fail",
            "heads",
            f"the tokenizer has {tokens} tokens, and the heads {widths['policy']} (policy) and {widths['reference']} "
            "(reference) columns. Resize the embeddings, or take the tokenizer of the checkpoint.",
        )
    if tokens < LEAST_USED * min(widths.values()):
        return Finding(
            "warn",
            "heads",
            f"the tokenizer has {tokens} tokens, and the heads have {min(widths.values())} columns, more than padding "
            "explains. Look whether it is the tokenizer of this model.",
        )
    if widths["policy"] != widths["reference"]:
        return Finding(
            "ok",
            "heads",
            f"padded to {widths['policy']} (policy) and {widths['reference']} (reference); both are cut to "
            f"{min(widths.values())}, the vocabulary has {tokens}",
        )
    return Finding("ok", "heads", f"{widths['policy']} columns each, {tokens} tokens")


def chat_template(
    policy: PreTrainedTokenizerBase,
    reference: PreTrainedTokenizerBase | None,
    prompts: Prompts,
    chat_template_kwargs: dict | None,
) -> Finding:
    """Whether the prompts are the same ids in both, and will be tomorrow."""
    conversational = not isinstance(prompts[0], str)
    if conversational and policy.chat_template is None:
        there = "" if reference is None or reference.chat_template is None else "; `reference` has one"
        return Finding(
            "fail",
            "chat template",
            f"the prompts are messages, and the tokenizer of `policy` has no chat template{there}. Set "
            "`tokenizer.chat_template` to the one it was aligned with and save it, or pass plain prompts.",
        )
    options = {"chat_template_kwargs": chat_template_kwargs}
    ids = [encode_prompt(policy, prompt, **options) for prompt in prompts]
    if conversational:
        given = chat_template_kwargs or {}
        template = given.get("chat_template") or policy.get_chat_template()
        another_day = {**given, "chat_template": f"{_ANOTHER_DAY}{template}"}
        if ids != [encode_prompt(policy, prompt, chat_template_kwargs=another_day) for prompt in prompts]:
            return Finding(
                "warn",
                "chat template",
                "it writes today's date into the prompts, so the same command gives other completions tomorrow. Fix "
                "it in the template, or where Python is at hand: `chat_template_kwargs={'date_string': ...}`.",
            )
    if reference is None:
        return Finding("skip", "chat template", "that of `reference` is not known")
    if conversational and reference.chat_template is None:
        return Finding(
            "warn",
            "chat template",
            "the tokenizer of `reference` has none: it may be a base that never saw this format, and then the "
            "log-ratio rewards the format too. Take the checkpoint that the policy was trained from.",
        )
    try:
        others = [encode_prompt(reference, prompt, **options) for prompt in prompts]
    except ValueError as error:
        return Finding("warn", "chat template", f"that of `reference` refuses what the policy's takes. {error}")
    if differing := sum(ours != theirs for ours, theirs in zip(ids, others, strict=True)):
        return Finding(
            "warn",
            "chat template",
            f"{differing} of {len(prompts)} prompts are other ids for `reference` than for `policy`. A pair gives "
            "both members the policy's: `reference` then continues a format that is not its own. Make them one.",
        )
    if not conversational:
        return Finding("ok", "chat template", "the prompts are plain text, the same ids in both")
    same = "the same" if policy.chat_template == reference.chat_template else "another text, but it renders the same"
    return Finding("ok", "chat template", f"{same}; {len(prompts)} prompts are the same ids in both")


def turn_end(tokenizer: PreTrainedTokenizerBase, prompt: list[dict], chat_template_kwargs: dict | None) -> int | None:
    """The added or special token with which the chat template closes the assistant's turn, if it does."""
    try:
        first, second = (
            tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": content}],
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
                **(chat_template_kwargs or {}),
            )
            for content in ("a", "b")
        )
    except jinja2.TemplateError:  # a template that only opens the assistant's turn
        return None
    closing = first[len(first) - common_prefix(first[::-1], second[::-1]) :]
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in closing if token in control), None)


def ends(
    tokenizer: PreTrainedTokenizerBase, policy_ends: list[int], reference_ends: list[int], closing: int | str | None
) -> Finding:
    """
    Whether completions end.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): That of the policy.
        policy_ends (`list[int]`): What ends a completion of the policy, or of the pair, by its model.
        reference_ends (`list[int]`): The same of the reference.
        closing (`int` or `str`, *optional*): [`turn_end`], or `"plain"` for prompts that have no turns.
    """

    def named(ids) -> str:
        return ", ".join(f"{id} {tokenizer.convert_ids_to_tokens(id)!r}" for id in sorted(ids)) or "none"

    stops = {*policy_ends, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
    if not stops:
        return Finding(
            "warn",
            "end of text",
            "neither the model nor its tokenizer has an end-of-sequence token: every completion runs to its limit. "
            "Set `eos_token_id` in generation_config.json.",
        )
    if isinstance(closing, int) and closing not in stops:
        return Finding(
            "fail",
            "end of text",
            f"the chat template closes a turn with {named([closing])}, and what ends a completion is {named(stops)}: "
            f"completions run on to their limit. Add {closing} to `eos_token_id` in generation_config.json of "
            "`policy`.",
        )
    if closing is None:
        return Finding(
            "warn",
            "end of text",
            "the chat template closes the assistant's turn with no special token, so a model trained on it does not "
            f"learn to end. What ends a completion is {named(stops)}.",
        )
    if reference_ends and policy_ends and not {*policy_ends} & {*reference_ends}:
        return Finding(
            "warn",
            "end of text",
            f"`policy` ends with {named(policy_ends)}, `reference` with {named(reference_ends)}: the log-ratio of the "
            "end is of two habits, not of alignment, and the contrast may end too early. Make them one.",
        )
    which = "" if closing == "plain" else f"; the chat template closes a turn with {named([closing])}"
    return Finding("ok", "end of text", f"{named(stops)}{which}")


def context(
    limit: float, lengths: list[int], max_new_tokens: int, planned_max_new_tokens: int | None
) -> tuple[Finding, int]:
    """
    Whether the prompts leave room for the completions.

    Args:
        limit (`float`): The shorter context of the two, infinite if no configuration states one.
        lengths (`list[int]`): Tokens of the prompts.
        max_new_tokens (`int`): Tokens of the completions of this check.
        planned_max_new_tokens (`int`, *optional*): The same of the planned run. Defaults to 2048, or to what the
            context leaves.

    Returns:
        `tuple[Finding, int]`: and the most tokens that a completion of the planned run can have after every prompt.
    """
    longest = max(lengths)
    if math.isinf(limit):
        finding = Finding("skip", "context", f"no configuration states one; prompts have up to {longest} tokens")
        return finding, planned_max_new_tokens or _USUAL_PLAN
    if min(lengths) + max_new_tokens > limit:
        finding = Finding(
            "fail",
            "context",
            f"of the pair it is {limit} tokens, and no prompt leaves room for {max_new_tokens} new ones (the shortest "
            f"has {min(lengths)}). Shorten the prompts, lower `max_new_tokens`, or take a pair with a longer context.",
        )
        return finding, 0
    if planned_max_new_tokens is None:
        planned_max_new_tokens = max(max_new_tokens, min(_USUAL_PLAN, limit - longest))
    if too_long := sum(length + planned_max_new_tokens > limit for length in lengths):
        finding = Finding(
            "warn",
            "context",
            f"of the pair it is {limit} tokens: {too_long} of {len(lengths)} prompts leave no room for the planned "
            f"{planned_max_new_tokens} new ones (the longest has {longest}) and will be refused, or dropped. To keep "
            f"all, plan at most {max(limit - longest, 0)}.",
        )
        return finding, min(planned_max_new_tokens, limit - min(lengths))
    finding = Finding(
        "ok",
        "context",
        f"{limit} tokens, the shorter of the two; {len(lengths)} prompts have up to {longest}, with the planned "
        f"{planned_max_new_tokens} new ones {longest + planned_max_new_tokens}",
    )
    return finding, planned_max_new_tokens


def weights(dtypes: dict[str, str], defects: dict[str, list[str]]) -> Finding:
    """
    Whether all weights are there, and numbers, and of one dtype.

    Args:
        dtypes (`dict[str, str]`): Dtype of each member, by role.
        defects (`dict[str, list[str]]`): By role, the weights that the checkpoint lacks or that are not finite.
    """
    for role, names in defects.items():
        if names:
            return Finding(
                "fail",
                "weights",
                f"{len(names)} in `{role}`, such as {names[0]}, are missing, of another shape, or hold NaN or "
                "infinity: the checkpoint is damaged or of another model. Download or save it again.",
            )
    policy, reference = dtypes["policy"], dtypes["reference"]
    if policy != reference:
        return Finding(
            "warn",
            "weights",
            f"`policy` is in {policy}, `reference` in {reference}: the log-ratio holds the rounding of one of them. "
            "Load both alike: `--dtype`.",
        )
    return Finding("ok", "weights", f"complete, finite, {policy}")


def divergence(found: Agreement, alpha: float, vocabulary_size: int) -> Finding:
    """Whether policy and reference differ as before and after alignment."""
    kl = found.kl
    text = f"KL(policy ‖ reference) {kl.mean:.3g} nats per token on the policy's own {found.completions} completions"
    if math.isfinite(kl.low):
        text += f" (95% interval {max(kl.low, 0.0):.3g} to {kl.high:.3g})"
    if kl.mean < IDENTICAL_KL:
        return Finding(
            "fail",
            "divergence",
            f"{text}: the members are the same model, and there is nothing to contrast. Pass the checkpoints after "
            "and before alignment; look whether the adapter or the aligned weights were saved.",
        )
    if kl.mean > FOREIGN_KL and kl.mean + found.entropy > math.log(vocabulary_size):
        return Finding(
            "fail",
            "divergence",
            f"{text}: `reference` gives the policy's tokens less probability than a uniform guess "
            f"(log {vocabulary_size} = {math.log(vocabulary_size):.3g} nats). They do not mean the same by their ids, "
            "or one is damaged.",
        )
    if kl.mean < FAINT_KL:
        text += f": under {FAINT_KL:g}, where rounding to bfloat16 is as large as the signal (a rule of thumb)"
        if alpha > 0:
            shift = 500 * kl.mean * ((1 - alpha) / alpha) ** 2
            text += f"; the contrast moves a completion of 500 tokens by some {shift:.2g} nats"
        return Finding("warn", "divergence", f"{text}. Align the policy for longer, or with a smaller beta.")
    if kl.mean > FAR_KL:
        return Finding(
            "warn",
            "divergence",
            f"{text}: above {FAR_KL:g} (a rule of thumb) the two are more than one model before and after alignment, "
            "or the prompts' format is foreign to `reference`. Take the checkpoint that the policy was trained from.",
        )
    return Finding("ok", "divergence", text)


def contrast(found: Agreement, alpha: float, plausibility_threshold: float) -> Finding:
    """Whether the plausible sets leave the contrast something to choose."""
    text = (
        f"at alpha {alpha:g} it changes the most likely token at {found.contrast_differs:.1%} of {found.positions} "
        f"positions (the members' own differ at {found.argmax_differs:.1%}); at tau {plausibility_threshold:g} a "
        f"plausible set has {found.plausible_tokens:.1f} tokens, and {found.single_plausible:.0%} have one, where it "
        "can change nothing"
    )
    if found.single_plausible > MOST_SINGLE:
        return Finding(
            "warn",
            "contrast",
            f"{text}. It writes what the policy writes: lower `plausibility_threshold`, or take a policy that is less "
            "certain.",
        )
    return Finding("ok", "contrast", text)


def accuracy(found: RewardAccuracy, skipped: int) -> Finding:
    """Whether the implicit reward agrees with preferences."""
    decided = found.n - found.ties
    text = (
        f"the implicit reward agrees with {found.accuracy:.1%} of {decided} preferences (95% interval "
        f"{found.low:.1%} to {found.high:.1%}; {found.ties} ties, {skipped} too long for the context)"
    )
    if found.high < 0.5:
        return Finding(
            "fail",
            "reward accuracy",
            f"{text}: below chance. `policy` and `reference` are swapped, or `chosen` and `rejected` are; or the "
            "policy was aligned to something else.",
        )
    if not found.above_chance:
        return Finding(
            "warn",
            "reward accuracy",
            f"{text}: not above chance. Measure on more preferences, of the kind that the policy was aligned to; if "
            "it stays so, guidance by this pair may do harm.",
        )
    return Finding("ok", "reward accuracy", text)


def cost(found: Cost) -> Finding:
    """What the planned run takes."""
    times = found.policy_tokens_per_second / found.pair_tokens_per_second
    how = "" if found.pair_measured else " by the sum of both members' times"
    return Finding(
        "ok",
        "cost",
        f"policy alone {_number(found.policy_tokens_per_second)} tokens/s, pair "
        f"{_number(found.pair_tokens_per_second)}{how} ({times:.2f} times the policy's time) in batches of "
        f"{found.batch_size} on {found.device}; weights {_bytes(found.weight_bytes)}, keys and values "
        f"{_bytes(found.cache_bytes_per_token)} per token and row; {found.planned_prompts:,} prompts x "
        f"{found.planned_max_new_tokens:,} tokens: {_hours(found.hours)} at this rate if every completion runs to its "
        "limit",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.1f} hours"
