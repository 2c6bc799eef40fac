# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""What goes over the wire of the stand-in Hub: a request as an endpoint sees it, its reply, and its refusal."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple


class Account(NamedTuple):
    """Who a token belongs to, and what it may do: `"read"`, `"write"`, or `"fineGrained"` in some namespaces."""

    user: str
    role: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    hub: Any
    account: Account | None
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def asks(self, name: str) -> bool:
        """Whether the query switches something on."""
        return self.query.get(name, ["false"])[-1].lower() in ("1", "true")


class Reply(NamedTuple):
    content: dict | list | bytes
    status: int = 200
    headers: dict[str, str] | None = None


class Refusal(Exception):
    """An error as the Hub sends it: the client tells its own errors apart by `code` in a header."""

    def __init__(self, status: int, message: str, code: str | None = None, **content):
        super().__init__(message)
        headers = {"X-Error-Message": message}
        if code is not None:
            headers["X-Error-Code"] = code
        self.reply = Reply({"error": message, **content}, status, headers)
