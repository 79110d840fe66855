"""GPU availability: the free GPUs and the wait in each pool, and the capacity check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.capacity.queue_eta import Occupied, Queued, wait_seconds
from domain.catalog.display_names import DisplayNames
from domain.core.durations import spoken
from domain.core.errors import NoCapacity


@dataclass(frozen=True)
class PoolLoad:
    """The running and queued segments of one GPU type in one region."""

    region: str
    gpu_type: str
    capacity: int
    running: tuple[Occupied, ...]
    queue: tuple[Queued, ...]
    known_free: int | None = None
    """GPUs that a new job would get, if they were counted later than the other fields."""
    known_waits: dict[int, float | None] = field(default_factory=dict[int, float | None])
    """Expected waits that have been computed, by number of GPUs."""

    @property
    def free(self) -> int:
        """GPUs that a new job would get immediately; 0 while other jobs are queued."""
        if self.known_free is not None:
            return self.known_free
        if self.queue:
            return 0
        return max(0, self.capacity - sum(each.count for each in self.running))

    def wait_seconds(self, count: int) -> float | None:
        """Return the expected wait of a new job, in seconds; None if the pool can never run it."""
        if count <= self.free:
            return 0.0
        if count not in self.known_waits:
            wait = wait_seconds(self.capacity, self.running, self.queue, count)
            self.known_waits[count] = wait
        return self.known_waits[count]


def require_capacity(
    loads: Sequence[PoolLoad], region: str, gpu_type: str, count: int, names: DisplayNames
) -> None:
    """Raise NoCapacity, with the expected wait and free GPUs elsewhere, if a job would wait."""
    here = next(
        (each for each in loads if (each.region, each.gpu_type) == (region, gpu_type)), None
    )
    if here is None or here.free >= count:
        return
    wait = here.wait_seconds(count)
    elsewhere = [each for each in loads if each is not here and each.free >= count]
    places = ", ".join(
        f"{each.free} × {names.gpu_type(each.gpu_type)} in {names.region(each.region)}"
        for each in elsewhere
    )
    raise NoCapacity(
        f"{names.region(region)} has {here.free} free {'GPU' if here.free == 1 else 'GPUs'} of "
        f"type {names.gpu_type(gpu_type)}, but the job needs {count}. The wait is "
        f"{'unknown' if wait is None else 'about ' + spoken(wait)}. "
        + (f"Free now: {places}. " if places else "No other suitable GPU is free now. ")
        + "Set `wait` to queue the job, free of charge.",
        field="gpu_type",
        figures={
            "free": here.free,
            "wait_seconds": None if wait is None else round(wait),
            "elsewhere": [
                {"region": each.region, "gpu_type": each.gpu_type, "free": each.free}
                for each in elsewhere
            ],
        },
    )
