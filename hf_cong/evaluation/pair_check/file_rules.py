# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The rules of a pair check about tokenizers, configurations and templates: each looks, and makes a finding of it.

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
from .report import Finding

Prompts = Sequence[str] | Sequence[list[dict]]

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
