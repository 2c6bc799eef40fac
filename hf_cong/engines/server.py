# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""The address, the key and the models of a server that speaks OpenAI's protocol."""

import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urldefrag, urlsplit

try:
    import openai
except ImportError as error:
    raise ImportError(
        'A model behind a URL needs the package openai. Install it: `pip install "hf-cong[server]"`.'
    ) from error

_ADDRESS = re.compile(r"https?://(\[[\da-f:.]+\]|[^\s/:#\[\]]+)(:\d+)?([/#]\S*)?", re.IGNORECASE)


class Server:
    """
    A client for one server, whose address and key are checked.

    Args:
        url (`str`):
            The server's address up to the version; the model to use may stand behind a `#`.
        argument (`str`):
            The argument that holds the URL, for messages.
        timeout (`float`):
            Seconds to wait for one completion.
        max_retries (`int`):
            How often a request is repeated after a refused connection, a time-out, too many requests or an error of
            the server, with growing pauses.

    Raises:
        ValueError: if the URL is not one of HTTP, or holds a user, a password or a query, which logs would show, or if
            no header can carry the key.
    """

    def __init__(self, url: str, *, argument: str, timeout: float, max_retries: int):
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:
            raise ValueError(
                f"`{argument}` is a URL with a user, a password or a query, which would end up in logs. Leave them "
                "out and put the server's key into the environment variable `OPENAI_API_KEY`."
            )
        if not _ADDRESS.fullmatch(url):
            raise ValueError(
                f"`{argument}` is {url[:80]!r}; the URL of a server must be like 'http://localhost:8000/v1'."
            )
        key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
        if not (key.isascii() and key.isprintable()):  # else the error of the HTTP client would show it
            raise ValueError(
                "The environment variable `OPENAI_API_KEY` holds characters that no header can carry, such as a line "
                "end. Set it to the key alone."
            )
        self.argument = argument
        self.url, self.wanted = urldefrag(url)
        self.client = openai.OpenAI(base_url=self.url, api_key=key, timeout=timeout, max_retries=max_retries)

    def model(self) -> dict:
        """
        What the server says of the model that is meant.

        Raises:
            ConnectionError: if it does not say which models it serves.
            ValueError: if the one behind the `#` is not among them, or none is named and there are several.
        """
        try:
            listed = json.loads(self.client.with_options(max_retries=0).models.with_raw_response.list().text)
            models = {model["id"]: model for model in listed["data"]}
        except (openai.APIError, ValueError, KeyError, TypeError) as error:
            raise ConnectionError(
                f"`{self.argument}`: {self.url} does not say which models it serves ({cause(error)}). Start the "
                "server, correct the URL, which ends with the version: 'http://localhost:8000/v1', or put the key "
                "that it wants into the environment variable `OPENAI_API_KEY`."
            ) from error
        if self.wanted not in models and (self.wanted or len(models) != 1):
            raise ValueError(
                f"`{self.argument}`: {self.url} serves {', '.join(models)[:400] or 'no model'}; name one of them "
                f"behind a #, like '{self.url}#{next(iter(models), 'name')}'."
            )
        return models[self.wanted] if self.wanted else next(iter(models.values()))

    def served(self) -> dict:
        """[`model`]; where others are listed, the name behind the `#` (`transformers serve` lists a cache)."""
        try:
            return self.model()
        except (ConnectionError, ValueError) as error:
            if not self.wanted or isinstance(error.__cause__, openai.APIConnectionError):
                raise
            return {"id": self.wanted}


def ask_all(ask: Callable, requests: list, concurrency: int) -> tuple[list, Exception | None]:
    """
    Asks for every request, some at a time. The first failure stops the asking; what is under way is waited for.

    Args:
        ask (`Callable`): Gives the answer to one request. Called in many threads.
        requests (`list`): What to ask.
        concurrency (`int`): Most requests under way.

    Returns:
        `tuple[list, Exception]`: the answers in the order of the requests, `None` where there is none; and the first
        failure, if any, an `openai.APIError` or a `ValueError`.
    """
    failures = []

    def ask_one(request):
        if failures:
            return None
        try:
            return ask(request)
        except (openai.APIError, ValueError) as error:
            failures.append(error)
            return None

    pool = ThreadPoolExecutor(concurrency)
    try:
        answers = list(pool.map(ask_one, requests))
    finally:
        pool.shutdown(cancel_futures=True)
    return answers, failures[0] if failures else None


def cause(error: Exception) -> str:
    """A failure in a line; that of a connection is named by what it was caused by."""
    more = error.__cause__ or ""
    if isinstance(error, openai.APIStatusError) and isinstance(error.body, dict):
        more = error.body.get("detail", "")  # where FastAPI's servers say it, which the client passes over
    return f"{error} {more}".strip()[:300] or type(error).__name__
