"""Rendering of chat templates in processes with limits on time, memory and length.

The template of an imported base model is untrusted code. If it loops forever or exhausts the
memory, only that rendering fails.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from functools import lru_cache
from threading import BoundedSemaphore, Timer
from typing import Any

from infrastructure.chat.template_rendering import ChatRefused, ChatTemplate
from infrastructure.process.limited_process import ENVIRONMENT, INHERITED

CPU_SECONDS = 2.0
WALL_SECONDS = 60.0  # allows for a busy machine
MEMORY_BYTES = 512 * 1024**2
MAX_CHARACTERS = 16 * 1024**2
PROCESSES = 4
KEPT_TEMPLATES = 16  # compiled templates that each process caches


class RenderingLimitExceeded(ChatRefused):
    """The chat template of the base model exceeds its time or memory limit."""


class LimitedTemplate(ChatTemplate):
    """A ChatTemplate that another process compiles and renders."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], today: date | None = None
    ) -> None:
        self.source = source
        self.special_tokens = special_tokens
        self._template = json.dumps([source, dict(special_tokens), today and today.isoformat()])

    def render(
        self, messages: list[dict[str, Any]], tools: Any = None, *, prompt: bool = False
    ) -> str:
        """Return the text, or raise ChatRefused or RenderingLimitExceeded. Later calls work."""
        answer = _render(
            {"template": self._template, "messages": messages, "tools": tools, "prompt": prompt}
        )
        if "text" not in answer:
            raise ChatRefused(answer["refusal"])
        return answer["text"]


class _Process:
    """A process that renders one text at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in INHERITED if name in os.environ} | ENVIRONMENT,
        )

    @property
    def lives(self) -> bool:
        """True if the process is running."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response to a request, or end the process and raise RenderingLimitExceeded."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        timer = Timer(WALL_SECONDS, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
            line = stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            self.close()
            raise RenderingLimitExceeded(
                f"the base model's chat template takes more than {CPU_SECONDS:g} s or "
                f"{MEMORY_BYTES // 1024**2} MiB for these messages"
            )
        return json.loads(line)

    def close(self) -> None:
        """Terminate the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


_free = BoundedSemaphore(PROCESSES)
_idle: deque[_Process] = deque()


def _render(request: Mapping[str, Any]) -> dict[str, Any]:
    with _free:
        process = _borrowed()
        try:
            answer = process.ask(request)
        except RenderingLimitExceeded:
            raise
        except BaseException:
            process.close()
            raise
        _idle.append(process)
        return answer


def _borrowed() -> _Process:
    """Return a running process: an idle one that is still alive, or a new one."""
    while _idle:
        with suppress(IndexError):  # another thread took the last idle process
            process = _idle.pop()
            if process.lives:
                return process
            process.close()
    return _Process()


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()


@lru_cache(KEPT_TEMPLATES)
def _compiled(template: str) -> ChatTemplate:
    source, special_tokens, today = json.loads(template)
    return ChatTemplate(source, special_tokens, today and date.fromisoformat(today))


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = _compiled(request["template"]).render(
            request["messages"], request["tools"], prompt=request["prompt"]
        )
    except ChatRefused as refusal:
        return {"refusal": str(refusal)}
    if len(text) > MAX_CHARACTERS:
        return {
            "refusal": "the base model's chat template renders these messages as "
            f"{len(text):,} characters, but the limit is {MAX_CHARACTERS:,}"
        }
    return {"text": text}


def _serve() -> None:
    """Respond to requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    for line in sys.stdin.buffer:
        # The signal has no handler, so it terminates the process.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        answer = json.dumps(_answer(json.loads(line)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
