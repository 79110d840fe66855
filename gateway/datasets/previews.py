"""Example previews, which worker processes render so that the gateway does not block."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from gateway.datasets.preview_worker import LIMITS, Preview, PreviewRequest
from gateway.http.errors import Overloaded
from infrastructure.process.limited_process import die_with_parent, minimal_environment

WORKER = "gateway.datasets.preview_worker"
WORKERS = 2
MOST_OF_ACCOUNT = 4
"""Maximum number of queued requests of an account. Only one of them runs at a time."""

ANSWER_BYTES = 16 * 1024**2
STORE_SECRETS = ("AWS_", "AZURE_", "GOOGLE_")
"""Prefixes of environment variables that contain credentials of object stores."""

log = logging.getLogger("gateway")


class _Worker:
    """A worker process, which starts with its first request."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, request: PreviewRequest) -> Preview:
        """Return the response of the process. If the process fails, the next request starts one."""
        try:
            line = await asyncio.wait_for(self._answer(request), LIMITS.wall_seconds)
        except TimeoutError:
            await self.end()
            return Preview(problem="Rendering the examples takes too long.")
        except BaseException:
            await self.end()
            raise
        if not line:
            await self.end()
            return Preview(problem="Rendering the examples failed. It may need too much memory.")
        return Preview.model_validate_json(line)

    async def end(self) -> None:
        """Stop the process, if it is running."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _answer(self, request: PreviewRequest) -> bytes:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", WORKER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=minimal_environment(STORE_SECRETS),
                limit=ANSWER_BYTES,
                preexec_fn=die_with_parent,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request.model_dump_json().encode() + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            return b""
        return await self._process.stdout.readline()


class Previews:
    """A pool of worker processes in which accounts take turns."""

    def __init__(self) -> None:
        self._workers = [_Worker() for _ in range(WORKERS)]
        # The last used worker has the tokenizer. Another process starts only if that worker is
        # busy.
        self._idle = asyncio.LifoQueue[_Worker]()
        for worker in self._workers:
            self._idle.put_nowait(worker)
        self._asked = Counter[UUID]()
        self._turns: dict[UUID, asyncio.Lock] = {}

    async def shown(self, account_id: UUID, request: PreviewRequest) -> Preview:
        """Return the examples, or why there are none. Raise Overloaded for a full queue."""
        if self._asked[account_id] >= MOST_OF_ACCOUNT:
            raise Overloaded("You have other requests for examples in the queue. Try again soon.")
        self._asked[account_id] += 1
        try:
            async with self._turns.setdefault(account_id, asyncio.Lock()):
                worker = await self._idle.get()
                try:
                    return await worker.ask(request)
                finally:
                    self._idle.put_nowait(worker)
        finally:
            self._asked[account_id] -= 1
            if not self._asked[account_id]:
                del self._asked[account_id], self._turns[account_id]

    async def close(self) -> None:
        """Stop all processes."""
        await asyncio.gather(*(worker.end() for worker in self._workers))


@asynccontextmanager
async def open_previews() -> AsyncGenerator[Previews]:
    """Open the pool of worker processes. Stop them on exit."""
    previews = Previews()
    try:
        yield previews
    finally:
        await previews.close()


async def previews_of(request: Request) -> Previews:
    """Return the worker pool of the application that serves this request."""
    return request.app.state.previews


PreviewsOf = Annotated[Previews, Depends(previews_of)]
