# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The implicit reward of completions that grow and branch, at the cost of their new tokens only.

The caches of a call hold, for every row, all of its tokens but the last. They lie side by side and end in one column
for all rows before the new tokens, so what is new follows on without a gap:

    |  padding  | tokens kept | new tokens | padding |

Masks, windows and positions are those of an ordinary left-padded batch, and the padding at the end is cut off when the
next call gathers what it keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ..compatibility import check_decoder_model
from ..functional import implicit_reward, token_logps
from ..in_place_cache import InPlaceLayer
from .likelihood import (
    Scorer,
    check_finite,
    check_lengths,
    check_rows,
    common_prefix,
    encode_completions,
    encode_prompts,
)

if TYPE_CHECKING:
    from .implicit_reward import ImplicitReward


@dataclass
class _Row:
    """
    A scored completion, partial or whole.

    Args:
        prompt (`int`): Index of its prompt.
        ids (`list[int]`): Ids of the prompt and of the completion. All but the last are in the caches.
        rewards (`list[float]`): Reward of each token of the completion.
        start (`int`): Column of the caches that holds the first id.
    """

    prompt: int
    ids: list[int]
    rewards: list[float]
    start: int


class IncrementalReward:
    """
    The implicit reward of completions that grow and branch: [`ImplicitReward.score`] with a cache per hypothesis.

    The caches of both members follow the rows from call to call. Of every row the longest common prefix with its
    parent is re-used: all of it where ids go on, and where a text tokenises anew, all before the first token that
    changed. The rest is fed in one forward. The result is that of scoring every whole text again, up to rounding.

    Text may end within a character: an unfinished one, the U+FFFD at the end of a byte-level decode, is not scored
    until it is complete, unless the row is finished. Half a word is scored as it stands, and anew when it is complete.

    Made by [`ImplicitReward.incremental`].

    Args:
        reward ([`ImplicitReward`]): The reward.
        prompts (`list[str]`, `list[list[dict]]` or `list[list[int]]`):
            Plain prompts, chat messages, or token ids of the reward's tokenizer. They are encoded at once.

    Raises:
        TypeError: if a member is not a transformers model, such as a `PeftModel` beside another reference.
        ValueError: if a member has no cache that can be reordered, or a prompt is longer than its context.
    """

    def __init__(self, reward: ImplicitReward, prompts: list[str] | list[list[dict]] | list[list[int]]):
        self.tokenizer, self._reward, self._prompts = reward.tokenizer, reward, list(prompts)
        self._prompt_ids = encode_prompts(self.tokenizer, self._prompts, reward.chat_template_kwargs)
        for role, scorer in zip(("policy", "reference"), reward.scorers, strict=False):
            check_decoder_model(scorer.model, role)
            check_rows(scorer, [(ids, []) for ids in self._prompt_ids])
        self._rows = [_Row(index, ids, [], 0) for index, ids in enumerate(self._prompt_ids)]
        self._caches = [DynamicCache() for _ in reward.scorers]
        self._feed(self._rows, list(range(len(prompts))), [0] * len(prompts), scored=False)

    def score(self, parents: list[int], completions: list[str] | list[list[int]], finished: list[bool]) -> list[float]:
        """
        Scores rows, each of which goes on with one of the call before. Rows that nobody goes on with are forgotten.

        Args:
            parents (`list[int]`):
                For every row, the row of the last call that it goes on with; at the first call, the prompt.
            completions (`list[str]` or `list[list[int]]`):
                The whole completion of each row so far, not only what is new: text, or ids of the reward's tokenizer
                without the end-of-sequence token.
            finished (`list[bool]`):
                Whether each completion has ended, so that the reward of the end-of-sequence token is added.

        Returns:
            `list[float]`: Σ β·(log π − log π_ref) over all tokens of each completion, nats times β.

        Raises:
            ValueError: if the lists differ in length, a parent does not exist, a row is longer than a member's
                context, or a reward is not a finite number. Nothing has changed then.
        """
        check_lengths(parents=parents, completions=completions, finished=finished)
        for index, parent in enumerate(parents):
            if not 0 <= parent < len(self._rows):
                raise ValueError(f"`parents[{index}]` is {parent}, and the last call had {len(self._rows)} rows.")
        old = [self._rows[parent] for parent in parents]
        prompts = [self._prompts[row.prompt] for row in old]
        prompt_ids = [self._prompt_ids[row.prompt] for row in old]
        whole = [
            completion.rstrip("\ufffd") if isinstance(completion, str) and not ended else completion
            for completion, ended in zip(completions, finished, strict=True)
        ]
        ids = encode_completions(self.tokenizer, prompts, prompt_ids, whole)
        for scorer in self._reward.scorers:
            check_rows(scorer, list(zip(prompt_ids, ids, strict=True)))
        rows, kept = [], []
        for parent, before, completion, ended in zip(old, prompt_ids, ids, finished, strict=True):
            end = [self._reward.end_token_id(self._prompts[parent.prompt])] if ended else []
            row = [*before, *completion, *end]
            same = common_prefix(parent.ids, row)
            kept.append(same - 1)  # the logits behind the last of them are needed, and were not kept
            rows.append(_Row(parent.prompt, row, parent.rewards[: same - len(before)], 0))
        self._feed(rows, parents, kept)
        return [math.fsum(row.rewards) for row in rows]

    @torch.no_grad()
    def _feed(self, rows: list[_Row], parents: list[int], kept: list[int], *, scored: bool = True) -> None:
        """
        Scores what the rows do not share with their parents, and makes the caches theirs.

        Args:
            rows (`list[_Row]`): The rows, with the rewards of the tokens that they share with their parents.
            parents (`list[int]`): Indices of their parents.
            kept (`list[int]`): How many of its parent's cached tokens each row keeps. Those after them are fed.
            scored (`bool`, *optional*, defaults to `True`): `False` feeds without rewards.
        """
        fed = [torch.tensor(row.ids[keep:-1], dtype=torch.long) for row, keep in zip(rows, kept, strict=True)]
        targets = [torch.tensor(row.ids[keep + 1 :], dtype=torch.long) for row, keep in zip(rows, kept, strict=True)]
        width = max(kept)
        starts = torch.tensor([[width - keep] for keep in kept])
        ends = torch.tensor([[width + len(ids)] for ids in fed])
        columns = torch.arange(width + max(map(len, fed)))
        layout = _Layout(
            parents=torch.tensor(parents),
            # Left of a row's start are columns that are masked: any will do.
            sources=(columns[:width] - starts + torch.tensor([[self._rows[p].start] for p in parents])).clamp(min=0),
            input_ids=pad_sequence(fed, batch_first=True),
            targets=pad_sequence(targets, batch_first=True) if scored else None,
            mask=((starts <= columns) & (columns < ends)).long(),
        )
        fed_to = [_run(*each, layout) for each in zip(self._reward.scorers, self._caches, strict=True)]
        if scored:
            policy_logps, reference_logps = torch.cat([logps for _, logps in fed_to])
            rewards = implicit_reward(policy_logps, reference_logps, beta=self._reward.beta)
            for index, (row, ids) in enumerate(zip(rows, fed, strict=True)):
                row.rewards += rewards[index, : len(ids)].tolist()
                check_finite(index, row.rewards)
        for row, keep in zip(rows, kept, strict=True):
            row.start = width - keep
        self._rows, self._caches = rows, [cache for cache, _ in fed_to]


class _Layout(NamedTuple):
    """
    What is kept and what is fed in one call, for B rows.

    Args:
        parents (`torch.LongTensor` of shape `(B,)`): Row of the old caches that each row goes on with.
        sources (`torch.LongTensor` of shape `(B, W)`): Columns of the old caches that become columns 0 to W - 1.
        input_ids (`torch.LongTensor` of shape `(B, N)`): New tokens, columns W to W + N - 1.
        targets (`torch.LongTensor` of shape `(B, N)`, *optional*): The token after each of them.
        mask (`torch.LongTensor` of shape `(B, W + N)`): 1 where a column holds a token of its row.
    """

    parents: Tensor
    sources: Tensor
    input_ids: Tensor
    targets: Tensor | None
    mask: Tensor


def _run(scorer: Scorer, cache: DynamicCache, layout: _Layout) -> tuple[DynamicCache, Tensor]:
    """
    The caches of the new rows, and the log-probabilities of `targets` under each member.

    Returns:
        `tuple[DynamicCache, torch.FloatTensor]`: the latter of shape `(members, B, N)`, on the CPU; zeros without
        targets.
    """
    parents, sources, input_ids, targets, mask = (
        None if tensor is None else tensor.to(scorer.model.device) for tensor in layout
    )
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    (batch, new), width = input_ids.shape, sources.shape[1]
    # As many whole rows as the logits allow; if not even one, that row in several steps.
    most_rows = max(1, scorer.most_tokens // max(new, 1))
    most_tokens = scorer.most_tokens // most_rows
    logps, caches = torch.zeros(len(scorer.members), batch, new), []
    for rows in (slice(first, first + most_rows) for first in range(0, batch, most_rows)):
        caches.append(_select(cache, parents[rows], sources[rows], room=new))
        for first in range(0, new, most_tokens):
            last = min(first + most_tokens, new)
            members = scorer.logits(
                caches[-1],
                input_ids=input_ids[rows, first:last],
                attention_mask=mask[rows, : width + last],
                position_ids=positions[rows, width + first : width + last],
                logits_to_keep=1 if targets is None else 0,
            )
            for member, logits in enumerate(members):
                if targets is not None:
                    ids = targets[rows, first:last].to(logits.device)
                    logps[member, rows, first:last] = token_logps(logits, ids).cpu()
    return _join(caches), logps


def _select(cache: DynamicCache, rows: Tensor, columns: Tensor, *, room: int) -> DynamicCache:
    """A cache whose row b holds `columns[b]` of row `rows[b]`, with room for more tokens."""
    # No configuration: every layer keeps all tokens, since what a sliding-window layer drops may be needed again.
    selected, spares = DynamicCache(), {}
    with_room = torch.nn.functional.pad(columns, (0, room))  # what they hold is overwritten
    for layer in cache.layers:
        memory = (_gather(states, rows, with_room) for states in (layer.keys, layer.values))
        selected.layers.append(InPlaceLayer(*memory, columns.shape[1], spares))
    return selected


def _gather(states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B_old, heads, T_old, D) to (B, heads, T, D), of `rows` (B,) and `columns` (B, T)."""
    _, heads, length, size = states.shape
    head = torch.arange(heads, device=rows.device)
    flat = ((rows[:, None, None] * heads + head[:, None]) * length + columns[:, None]).to(states.device)
    # One index over whole vectors: a copy of memory, where indexing two dimensions visits every number.
    return states.reshape(-1, size).index_select(0, flat.flatten()).view(*flat.shape, size)


def _join(caches: list[DynamicCache]) -> DynamicCache:
    """One cache with the rows of all."""
    if len(caches) == 1:
        return caches[0]
    joined = DynamicCache()
    for number, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        keys, values = torch.cat([layer.keys for layer in layers]), torch.cat([layer.values for layer in layers])
        joined.update(keys, values, number)
    return joined
