"""Sending on WebSockets and closing them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine

from fastapi import WebSocket, WebSocketDisconnect

SEND_SECONDS = 10.0
CLOSE_SECONDS = 5.0
REASON_BYTES = 123

GOING_AWAY, TOO_SLOW = 1012, 4408
"""Close codes: the gateway is stopping, or the client reads too slowly."""


async def while_connected(websocket: WebSocket, sends: Coroutine[None, None, None]) -> None:
    """Run a sender until the client disconnects or loses access. Raises the sender's errors."""
    sending = asyncio.create_task(sends)
    listening = asyncio.create_task(_until_gone(websocket))
    try:
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        sending.cancel()
        listening.cancel()
        await asyncio.wait({sending, listening})
    if not sending.cancelled() and (error := sending.exception()) is not None:
        raise error


async def sent_in_time(websocket: WebSocket, text: str, advice: str) -> bool:
    """Send a message. Return False if the client has disconnected or does not read."""
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await websocket.send_text(text)
    except TimeoutError:
        await close(websocket, TOO_SLOW, f"too slow; {advice}")
        return False
    except WebSocketDisconnect:
        return False
    return True


async def close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close the WebSocket. If the client does not read the close frame, the keepalive ends it."""
    short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
    with contextlib.suppress(TimeoutError, RuntimeError, WebSocketDisconnect):
        async with asyncio.timeout(CLOSE_SECONDS):
            await websocket.close(code, short)


async def _until_gone(websocket: WebSocket) -> None:
    """Wait until the client disconnects. Messages from clients are ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
