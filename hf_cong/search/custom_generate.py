# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Chunk-level beam search as a decoding method of `generate`."""

from dataclasses import dataclass

import torch
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    PrefixConstrainedLogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from transformers.utils import ModelOutput

from ..compatibility import check_head_widths
from ..logits_process import ContrastiveLogitsProcessor, EmulatedFineTuningLogitsProcessor
from ..rewards import ImplicitReward
from ..rewards.likelihood import check_lengths
from .batches import SearchSettings, check_reward, search_batches
from .beam import Hypothesis, SearchResult
from .samplers import ModelSampler

# What `generate` adds of its own accord. Of these only the mask says something that `input_ids` does not.
_OWN_INPUTS = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}
# They know rows by their place in the batch, which a search changes.
_BY_ROW = (
    ContrastiveLogitsProcessor
    | EmulatedFineTuningLogitsProcessor
    | PrefixConstrainedLogitsProcessor
    | SynthIDTextWatermarkLogitsProcessor
    | UnbatchedClassifierFreeGuidanceLogitsProcessor
)


@dataclass
class ChunkBeamSearchOutput(ModelOutput):
    """
    What `generate` returns with `return_dict_in_generate=True`.

    Args:
        sequences (`torch.LongTensor` of shape `(B, T)`): Prompts and completions, padded on the right.
        results (`list[SearchResult]`): What was found for each row.
    """

    sequences: torch.LongTensor | None = None
    results: list[SearchResult] | None = None


def chunk_beam_search(
    model: PreTrainedModel,
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    *,
    reward: ImplicitReward,
    processing_class: PreTrainedTokenizerBase | None = None,
    prompts: list[str] | list[list[dict]] | None = None,
    beam_width: int = 4,
    successors_per_beam: int = 4,
    chunk_length: int | None = 5,
    stop_strings: list[str] | None = None,
    seed: int | None = None,
    **model_kwargs,
) -> torch.LongTensor | ChunkBeamSearchOutput:
    """
    [`weak_to_strong_search`] for `generate`, which passes the first five arguments and the last.

    Length, sampling, penalties, other logits processors and special tokens are those of the generation configuration.
    `generate` keeps `streamer` and `assistant_model` to itself, so they have no effect.

    Args:
        reward ([`ImplicitReward`]):
            The weak pair, with its own tokenizer.
        processing_class (`PreTrainedTokenizerBase`, *optional*, defaults to the tokenizer of `reward`):
            The tokenizer of the model, needed where it is another. Not `tokenizer`, which `generate` keeps to itself.
        prompts (`list[str]` or `list[list[dict]]`, *optional*):
            The prompts as the reward is to read them. Defaults to their ids if the vocabulary is the same, else to
            their text without special tokens, which for messages is not what the pair's chat template would write. Nor
            do ids or text tell the token that closes a turn: if that is not the tokenizer's end-of-sequence token,
            as Gemma's is not, make `reward` with `eos_token_id`.
        beam_width (`int`, *optional*, defaults to `4`):
            W, hypotheses kept after each chunk.
        successors_per_beam (`int`, *optional*, defaults to `4`):
            K, rows sampled from each.
        chunk_length (`int`, *optional*, defaults to `5`):
            L, tokens between two selections. `None` selects once, at the end.
        stop_strings (`list[str]`, *optional*):
            Texts that end a completion. What is left of it is the tokens up to the one in which the text begins.
        seed (`int`, *optional*):
            Seed of the rows' random numbers, which depend on a row's place in the batch. Defaults to a number from
            torch's generator, so that `set_seed` holds.

    Returns:
        `torch.LongTensor` of shape `(B, T)`: as from `generate`; or [`ChunkBeamSearchOutput`] with
        `return_dict_in_generate=True`.

    Raises:
        TypeError: if `reward` or a setting is of another type.
        ValueError: if `generate` was asked for what a search has no place for (beams, several sequences, other
            stopping criteria, processors that know rows by their place, inputs that are no ids), if the model has
            another vocabulary and comes without its tokenizer, and as [`weak_to_strong_search`] does.

    Example:

    ```python
    >>> from hf_cong import ImplicitReward, chunk_beam_search

    >>> reward = ImplicitReward(policy, reference, tokenizer)
    >>> model.generate(**inputs, max_new_tokens=128, do_sample=True, custom_generate=chunk_beam_search, reward=reward)
    ```
    """
    _check_asked(logits_processor, stopping_criteria, generation_config, model_kwargs)
    check_reward(reward)
    if prompts is not None:
        check_lengths(input_ids=input_ids, prompts=prompts)
    tokenizer = processing_class or _common_tokenizer(model, reward)
    width = input_ids.shape[1]
    settings = SearchSettings(
        beam_width=beam_width,
        successors_per_beam=successors_per_beam,
        chunk_length=chunk_length,
        max_new_tokens=generation_config.max_length - width,
        do_sample=generation_config.do_sample,
        stop_strings=stop_strings or (),
        seed=torch.randint(2**62, ()).item() if seed is None else seed,
    )
    eos = generation_config.eos_token_id
    eos = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    pad = generation_config.pad_token_id
    pad = (eos or [0])[0] if pad is None else pad
    penalties = [each for each in logits_processor if _holds_padding(each)]
    sampler = ModelSampler(
        model,
        tokenizer,
        {"eos_token_id": eos, "pad_token_id": pad},
        [each for each in logits_processor if each not in penalties],
        do_sample=settings.do_sample,
        repetition_penalty=penalties[0].penalty if penalties else 1.0,  # made anew for the rows of every chunk
        stop_strings=list(settings.stop_strings),
        least_width=width,
    )
    mask = model_kwargs.get("attention_mask")  # `generate` drops a mask of ones
    mask = torch.ones_like(input_ids) if mask is None else mask
    ids = [row[keep.bool()].tolist() for row, keep in zip(input_ids, mask, strict=True)]
    if prompts is None and tokenizer.get_vocab() != reward.tokenizer.get_vocab():
        prompts = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    names = [str(index) for index in range(len(ids))]
    batches = search_batches(sampler, reward, names, ids, settings, batch_size=len(ids), scored_prompts=prompts)
    results = {result.prompt_id: result for batch in batches for result in batch}
    results = [results[name] for name in names]

    written = [_with_end(result) for result in results]
    longest = max(map(len, written))
    written = [row + [pad] * (longest - len(row)) for row in written]
    sequences = torch.cat([input_ids, torch.tensor(written, device=input_ids.device, dtype=input_ids.dtype)], dim=1)
    return ChunkBeamSearchOutput(sequences, results) if generation_config.return_dict_in_generate else sequences


def _common_tokenizer(model: PreTrainedModel, reward: ImplicitReward) -> PreTrainedTokenizerBase:
    try:
        check_head_widths(model=model.config.get_text_config().vocab_size, reward=reward.scorers[0].vocab_size)
    except ValueError as error:
        raise ValueError(f"Pass the model's tokenizer as `processing_class`. {error}") from None
    return reward.tokenizer


def _holds_padding(processor: LogitsProcessor) -> bool:
    """Whether it is the penalty that `generate` made, with the padding of each row, for a left-padded batch."""
    return isinstance(processor, RepetitionPenaltyLogitsProcessor) and isinstance(
        processor.prompt_ignore_length, torch.Tensor
    )


def _with_end(result: SearchResult) -> list[int]:
    """The ids of a completion with the token that ended it, as `generate` leaves it there."""
    best: Hypothesis = result.hypotheses[0]
    return [*best.ids, best.stop_reason] if isinstance(best.stop_reason, int) else best.ids


def _check_asked(
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    model_kwargs: dict,
) -> None:
    for name in ("num_beams", "num_return_sequences"):
        if getattr(generation_config, name) != 1:
            raise ValueError(
                f"`{name}` is {getattr(generation_config, name)}, and `chunk_beam_search` returns one completion of "
                "its own beams. Set `beam_width`; repeat a prompt to search it again."
            )
    own = MaxLengthCriteria | EosTokenCriteria
    others = [type(each).__name__ for each in stopping_criteria if not isinstance(each, own)]
    if others:
        raise ValueError(
            f"`chunk_beam_search` cannot follow {', '.join(others)}. Limit `max_new_tokens`, or pass `stop_strings` "
            "to `generate` itself."
        )
    by_row = [type(each).__name__ for each in logits_processor if isinstance(each, _BY_ROW)]
    if by_row:
        raise ValueError(
            f"{', '.join(by_row)} must see the same rows at every step, and `chunk_beam_search` changes them. Leave "
            "it out; contrast and emulated fine-tuning are searched as one model, made by `from_pair`."
        )
    inputs = sorted(name for name, value in model_kwargs.items() if name not in _OWN_INPUTS and value is not None)
    if inputs:
        raise ValueError(f"`chunk_beam_search` goes on from `input_ids` alone, and got `{'`, `'.join(inputs)}`.")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError("`chunk_beam_search` reads the prompts itself; leave out `past_key_values`.")
