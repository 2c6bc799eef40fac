# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A server with OpenAI's chat protocol, over real HTTP, whose verdicts follow a rule.

`rule(prompt, answer_a, answer_b)` gives the text of an answer. `misbehave(number, body)` may spoil the answer to the
request of that number: `None` (no), a status, other `bytes`, a function of the answer (a `dict`), or `"die"`.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from tests.http_server import JsonHandler, running

SECTION = re.compile(
    r"^===== (?:Prompt|Answer A|Answer B) \[(\w+)\] =====\n(.*?)\n===== End of [^\n]+ \[\1\] =====$", re.S | re.M
)


def prefer_longer(prompt, a, b):
    verdict = "tie" if len(a) == len(b) else "A" if len(a) > len(b) else "B"
    return f"It is longer.\n\nVerdict: {verdict}\n"


def prefer_first(prompt, a, b):
    return "I like the first one.\nVerdict: A"


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock, self.rule, self.models = threading.Lock(), prefer_longer, [{"id": "judge-1", "root": "org/judge"}]
        self.reset()

    def reset(self):
        self.misbehave = lambda number, body: None
        self.requests, self.keys, self.answered = [], [], []
        self.under_way = self.most_under_way = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def complete(self, body):
        ((message),) = body["messages"]
        texts = [text for _, text in SECTION.findall(message["content"])]
        content = self.rule(*texts)
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(message["content"]), "completion_tokens": len(content), "total_tokens": 0}
        return {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}


class _Handler(JsonHandler):
    def do_GET(self):
        self._send(200, {"object": "list", "data": self.server.models})

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            number = len(server.requests) - 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            spoilt = server.misbehave(number, body) if self.path == "/v1/chat/completions" else 404
            if spoilt == "die":
                self.close_connection = True
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            elif isinstance(spoilt, bytes):
                self._send(200, spoilt)
            elif isinstance(spoilt, int):
                self._send(spoilt, {"error": {"message": "spoilt on purpose"}})
            else:
                answer = server.complete(body)
                answer = spoilt(answer) if callable(spoilt) else answer
                with server.lock:
                    server.answered.append(body["messages"][0]["content"])
                self._send(200, answer)
        finally:
            with server.lock:
                server.under_way -= 1


@contextmanager
def stand_in():
    with running(StandIn()) as server:
        yield server
