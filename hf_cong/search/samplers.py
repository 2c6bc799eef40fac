# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What a search asks of the model it steers: to go on with rows by a few tokens. And how a local model does so."""

import abc
import itertools
from inspect import signature
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import GenerateDecoderOnlyOutput

from ..compatibility import context_length
from ..engines.transformers_engine import decoding_with
from ..in_place_cache import write_in_place
from ..prompts import completion_texts, encode_prompt
from ..sampling import draw, uniforms

# Tokens between two looks for a stop string within a chunk; what lies behind one is cut anyway.
_LOOK_EVERY = 16


class Row(NamedTuple):
    """
    A row to be sampled.

    Args:
        parent (`int`):
            What it goes on with: an index into the rows of the `extend` before, at the first into the prompts.
        seed (`int`):
            Seed of its slot. Token number t of a completion is drawn with number t of that stream.
    """

    parent: int
    seed: int


class Continuation(NamedTuple):
    """
    A row's whole completion so far.

    Args:
        ids (`list[int]`, *optional*):
            Token ids without the end-of-sequence token, `None` where only text comes out.
        text (`str`):
            Its text, without special tokens and cut before a stop string.
        finished (`bool`):
            Whether it ended by itself, and not at the number of tokens that was asked for.
        stop_reason (`int` or `str`, *optional*):
            What ended it where that is known, as vLLM's servers say it: the id of a token, or a stop string. A row
            that a stop string ended gets no credit for an end, since the pair never saw one.
    """

    ids: list[int] | None
    text: str
    finished: bool
    stop_reason: int | str | None = None


class Sampler(abc.ABC):
    """What samples for a search. A batch of prompts is one `start` and then one `extend` per chunk."""

    def lengths(self, prompts: list, max_new_tokens: int) -> list[int]:
        """
        Refuses prompts that do not fit, before any is sampled from, and says how long each is, so that prompts of like
        length go together. Without an override, nothing is refused, and lengths are characters.
        """
        return [len(prompt) if isinstance(prompt, str) else len(str(prompt)) for prompt in prompts]

    @abc.abstractmethod
    def start(self, prompts: list, max_new_tokens: int) -> None:
        """
        Begins a batch and forgets the one before.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): Plain prompts, or chat messages.
            max_new_tokens (`int`): Most tokens of a completion, all chunks together.
        """

    @abc.abstractmethod
    def extend(self, rows: list[Row], length: int) -> list[Continuation]:
        """
        Samples every row, each on by `length` tokens or to its end.

        No row has a parent that is finished. Rows of the `extend` before that are nobody's parent are gone.
        """


class ModelSampler(Sampler):
    """
    Rows of a model in this process.

    A prompt is read once, whatever the number of its rows; from chunk to chunk the cache of keys and values follows
    the rows. Each chunk is one call of `generate`, so every family decodes in its own way.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            A decoder-only model, a pair among them. While it samples, it is in eval mode.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        special_tokens (`dict`):
            `eos_token_id` (`list[int]`) and `pad_token_id`, as [`~transformers.GenerationConfig`] takes them.
        logits_processor (`list[LogitsProcessor]`):
            What acts on the scores, warpers last.
        do_sample (`bool`, *optional*, defaults to `True`):
            `False` takes the most probable token at every step.
        repetition_penalty (`float`, *optional*, defaults to `1.0`):
            Penalty on tokens of the prompt and of the completion so far, before `logits_processor`.
        stop_strings (`list[str]`, *optional*):
            Texts that end a completion.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template.
        least_width (`int`, *optional*, defaults to `1`):
            Length that prompts are at least padded to, for processors that know where a completion begins.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        special_tokens: dict,
        logits_processor: list[LogitsProcessor],
        *,
        do_sample: bool = True,
        repetition_penalty: float = 1.0,
        stop_strings: list[str] | None = None,
        chat_template_kwargs: dict | None = None,
        least_width: int = 1,
    ):
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        if model.config.is_encoder_decoder or "past_key_values" not in signature(base.forward).parameters:
            raise ValueError(
                f"`model` is a {model.config.model_type!r} model, whose rows cannot go on from a cache of keys and "
                "values. Use a decoder-only model, one that `AutoModelForCausalLM` loads."
            )
        if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"`model` has a {model.active_peft_config.peft_type} adapter, whose virtual tokens a cache of rows "
                "does not follow. Use an adapter that changes weights, such as LoRA."
            )
        self.model, self.tokenizer = model, tokenizer
        self.special_tokens, self.logits_processor = special_tokens, logits_processor
        self.do_sample, self.repetition_penalty = do_sample, repetition_penalty
        self.stop_strings, self.chat_template_kwargs = stop_strings or [], chat_template_kwargs
        self.least_width = least_width

    def lengths(self, prompts: list, max_new_tokens: int) -> list[int]:
        lengths = [len(self._encode(prompt)) for prompt in prompts]
        limit = context_length(self.model)
        for index, length in enumerate(lengths):
            if limit is not None and length + max_new_tokens > limit:
                raise ValueError(
                    f"Prompt {index} has {length} tokens; with `max_new_tokens={max_new_tokens}` the context of "
                    f"`model` leaves {limit - max_new_tokens}. Shorten the prompt, or lower `max_new_tokens`."
                )
        return lengths

    def start(self, prompts: list, max_new_tokens: int) -> None:
        self._prompts = [self._encode(prompt) for prompt in prompts]
        self._max_new_tokens, self._uniforms = max_new_tokens, {}
        self._width = max(self.least_width, *map(len, self._prompts))
        padding = [self._width - len(ids) for ids in self._prompts]
        pad = self.special_tokens["pad_token_id"]
        ids = [[pad] * n + ids for n, ids in zip(padding, self._prompts, strict=True)]
        mask = [[0] * n + [1] * (self._width - n) for n in padding]
        self._ids = torch.tensor(ids, device=self.model.device)  # (rows, tokens so far)
        self._mask = torch.tensor(mask, device=self.model.device)
        self._prompt_of = list(range(len(prompts)))
        self._cache = None
        if self._width > 1:
            # All but the last token, which the first step of every row reads.
            self._cache = self._generate(self._ids[:, :-1], self._mask[:, :-1], 1).past_key_values
            write_in_place(self._cache, self._width + max_new_tokens)

    def extend(self, rows: list[Row], length: int) -> list[Continuation]:
        parents = torch.tensor([row.parent for row in rows], device=self.model.device)
        self._prompt_of = [self._prompt_of[row.parent] for row in rows]
        if self._cache is not None:
            self._cache.reorder_cache(parents)
        ids, mask = self._ids[parents], self._mask[parents]
        processors = [*self.logits_processor]
        if self.do_sample:
            processors.append(_Draw(self._streams(rows), self._width))
        criteria = [_StopStrings(self, self._width)] if self.stop_strings else []
        settings = {**self.special_tokens, "repetition_penalty": self.repetition_penalty}
        output = self._generate(ids, mask, length, settings, processors, criteria)
        self._ids, self._cache = output.sequences, output.past_key_values
        self._mask = torch.nn.functional.pad(mask, (0, self._ids.shape[1] - ids.shape[1]), value=1)
        return self._continuations(self._ids[:, self._width :].tolist())

    def texts(self, rows: list[list[int]]) -> list[str]:
        """The text of each row of the last `extend`, whose new ids are these."""
        texts = []
        for prompt, own in itertools.groupby(range(len(rows)), key=self._prompt_of.__getitem__):
            texts += completion_texts(self.tokenizer, self._prompts[prompt], [rows[row] for row in own])
        return texts

    def _encode(self, prompt: str | list[dict] | list[int]) -> list[int]:
        if isinstance(prompt, list) and isinstance(prompt[0], int):
            return prompt
        return encode_prompt(self.tokenizer, prompt, chat_template_kwargs=self.chat_template_kwargs)

    def _streams(self, rows: list[Row]) -> torch.FloatTensor:
        """The random numbers of each row, of shape `(rows, max_new_tokens)`."""
        for seed in {row.seed for row in rows} - self._uniforms.keys():
            self._uniforms[seed] = uniforms([seed], self._max_new_tokens)[0]
        return torch.stack([self._uniforms[row.seed] for row in rows]).to(self.model.device)

    def _generate(
        self,
        ids: torch.LongTensor,
        mask: torch.LongTensor,
        length: int,
        settings: dict | None = None,
        processors: list[LogitsProcessor] | None = None,
        criteria: list[StoppingCriteria] | None = None,
    ) -> GenerateDecoderOnlyOutput:
        config = GenerationConfig(
            do_sample=False, max_new_tokens=length, return_dict_in_generate=True, **(settings or {})
        )
        with decoding_with(self.model, config):
            return self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=self._cache,
                generation_config=config,
                logits_processor=LogitsProcessorList(processors or []),
                stopping_criteria=StoppingCriteriaList(criteria or []),
            )

    def _continuations(self, rows: list[list[int]]) -> list[Continuation]:
        """What rows with these new ids, whatever stands behind their first end of sequence, have written."""
        eos = set(self.special_tokens["eos_token_id"])
        ends = [next((position for position, token in enumerate(ids) if token in eos), None) for ids in rows]
        kept = [ids[:end] for ids, end in zip(rows, ends, strict=True)]
        continuations = []
        for row, (text, ids, end) in enumerate(zip(self.texts(kept), kept, ends, strict=True)):
            stop = first_stop(text, self.stop_strings)
            if stop is None:
                stop_reason = None if end is None else rows[row][end]
                continuations.append(Continuation(ids, text, end is not None, stop_reason))
            else:
                start, stop_string = stop
                text = text[:start]
                beginnings = [ids[:count] for count in range(len(ids) + 1)]
                texts = completion_texts(self.tokenizer, self._prompts[self._prompt_of[row]], beginnings)
                shortest = next(ids for ids, begun in zip(beginnings, texts, strict=True) if begun.startswith(text))
                continuations.append(Continuation(shortest, text, True, stop_string))
        return continuations


class _Draw(LogitsProcessor):
    """[`draw`] with random numbers at hand, of which the first is for the token behind `prompt_length` tokens."""

    def __init__(self, uniforms: torch.FloatTensor, prompt_length: int):
        self.uniforms, self.prompt_length = uniforms, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return draw(scores, self.uniforms[:, input_ids.shape[1] - self.prompt_length])


class _StopStrings(StoppingCriteria):
    """Ends rows of a long chunk soon after a stop string. The stock criterion would look into the prompt too."""

    def __init__(self, sampler: ModelSampler, prompt_length: int):
        self.sampler, self.prompt_length = sampler, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        written = input_ids[:, self.prompt_length :]
        if written.shape[1] % _LOOK_EVERY:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        texts = self.sampler.texts(written.tolist())
        done = [first_stop(text, self.sampler.stop_strings) is not None for text in texts]
        return torch.tensor(done, device=input_ids.device)


def first_stop(text: str, stop_strings: list[str]) -> tuple[int, str] | None:
    """Where the stop string begins that is complete first, so that chunks of any length are cut alike; and which."""
    found = [(text.index(stop) + len(stop), text.index(stop), stop) for stop in stop_strings if stop in text]
    return min(found)[1:] if found else None
