"""The clients of `ecolink bench live`, in a process of their own: what each receives, and when.

Reads the configuration as one JSON line from its standard input, and then `stop`; prints `ready`
when all are connected, `back` when all are so again, and at the end what they saw, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pydantic import BaseModel
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

MODULE = "deploy.bench.live_clients"
RECONNECT_SECONDS = (0.2, 0.4)
"""As soon as a page does so at first."""

AT_ONCE = 50
NEWEST_CHECKPOINT = re.compile(r'data-checkpoint="(\d+)"')


class Place(BaseModel):
    """What one client looks at."""

    job: int
    path: str
    cookie: str
    after: int


class ClientsConfig(BaseModel):
    """All clients, and the gateway."""

    url: str
    places: list[Place]


class Received(BaseModel):
    """What one client saw: each event with its moment, and each checkpoint in a view."""

    job: int
    events: list[tuple[int, float]]
    checkpoints: list[tuple[int, float]]
    connections: int


@dataclass
class Client:
    """One page, as far as its socket goes."""

    url: str
    place: Place
    connected: bool = False
    connections: int = 0
    events: list[tuple[int, float]] = field(default_factory=list)
    checkpoints: dict[int, float] = field(default_factory=dict)

    async def run(self, gate: asyncio.Semaphore, chance: Random) -> None:
        """Follow the job for ever, as a page does."""
        sequence = self.place.after
        headers = {"cookie": self.place.cookie}
        while True:
            try:
                async with gate:
                    socket = await connect(
                        f"{self.url}{self.place.path}/live?after={sequence}",
                        additional_headers=headers,
                        compression=None,
                        max_size=None,
                    )
                self.connected, self.connections = True, self.connections + 1
                async for text in socket:
                    sequence = max(sequence, self.take(json.loads(text), time.time()))
            except (OSError, WebSocketException):
                pass
            self.connected = False
            await asyncio.sleep(chance.uniform(*RECONNECT_SECONDS))

    def take(self, frame: dict[str, Any], moment: float) -> int:
        """Note what a frame brings; returns its sequence."""
        self.events += [(each, moment) for each in frame["events"]]
        content: str = frame.get("content", "")
        if "#job-checkpoints" in content:
            newest = max(map(int, NEWEST_CHECKPOINT.findall(content)), default=0)
            self.checkpoints.setdefault(newest, moment)
        return frame["sequence"]


async def main() -> None:
    """Run all clients until told to stop."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    config = ClientsConfig.model_validate_json(await loop.run_in_executor(None, input))
    reading = loop.run_in_executor(None, _read, loop, lines)
    gate, chance = asyncio.Semaphore(AT_ONCE), Random(1)
    clients = [Client(config.url, place) for place in config.places]
    tasks = [asyncio.create_task(client.run(gate, chance)) for client in clients]
    wanted = 1
    while lines.empty():
        if all(client.connected and client.connections >= wanted for client in clients):
            print("ready" if wanted == 1 else "back", flush=True)
            wanted += 1
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await reading
    for client in clients:
        seen = Received(
            job=client.place.job,
            events=client.events,
            checkpoints=list(client.checkpoints.items()),
            connections=client.connections,
        )
        print(seen.model_dump_json())


def _read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    line = sys.stdin.readline()
    loop.call_soon_threadsafe(lines.put_nowait, line)


if __name__ == "__main__":
    asyncio.run(main())
