"""Simulated time: coroutines of all processes in one thread, in an order that a seed determines.

A coroutine of the product runs unchanged. Where it awaits, it yields seconds or a Signal to the
kernel, which resumes it when its time has come. `inline` has the functions of asyncio and of
`time` that the product's modules use.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextvars import Context
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

MOST_STEPS = 10_000

Code = Coroutine[Any, Any, Any]


class Killed(BaseException):
    """A process was killed at this point. No handler of the product catches it."""


@dataclass(eq=False)
class Owner:
    """A process or a trainer. Its coroutines run while it lives and is not frozen."""

    name: str
    lives: bool = True
    thaws_at: float = 0.0


class Signal:
    """Coroutines that wait until something happens."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._waiting: list[Task] = []

    def set(self, delay: float = 0.0) -> None:
        """Resume the waiting coroutines after a delay in seconds."""
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._kernel.schedule(task, delay)

    def add(self, task: Task) -> None:
        self._waiting.append(task)

    def __await__(self) -> Generator[Signal]:
        yield self


class Pause:
    """An awaitable that lasts some simulated seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __await__(self) -> Generator[float]:
        yield self._seconds


@dataclass(eq=False)
class Task:
    """A coroutine and its owner."""

    owner: Owner
    code: Code


@dataclass
class Kernel:
    """The tasks by the time at which they continue, in simulated seconds since the start."""

    on_death: Callable[[Owner], None]
    on_failure: Callable[[Owner, Exception], None]
    """Called if a coroutine raises an error, which ends its owner."""
    now: float = 0.0
    _queue: list[tuple[float, int, Task]] = field(default_factory=list)
    running: Owner | None = None
    """The owner whose coroutine runs."""
    _count: int = 0
    _steps: int = 0  # without progress of the time

    def spawn(self, owner: Owner, code: Code, delay: float = 0.0) -> None:
        self.schedule(Task(owner, code), delay)

    def schedule(self, task: Task, delay: float) -> None:
        self._count += 1
        heappush(self._queue, (self.now + delay, self._count, task))

    def run(self, seconds: float) -> None:
        """Let all owners run for some seconds. A frozen one waits until it thaws.

        This may run inside a step of a coroutine: its owner is then frozen in this step.
        """
        end, running = self.now + seconds, self.running
        while self._queue and self._queue[0][0] <= end:
            moment, _, task = heappop(self._queue)
            self._steps = self._steps + 1 if moment <= self.now else 0
            assert self._steps < MOST_STEPS, f"{task.code} repeats without a pause"
            self.now = max(self.now, moment)
            owner = task.owner
            if not owner.lives:
                task.code.close()
            elif owner.thaws_at > self.now:
                self.schedule(task, owner.thaws_at - self.now)
            else:
                self._step(task)
        self.now, self.running = max(self.now, end), running

    def _step(self, task: Task) -> None:
        self.running = task.owner
        try:
            wish = task.code.send(None)
        except StopIteration:
            return
        except Killed:
            self.kill(task.owner)
            return
        except Exception as error:  # noqa: BLE001 (whatever a process fails with ends it)
            self.on_failure(task.owner, error)
            self.kill(task.owner)
            return
        if isinstance(wish, Signal):
            wish.add(task)
        else:
            self.schedule(task, wish)

    def kill(self, owner: Owner) -> None:
        """End an owner. Its coroutines never continue."""
        if owner.lives:
            owner.lives = False
            self.on_death(owner)

    def close(self) -> None:
        """Drop all coroutines."""
        for _, _, task in self._queue:
            task.code.close()
        self._queue.clear()


def ran(code: Code) -> Any:
    """Run a coroutine that never waits, and return its result."""
    try:
        code.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the coroutine waits")


class InlineExecutor:
    """An executor that runs each call at once. As a thread, it does not inherit the context."""

    def __init__(self, *options: object, **named: object) -> None:
        del options, named

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run the call. Return its result, or its error, as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(Context().run(call, *args))
        except Exception as error:  # noqa: BLE001  # `result` raises it
            future.set_exception(error)
        return future


class InlineAsyncio:
    """The part of asyncio that the product's coroutines use, without threads and real time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def TaskGroup(self) -> TaskGroup:
        return TaskGroup(self._kernel)

    def create_task(self, code: Code) -> Done:
        """Run a coroutine that never waits, at once. Its result is read later."""
        return Done(code)

    def sleep(self, seconds: float) -> Pause:
        return Pause(seconds)

    async def to_thread(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    async def gather(self, *codes: Any, return_exceptions: bool = False) -> list[Any]:
        results: list[Any] = []
        try:
            for code in codes:
                try:
                    results.append(await code)
                except Exception as error:
                    if not return_exceptions:
                        raise
                    results.append(error)
        finally:
            for code in codes[len(results) :]:
                code.close()
        return results

    def get_running_loop(self) -> object:
        return self

    def run_coroutine_threadsafe(self, code: Code, loop: object) -> Result:
        del loop
        return Result(code)


class InlineActivity:
    """Pauses that no event ends, which is the worst case."""

    def note(self) -> None:
        """Forget the event."""

    def pause(self, seconds: float, idle_seconds: float) -> Pause:
        return Pause(max(seconds, idle_seconds))


class Done:
    """A task that has run: its result or its error."""

    def __init__(self, code: Code) -> None:
        self._error: Exception | None = None
        self._value: Any = None
        try:
            self._value = ran(code)
        except Exception as error:  # noqa: BLE001 (raised where the task is awaited)
            self._error = error

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._error is not None:
            raise self._error
        return self._value
        yield

    def close(self) -> None:
        """Forget the result."""


class TaskGroup:
    """Coroutines of the running process. The first error of one ends the process."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    async def __aenter__(self) -> TaskGroup:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def create_task(self, code: Code) -> None:
        assert self._kernel.running is not None
        self._kernel.spawn(self._kernel.running, code)


@dataclass
class Result:
    """The result of a coroutine that runs when it is read."""

    code: Code

    def result(self, seconds: float) -> Any:
        del seconds
        return ran(self.code)


class InlineTime:
    """The part of `time` that the product's blocking code uses. Short pauses take no time."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def sleep(self, seconds: float) -> None:
        """Return at once, because a blocking step is atomic here."""

    def monotonic(self) -> float:
        return self._kernel.now

    def time(self) -> float:
        return self._kernel.now

    def perf_counter(self) -> float:
        return self._kernel.now

    def time_ns(self) -> int:
        return int(self._kernel.now * 1e9)
