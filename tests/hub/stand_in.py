# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""A stand-in for the Hugging Face Hub, over real HTTP: models, datasets, Spaces and collections, in memory.

The clients are the real ones, unchanged. It is not the Hub: there is no Xet, no git protocol, no pull request and no
web page, and what it does not know it answers with status 501.
"""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from .git import Commit, File, Repository
from .routes import find_endpoint
from .wire import Account, Refusal, Reply, Request


class StandInHub(ThreadingHTTPServer):
    """
    The state of the Hub and the server that shows it.

    Args:
        home (`Path`): An empty directory for the caches of its clients.

    Attributes:
        accounts (`dict[str, Account]`): Who may do what, by token.
        members (`dict[str, set[str]]`): Users of each organisation.
        requests (`list[tuple[str, str, int]]`): Method, address and status of every answer so far.
        misbehave (`Callable[[str, str], int | None]`): Given a method and an address, may spoil the answer with the
            status it returns.
    """

    daemon_threads = True
    token, read_token, other_token = "alice-writes", "alice-reads", "bob-writes"

    def __init__(self, home: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.home = home
        self.accounts = {
            self.token: Account("alice", "write"),
            self.read_token: Account("alice", "read"),
            self.other_token: Account("bob", "write"),
        }
        self.members = {"org": {"alice"}}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, dict] = {}
        self.objects: dict[str, bytes] = {}  # what LFS holds, by its hash
        self.requests: list[tuple[str, str, int]] = []
        self.misbehave: Callable[[str, str], int | None] = lambda method, address: None
        self.lock = threading.RLock()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        """What points a client at this Hub. Clients read it when they are imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.home),
            "HF_TOKEN": self.token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks a Space at another address for it
            "NLTK_DATA": str(self.home / "nltk_data"),
            "NO_PROXY": "127.0.0.1",
        }

    def add(
        self,
        repo_id: str,
        files: dict[str, bytes | str] | str | Path,
        *,
        kind: str = "models",
        branch: str = "main",
        private: bool = False,
    ) -> Commit:
        """
        Commits files to a repository, which is made if there is none.

        Args:
            repo_id (`str`): Namespace and name.
            files (`dict`, `str` or `Path`): Contents by path, or a directory that holds them.
            kind (`str`, *optional*, defaults to `"models"`): `"models"`, `"datasets"` or `"spaces"`.
            branch (`str`, *optional*, defaults to `"main"`): The branch to commit to.
            private (`bool`, *optional*, defaults to `False`): Whether a new repository is seen by its namespace only.
        """
        if not isinstance(files, dict):
            root = Path(files)
            files = {
                path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
            }
        contents = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        with self.lock:
            namespace = repo_id.split("/")[0]
            repository = self.repositories.setdefault((kind, repo_id), Repository(kind, repo_id, namespace, private))
            repository.branches.setdefault(branch, repository.branches["main"])
            added = {path: File.of(path, content) for path, content in contents.items()}
            return repository.commit(branch, added, title="Add files", author=namespace)

    def readable(self, account: Account | None, kind: str, repo_id: str) -> Repository:
        """The repository, if it is there for this account."""
        repository = self.repositories.get((kind, repo_id))
        if repository is not None and (not repository.private or self.belongs(account, repository.namespace)):
            return repository
        if account is None:  # the Hub does not say whether there is one
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def writable(self, account: Account | None, kind: str, repo_id: str) -> Repository:
        """The repository, if this account may write to it."""
        repository = self.readable(account, kind, repo_id)
        self.check_writer(account, repository.namespace)
        return repository

    def check_writer(self, account: Account | None, namespace: str) -> None:
        if account is None:
            raise Refusal(401, "Invalid username or password.")
        if account.role != "write" and namespace not in account.scopes:
            raise Refusal(403, "Forbidden: pass a token with the `write` role")
        if not self.belongs(account, namespace):
            raise Refusal(403, f'You don\'t have the rights to create under the namespace "{namespace}"')

    def check_gate(self, account: Account | None, repository: Repository) -> None:
        """Whether the account may read the files of a gated repository."""
        if not repository.gated or self.belongs(account, repository.namespace):
            return
        if account is None:
            raise Refusal(401, f"Access to model {repository.id} is restricted. Please log in.", "GatedRepo")
        if account.user not in repository.granted:
            raise Refusal(403, f"Access to model {repository.id} is restricted, ask for it first.", "GatedRepo")

    def belongs(self, account: Account | None, namespace: str) -> bool:
        return account is not None and (account.user == namespace or account.user in self.members.get(namespace, ()))

    def answer(self, method: str, address: str, headers, body: bytes) -> Reply:
        """What every request comes to."""
        target = urlsplit(address)
        token = headers.get("Authorization", "").removeprefix("Bearer ").strip()
        with self.lock:
            try:
                if status := self.misbehave(method, address):
                    raise Refusal(status, "Spoilt on purpose")
                if token and token not in self.accounts:
                    raise Refusal(401, "Invalid credentials in Authorization header")
                endpoint, arguments = find_endpoint(method, target.path)
                request = Request(self, self.accounts.get(token), parse_qs(target.query), headers, body)
                reply = endpoint(request, **arguments)
            except Refusal as refusal:
                reply = refusal.reply
            self.requests.append((method, address, reply.status))
        return reply


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the body follows the headers at once

    def _answer(self):
        body = self._body()
        content, status, headers = self.server.answer(self.command, self.path, self.headers, body)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *args):
        pass
