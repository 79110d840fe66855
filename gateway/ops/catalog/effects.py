"""Effects of a change of the catalog on jobs and deployments."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass

from domain.capacity.availability import PoolLoad
from gateway.ops.catalog.differences import ELIGIBLE, PRICE
from gateway.ops.catalog.form import CatalogForm, Kind

KEEP, KEEP_PRICE, KEEP_GPUS = "do not change", "keep the approved price", "keep their GPUs"
NO_GPUS = "pause, because they get no GPUs"
REFUSED = "are refused"
ELSEWHERE = "use other GPUs, or are refused if none fit"
NO_HARDWARE = "if no machine has this hardware"

AFFECTED = {
    "running": "Running jobs",
    "queued": "Queued jobs",
    "paused": "Paused jobs",
    "requested": "Jobs whose files are not ready",
    "unplaced": "Jobs whose files are not ready, on any GPUs",
}


@dataclass(frozen=True)
class Effect:
    """A number of jobs or deployments, and what happens to them."""

    affected: str
    count: int
    text: str


@dataclass(frozen=True)
class Outcome:
    """Predicates of sentences about the jobs in each state. Without one, the jobs do not change."""

    running: str = ""
    queued: str = ""
    paused: str = ""
    requested: str = ""
    unplaced: str = ""


@dataclass(frozen=True)
class Jobs:
    """Unfinished jobs that use an entry."""

    running: int = 0
    queued: int = 0
    paused: int = 0
    requested: int = 0
    """Jobs that use the entry once their files are ready."""
    unplaced: int = 0
    """Jobs that EcoLink may place on the entry once their files are ready."""

    def __add__(self, other: Jobs) -> Jobs:
        return Jobs(*(sum(pair) for pair in zip(astuple(self), astuple(other), strict=True)))

    @property
    def waiting_for_files(self) -> int:
        """Number of jobs whose files are not ready."""
        return self.requested + self.unplaced

    def effects(self, *outcomes: Outcome) -> list[Effect]:
        """Return the combined effects on the jobs in each state."""
        return [
            Effect(name, count, _combined(getattr(each, state) for each in outcomes))
            for state, name in AFFECTED.items()
            if (count := getattr(self, state)) or state != "unplaced"
        ]


NO_JOBS = Jobs()


def _combined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts))) or KEEP


def effects_of_entry(
    form: CatalogForm, changed: Collection[str], jobs: Jobs, adapters: int
) -> list[Effect]:
    """Return the effects of a changed or withdrawn entry.

    `changed` are names of its fields. `adapters` is the number of adapters on a base model.
    """
    match form.kind:
        case Kind.GPU_TYPE:
            outcomes = _of_gpu_type(form)
            return jobs.effects(*(outcomes[each] for each in outcomes if each in changed))
        case Kind.GPU_TYPE_WITHDRAWAL | Kind.REGION_WITHDRAWAL:
            withdrawn = Outcome(
                running=f"{KEEP_GPUS} and their price",
                queued=NO_GPUS,
                paused="cannot resume without this entry",
                requested=REFUSED,
                unplaced=ELSEWHERE,
            )
            return jobs.effects(withdrawn)
        case Kind.BASE | Kind.BASE_WITHDRAWAL:
            deployed = Effect("Adapters", adapters, "stay deployed")
            return [*jobs.effects(_of_base(form, changed)), deployed]
        case _:
            return jobs.effects()


def _of_gpu_type(form: CatalogForm) -> dict[str, Outcome]:
    """Return the outcome of a change of each field that affects jobs."""
    new = "can use this GPU type with the new values"
    hardware = Outcome(
        running=KEEP_GPUS,
        queued=f"pause {NO_HARDWARE}",
        paused=f"cannot resume {NO_HARDWARE}",
        requested=f"{REFUSED} {NO_HARDWARE}",
        unplaced=new,
    )
    estimated = "get an estimate with the new values"
    memory = "if they do not fit into the new memory"
    return {
        PRICE: Outcome(
            running=KEEP_PRICE,
            queued=KEEP_PRICE,
            paused="get the new price when they resume",
            requested="get the price that is valid when their files are ready",
            unplaced=new,
        ),
        "backing": hardware,
        "device_names": hardware,
        "max_per_job": Outcome(
            paused=f"can resume on at most {_gpus(form.max_per_job or 0)}",
            requested=f"{REFUSED} if they need more than {_gpus(form.max_per_job or 0)}",
            unplaced=new,
        ),
        "vram_gib": Outcome(
            paused=f"{estimated} when they resume; cannot resume {memory}",
            requested=f"{estimated}; {REFUSED} {memory}",
            unplaced=new,
        ),
        "bf16_tflops": Outcome(
            paused=f"{estimated} when they resume", requested=estimated, unplaced=new
        ),
    }


def _of_base(form: CatalogForm, changed: Collection[str]) -> Outcome:
    if form.kind is Kind.BASE and ELIGIBLE not in changed:
        return Outcome()
    if form.kind is Kind.BASE and form.eligible:
        return Outcome(paused="can resume")
    return Outcome(paused="cannot resume while fine-tuning is not allowed", requested=REFUSED)


def effects_of_capacity(load: PoolLoad | None, count: int, jobs: Jobs) -> list[Effect]:
    """Return the effects of a new number of GPUs. `load` is None if no server has had such GPUs."""
    if count == 0:
        none = Outcome(KEEP_GPUS, NO_GPUS, "cannot resume without GPUs", REFUSED, ELSEWHERE)
        return jobs.effects(none)
    held = sum(each.count for each in load.running) if load else 0
    stuck = sum(each.count > count for each in load.queue) if load else 0
    queued = "start when GPUs are free"
    if held > count:
        queued = f"start when the running jobs use fewer than {_gpus(count)}, instead of {held:,}"
    too_many = f"need more than {_gpus(count)}"
    limited = Outcome(
        running=KEEP_GPUS,
        queued=queued,
        paused=f"can resume on at most {_gpus(count)}",
        requested=f"{REFUSED} if they {too_many}",
        unplaced=f"use other GPUs if they {too_many}",
    )
    large = Effect("Queued jobs that are too large", stuck, f"{too_many}, and pause")
    return [*jobs.effects(limited), large]


def _gpus(count: int) -> str:
    return f"{count:,} {'GPU' if count == 1 else 'GPUs'}"
