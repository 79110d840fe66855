"""The process that runs a verification, which ends with the gateway.

A verification takes minutes, and hours if the log has millions of events, so it does not run in the
gateway's threads.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, Request
from pydantic import RootModel

from domain.core.errors import WrongState
from gateway.http.errors import TookTooLong
from infrastructure.process.limited_process import die_with_parent
from infrastructure.seals.verifications import Options
from infrastructure.settings import Settings

MODULE = "services.auditor"
START_SECONDS = 60.0

log = logging.getLogger("gateway")


class AlreadyRunning(WrongState):
    """Another verification runs. There can be only one at a time."""

    def __init__(self) -> None:
        super().__init__("Another verification is running. Wait until it has finished.")


class Verifications:
    """Starts verifications. At most one runs at a time, in all gateway processes together."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, settings: Settings, requested_by: UUID, options: Options) -> UUID:
        """Start a verification. Return its stored ID. Raise AlreadyRunning or TookTooLong."""
        id = uuid4()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # In the thread of the event loop, which lives as long as the gateway.
            preexec_fn=die_with_parent,
        )
        try:
            started = await asyncio.wait_for(
                _ask(process, _request(settings, id, requested_by, options)), START_SECONDS
            )
        except BaseException as error:
            await _end(process)
            if isinstance(error, TimeoutError):
                raise TookTooLong(
                    f"The verification did not start within {START_SECONDS:.0f} s. Try again."
                ) from None
            raise
        if not started:
            await process.wait()
            raise AlreadyRunning
        self._process = process
        log.info("verification %s starts, requested by account %s", id, requested_by)
        return id

    async def close(self) -> None:
        """Stop the verification, if one runs. Its page then says that it stopped."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


def _request(settings: Settings, id: UUID, requested_by: UUID, options: Options) -> bytes:
    fields = {"settings": settings, "id": id, "requested_by": requested_by, "options": options}
    return RootModel[dict[str, object]](fields).model_dump_json().encode()


async def _ask(process: asyncio.subprocess.Process, request: bytes) -> bool:
    """Send the request. Return False if another verification runs."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("The process of the verification ended. The gateway's log says why.")
    return json.loads(line)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@asynccontextmanager
async def open_verifications() -> AsyncGenerator[Verifications]:
    """Open the starter of verifications. Stop the running one on exit."""
    started = Verifications()
    try:
        yield started
    finally:
        await started.close()


async def verifications_of(request: Request) -> Verifications:
    """Return the starter of the application that serves this request."""
    return request.app.state.verifications


VerificationsOf = Annotated[Verifications, Depends(verifications_of)]
