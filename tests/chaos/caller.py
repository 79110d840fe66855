"""Requests of a customer, which are repeated until the gateway answers them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from tests.chaos.rig import Customer, UnderTest

RETRIED = (408, 425, 429, 500, 502, 503, 504)
RETRIED_CODES = ("not_yet_visible", "version_conflict")
HTTP_SECONDS = 8.0
PAUSE_SECONDS = 0.3


@dataclass
class Answer:
    """An answer of the gateway. Its status is 0 if the run was abandoned before."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str | None:
        """Code of the error, if it is one."""
        return None if self.ok else self.body.get("error", {}).get("code")


class Commands(Protocol):
    """A file of commands, and whether the run was abandoned."""

    @property
    def abandoned(self) -> bool: ...

    def record(self, **fields: Any) -> None: ...


class Caller:
    """The requests of one customer."""

    def __init__(self, commands: Commands, rig: UnderTest, customer: Customer) -> None:
        self._commands, self._rig, self._customer = commands, rig, customer

    def get(self, path: str) -> Answer:
        """Read something."""
        while not self._commands.abandoned:
            answer, _ = self._once("GET", path, None, None)
            if answer is not None and not _is_repeated(answer):
                return answer
            time.sleep(PAUSE_SECONDS)
        return Answer(0)

    def send(
        self,
        path: str,
        body: dict[str, Any],
        *,
        command: str,
        key: str | None = None,
        method: str = "POST",
        **known: Any,
    ) -> Answer:
        """Send a command, and write down the answer. A lost answer is written down, too."""
        known |= {"command": command, "account": self._customer.account_id, "key": key}
        while not self._commands.abandoned:
            sent = time.time()
            answer, request = self._once(method, path, body, key)
            if answer is None:
                self._commands.record(**known, sent=sent, status=None)
            elif not _is_repeated(answer):
                error = {} if answer.ok else answer.body.get("error", {})
                self._commands.record(
                    **known,
                    **{"sent": sent, "status": answer.status, "code": answer.code},
                    **{"message": error.get("message"), "request": request},
                    made=answer.body.get("id"),
                )
                return answer
            time.sleep(PAUSE_SECONDS)
        return Answer(0)

    def _once(
        self, method: str, path: str, body: dict[str, Any] | None, key: str | None
    ) -> tuple[Answer | None, str | None]:
        """Return the answer, if one arrived, with the ID of the request."""
        headers = {"authorization": f"Bearer {self._customer.key}"}
        if key is not None:
            headers["idempotency-key"] = key
        url = f"{self._rig.settings.gateway_url}/api{path}"
        try:
            found = httpx.request(method, url, json=body, headers=headers, timeout=HTTP_SECONDS)
            return Answer(found.status_code, found.json()), found.headers.get("x-request-id")
        except (httpx.HTTPError, ValueError):
            return None, None


def _is_repeated(answer: Answer) -> bool:
    return answer.status in RETRIED or answer.code in RETRIED_CODES
