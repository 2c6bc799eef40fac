# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A real server of a tiny model, and a relay before it that counts, and can spoil an answer on the way.

`misbehave(number, body)` may spoil the answer to the request of that number: `None` (no), a status, other `bytes`,
seconds to wait, `"die"`, or a function of the server's answer (a `dict`).
"""

import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.http_server import JsonHandler, running
from tests.tiny import CHAT_TEMPLATE, tiny_model

LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?\n"
# A random model seldom writes its one end-of-sequence token; with these, some rows stop and some do not. No other
# token is special: a server does not show those.
ENDS = [*(f"<end{number}>" for number in range(4)), "<|im_start|>", "<|im_end|>"]


def letters_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter: a text is written in one way only, so it can be taken for its ids."""
    vocabulary = {token: id for id, token in enumerate([*ENDS, *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=ENDS[0],
        pad_token=ENDS[1],
        padding_side="left",
        extra_special_tokens=ENDS[2:],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def letters_model(seed: int = 5, family: str = "llama", **overrides):
    """A random model of letters, whose generation configuration samples, as those of instruction-tuned models do."""
    model = tiny_model(family, seed, **{"vocab_size": len(letters_tokenizer()), **overrides})
    model.generation_config.update(do_sample=True, eos_token_id=list(range(len(ENDS))), pad_token_id=1)
    return model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(command: list, log: Path):
    """A server in a process of its own; yields its address once it answers."""
    port = free_port()
    with open(log, "wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_CACHE": str(log.parent)}
        command = [*command, "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        deadline = time.monotonic() + 400
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def transformers_serve(root: Path, model, tokenizer):
    """
    What `transformers serve` runs, in a thread: a process of its own would take ten seconds to import what is here.
    Yields its relay, which holds the model's path as `relay.model`.
    """
    from transformers.cli.serve import Serve

    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    port = free_port()
    serve = Serve(str(root), device="cpu", dtype="float32", host="127.0.0.1", port=port, non_blocking=True)
    try:
        while not serve.server.started:
            time.sleep(0.02)
        with relaying(f"http://127.0.0.1:{port}") as relay:
            # The server lists the models in this process's cache, which is that of other tests.
            relay.model, relay.listed = str(root), []
            yield relay
    finally:
        serve.kill_server()


class Relay(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address, self.lock = address, threading.Lock()
        self.listed = None  # models, in place of those that the server lists
        self.reset()

    def reset(self):
        self.misbehave = lambda number, body: None
        self.several = False  # whether `n` choices come, which this server alone does not give
        self.requests, self.keys = [], []
        # What the server said that its answers cost, those apart that never reached the client.
        self.usage = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self.under_way = self.most_under_way = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1#{self.model}"

    def complete(self, path, body):
        if not self.several:
            return self.ask(path, json.dumps(body).encode())
        answers = [
            self.ask(path, json.dumps({**body, "seed": body["seed"] + number}).encode()) for number in range(body["n"])
        ]
        if answers[0][0] != 200:
            return answers[0]
        first, *rest = (json.loads(data) for _, data in answers)
        for answer in rest:  # the prompt is read once
            first["choices"] += answer["choices"]
            first["usage"]["completion_tokens"] += answer["usage"]["completion_tokens"]
        return 200, json.dumps(first).encode()

    def ask(self, path, data=None):
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


class _Handler(JsonHandler):
    def do_GET(self):
        listed = self.server.listed
        self._send(*(self.server.ask(self.path) if listed is None else (200, {"data": listed})))

    def do_POST(self):
        server, data = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(data)
        with server.lock:
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            number = len(server.requests) - 1
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            spoilt = server.misbehave(number, body)
            if spoilt == "die":
                self.close_connection = True
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            elif isinstance(spoilt, bytes):
                self._send(200, spoilt)
            elif isinstance(spoilt, int):
                self._send(spoilt, b'{"error": {"message": "spoilt on purpose"}}')
            else:
                if isinstance(spoilt, float):
                    time.sleep(spoilt)
                status, answer = server.complete(self.path, body)
                if status == 200:
                    answer = json.loads(answer)
                    answer = spoilt(answer) if callable(spoilt) else answer
                    with server.lock:
                        server.usage["requests"] += 1
                        for name in ("prompt_tokens", "completion_tokens"):
                            server.usage[name] += answer["usage"][name]
                    answer = json.dumps(answer).encode()
                self._send(status, answer)
        finally:
            with server.lock:
                server.under_way -= 1


@contextmanager
def relaying(address):
    with running(Relay(address)) as relay:
        yield relay
