# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The reward that a pair implies."""

import math
import os

import jinja2
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..compatibility import check_same_vocabulary, eos_token_ids
from ..functional import implicit_reward
from ..pair.modeling_emulated_fine_tuning import load_pair
from ..pair.modeling_stacks import load_tokenizer
from ..prompts import completion_text, encode_prompt
from .incremental_reward import IncrementalReward
from .likelihood import (
    Scorer,
    check_complete,
    check_finite,
    check_lengths,
    check_rows,
    common_prefix,
    encode_completions,
    encode_prompts,
    row_logps,
)


class ImplicitReward:
    r"""
    The reward that a policy implies over its reference, Σ β·(log π − log π_ref) over a completion's tokens.

    Args:
        policy (`PreTrainedModel`, `peft.PeftModel` or `str`):
            The model after alignment. Without a reference: a pair, whose members are compared, or a LoRA adapter,
            which makes a pair with its base; each an object, a path or a Hub id. A LoRA pair scores in one forward.
        reference (`PreTrainedModel`, *optional*):
            The model before alignment, of the same vocabulary.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of both, with the chat template of both if prompts are messages.
        beta (`float`, *optional*, defaults to `1.0`):
            Scale of the reward.
        eos_token_id (`int`, *optional*):
            The token whose reward a finished completion is given. Defaults to what alignment saw there: after messages
            the token with which the chat template closes the assistant's turn, if the policy or the tokenizer knows it
            as an end; otherwise the tokenizer's end-of-sequence token.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template.

    Raises:
        TypeError: if there is no reference and the policy is neither a pair nor an adapter, or there is one and either
            is no loaded model.
        ValueError: if both are one model, the members' tokenizers differ, or those are not at hand and the
            vocabularies differ in size.

    Example:

    ```python
    >>> from hf_cong import ImplicitReward

    >>> reward = ImplicitReward(policy, reference, tokenizer)
    >>> reward.score(["Tell me a story."], ["Once upon a time, ..."], finish_reasons=["stop"])
    [3.1]
    ```

    Source: [DPO](https://huggingface.co/papers/2305.18290), Eq. 5; used per sequence and per token by
    [ConG](https://huggingface.co/papers/2510.07884) and
    [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262).
    """

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel | str | os.PathLike,
        reference: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        beta: float = 1.0,
        eos_token_id: int | None = None,
        chat_template_kwargs: dict | None = None,
    ):
        if reference is not None:
            _check_members(policy, reference)
            self.scorers = (Scorer(policy), Scorer(reference))
        else:
            self.scorers = (Scorer(load_pair(policy), members=True),)
        self.tokenizer, self.beta = tokenizer, beta
        self.eos_token_id, self.chat_template_kwargs = eos_token_id, chat_template_kwargs

    def score(
        self,
        prompts: list[str] | list[list[dict]] | list[list[int]],
        completions: list[str] | list[list[int]],
        *,
        finish_reasons: list[str] | None = None,
        per_token: bool = False,
        normalize: str | float | None = None,
        batch_size: int = 16,
    ) -> list[float] | list[Tensor]:
        """
        Scores completions.

        Args:
            prompts (`list[str]`, `list[list[dict]]` or `list[list[int]]`):
                Plain prompts, chat messages, or token ids.
            completions (`list[str]` or `list[list[int]]`):
                Texts, or token ids. See [`completion_logps`].
            finish_reasons (`list[str]`, *optional*):
                `"stop"` adds the reward of the end-of-sequence token to that completion, which is to come without it;
                `"length"` adds nothing, since a completion that was cut did not end. Left out, nothing is added.
            per_token (`bool`, *optional*, defaults to `False`):
                Whether to return the reward of each token.
            normalize (`str` or `float`, *optional*):
                `"tokens"` divides the sum by the number of tokens. A number is subtracted for every character of the
                completion: the length penalty of DICE. `None` keeps the sum.
            batch_size (`int`, *optional*, defaults to `16`):
                Most rows per forward.

        Returns:
            `list[float]` in nats times β (an empty completion scores 0), or with `per_token=True`
            `list[torch.FloatTensor]` of shape `(tokens,)`.

        Raises:
            ValueError: for lists of different length, another `normalize` or finish reason, a row that is longer than
                a member's context, or a reward that is not a finite number, by its row.

        Source: the length penalty is that of [DICE](https://huggingface.co/papers/2406.09760).
        """
        penalty = isinstance(normalize, int | float) and not isinstance(normalize, bool)
        if normalize not in (None, "tokens") and not (penalty and math.isfinite(normalize)):
            raise ValueError(f'`normalize` must be None, "tokens" or a finite number, got {normalize!r}.')
        if per_token and normalize is not None:
            raise ValueError(f"`normalize={normalize!r}` is of sums; with `per_token=True` leave it out.")
        check_complete(prompts=prompts, completions=completions)
        if finish_reasons is not None:
            check_lengths(prompts=prompts, finish_reasons=finish_reasons)
        prompt_ids = encode_prompts(self.tokenizer, prompts, self.chat_template_kwargs)
        ids = encode_completions(self.tokenizer, prompts, prompt_ids, completions)
        rows = list(zip(prompt_ids, ids, strict=True))
        for scorer in self.scorers:
            check_rows(scorer, rows)
        whole = rows
        if finish_reasons is not None:
            ends = [self._end(*each) for each in zip(prompts, finish_reasons, strict=True)]
            whole = [(before, ids + end) for (before, ids), end in zip(rows, ends, strict=True)]
        scored = [row_logps(scorer, whole, batch_size) for scorer in self.scorers]
        rewards = [implicit_reward(*sum(members, ()), beta=self.beta) for members in zip(*scored, strict=True)]
        for index, reward in enumerate(rewards):
            check_finite(index, reward.tolist())
        if per_token:
            return rewards
        sums = [reward.sum(dtype=torch.float64).item() for reward in rewards]
        if normalize == "tokens":
            return [total / max(len(reward), 1) for total, reward in zip(sums, rewards, strict=True)]
        if normalize is not None:
            texts = [
                completion if isinstance(completion, str) else completion_text(self.tokenizer, *row)
                for completion, row in zip(completions, rows, strict=True)
            ]
            return [total - normalize * len(text) for total, text in zip(sums, texts, strict=True)]
        return sums

    def incremental(self, prompts: list[str] | list[list[dict]] | list[list[int]]) -> IncrementalReward:
        """
        A scorer of completions that grow and branch, whose cost is that of the new tokens.

        Args:
            prompts (`list[str]`, `list[list[dict]]` or `list[list[int]]`): See [`IncrementalReward`].
        """
        return IncrementalReward(self, prompts)

    def _end(self, prompt, finish_reason: str) -> list[int]:
        if finish_reason not in ("stop", "length"):
            raise ValueError(f'A finish reason must be "stop" or "length", got {finish_reason!r:.80}.')
        return [self.end_token_id(prompt)] if finish_reason == "stop" else []

    def end_token_id(self, prompt: str | list[dict] | list[int]) -> int:
        """
        The token that ends a completion of this prompt.

        Raises:
            ValueError: if there is none, or the models do not have it.
        """
        end = self.eos_token_id
        if end is None and not isinstance(prompt, str) and isinstance(prompt[0], dict):
            end = self._turn_end(prompt)
        if end is None:
            end = self.tokenizer.eos_token_id
        if end is None:
            raise ValueError(
                "A finished completion is given the reward of its end-of-sequence token, and `tokenizer` has none. "
                "Pass `eos_token_id`."
            )
        most = min(scorer.vocab_size for scorer in self.scorers)
        if end >= most:
            raise ValueError(f"The end-of-sequence token is {end}, and the models have {most}. Pass `eos_token_id`.")
        return end

    def _turn_end(self, prompt: list[dict]) -> int | None:
        """The first end token in what the chat template writes from the assistant's answer on."""
        opened = encode_prompt(self.tokenizer, prompt, chat_template_kwargs=self.chat_template_kwargs)
        try:
            answered = self.tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": "a"}],
                tokenize=True,
                return_dict=False,
                sanitize_control_tokens=True,
                **(self.chat_template_kwargs or {}),
            )
        except jinja2.TemplateError:  # a template that only opens the assistant's turn
            return None
        ends = {self.tokenizer.eos_token_id, *eos_token_ids(self.scorers[0].model)}
        return next((token for token in answered[common_prefix(opened, answered) :] if token in ends), None)


def _check_members(policy: PreTrainedModel, reference: PreTrainedModel):
    """Refuses one model twice, and two whose tokens have different ids: by their tokenizers, or else by width."""
    for role, model in (("policy", policy), ("reference", reference)):
        if not isinstance(model, torch.nn.Module):
            raise TypeError(
                f"`{role}` must be a loaded model, got {repr(model)[:80]}. Load it: "
                "`AutoModelForCausalLM.from_pretrained(...)`."
            )
    bases = [model.get_base_model() if isinstance(model, PeftModel) else model for model in (policy, reference)]
    if bases[0] is bases[1]:
        raise ValueError(
            "`policy` and `reference` are one model, whose reward is 0. PEFT adapts the very model that it is given: "
            "pass the PeftModel with `reference=None`, which compares it with its base."
        )
    tokenizers = [load_tokenizer(model.name_or_path) for model in (policy, reference)]
    if None not in tokenizers:
        check_same_vocabulary(*tokenizers)
        return
    widths = [model.config.get_text_config().vocab_size for model in (policy, reference)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"`policy` and `reference` must share one vocabulary; theirs have {widths[0]} and {widths[1]} tokens, and "
            "their tokenizers are not at hand to be compared. If only padding differs, save each model beside its "
            "tokenizer and load it from there."
        )
