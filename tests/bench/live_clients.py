"""The clients of `make bench-live`, as a separate process that records what each receives.

It reads the configuration as one JSON line from standard input, and later `stop`. It prints `ready`
when all clients are connected, `back` when all are reconnected, and at the end the records, as
JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from random import Random
from threading import Thread
from typing import Any
from urllib.parse import urlencode

from pydantic import BaseModel
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from gateway.jobs.pages.live import place_text
from infrastructure.training.measurements import Place

MODULE = "tests.bench.live_clients"
RECONNECT_SECONDS = (0.2, 0.4)
"""The first delay of a page."""

AT_ONCE = 50
NEWEST_CHECKPOINT = re.compile(r'data-checkpoint="(\d+)"')
LINE = re.compile(r'data-line="(\d+)\.(\d+)"')


class View(BaseModel):
    """The page of one client."""

    job: int
    path: str
    cookie: str
    after: int


class ClientsConfig(BaseModel):
    """All clients, and the gateway."""

    url: str
    views: list[View]


class Received(BaseModel):
    """Records of one client: time of each event and of each checkpoint in a view, each step of the
    curve, each line of the log, and how often it reloaded the last two."""

    job: int
    events: list[tuple[int, float]]
    checkpoints: list[tuple[int, float]]
    steps: list[int]
    lines: list[int]
    loads: int


@dataclass
class Client:
    """One page, as far as its WebSocket."""

    url: str
    view: View
    connected: bool = False
    connections: int = 0
    events: list[tuple[int, float]] = field(default_factory=list)
    checkpoints: dict[int, float] = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    loads: int = 0
    step: Place = (0, 0)
    line: Place = (0, 0)

    async def run(self, gate: asyncio.Semaphore, chance: Random) -> None:
        """Follow the job forever, as a page does."""
        sequence = self.view.after
        headers = {"cookie": self.view.cookie}
        while True:
            try:
                async with gate:
                    socket = await connect(
                        f"{self.url}{self.view.path}/live?{self._asked(sequence)}",
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
        """Record a frame, and return its sequence."""
        self.events += [(each, moment) for each in frame["events"]]
        content: str = frame.get("content", "")
        for segment, step, *_ in (frame.get("curve") or {"steps": ()})["steps"]:
            self.steps.append(step)
            self.step = segment, step
        for segment, number in LINE.findall(content):
            self.lines.append(int(number))
            self.line = int(segment), int(number)
        self.loads += [frame.get(series, ...) for series in ("curve", "line")].count(None)
        if "#job-checkpoints" in content:
            newest = max(map(int, NEWEST_CHECKPOINT.findall(content)), default=0)
            self.checkpoints.setdefault(newest, moment)
        return frame["sequence"]

    def _asked(self, sequence: int) -> str:
        step, line = place_text(self.step), place_text(self.line)
        return urlencode({"after": sequence, "step": step, "line": line})


async def main() -> None:
    """Run all clients until `stop`."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    config = ClientsConfig.model_validate_json(await loop.run_in_executor(None, input))
    Thread(target=_read, args=(loop, lines), daemon=True).start()
    gate, chance = asyncio.Semaphore(AT_ONCE), Random(1)
    clients = [Client(config.url, view) for view in config.views]
    tasks = [asyncio.create_task(client.run(gate, chance)) for client in clients]
    wanted = 1
    while lines.empty():
        for task in tasks:
            if task.done():
                task.result()  # raises the error that ended the client
        if all(client.connected and client.connections >= wanted for client in clients):
            print("ready" if wanted == 1 else "back", flush=True)
            wanted += 1
        await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for client in clients:
        seen = Received(
            job=client.view.job,
            events=client.events,
            checkpoints=list(client.checkpoints.items()),
            steps=client.steps,
            lines=client.lines,
            loads=client.loads,
        )
        print(seen.model_dump_json())


def _read(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str]) -> None:
    line = sys.stdin.readline()
    loop.call_soon_threadsafe(lines.put_nowait, line)


if __name__ == "__main__":
    asyncio.run(main())
