# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A server with the completions protocol of `vllm serve`, over real HTTP, whose answers a transformers model writes.

It draws as `TransformersEngine` does, so its completions must be the same tokens. `misbehave(number, body)` may spoil
the answer to the request of that number: `None` (no), a status, other `bytes`, seconds to wait, or `"die"`.
"""

import json
import threading
import time
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

import torch
from transformers import LogitsProcessorList

from hf_cong.sampling import DrawToken, warpers
from tests.http_server import JsonHandler, running


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, model, tokenizer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer, self.lock = model, tokenizer, threading.Lock()
        self.models = [{"id": "tiny", "object": "model", "owned_by": "x", "root": "org/tiny", "max_model_len": 512}]
        self.misbehave = lambda number, body: None
        self.gives_ids = True
        self.requests, self.keys = [], []  # bodies of what was asked; the keys it came with
        self.under_way = self.most_under_way = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def complete(self, body):
        ids = torch.tensor([body["prompt"]])
        processors = []
        if body["temperature"] > 0:
            draw = DrawToken([body["seed"]], ids.shape[1], body["max_tokens"])
            processors = [*warpers(body["temperature"], body["top_k"], body["top_p"]), draw]
        eos = {*self.model.generation_config.eos_token_id, *body["stop_token_ids"]}
        with self.lock:
            output = self.model.generate(
                ids,
                do_sample=False,
                max_new_tokens=body["max_tokens"],
                repetition_penalty=body["repetition_penalty"],
                eos_token_id=sorted(eos),
                pad_token_id=0,
                logits_processor=LogitsProcessorList(processors),
            )
        written = output[0, ids.shape[1] :].tolist()
        stopped = written[-1] in eos
        text = self.tokenizer.decode(written[:-1] if stopped else written)
        choice = {"index": 0, "text": text, "finish_reason": "stop" if stopped else "length"}
        if self.gives_ids:
            choice |= {"token_ids": written, "prompt_token_ids": body["prompt"]}
        return {"id": "x", "object": "text_completion", "created": 0, "model": body["model"], "choices": [choice]}


class _Handler(JsonHandler):
    def do_GET(self):
        self.server.keys.append(self.headers["Authorization"])
        self._send(200, {"object": "list", "data": self.server.models})

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.keys.append(self.headers["Authorization"])
        with server.lock:
            server.requests.append(body)
            number = len(server.requests) - 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            spoilt = server.misbehave(number, body)
            if spoilt == "die":
                self.close_connection = True
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
                return
            if isinstance(spoilt, bytes):
                self._send(200, spoilt)
            elif isinstance(spoilt, int):
                self._send(spoilt, {"error": {"message": "spoilt on purpose"}})
            else:
                time.sleep(spoilt or 0)
                self._send(200, server.complete(body))
        finally:
            with server.lock:
                server.under_way -= 1


@contextmanager
def stand_in(model, tokenizer):
    with running(StandIn(model, tokenizer)) as server:
        yield server
