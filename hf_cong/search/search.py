# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Weak-to-Strong Search over prompts."""

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engines import TransformersEngine
from ..prompts import read_prompts
from ..rewards import ImplicitReward
from .batches import SearchSettings, check_reward, search_batches
from .beam import SearchResult
from .samplers import ModelSampler, Sampler


def weak_to_strong_search(
    model: PreTrainedModel | PeftModel | str | Sampler,
    tokenizer: PreTrainedTokenizerBase | None,
    prompts: list[str] | list[list[dict]],
    reward: ImplicitReward,
    *,
    beam_width: int = 4,
    successors_per_beam: int = 4,
    chunk_length: int | None = 5,
    max_new_tokens: int = 128,
    temperature: float = 0.7,
    top_k: int = 50,
    top_p: float = 1.0,
    do_sample: bool = True,
    stop_strings: list[str] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    chat_template_kwargs: dict | None = None,
) -> list[SearchResult]:
    """
    Searches the samples of a frozen model for what a weak pair's implicit reward prefers: chunk-level beam search.

    Every prompt starts with W·K rows. After each chunk of L tokens the W best by implicit reward survive, and each
    gets K successors. A finished survivor holds its place without being sampled further; equal rows count once; a
    prompt whose survivors are all finished leaves the batch. A completion cut at `max_new_tokens` gets no credit for
    an end, nor does one that a stop string ended, since the pair never saw an end there.

    With one vocabulary the ids that were sampled are scored. Otherwise their text is, so `model` may be of any family,
    and each model reads the prompt through its own chat template. A row whose text outgrows the pair's context is cut
    to the chunk before, and comes after all that the pair can read.

    A row draws its own random numbers. In float32 a result does not depend on the other prompts, nor on `batch_size`;
    with W = K = 1 it is the completion of [`generate_completions`] at the same settings. A batch that does not fit in
    memory is searched in halves.

    Args:
        model (`PreTrainedModel`, `PeftModel`, `str` or [`Sampler`]):
            The model that samples: any causal language model, a [`ContrastivePairForCausalLM`] among them; or the URL
            of an OpenAI-compatible server, see [`EndpointSampler`]. A sampler brings its own temperature and
            the like.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Its tokenizer. `None` for a server and plain prompts.
        prompts (`list[str]` or `list[list[dict]]`):
            Plain prompts, or chat messages; none twice.
        reward ([`ImplicitReward`]):
            The weak pair, with its own tokenizer.
        beam_width (`int`, *optional*, defaults to `4`):
            W, hypotheses kept after each chunk.
        successors_per_beam (`int`, *optional*, defaults to `4`):
            K, rows sampled from each.
        chunk_length (`int`, *optional*, defaults to `5`):
            L, tokens between two selections. `None` selects once, at the end.
        max_new_tokens (`int`, *optional*, defaults to `128`):
            Most tokens of a completion.
        temperature (`float`, *optional*, defaults to `0.7`):
            Divides the scores before sampling.
        top_k (`int`, *optional*, defaults to `50`):
            Samples from this many most probable tokens; `0` is off.
        top_p (`float`, *optional*, defaults to `1.0`):
            Samples from the smallest set of tokens with this much probability; `1.0` is off.
        do_sample (`bool`, *optional*, defaults to `True`):
            `False` takes the most probable token at every step, which leaves nothing to search: for W = K = 1 only.
        stop_strings (`list[str]`, *optional*):
            Texts that end a completion, which is cut before them.
        seed (`int`, *optional*, defaults to `0`):
            With the content of a prompt, it determines the random numbers of that prompt's rows.
        batch_size (`int`, *optional*, defaults to `8`):
            Prompts at a time, of W·K rows each.
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template of `tokenizer`.

    Returns:
        `list[SearchResult]`: in the order of the prompts.

    Raises:
        TypeError: if `model`, `reward` or a setting is of another type.
        ValueError: if a setting is out of range, a prompt is invalid or too long for a model, or a reward is not a
            number.
        RuntimeError: if one prompt alone does not fit in memory.

    Example:

    ```python
    >>> from hf_cong import ImplicitReward, weak_to_strong_search

    >>> reward = ImplicitReward(policy, reference, weak_tokenizer)
    >>> results = weak_to_strong_search(model, tokenizer, ["Once upon a time"], reward)
    >>> results[0].completion, results[0].implicit_reward, results[0].kl
    ```

    Source: [Weak-to-Strong Search](https://huggingface.co/papers/2405.19262), Algorithm 1. Its code credits truncated
    completions with an end and lets copies of a finished one fill the beam; this does neither.
    """
    settings = SearchSettings(
        beam_width=beam_width,
        successors_per_beam=successors_per_beam,
        chunk_length=chunk_length,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        do_sample=do_sample,
        stop_strings=stop_strings or (),
        seed=seed,
    )
    check_reward(reward)
    if isinstance(prompts, str):  # to `read_prompts` it would be the name of a file
        raise TypeError(f"`prompts` must be a list, got the string {prompts[:80]!r}. Pass `[prompt]`.")
    rows, _ = read_prompts(prompts)
    names, prompts = rows["prompt_id"][:], rows["prompt"][:]
    sampler = as_sampler(model, tokenizer, settings, chat_template_kwargs=chat_template_kwargs)
    batches = search_batches(sampler, reward, names, prompts, settings, batch_size=batch_size)
    results = {result.prompt_id: result for batch in batches for result in batch}
    return [results[name] for name in names]


def best_of_n(
    model: PreTrainedModel | PeftModel | str | Sampler,
    tokenizer: PreTrainedTokenizerBase | None,
    prompts: list[str] | list[list[dict]],
    reward: ImplicitReward,
    *,
    n: int,
    max_new_tokens: int = 128,
    temperature: float = 0.7,
    top_k: int = 50,
    top_p: float = 1.0,
    stop_strings: list[str] | None = None,
    seed: int = 0,
    batch_size: int = 8,
    chat_template_kwargs: dict | None = None,
) -> list[SearchResult]:
    """
    The best of `n` samples by implicit reward: [`weak_to_strong_search`] with W = 1, K = n and one chunk.

    Args:
        n (`int`): Samples per prompt.

    The other arguments, the result and the errors are those of [`weak_to_strong_search`].
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"`n` must be a whole number of at least 1, got {repr(n)[:80]}.")
    return weak_to_strong_search(
        model,
        tokenizer,
        prompts,
        reward,
        beam_width=1,
        successors_per_beam=n,
        chunk_length=None,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_strings=stop_strings,
        seed=seed,
        batch_size=batch_size,
        chat_template_kwargs=chat_template_kwargs,
    )


def as_sampler(
    model: PreTrainedModel | PeftModel | str | Sampler,
    tokenizer: PreTrainedTokenizerBase | None,
    settings: SearchSettings,
    *,
    chat_template_kwargs: dict | None = None,
) -> Sampler:
    """
    The sampler of a model or of a server, with these settings; a sampler is itself.

    Raises:
        TypeError: if `model` is none of these, or a model comes without its tokenizer.
        ValueError: if it is an encoder-decoder, or has fewer embeddings than the tokenizer has tokens.
    """
    if isinstance(model, Sampler):
        return model
    if isinstance(model, str) and "://" in model:
        from .endpoint_sampler import EndpointSampler

        return EndpointSampler(
            model,
            tokenizer=tokenizer,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            do_sample=settings.do_sample,
            stop_strings=list(settings.stop_strings),
            chat_template_kwargs=chat_template_kwargs,
        )
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise TypeError(
            f"`model` is {repr(model)[:80]} ({type(model).__name__}); it must be a loaded model, or the URL of a "
            "server such as 'http://localhost:8000/v1'. Load a model: `AutoModelForCausalLM.from_pretrained(...)`."
        )
    if tokenizer is None:
        raise TypeError("`tokenizer` is None, and a loaded model needs its own.")
    decoding = settings.decoding()
    return ModelSampler(
        model,
        tokenizer,
        TransformersEngine(model).prepare(tokenizer, [[0]], decoding),
        decoding.warpers() if settings.do_sample else [],
        do_sample=settings.do_sample,
        stop_strings=list(settings.stop_strings),
        chat_template_kwargs=chat_template_kwargs,
    )
