"""A client of the JSON API, as the command line uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from infrastructure.ndjson import lines_of

CHUNK_BYTES = 256 * 1024
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
CHAT_PATH, CHAT_TIMEOUT = "/v1/chat/completions", httpx.Timeout(300.0, connect=5.0)
DATA = b"data: "  # begins an event of an answer that streams


@dataclass(frozen=True)
class Endpoint:
    """Where the gateway is, and the key to show there."""

    url: str
    key: str


class ClientError(Exception):
    """A call that did not succeed; its text is a sentence for the person who called."""


class Refused(ClientError):
    """The gateway refused a call: its status, and the problem that its answer names."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(sentence_of(status, problem))
        self.status = status
        self.problem = problem


class Unreachable(ClientError):
    """The gateway did not answer; it may when asked again."""


class NotSignedIn(ClientError):
    """Nothing says which account's key to show."""


class Client:
    """Calls of one person; every answer is the JSON that the API gave."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport | None = None) -> None:
        self._url = endpoint.url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url,
            headers={"authorization": f"Bearer {endpoint.key}"},
            timeout=TIMEOUT,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int | None) -> dict[str, Any]:
        """GET a path under /api; raises ClientError."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._call("GET", path, params=given)

    def whole(self, path: str, place: str, **params: str | int | None) -> dict[str, Any]:
        """GET all of a list under /api that is numbered by `place`, page by page.

        Raises ClientError.
        """
        data: list[dict[str, Any]] = []
        while True:
            page = self.get(path, **params)
            data += page["data"]
            if not page["has_more"]:
                return page | {"data": data}
            params["after"] = data[-1][place]

    def text(self, path: str, **params: str | int | None) -> str:
        """GET a path under /api that answers plain text, such as CSV; raises ClientError."""
        given = {name: value for name, value in params.items() if value is not None}
        response = self._send("GET", path, params=given)
        if response.is_error:
            self._answer(response)
        return response.text

    def post(
        self, path: str, body: dict[str, Any], *, idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """POST JSON to a path under /api; with a key it is safe to repeat. Raises ClientError."""
        headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
        return self._call("POST", path, json=body, headers=headers)

    def delete(self, path: str) -> None:
        """DELETE a path under /api, which answers nothing; raises ClientError."""
        response = self._send("DELETE", path)
        if response.is_error:
            self._answer(response)

    @contextmanager
    def file(
        self, path: str, sha256: str, offset: int = 0
    ) -> Generator[tuple[int, Iterator[bytes]]]:
        """GET a file under /api from an offset on: where its bytes begin, and the bytes.

        They begin at 0 if the file is no longer the one with that hash. Raises ClientError, also
        for a connection that ends too early.
        """
        headers = {"accept-encoding": "identity"}
        if offset:
            headers |= {"range": f"bytes={offset}-", "if-range": f'"{sha256}"'}
        with self._reaching(), self._http.stream("GET", f"/api{path}", headers=headers) as answer:
            if answer.is_error:
                answer.read()
                self._answer(answer)
            partial = answer.status_code == httpx.codes.PARTIAL_CONTENT
            yield offset if partial else 0, answer.iter_raw(CHUNK_BYTES)

    def upload(
        self,
        path: Path,
        name: str,
        sent: Callable[[int], object] = lambda size: None,
        **options: bool,
    ) -> dict[str, Any]:
        """Upload a dataset file, streamed; raises ClientError, and OSError for the file.

        `sent` is called with the size of each part, bytes; `options` are those of the upload.
        """
        return self._call(
            "POST",
            "/datasets",
            params={"name": name, **options},
            content=_chunks(path, sent),
            headers={
                "content-type": "application/jsonl",
                "content-length": str(path.stat().st_size),
                "idempotency-key": str(uuid4()),
            },
        )

    def chat(self, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """The pieces of an answer to a chat as they come, in OpenAI's shape; raises ClientError.

        Without `stream` in the body there is one piece, the whole answer.
        """
        sent = {"json": body, "timeout": CHAT_TIMEOUT}
        with self._reaching(), self._http.stream("POST", CHAT_PATH, **sent) as answer:
            if answer.is_error or not body.get("stream"):
                answer.read()
                yield self._answer(answer)
                return
            for line in lines_of(answer.iter_bytes()):
                if not line.startswith(DATA) or line == DATA + b"[DONE]":
                    continue  # between two events, or a comment to who waits
                piece = json.loads(line.removeprefix(DATA))
                if "error" in piece:
                    raise Refused(httpx.codes.SERVICE_UNAVAILABLE, piece["error"])
                yield piece

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return self._answer(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reaching():
            return self._http.request(method, f"/api{path}", **options)

    @contextmanager
    def _reaching(self) -> Generator[None]:
        """Raises Unreachable for a gateway that cannot be reached, or no longer."""
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"no answer from {self._url}: {reason}") from error

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        """The JSON of a response; raises Refused for one that is no success."""
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            sentence = f"{self._url} answered {response.status_code}, and not as EcoLink"
            raise (Unreachable if response.is_server_error else ClientError)(sentence)
        if response.is_error:
            problem = answer.get("error") or {}
            raise Refused(response.status_code, problem)
        return answer


def sentence_of(
    status: int, problem: dict[str, Any], called: Callable[[str], str] = lambda field: field
) -> str:
    """What an error's body says, in one sentence; `called` is what the reader calls a field."""
    if fields := problem.get("fields"):
        return "; ".join(f"{called(field['field'])}: {field['message']}" for field in fields)
    message = problem.get("message", f"the gateway answered {status}")
    return f"{called(problem['field'])}: {message}" if problem.get("field") else message


def _chunks(path: Path, sent: Callable[[int], object]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            sent(len(chunk))
