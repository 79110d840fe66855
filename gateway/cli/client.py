"""Client of the JSON API. It returns each document as JSON and as a schema instance."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar
from uuid import UUID, uuid4

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from gateway.schemas import Listed

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M", bound=BaseModel)

CHUNK_BYTES = 256 * 1024
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
SLOW_TIMEOUT = httpx.Timeout(1000.0, connect=5.0)
"""Timeout of requests in which the gateway downloads a file."""

CHAT_PATH, CHAT_TIMEOUT = "/v1/chat/completions", httpx.Timeout(300.0, connect=5.0)


@dataclass(frozen=True)
class Endpoint:
    """URL of a gateway, and an API key for it."""

    url: str
    key: str
    account: UUID | None = None
    """Account that an auditor reads. None stands for the account of the key."""


@dataclass(frozen=True)
class Reply(Generic[T_co]):
    """A document of the API: the original JSON for `--json`, and the parsed schema for display."""

    document: dict[str, Any]
    model: T_co

    @classmethod
    def of(cls, schema: type[M], document: dict[str, Any]) -> Reply[M]:
        """Return the reply with a document. Raise ClientError if it does not match the schema."""
        try:
            return Reply(document, schema.model_validate(document))
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise ClientError(
                f"The gateway sent a document that this version of ecolink cannot read: {where}. "
                "Install the version that the gateway runs."
            ) from error


def each_of(replies: Reply[Listed[T]]) -> list[Reply[T]]:
    """Return a reply for each document of a list."""
    return [Reply(*each) for each in zip(replies.document["data"], replies.model.data, strict=True)]


class ClientError(Exception):
    """A failed call. The message is a sentence for the user."""


class Refused(ClientError):
    """An error response of the gateway, with its HTTP status and the problem in its body."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(sentence_of(status, problem))
        self.status = status
        self.problem = problem


class Unreachable(ClientError):
    """The gateway did not respond. A retry may succeed."""


class NotSignedIn(ClientError):
    """No API key is configured."""


class Client:
    """API client of one account. Every method raises ClientError on failure."""

    def __init__(self, endpoint: Endpoint, transport: httpx.BaseTransport | None = None) -> None:
        self.url = endpoint.url.rstrip("/")
        account = {"ecolink-account": str(endpoint.account)} if endpoint.account else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {endpoint.key}"} | account,
            timeout=TIMEOUT,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._http.close()

    def read(self, schema: type[M], path: str, **params: str | int | None) -> Reply[M]:
        """GET a path under /api, and parse the response as a schema."""
        return Reply.of(schema, self.get(path, **params))

    def read_all(
        self, schema: type[T], path: str, number: str, **params: str | int | None
    ) -> Reply[Listed[T]]:
        """GET all pages of a list under /api, which is sorted by the field `number`."""
        data: list[dict[str, Any]] = []
        while True:
            page = self.get(path, **params)
            data += page["data"]
            if not page["has_more"]:
                return Reply.of(Listed[schema], page | {"data": data})
            params["after"] = data[-1][number]

    def send(
        self,
        schema: type[M],
        path: str,
        body: dict[str, Any],
        idempotency_key: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> Reply[M]:
        """POST JSON to a path under /api, and parse the response as a schema."""
        answer = self.post(path, body, idempotency_key=idempotency_key, timeout=timeout)
        return Reply.of(schema, answer)

    def change(self, schema: type[M], path: str, body: dict[str, Any]) -> Reply[M]:
        """PATCH a path under /api with JSON, and parse the response as a schema."""
        return Reply.of(schema, self._answer(self._send("PATCH", path, json=body)))

    def replace(self, schema: type[M], path: str, body: dict[str, Any]) -> Reply[M]:
        """PUT a document and validate the response."""
        return Reply.of(schema, self._answer(self._send("PUT", path, json=body)))

    def get(self, path: str, **params: str | int | None) -> dict[str, Any]:
        """GET a path under /api."""
        return self._answer(self._get(path, params))

    def text(self, path: str, **params: str | int | None) -> str:
        """GET plain text, such as CSV, from a path under /api."""
        response = self._get(path, params)
        if response.is_error:
            self._answer(response)
        return response.text

    def post(
        self,
        path: str,
        body: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        timeout: httpx.Timeout = TIMEOUT,
    ) -> dict[str, Any]:
        """POST JSON to a path under /api. With an idempotency key, the call is safe to retry."""
        headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
        sent: dict[str, Any] = {"json": body, "headers": headers, "timeout": timeout}
        return self._answer(self._send("POST", path, **sent))

    def delete(self, path: str) -> None:
        """DELETE a path under /api."""
        response = self._send("DELETE", path)
        if response.is_error:
            self._answer(response)

    @contextmanager
    def file(
        self, path: str, sha256: str, offset: int = 0
    ) -> Generator[tuple[int, Iterator[bytes]]]:
        """GET a file from an offset, or from 0 if its hash changed. Return offset and bytes."""
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
        **options: bool | str,
    ) -> dict[str, Any]:
        """Upload a dataset file as a stream. Raise OSError if the file cannot be read.

        `sent` is called with the number of bytes of each chunk. `options` are query parameters.
        """
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(path.stat().st_size),
            "idempotency-key": str(uuid4()),
        }
        params = {"name": name, **options}
        content = _chunks(path, sent)
        return self._answer(
            self._send("POST", "/datasets", params=params, content=content, headers=headers)
        )

    def chat(self, body: dict[str, Any]) -> Generator[dict[str, Any]]:
        """Yield chunks of a completion in OpenAI's format; one, without `stream` in the body."""
        sent = {"json": body, "timeout": CHAT_TIMEOUT}
        with self._reaching(), self._http.stream("POST", CHAT_PATH, **sent) as answer:
            if answer.is_error or not body.get("stream"):
                answer.read()
                yield self._answer(answer)
                return
            for event in EventSource(answer).iter_sse():
                if event.data == "[DONE]":
                    return
                chunk = event.json()
                if "error" in chunk:
                    raise Refused(httpx.codes.SERVICE_UNAVAILABLE, chunk["error"])
                yield chunk

    def _get(self, path: str, params: Mapping[str, str | int | None]) -> httpx.Response:
        given = {name: value for name, value in params.items() if value is not None}
        return self._send("GET", path, params=given)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reaching():
            return self._http.request(method, f"/api{path}", **options)

    @contextmanager
    def _reaching(self) -> Generator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            reason = str(error).rstrip(".")
            raise Unreachable(
                f"The gateway URL {self.url!r} is invalid: {reason}. Correct --url, "
                "ECOLINK_GATEWAY_URL or the saved login."
            ) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(
                f"Cannot reach EcoLink at {self.url}: {reason}. Check the URL, and that EcoLink is "
                "running."
            ) from error

    def _answer(self, response: httpx.Response) -> dict[str, Any]:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            sentence = (
                f"{self.url} responded with status {response.status_code} but without JSON, so "
                "the response is not from EcoLink. Check the URL."
            )
            raise (Unreachable if response.is_server_error else ClientError)(sentence)
        if response.is_error:
            problem = answer.get("error") or {}
            raise Refused(response.status_code, problem)
        return answer


def sentence_of(
    status: int, problem: dict[str, Any], called: Callable[[str], str] = lambda field: field
) -> str:
    """Return an error's message. `called` maps a field to the name that the user knows."""
    if fields := problem.get("fields"):
        return "; ".join(f"{called(field['field'])}: {field['message']}" for field in fields)
    message = problem.get("message", f"The gateway responded with status {status}.")
    return f"{called(problem['field'])}: {message}" if problem.get("field") else message


def _chunks(path: Path, sent: Callable[[int], object]) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            sent(len(chunk))
