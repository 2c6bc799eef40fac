# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a model makes of given completions: their log-probabilities, and the reward that a pair implies."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .compatibility import context_length
from .functional import implicit_reward, token_logps
from .prompts import appends_eos, encode_prompt


def completion_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict], completion: str, prompt_ids: list[int]
) -> list[int]:
    """The ids of a completion as they follow `prompt_ids`: of its text as it stands, with no special token added."""
    if isinstance(prompt, str):
        # Sentencepiece-like tokenizers write a first word with and without its space: encode it where it stands.
        whole = tokenizer(prompt + completion)["input_ids"]
        if whole[: len(prompt_ids)] == prompt_ids:
            return whole[len(prompt_ids) : len(whole) - appends_eos(tokenizer)]
    return tokenizer(completion, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def completion_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | list[list[dict]],
    completions: list[str] | list[list[int]],
    *,
    batch_size: int = 16,
    chat_template_kwargs: dict | None = None,
) -> list[Tensor]:
    """
    Log-probability of every token of every completion under a model, given its prompt.

    The model scores in eval mode, without dropout, and is left in the mode it was in.

    Args:
        model (`PreTrainedModel`): The model that scores; a pair scores by its unmasked log p_α.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer, with a chat template if the prompts are messages.
        prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
        completions (`list[str]` or `list[list[int]]`):
            Texts, or token ids of this tokenizer (exact: text may tokenise otherwise than it was written). Every token
            of a text is scored as it stands, and no end-of-sequence token is added; to credit one, write it in the
            text or pass ids that hold it.
        batch_size (`int`, *optional*, defaults to `16`): Rows per forward; rows of like length share a batch.
        chat_template_kwargs (`dict`, *optional*): Variables for the chat template.

    Returns:
        `list[torch.FloatTensor]`: one tensor of shape `(tokens of that completion,)` each, nats, float32, on the CPU.

    Raises:
        ValueError: if the lists differ in length, or a row is longer than the model's context, of a pair the shorter.
    """
    limit = context_length(model)
    rows = []
    for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        prompt_ids = encode_prompt(tokenizer, prompt, chat_template_kwargs=chat_template_kwargs)
        ids = completion
        if isinstance(completion, str):
            ids = completion_ids(tokenizer, prompt, completion, prompt_ids)
        if limit is not None and len(prompt_ids) + len(ids) > limit:
            raise ValueError(
                f"Row {index} has {len(prompt_ids)} + {len(ids)} tokens, and the model's context is {limit}. Score "
                "shorter texts or another model."
            )
        rows.append((prompt_ids, list(ids)))

    logps: list[Tensor] = [torch.zeros(0)] * len(rows)
    order = sorted((i for i, (_, ids) in enumerate(rows) if ids), key=lambda i: -len(rows[i][0]) - len(rows[i][1]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        whole = [torch.tensor(rows[i][0] + rows[i][1]) for i in batch]
        # Right padding: a causal model never looks at it, so every row keeps its own positions.
        ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True).to(model.device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(w) for w in whole], batch_first=True).to(model.device)
        shortest = min(len(rows[i][0]) for i in batch)
        with _evaluating(model):
            logits = model(
                input_ids=ids, attention_mask=mask, logits_to_keep=ids.shape[1] - shortest + 1, use_cache=False
            ).logits
        scored = token_logps(logits[:, :-1], ids[:, shortest:]).cpu()
        for row, i in enumerate(batch):
            first = len(rows[i][0]) - shortest
            logps[i] = scored[row, first : first + len(rows[i][1])].clone()
    return logps


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:  # not `model.train()`: a part of it may have been in eval mode
            module.training = True


class ImplicitReward:
    """
    The reward that a policy implies over its reference, Σ β·(log π − log π_ref) over a completion's tokens.

    Args:
        policy (`PreTrainedModel`): The model after alignment.
        reference (`PreTrainedModel`): The model before alignment, of the same vocabulary.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of both.
        beta (`float`, *optional*, defaults to `1.0`): Scale of the reward.

    Example:

    ```python
    >>> from hf_cong import ImplicitReward

    >>> reward = ImplicitReward(policy, reference, tokenizer)
    >>> reward.score(["Tell me a story."], ["Once upon a time, ..."])
    [3.1]
    ```

    Source: [DPO](https://huggingface.co/papers/2305.18290), Eq. 5; used per sequence and per token by
    [ConG](https://huggingface.co/papers/2510.07884) and
    [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262).
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        beta: float = 1.0,
    ):
        self.policy, self.reference, self.tokenizer, self.beta = policy, reference, tokenizer, beta

    def score(
        self,
        prompts: list[str] | list[list[dict]],
        completions: list[str] | list[list[int]],
        *,
        per_token: bool = False,
        normalize: str | None = None,
        batch_size: int = 16,
    ) -> list[float] | list[Tensor]:
        """
        Scores completions.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
            completions (`list[str]` or `list[list[int]]`): Texts, or token ids. See [`completion_logps`].
            per_token (`bool`, *optional*, defaults to `False`): Whether to return the reward of each token.
            normalize (`str`, *optional*): `"tokens"` divides the sum by the number of tokens. `None` keeps the sum.
            batch_size (`int`, *optional*, defaults to `16`): Rows per forward.

        Returns:
            `list[float]` in nats times β (an empty completion scores 0), or with `per_token=True`
            `list[torch.FloatTensor]` of shape `(tokens,)`.

        Raises:
            ValueError: for another `normalize`, or lists of different length.
        """
        if normalize not in (None, "tokens"):
            raise ValueError(f'`normalize` must be None or "tokens", got {normalize!r}.')
        policy, reference = (
            completion_logps(model, self.tokenizer, prompts, completions, batch_size=batch_size)
            for model in (self.policy, self.reference)
        )
        rewards = [implicit_reward(p, r, beta=self.beta) for p, r in zip(policy, reference, strict=True)]
        if per_token:
            return rewards
        sums = [reward.sum().item() for reward in rewards]
        if normalize == "tokens":
            return [total / max(len(reward), 1) for total, reward in zip(sums, rewards, strict=True)]
        return sums
