"""A server whose answers follow a script: an external endpoint, and the serving process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from infrastructure.chat.generation import GENERATE_PATH


@dataclass(frozen=True)
class Said:
    """An answer. Without a text, the server writes one that suits the schema."""

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stalls: bool = False
    finish_reason: str = "stop"


Script = Callable[[int, dict[str, Any]], Said]
"""The answer to a request, by the number of requests before it and its body."""


@dataclass
class Scripted:
    """The server's requests so far, and what it says."""

    url: str
    script: Script
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    prompt_tokens: int = 100
    completion_tokens: int = 50
    _lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def prompts(self) -> list[str]:
        """Hashes of all prompts, in the order of their arrival."""
        return [sha256(json.dumps(each["messages"]).encode()).hexdigest() for each in self.requests]

    def next(self, body: dict[str, Any]) -> Said:
        """Return the answer to a request."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            return self.script(number, body)


def always(*said: Said) -> Script:
    """Return a script that repeats some answers."""
    return lambda number, _: said[number % len(said)]


def first(said: list[Said], then: Said = Said()) -> Script:
    """Return a script that begins with some answers."""
    return lambda number, _: said[number] if number < len(said) else then


def is_judge(body: dict[str, Any]) -> bool:
    """Return True if a request asks for a score."""
    return "score" in schema_of(body)["properties"]


def schema_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a request in either format."""
    if "response_schema" in body:
        return body["response_schema"]
    return body["response_format"]["json_schema"]["schema"]


def written(body: dict[str, Any]) -> str:
    """Return a text that suits the schema, and differs for each prompt."""
    if is_judge(body):
        return '{"helpful": "yes", "score": 8}'
    digest = sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest()
    words = " ".join(digest[at : at + 6] for at in range(0, 60, 6))
    prompt = body["messages"][-1]["content"]
    count = 1 if "asks 1 question" in prompt else int(prompt.split(" questions in turn")[0][-1])
    turns = [
        {"user": f"What is {words} {each}?", "assistant": f"It is {digest} {words[::-1]}."}
        for each in range(count)
    ]
    return json.dumps({"turns": turns})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.scripted.keys.append(self.headers.get("authorization", ""))
        said = self.scripted.next(body)
        if said.stalls:
            self.scripted.released.wait(60)
            self.close_connection = True
            return
        text = written(body) if said.text is None else said.text
        content = (
            self._lines(text, said, self._completion_tokens(body))
            if self.path == GENERATE_PATH
            else self._completion(text, said, self._completion_tokens(body))
        )
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _completion_tokens(self, body: dict[str, Any]) -> int:
        most = body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"]
        return min(self.scripted.completion_tokens, most)

    def _lines(self, text: str, said: Said, tokens: int) -> bytes:
        if said.status != 200:
            return b'{"code": "x", "message": "The queue is full."}'
        lines = [
            {"prompt_tokens": self.scripted.prompt_tokens},
            {"choice": 0, "text": text},
            {
                "choice": 0,
                "text": "",
                "finish_reason": said.finish_reason,
                "completion_tokens": tokens,
            },
        ]
        return "".join(json.dumps(each) + "\n" for each in lines).encode()

    def _completion(self, text: str, said: Said, tokens: int) -> bytes:
        if said.text == "garbage":
            return b"<html>not JSON"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": said.finish_reason}
        usage = {
            "prompt_tokens": self.scripted.prompt_tokens,
            "completion_tokens": tokens,
        }
        return json.dumps({"choices": [choice], "usage": usage}).encode()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def scripted(script: Script = always(Said())) -> Iterator[Scripted]:
    """Run a server during the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    server.daemon_threads = True
    found = Scripted(f"http://127.0.0.1:{server.server_port}", script)
    server.RequestHandlerClass.scripted = found  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.released.set()
        server.shutdown()
        server.server_close()
