"""Clients that chat while leaders fail over, and the rules of what they may see."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import httpx
import openai

from tests.chaos.entry import lease_seconds
from tests.chaos.rig import Customer, Rig

MODEL = "tiny"
MESSAGES = [{"role": "user", "content": "What is 2 plus 2?"}]
TOKENS = 64
"""Length of an answer, so that some of them are in progress when serving fails."""

PAUSE_SECONDS = 0.2

UNCLEAR_SECONDS = 60.0
"""Time in which every chat must end, beyond four leases of serving. The machine may be busy."""

REFUSED = ("not_serving", "model_loading")
"""Codes of chats that did not begin."""

INTERRUPTED = "broken_off"
"""Code of a chat that began and did not end."""

Kind = Literal["answered", "refused", "interrupted", "unclear"]


@dataclass(frozen=True)
class Seen:
    """Outcome of a chat as its client saw it, with its Unix times."""

    kind: Kind
    began: float
    ended: float
    text: str = ""
    """The answer, or what is unclear."""


@dataclass
class Chats:
    """Two clients of one customer, of which one streams the answers."""

    url: str
    customer: Customer
    seen: list[Seen] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def of(cls, rig: Rig) -> Chats:
        """Return the clients of a rig, which have not started yet."""
        return cls(f"{rig.settings.gateway_url}/v1", rig.customers[0])

    def start(self) -> None:
        """Start to chat."""
        for ask in (whole, streamed):
            thread = threading.Thread(target=self._run, args=(ask,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """End the clients after the chats in progress."""
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * UNCLEAR_SECONDS)

    def answered_since(self, moment: float) -> Seen | None:
        """Return the first answer to a chat that began after a Unix time."""
        found = (each for each in list(self.seen) if each.kind == "answered")
        return next((each for each in found if each.began > moment), None)

    def _run(self, ask: Callable[[openai.OpenAI], str]) -> None:
        seconds = UNCLEAR_SECONDS + 4 * lease_seconds()
        with openai.OpenAI(
            base_url=self.url, api_key=self.customer.key, max_retries=0, timeout=seconds
        ) as client:
            while not self._ended.wait(PAUSE_SECONDS):
                began = time.time()
                kind, text = sorted_out(lambda: ask(client))
                self.seen.append(Seen(kind, began, time.time(), text))

    def violations(self) -> Iterator[str]:
        """Yield what breaks a rule.

        Every chat has the whole answer, which is always the same, or a clear error: 503 with
        Retry-After, or an error at the end of the stream.
        """
        for each in self.seen:
            if each.kind == "unclear":
                yield f"chats_end_clearly: after {each.ended - each.began:.1f} s: {each.text}"
        answers = {each.text for each in self.seen if each.kind == "answered"}
        if len(answers) > 1:
            yield f"chats_have_the_whole_answer: there are several answers: {sorted(answers)}"
        if not answers:
            yield "chats_are_answered: no chat was answered"

    def line(self) -> str:
        """Return the number of chats of each kind."""
        counts = (
            f"{sum(each.kind == kind for each in self.seen)} {kind}"
            for kind in ("answered", "refused", "interrupted", "unclear")
        )
        return f"chats: {', '.join(counts)}"


def whole(client: openai.OpenAI) -> str:
    """Return an answer as a whole."""
    found = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,  # type: ignore[arg-type]
        temperature=0,
        max_completion_tokens=TOKENS,
    )
    return found.choices[0].message.content or ""


def streamed(client: openai.OpenAI) -> str:
    """Return an answer that arrives as a stream. Raise EOFError if it ends without a reason."""
    text, reason = "", None
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,  # type: ignore[arg-type]
        temperature=0,
        max_completion_tokens=TOKENS,
        stream=True,
    )
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    if reason is None:
        raise EOFError("the stream ended without a finish reason or an error")
    return text


def sorted_out(ask: Callable[[], str]) -> tuple[Kind, str]:
    """Send a chat. Return what its client sees: the kind, and the answer or the problem."""
    try:
        return "answered", ask()
    except openai.APIStatusError as error:
        retry = error.response.headers.get("retry-after")
        if error.status_code == 503 and retry and error.code in REFUSED:
            return "refused", ""
        if error.status_code == 503 and retry and error.code == INTERRUPTED:
            return "interrupted", ""
        return "unclear", f"{error.status_code} {error.code}, Retry-After {retry}: {error.message}"
    except openai.APIError as error:  # the error at the end of a stream
        if error.code == INTERRUPTED:
            return "interrupted", ""
        return "unclear", f"{error!r} from {error.__cause__!r}"
    except (httpx.HTTPError, EOFError) as error:
        return "unclear", repr(error)
