# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Log-probabilities of given completions: their ids after a prompt, batches by length, logits of bounded size."""

import contextlib
import math
from collections.abc import Iterator
from inspect import signature

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from ..compatibility import context_length
from ..functional import token_logps
from ..prompts import appends_eos, encode_prompt

# Most logits of one forward, 512 MiB in float32: wide vocabularies are scored in slices.
MAX_LOGITS = 2**27


class RowError(ValueError):
    """
    What is wrong with one row, for callers who know it by another name.

    Args:
        row (`int`): Its index.
        defect (`str`): What it has, or holds.
    """

    def __init__(self, row: int, defect: str):
        super().__init__(f"Row {row} {defect}")
        self.row, self.defect = row, defect


class RowTooLongError(RowError):
    """A row that is longer than the context of a model."""


class Scorer:
    """
    What gives the logits that score tokens: a model, or both members of a pair at once.

    It runs in eval mode, without dropout, and leaves every module in the mode that it was in.

    Args:
        model (`PreTrainedModel`): The model.
        members (`bool`, *optional*, defaults to `False`):
            Whether the model is a pair that gives its members' logits, raw, instead of its own.
    """

    def __init__(self, model: PreTrainedModel, *, members: bool = False):
        self.model = model
        self.members = ("policy", "reference") if members else ("model",)
        self.vocab_size = model.config.get_text_config().vocab_size
        self.most_tokens = max(1, MAX_LOGITS // (len(self.members) * self.vocab_size))  # of one forward

    def logits(self, cache: Cache | None = None, **inputs) -> tuple[Tensor, ...]:
        """Logits of each member. `inputs` are those of every causal language model; without a cache none is made."""
        inputs["use_cache"] = cache is not None
        with evaluating(self.model):
            if len(self.members) == 2:
                return self.model.member_logits(cache, None, **{"position_ids": None, **inputs})
            if "position_ids" not in signature(self.model.forward).parameters:
                inputs.pop("position_ids", None)  # such a model counts the ones of the attention mask
            return (self.model(past_key_values=cache, **inputs).logits,)


@contextlib.contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout; afterwards every module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:  # not `model.train()`: a part of it may have been in eval mode
            module.training = True


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | list[list[dict]] | list[list[int]],
    chat_template_kwargs: dict | None,
) -> list[list[int]]:
    """The ids of prompts, which may be ids already."""
    if isinstance(prompts, str):  # its characters would be prompts
        raise TypeError(f"`prompts` must be a list, got the string {prompts[:80]!r}. Pass `[prompt]`.")
    return [
        list(prompt)
        if prompt and isinstance(prompt[0], int)
        else encode_prompt(tokenizer, prompt, chat_template_kwargs=chat_template_kwargs)
        for prompt in prompts
    ]


def encode_completions(
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | list[list[dict]] | list[list[int]],
    prompt_ids: list[list[int]],
    completions: list[str] | list[list[int]],
) -> list[list[int]]:
    """The ids of completions as they follow `prompt_ids`: of text as it stands, with no special token added."""
    rows = list(zip(prompts, prompt_ids, completions, strict=True))
    ids = [None if isinstance(completion, str) else list(completion) for _, _, completion in rows]
    # Sentencepiece-like tokenizers write a first word with and without its space: encode it where it stands.
    plain = [index for index, (prompt, _, _) in enumerate(rows) if ids[index] is None and isinstance(prompt, str)]
    added = plain and appends_eos(tokenizer)
    for index, whole in zip(plain, _encode(tokenizer, [rows[i][0] + rows[i][2] for i in plain]), strict=True):
        before = rows[index][1]
        if whole[: len(before)] == before:
            ids[index] = whole[len(before) : len(whole) - added]
    alone = [index for index, row in enumerate(ids) if row is None]
    texts = [rows[index][2] for index in alone]
    for index, row in zip(alone, _encode(tokenizer, texts, add_special_tokens=False), strict=True):
        ids[index] = row
    return ids


def check_complete(**lists: list):
    """Refuses lists, given by name, of which one is missing or misses a row, or that do not have as many rows."""
    for name, rows in lists.items():
        if rows is None or any(row is None for row in rows):
            raise ValueError(
                f"`{name}` is None, or a row of it is; every row needs a value. Drop and count such rows."
            )
    check_lengths(**lists)


def check_lengths(**lists: list):
    """Refuses lists, given by name, that do not have as many rows."""
    lengths = {name: len(rows) for name, rows in lists.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} `{name}`" for name, length in lengths.items())
        raise ValueError(f"Got {found}; every row needs one of each. Pass lists of one length.")


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], **options) -> list[list[int]]:
    return tokenizer(texts, **options)["input_ids"] if texts else []  # at once, which is many times faster


def check_rows(scorer: Scorer, rows: list[tuple[list[int], list[int]]]):
    """
    Refuses what a model cannot score.

    Args:
        scorer (`Scorer`): The model.
        rows (`list[tuple[list[int], list[int]]]`): Ids of each prompt and of its completion.

    Raises:
        RowTooLongError: naming the row that is longer than the context (of a pair the shorter).
        RowError: naming the row that holds a token which the model does not have.
    """
    limit = context_length(scorer.model)
    for index, (prompt, completion) in enumerate(rows):
        if limit is not None and len(prompt) + len(completion) > limit:
            raise RowTooLongError(
                index,
                f"has {len(prompt)} + {len(completion)} tokens, and the model's context is {limit}. Score shorter "
                "texts or another model.",
            )
        largest = max(max(prompt), max(completion, default=0))
        if largest >= scorer.vocab_size:
            raise RowError(
                index,
                f"holds token {largest}, and the model has {scorer.vocab_size}. Pass the tokenizer of the models that "
                "score.",
            )


@torch.no_grad()
def row_logps(scorer: Scorer, rows: list[tuple[list[int], list[int]]], batch_size: int) -> list[tuple[Tensor, ...]]:
    """
    Log-probabilities of each row's completion, one tensor for each member, on the CPU.

    Args:
        scorer (`Scorer`): The model.
        rows (`list[tuple[list[int], list[int]]]`): Ids of each prompt, at least one, and of its completion.
        batch_size (`int`): Most rows per forward; rows of like length share one.
    """
    logps = [tuple(torch.zeros(0) for _ in scorer.members)] * len(rows)
    left = sorted((i for i, (_, ids) in enumerate(rows) if ids), key=lambda i: -len(rows[i][0]) - len(rows[i][1]))
    progress = tqdm(total=len(left), desc="Scoring", unit="completion", delay=5, leave=False)  # of long jobs only
    while left:
        length = sum(map(len, rows[left[0]]))
        size = max(1, min(batch_size, scorer.most_tokens // length))
        batch, left = left[:size], left[size:]
        whole = [torch.tensor(rows[i][0] + rows[i][1]) for i in batch]
        # Right padding: a causal model never looks at it, so every row keeps its own positions.
        ids = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True).to(scorer.model.device)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(w) for w in whole], batch_first=True).to(ids.device)
        shortest = min(len(rows[i][0]) for i in batch)
        members = scorer.logits(
            input_ids=ids[:, :-1], attention_mask=mask[:, :-1], logits_to_keep=ids.shape[1] - shortest
        )
        scored = [token_logps(logits, ids[:, shortest:].to(logits.device)).cpu() for logits in members]
        for row, i in enumerate(batch):
            first = len(rows[i][0]) - shortest
            logps[i] = tuple(values[row, first : first + len(rows[i][1])].clone() for values in scored)
        progress.update(len(batch))
    progress.close()
    return logps


def completion_logps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str] | list[list[dict]] | list[list[int]],
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
        prompts (`list[str]`, `list[list[dict]]` or `list[list[int]]`):
            Plain prompts, chat messages, or token ids of this tokenizer.
        completions (`list[str]` or `list[list[int]]`):
            Texts, or token ids of this tokenizer (exact: text may tokenise otherwise than it was written). Every token
            of a text is scored as it stands, and no end-of-sequence token is added; to credit one, write it in the
            text or pass ids that hold it.
        batch_size (`int`, *optional*, defaults to `16`):
            Most rows per forward; rows of like length share one. With a wide vocabulary long rows are fewer.
        chat_template_kwargs (`dict`, *optional*): Variables for the chat template.

    Returns:
        `list[torch.FloatTensor]`: one tensor of shape `(tokens of that completion,)` each, nats, float32, on the CPU.

    Raises:
        ValueError: if the lists differ in length, or a row is longer than the model's context (of a pair the shorter)
            or holds a token that the model does not have.
    """
    check_complete(prompts=prompts, completions=completions)
    scorer = Scorer(model)
    prompt_ids = encode_prompts(tokenizer, prompts, chat_template_kwargs)
    ids = encode_completions(tokenizer, prompts, prompt_ids, completions)
    rows = list(zip(prompt_ids, ids, strict=True))
    check_rows(scorer, rows)
    return [logps for (logps,) in row_logps(scorer, rows, batch_size)]


def check_finite(index: int, rewards: list[float]):
    """Raises [`RowError`], naming row `index`, if a reward is not a finite number."""
    for position, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise RowError(
                index,
                f"has the reward {reward} at token {position} of its completion. The models' scores are not numbers, "
                "or forbid that token: load them in bfloat16 or float32, not float16, and look for damaged weights.",
            )


def common_prefix(ids: list[int], other: list[int]) -> int:
    """Length of the longest common prefix."""
    if other[: len(ids)] == ids:
        return len(ids)
    pairs = zip(ids, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(other))
