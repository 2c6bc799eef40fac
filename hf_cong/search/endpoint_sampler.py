# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A model behind a URL, as a search steers it: text goes out, text comes back, every answer is kept and counted."""

import json
import logging
import threading
from collections import Counter
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..checkpoints import content_key
from ..engines.server import Server, ask_all, cause, openai
from ..journal import Journal
from ..prompts import encode_prompt
from ..sampling import row_seed, warpers
from .samplers import Continuation, Row, Sampler, first_stop

logger = logging.getLogger(__name__)

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # how a server shows the first bytes of a character
_MOST_BYTES = 4  # of a character in UTF-8


class _Choice(NamedTuple):
    text: str
    finish_reason: str
    stop_reason: int | str | None
    prompt_tokens: int


class EndpointSampler(Sampler):
    """
    Rows of a server with OpenAI's endpoint `/completions`, such as `vllm serve` or `transformers serve`.

    A row goes on from its prompt's text and its own so far, so its tokens are the server's and may be cut otherwise at
    the border of two chunks. A character that a border cuts is left out and sampled again. Rows that go on from one
    text are one request with as many choices. A server that gives one choice at a time is asked for each alone.

    `top_k` is not in OpenAI's protocol; a server that refuses it must be asked with `top_k=0`. `transformers serve`
    samples as the generation configuration of its model says, all requests from one stream of random numbers (only
    `concurrency=1` is reproducible), and calls an end at the last token of a chunk a cut: the row goes on.

    Args:
        url (`str`):
            The server's address up to the version, `"http://localhost:8000/v1"`; with several models, the one to use
            behind a `#`. Its key is read from the environment variable `OPENAI_API_KEY`.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            The tokenizer of the model behind the URL, whose chat template writes messages as text. Plain prompts need
            none.
        temperature, top_k, top_p, do_sample, stop_strings:
            As in [`weak_to_strong_search`].
        chat_template_kwargs (`dict`, *optional*):
            Variables for the chat template.
        concurrency (`int`, *optional*, defaults to `16`):
            Most requests that are with the server at a time.
        timeout (`float`, *optional*, defaults to `600.0`):
            Seconds to wait for one answer.
        max_retries (`int`, *optional*, defaults to `5`):
            How often a request is repeated after a refused connection, a time-out, too many requests (after the pause
            that the server asks for) or an error of the server.

    Attributes:
        identity (`dict`): The names that the server gives its model, which tell nothing of its weights.
        cost (`dict[str, int]`):
            `requests` answered, `prompt_tokens` and `completion_tokens` as the server's `usage` counts them, and
            `without_usage`, the answers that held none; those of the journal included.

    Raises:
        ValueError: if the URL is none of a server, or a setting is out of range.
        ConnectionError: if the server does not say which models it serves and none is named.
    """

    def __init__(
        self,
        url: str,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        temperature: float = 0.7,
        top_k: int = 50,
        top_p: float = 1.0,
        do_sample: bool = True,
        stop_strings: list[str] | None = None,
        chat_template_kwargs: dict | None = None,
        concurrency: int = 16,
        timeout: float = 600.0,
        max_retries: int = 5,
    ):
        if concurrency < 1:
            raise ValueError(f"`concurrency` must be at least 1, got {concurrency}.")
        if do_sample:
            warpers(temperature, top_k, top_p)  # refuses what is out of range
        self.tokenizer, self.chat_template_kwargs = tokenizer, chat_template_kwargs
        self.stop_strings, self.concurrency = stop_strings or [], concurrency
        self._server = Server(url, argument="model", timeout=timeout, max_retries=max_retries)
        served = self._server.served()
        self.identity = {"served_model": served["id"], "root": served.get("root")}
        self._context_length = served.get("max_model_len")
        self._sampling, self._together = do_sample, None
        self._options = {
            "model": served["id"],
            "temperature": float(temperature) if do_sample else 0.0,
            "top_p": float(top_p) if do_sample else 1.0,
            # Said though it is what they are by default: a server fills in what is unsaid from the model's own.
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "extra_body": {"top_k": top_k if do_sample else 0, "min_p": 0.0, "repetition_penalty": 1.0},
        }
        self._journal, self._lock, self._answers = None, threading.Lock(), {}
        self.cost = Counter(requests=0, prompt_tokens=0, completion_tokens=0, without_usage=0)

    def keep_answers(self, journal: Journal) -> None:
        """Keeps answers as they come from now on. A request whose answer the journal holds is not sent again."""
        self._journal = journal
        for record in journal.records:
            self._count(record)

    def lengths(self, prompts: list, max_new_tokens: int) -> list[int]:
        return [len(self._as_text(prompt)) for prompt in prompts]  # which refuses what cannot be written as text

    def start(self, prompts: list, max_new_tokens: int) -> None:
        self._chunk, self._max_new_tokens = 0, max_new_tokens
        texts = [self._as_text(prompt) for prompt in prompts]
        if self._together is None:
            self._probe(min(texts, key=len))
            texts = [self._as_text(prompt) for prompt in prompts]  # by now it is known how
        self._rows = [(text, "") for text in texts]

    def extend(self, rows: list[Row], length: int) -> list[Continuation]:
        # A seed for every chunk: with every request the server begins a new stream of random numbers.
        seeds = [row_seed(row.seed, str(self._chunk)) for row in rows]
        requests = {}
        for index, row in enumerate(rows):
            requests.setdefault((row.parent, None if self._together else index), []).append(index)

        def ask(request: tuple[tuple, list[int]]) -> list[_Choice]:
            (parent, _), indices = request
            return self._sample("".join(self._rows[parent]), length, [seeds[index] for index in indices])

        answers, failure = ask_all(ask, list(requests.items()), self.concurrency)
        if failure is not None:
            raise self._failure(failure)
        choices = {
            index: choice
            for indices, answer in zip(requests.values(), answers, strict=True)
            for index, choice in zip(indices, answer, strict=True)
        }
        parents = [self._rows[row.parent] for row in rows]
        if self._chunk == 0:
            self._check_context({text: choices[index].prompt_tokens for index, (text, _) in enumerate(parents)})
        written = [self._go_on(text, choices[index]) for index, (_, text) in enumerate(parents)]
        self._rows = [(prompt, row.text) for (prompt, _), row in zip(parents, written, strict=True)]
        self._chunk += 1
        return written

    def _probe(self, text: str) -> None:
        """A first answer of one token: is text completed, do choices come together, what is refused?"""
        asked = 2 if self._sampling else 1
        try:
            try:
                answer = self._request(text, asked, 1, 0)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                top_k = self._options.pop("extra_body")["top_k"]
                answer = self._request(text, asked, 1, 0)  # fails likewise if it was another reason
                if top_k:
                    raise ValueError(
                        f"`top_k={top_k}` is not in OpenAI's protocol; pass `top_k=0`. It says: {cause(error)}"
                    ) from error
                logger.warning("%s refuses what OpenAI's protocol lacks, and is asked without it.", self._server.url)
        except (openai.APIError, ValueError) as error:
            raise ConnectionError(
                f"`model`: {self._server.url} does not complete a prompt: {cause(error)}. It must have the endpoint "
                "/completions and take text as the prompt."
            ) from error
        self._together = len(answer["choices"]) == asked
        if not self._together:
            logger.warning(
                "%s gives one choice where two were asked for: every row is a request of its own, and its prompt is "
                "read, and perhaps paid for, each time.",
                self._server.url,
            )
        # Where a server says what ended a completion, a stop string may. Elsewhere it could not be told from the
        # model's own end, so it is looked for here, and what was written behind it is paid for nothing.
        if self.stop_strings and "stop_reason" in answer["choices"][0]:
            self._options["stop"] = self.stop_strings

    def _as_text(self, prompt: str | list[dict]) -> str:
        """The prompt as text, for a server that makes it into the ids of [`encode_prompt`]."""
        extra = self._options.get("extra_body")
        if extra is not None:
            extra["add_special_tokens"] = isinstance(prompt, str)
        if isinstance(prompt, str):
            return prompt
        if self.tokenizer is None:
            raise ValueError(
                "The prompts are messages, and a server completes text. Pass `tokenizer`, the tokenizer of the model "
                "behind the URL: its chat template writes them as text."
            )
        ids = encode_prompt(self.tokenizer, prompt, chat_template_kwargs=self.chat_template_kwargs)
        text = self.tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=False, **(self.chat_template_kwargs or {})
        )
        if self.tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            raise ValueError(
                f"The prompt {repr(prompt)[:80]} holds a special token as text, which a server would read as the "
                "token itself and so as the template's. Take it out."
            )
        if extra is None and self.tokenizer("a")["input_ids"][0] == self.tokenizer.bos_token_id:
            text = text.removeprefix(self.tokenizer.bos_token)  # the server adds one of its own
        return text

    def _sample(self, text: str, length: int, seeds: list[int]) -> list[_Choice]:
        """One chunk per seed. What the server leaves owing is asked for again."""
        choices = []
        while len(choices) < len(seeds):
            left = seeds[len(choices) :]
            choices += self._choices(text, len(left), length, left[0])
        for index, (choice, seed) in enumerate(zip(choices, seeds, strict=True)):
            if (
                choice.finish_reason == "length" and choice.text == _UNFINISHED
            ):  # the chunk is shorter than a character
                choices[index] = choice = self._choices(text, 1, length + _MOST_BYTES - 1, seed)[0]
            if choice.finish_reason == "length" and choice.text in ("", _UNFINISHED):
                raise ValueError(f"it wrote {choice.text!r} in {length} tokens and no end, so no search can go on")
        return choices

    def _choices(self, text: str, n: int, length: int, seed: int) -> list[_Choice]:
        """At least one and at most `n` choices, from one request."""
        answer = self._request(text, n, length, seed)
        tokens = (answer["usage"] or {}).get("prompt_tokens", 0)
        return [
            _Choice(choice["text"], choice["finish_reason"], choice.get("stop_reason"), tokens)
            for choice in answer["choices"][:n]
        ]

    def _request(self, text: str, n: int, length: int, seed: int) -> dict:
        """One answer, from the journal if the request was answered before."""
        options = {**self._options, "prompt": text, "n": n, "max_tokens": length, "seed": seed}
        key = content_key(options)
        if key not in self._answers:
            body = self._server.client.completions.with_raw_response.create(**options).text
            record = {"request": key, **_read(body)}
            with self._lock:
                if self._journal is not None:
                    self._journal.append([record])
                self._count(record)
        return self._answers[key]

    def _failure(self, error: Exception) -> ConnectionError:
        busy = "; lower `concurrency`" if isinstance(error, openai.RateLimitError) else ""
        kept = "" if self._journal is None else " Every answer is kept; repeat the command to go on."
        failure = ConnectionError(f"`model`: {self._server.url} failed: {cause(error)}{busy}.{kept}")
        failure.__cause__ = error
        return failure

    def _count(self, record: dict) -> None:
        self._answers[record["request"]] = record
        self.cost["requests"] += 1
        self.cost["without_usage"] += record["usage"] is None
        for name in ("prompt_tokens", "completion_tokens"):
            self.cost[name] += (record["usage"] or {}).get(name, 0)

    def _check_context(self, tokens: dict[str, int]) -> None:
        """Refuses a prompt, once the server has counted its tokens, that leaves too little room."""
        room = (self._context_length or float("inf")) - self._max_new_tokens
        for text, count in tokens.items():
            if count > room:
                raise ValueError(
                    f"The prompt {text[:80]!r} has {count} tokens; with `max_new_tokens={self._max_new_tokens}` the "
                    f"context at {self._server.url} leaves {room}. Shorten the prompt, or lower `max_new_tokens`."
                )

    def _go_on(self, text: str, choice: _Choice) -> Continuation:
        """A row's text with its new chunk, cut before a stop string, also one that began in an earlier chunk."""
        whole = text + choice.text
        stop = first_stop(whole, self.stop_strings)
        if stop is not None:
            start, stop_string = stop
            return Continuation(None, whole[:start], True, stop_string)
        if choice.finish_reason == "length":
            return Continuation(None, whole.removesuffix(_UNFINISHED), False)
        return Continuation(None, whole, True, choice.stop_reason)


def _read(body: str) -> dict:
    """The choices and the usage in an answer; `ValueError` if it is none."""
    try:
        answer = json.loads(body)
        choices = [
            {name: choice[name] for name in ("text", "finish_reason", "stop_reason") if name in choice}
            for choice in answer["choices"]
        ]
        usage = answer.get("usage")
        if usage is not None:
            usage = {name: int(usage[name]) for name in ("prompt_tokens", "completion_tokens")}
        readable = choices and all(isinstance(choice["text"], str) for choice in choices)
    except (ValueError, TypeError, KeyError, AttributeError):
        readable = False
    if not readable:
        raise ValueError(f"it answered {body[:80]!r}, which is no completion")
    for choice in choices:
        if choice.get("finish_reason") not in ("stop", "length"):
            raise ValueError(f"it ended a completion by {choice.get('finish_reason')!r}, neither 'stop' nor 'length'")
    return {"choices": choices, "usage": usage}
