# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-strong search as an engine of `generate_completions`: journaled, shared over processes, resumed."""

import math
from collections.abc import Iterator

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints import tokenizer_identity
from ..compatibility import context_length
from ..engines import Answer, Engine, Request, TransformersEngine
from ..prompts import encode_prompt, prompt_id
from ..rewards import ImplicitReward
from ..rewards.likelihood import encode_prompts
from ..sampling import Decoding
from .batches import SearchSettings, search_batches
from .search import as_sampler


class SearchEngine(Engine):
    """
    A frozen model whose samples are searched for what a weak pair's implicit reward prefers.

    Writes what [`weak_to_strong_search`] finds with the same settings and seed. The pair reads prompts and completions
    as text where its vocabulary is another.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model that samples.
        reward ([`ImplicitReward`]): The weak pair, with its own tokenizer.
        seed (`int`, *optional*, defaults to `0`): The seed that `generate_completions` is given.
        beam_width (`int`, *optional*, defaults to `4`): W, hypotheses kept after each chunk.
        successors_per_beam (`int`, *optional*, defaults to `4`): K, rows sampled from each.
        chunk_length (`int`, *optional*, defaults to `5`): L, tokens between two selections.

    Example:

    ```python
    >>> engine = SearchEngine(model, ImplicitReward(policy, reference, weak_tokenizer))
    >>> generate_completions(prompts, engine, tokenizer=tokenizer, output_dir="searched")
    ```
    """

    writer = "search"
    batch_size = 8

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        reward: ImplicitReward,
        *,
        seed: int = 0,
        beam_width: int = 4,
        successors_per_beam: int = 4,
        chunk_length: int | None = 5,
    ):
        self.reward, self._writer, self.seed = reward, TransformersEngine(model), seed
        widths = {"beam_width": beam_width, "successors_per_beam": successors_per_beam, "chunk_length": chunk_length}
        SearchSettings(**widths)  # refuses what is out of range
        self.search = widths

    def describe(self) -> dict:
        facts = self._writer.describe()
        reward = reward_identity(self.reward)
        identity = {"model": facts["identity"], "reward": reward, **self.search}
        return {**facts, "reward": reward, "search": self.search, "identity": identity}

    def prepare(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[list[int]], decoding: Decoding) -> dict:
        special = self._writer.prepare(tokenizer, prompt_ids, decoding)
        if decoding.repetition_penalty != 1.0:
            raise ValueError(
                f"`repetition_penalty` is {decoding.repetition_penalty}, which a search does not know. Leave it out."
            )
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "do_sample")
        own = {name: getattr(decoding, name) for name in names}
        self._settings = SearchSettings(**self.search, **own, seed=self.seed)
        self._tokenizer = tokenizer
        self._sampler = as_sampler(self._writer.model, tokenizer, self._settings)
        return special

    @property
    def context_length(self) -> int | None:
        return self._writer.context_length

    def unreadable(self, prompts: list[str] | list[list[dict]]) -> dict[int, str]:
        room = min(context_length(scorer.model) or math.inf for scorer in self.reward.scorers)
        room -= self._settings.max_new_tokens  # as long as in the writer's tokens
        lengths = map(len, encode_prompts(self.reward.tokenizer, prompts, self.reward.chat_template_kwargs))
        return {
            index: f"has {length} tokens for the pair, whose context leaves {room}"
            for index, length in enumerate(lengths)
            if length > room
        }

    def complete(self, batches: list[list[Request]]) -> Iterator[list[Answer]]:
        for batch in batches:
            prompts = [request.prompt for request in batch]
            names = [prompt_id(prompt) for prompt in prompts]
            if any(encode_prompt(self._tokenizer, request.prompt) != request.prompt_ids for request in batch):
                raise ValueError(
                    "`chat_template_kwargs` are not for a search, which encodes prompts itself. Leave it."
                )
            found = search_batches(self._sampler, self.reward, names, prompts, self._settings, batch_size=len(batch))
            results = {result.prompt_id: result for some in found for result in some}
            yield [Answer(results[name].completion_ids, results[name].finish_reason) for name in names]


def reward_identity(reward: ImplicitReward) -> dict:
    """What names a pair's reward: weights, tokenizer, scale, end, and variables of its chat template."""
    return {
        "members": [TransformersEngine(scorer.model).describe()["identity"] for scorer in reward.scorers],
        "tokenizer": tokenizer_identity(reward.tokenizer),
        "beta": reward.beta,
        "eos_token_id": reward.eos_token_id,
        "chat_template_kwargs": reward.chat_template_kwargs,
    }
