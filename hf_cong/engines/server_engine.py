# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A server that speaks OpenAI's completions protocol, such as `vllm serve`: token ids out, token ids back."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from transformers import PreTrainedTokenizerBase

from ..sampling import Decoding
from .base import Answer, Engine, Request
from .server import Server, cause, openai

logger = logging.getLogger(__name__)


class ServerEngine(Engine):
    """
    The model behind a URL. It holds no weights and as many prompts as the batch size are with the server at a time.

    What an answer costs is paid once: the first failure (after the retries) stops the asking, answers under way are
    waited for and kept, and the same command goes on from there. `alpha` and `plausibility_threshold` are the
    server's: `vllm serve pair --hf-overrides '{"alpha": 0.5}' --served-model-name pair-0.5` sets and names them.

    The API key, if the server wants one, is read from the environment variable `OPENAI_API_KEY`.

    A server that refuses what vLLM adds to the protocol is asked without it, unless `top_k` or `repetition_penalty`
    need it. It answers with text, which is tokenized again.

    Args:
        url (`str`):
            The server's address up to the version, `"http://localhost:8000/v1"`. If it serves several models, the one
            to use stands behind a `#`: `"http://localhost:8000/v1#pair-0.5"`.
        timeout (`float`, *optional*, defaults to `600.0`):
            Seconds to wait for one completion.
        max_retries (`int`, *optional*, defaults to `5`):
            How often a request is repeated after a refused connection, a time-out or an error of the server, with
            growing pauses (0.5 to 8 seconds).

    Raises:
        ValueError: if the URL is not one of HTTP, or holds a user, a password or a query, which logs would show, or if
            no header can carry the key.
    """

    writer = "server"
    batch_size = 64
    independent_rows = True

    def __init__(self, url: str, *, timeout: float = 600.0, max_retries: int = 5):
        self._server = Server(url, argument="engine", timeout=timeout, max_retries=max_retries)
        self.url, self._client = self._server.url, self._server.client

    def describe(self) -> dict:
        model = self._server.model()
        self._model, self._context_length = model["id"], model.get("max_model_len")
        named = {"served_model": model["id"], "root": model.get("root")}
        return {
            "model": model.get("root") or model["id"],
            "alpha": None,
            "beta": None,
            "plausibility_threshold": None,
            **named,
            "max_model_len": self._context_length,
            "identity": named,
        }

    def prepare(self, tokenizer: PreTrainedTokenizerBase, prompt_ids: list[list[int]], decoding: Decoding) -> dict:
        self._tokenizer = tokenizer
        self._eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self._options = {
            "model": self._model,
            "max_tokens": decoding.max_new_tokens,
            "temperature": float(decoding.temperature) if decoding.do_sample else 0.0,
            "top_p": float(decoding.top_p) if decoding.do_sample else 1.0,
            # Said though it is what they are by default: a server fills in what is unsaid from the model's own.
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "extra_body": {
                "top_k": decoding.top_k if decoding.do_sample else 0,
                "min_p": 0.0,
                "repetition_penalty": float(decoding.repetition_penalty),
                "stop_token_ids": self._eos,
                "return_token_ids": True,
                "add_special_tokens": False,
                "skip_special_tokens": False,
            },
        }
        # One token tells whether the server completes token ids at all, and whether it answers with any.
        probe = Request(min(prompt_ids, key=len), 0)
        self._gives_ids = True
        try:
            text = self._probe(probe, decoding)
            self._gives_ids = _only_choice(text).get("token_ids") is not None
            self._read(text, probe)
        except (openai.APIError, ValueError) as error:
            raise ConnectionError(
                f"`engine`: {self.url} does not complete a prompt: {cause(error)}. It must have the endpoint "
                "/completions and take token ids as the prompt, as `vllm serve` does."
            ) from error
        if not self._gives_ids:
            logger.warning(
                "%s answers with text only. Its completions are tokenized again, which need not give the ids that the "
                "model wrote.",
                self.url,
            )
        return {"eos_token_id": self._eos, "completion_ids": "of the model" if self._gives_ids else "of its text"}

    @property
    def context_length(self) -> int | None:
        return self._context_length

    def complete(self, batches: list[list[Request]]) -> Iterator[list[Answer | None]]:
        failures = []

        def ask(request: Request) -> str | None:
            if failures:
                return None
            try:
                return self._post(request)
            except openai.APIError as error:
                failures.append(error)
                return None

        pool = ThreadPoolExecutor(max(map(len, batches), default=1))
        try:
            futures = [[pool.submit(ask, request) for request in batch] for batch in batches]
            answered = 0
            for batch, asked in zip(batches, futures, strict=True):
                answers = []
                for request, future in zip(batch, asked, strict=True):
                    text, answer = future.result(), None
                    if text is not None:
                        try:
                            answer = self._read(text, request)
                        except ValueError as error:
                            failures.append(error)
                    answers.append(answer)
                answered += len(answers) - answers.count(None)
                yield answers
        finally:
            pool.shutdown(cancel_futures=True)
        if failures:
            raise ConnectionError(
                f"`engine`: {self.url} failed after {answered} of {sum(map(len, batches))} prompts: "
                f"{cause(failures[0])}. Every answer is kept; repeat the command to go on."
            ) from failures[0]

    def _probe(self, request: Request, decoding: Decoding) -> str:
        """The body of a first answer, of one token; leaves out from now on what the server refuses and none needs."""
        try:
            return self._post(request, max_tokens=1)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            self._options.pop("extra_body")
            text = self._post(request, max_tokens=1)  # fails likewise if it was another reason
            off = {"top_k": 0, "repetition_penalty": 1.0}
            needed = {name: value for name, value in decoding.settings().items() if off.get(name, value) != value}
            if needed:
                name, value = next(iter(needed.items()))
                raise ValueError(
                    f"`{name}={value}` is not in OpenAI's protocol; pass `{name}={off[name]}`. It says:"
                ) from error
            logger.warning("%s refuses what OpenAI's protocol lacks, and is asked without it.", self.url)
            return text

    def _post(self, request: Request, **options) -> str:
        """The body of the answer to one request."""
        options = {**self._options, **options, "prompt": request.prompt_ids, "seed": request.seed}
        return self._client.completions.with_raw_response.create(**options).text

    def _read(self, text: str, request: Request) -> Answer:
        """The answer in a body; `ValueError` if it is none."""
        choice = _only_choice(text)
        reason, ids, written = (choice.get(name) for name in ("finish_reason", "token_ids", "text"))
        if reason not in ("stop", "length"):
            raise ValueError(f"it ended a completion by {reason!r}, neither 'stop' nor 'length'")
        if not self._gives_ids and isinstance(written, str):
            ids = self._tokenizer(written, add_special_tokens=False)["input_ids"]
            return Answer(ids[:-1] if ids[-1:] == self._eos else ids, reason)
        known = range(len(self._tokenizer))
        if not isinstance(ids, list) or not all(isinstance(token, int) and token in known for token in ids):
            raise ValueError(f"it wrote {repr(ids)[:80]}, which are no ids of a tokenizer with {len(known)} tokens")
        if (choice.get("prompt_token_ids") or request.prompt_ids) != request.prompt_ids:
            raise ValueError("it completed other ids than those of the prompt")
        return Answer(ids[:-1] if reason == "stop" else ids, reason)  # vLLM's ids end with the one that ended it


def _only_choice(text: str) -> dict:
    try:
        (choice,) = json.loads(text)["choices"]
    except (ValueError, TypeError, KeyError):
        choice = None
    if not isinstance(choice, dict):
        raise ValueError(f"it answered {text[:80]!r}, which is no completion")
    return choice
