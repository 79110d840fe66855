"""What the wizard shows: lists, problems, fit, cost range and gates, all decided by the API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup

from domain.core.durations import spoken
from domain.core.errors import DomainError, SeveralProblems
from domain.estimating.memory import FEW_GIB
from domain.training.hyperparameters import Group, Hyperparameters, names_in
from domain.training.phases import Phase
from domain.training.precision import Dtype
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.launch import service
from gateway.launch.job_form import JobRequest
from gateway.launch.pages.entries import FIELDS, ONLY_IN_API, UNPRICED, Entries, read
from gateway.launch.pages.lists import Listed, Lists, Offered
from gateway.launch.pages.snippets import command_line, python
from gateway.launch.schemas import FitAnswer, QuoteAnswer
from gateway.models.schemas import BaseModelAnswer
from gateway.web.amounts import written_amount, written_range
from gateway.web.rendering import NO_BREAK, sentence

MEMORY = {
    "weights": "Base weights",
    "adapter": "Adapter",
    "gradients": "Gradients",
    "optimizer": "Optimizer states",
    "activations": "Activations",
    "overhead": "Runtime and fragmentation",
}
PHASES = {
    Phase.IMAGE_PULL: "Image pull",
    Phase.MODEL_LOAD: "Model load",
    Phase.DATASET_PREP: "Dataset prep",
    Phase.TRAINING: "Training",
    Phase.EVALUATION: "Evaluation",
    Phase.REGISTER: "Register",
}
LAYER = ("q_", "qkv_", "k_", "v_", "o_", "gate_", "up_", "down_")
LEAST_GIB = 0.01
GLANCE_SECONDS = 0.05
"""How long a change waits for what is free now; the approval looks at it again."""
BAR = 1000.0
"""Units of the memory bar's width."""


class Part(NamedTuple):
    """What takes a part of a GPU's memory, and where it lies on the bar."""

    name: str
    label: str
    gib: str
    start: float
    width: float


class Priced(NamedTuple):
    """One phase of the estimate."""

    label: str
    duration: str
    most: Markup  # that it costs


class ParameterBytes(NamedTuple):
    """Bytes of a parameter of the base, on average, and what they are taken of."""

    memory: str
    full: float | None
    four_bits: float | None


class Gate(NamedTuple):
    """One of the two checks before a job starts."""

    is_open: bool
    sentence: str
    figures: str = ""
    """What else there is to know."""


@dataclass(frozen=True)
class View:
    """The form and all that follows from it."""

    entries: Entries
    lists: Lists
    request: JobRequest | None
    missing: tuple[str, ...]
    problems: Mapping[str, str]
    quote: QuoteAnswer | None
    refusal: DomainError | None
    """What stands against a job that is complete."""

    @classmethod
    def of(cls, backend: Backend, caller: Caller, entries: Entries) -> View:
        """Read the form, and price it if it can be priced.

        The lists may be behind the log, by which the API decides: what it takes is not gone.
        """
        reading = read(entries)
        problems = dict(reading.problems)
        quote, refusal = None, None
        if reading.request is not None:
            try:
                quote = service.quote(
                    backend, caller, reading.request, patience_seconds=GLANCE_SECONDS
                )
            except DomainError as error:
                refusal = error
                problems |= _by_field(error)
        lists = Lists.now(backend, caller, (entries.dataset, entries.validation_dataset))
        if quote is None:
            problems |= lists.gone(entries)
        return cls(
            entries,
            lists,
            reading.request,
            reading.missing,
            problems,
            quote,
            refusal,
        )

    @property
    def dataset(self) -> Listed | None:
        """The chosen dataset."""
        wanted = self.entries.dataset
        return next((each for each in self.lists.datasets if str(each.id) == wanted), None)

    @property
    def base(self) -> BaseModelAnswer | None:
        """The chosen base."""
        wanted = self.entries.base_model
        return next((each for each in self.lists.bases if each.name == wanted), None)

    @property
    def place(self) -> Offered | None:
        """The chosen GPUs."""
        return self.lists.places.get((self.entries.region, self.entries.gpu_type))

    @property
    def parameter_bytes(self) -> ParameterBytes | None:
        """What each parameter of the base takes of the chosen GPUs' memory, as the fit reckons."""
        kinds = self.lists.gpu_types
        kind = next((each for each in kinds if each.gpu_type == self.entries.gpu_type), None)
        if (base := self.base) is None or kind is None or base.bytes_per_parameter_bf16 is None:
            return None
        dtype = self.fit.dtype if self.fit else None
        if kind.backing == "cpu" and dtype is not Dtype.BF16:
            return ParameterBytes(
                "memory", base.bytes_per_parameter_fp32, base.bytes_per_parameter_nf4_fp32
            )
        return ParameterBytes(
            "memory" if kind.backing == "cpu" else "GPU memory",
            base.bytes_per_parameter_bf16,
            base.bytes_per_parameter_nf4,
        )

    @property
    def warnings(self) -> list[str]:
        """Of the chosen dataset."""
        examples = self.dataset.examples if self.dataset else None
        return [] if examples is None else service.size_warnings(examples)

    @property
    def modules(self) -> list[str]:
        """Of the chosen base, and those that are chosen and that it does not have."""
        known = self.base.linear_modules if self.base else []
        known = sorted(known, key=_module_order) or list(Hyperparameters().target_modules)
        return [*known, *(each for each in self.entries.target_modules if each not in known)]

    @property
    def priced(self) -> QuoteAnswer | None:
        """The quote, unless a field is wrong that the price depends on."""
        return self.quote if self.problems.keys() <= UNPRICED else None

    @property
    def fit(self) -> FitAnswer | None:
        """How the job lies in memory."""
        return self.quote.fit if self.quote else None

    @property
    def parts(self) -> list[Part]:
        """The parts of the memory bar, in order."""
        return list(_parts(self.fit)) if self.fit else []

    @property
    def memory(self) -> tuple[str, str, str]:
        """GiB of each GPU that the job takes, that there are, and that stay free."""
        assert self.fit is not None
        needed, there = self.fit.needed_gib, self.fit.vram_gib
        return f"{needed:g}", f"{there:g}", gib(max(0.0, there - needed))

    @property
    def gpu_title(self) -> str:
        """The chosen GPU type as people know it."""
        return self.place.gpu_type.title if self.place else self.entries.gpu_type

    @property
    def region_title(self) -> str:
        """The chosen region as people know it."""
        return self.place.region.title if self.place else self.entries.region

    @property
    def obstacle(self) -> str | None:
        """What stands first against an approval, as a sentence."""
        if self.problems:
            return next(iter(self.problems.values()))
        if self.missing:
            return f"Choose {' and '.join(self.missing)}."
        gates = (self.balance_gate, self.capacity_gate)
        return next((gate.sentence for gate in gates if gate and not gate.is_open), None)

    @property
    def status(self) -> str:
        """All of it in a sentence, for who does not see the page."""
        if self.problems or self.missing or self.priced is None:
            return self.obstacle or "No estimate."
        cost = self.cost.replace(" – ", " to ")
        return f"Estimate {cost}; {self.obstacle or 'ready to approve.'}"

    @property
    def proposal(self) -> str | None:
        """What one click sets to make a job fit that does not."""
        figures = dict((self.refusal and self.refusal.figures) or {})
        return urlencode({name: figures[name] for name in figures if name in FIELDS}) or None

    @property
    def cost(self) -> str:
        """The range, rounded outwards: the bill is to lie within."""
        assert self.priced is not None
        return written_range(self.priced.estimate.low, self.priced.estimate.high)

    @property
    def duration(self) -> str:
        """The range of its duration."""
        assert self.priced is not None
        return _duration(self.priced.estimate.low_seconds, self.priced.estimate.high_seconds)

    @property
    def left(self) -> Markup:
        """What is left of the balance at least."""
        assert self.priced is not None
        return written_amount(self.priced.balance.left)

    @property
    def phases(self) -> list[Priced]:
        """The range by phase."""
        assert self.priced is not None
        return [
            Priced(
                PHASES[each.phase],
                _duration(each.low_seconds, each.high_seconds),
                written_amount(each.high),
            )
            for each in self.priced.estimate.phases
        ]

    @property
    def balance_gate(self) -> Gate | None:
        """Whether the balance covers the upper bound."""
        if self.priced is None:
            return None
        upper = self.priced.estimate.high.text
        if not (missing := self.priced.balance.missing).micros:
            return Gate(True, f"The balance covers the upper bound of {upper}.")
        return Gate(
            False,
            f"Top up first: {missing.text} is missing.",
            f"The balance is {self.priced.balance.balance.text}, the upper bound of the "
            f"estimate {upper}.",
        )

    @property
    def wait(self) -> str | None:
        """How long one waits for the chosen GPUs; None if not at all."""
        if self.priced is None or self.priced.capacity.free >= self.priced.capacity.needed:
            return None
        seconds = self.priced.capacity.wait_seconds
        return "an unknown time" if seconds is None else f"about {spoken(seconds)}"

    @property
    def capacity_gate(self) -> Gate | None:
        """Whether the region has the GPUs, or they are waited for."""
        if self.priced is None:
            return None
        free, count = self.priced.capacity.free, self.entries.gpu_count
        there = f"{self.region_title} has {free} {self.gpu_title} free"
        if self.wait is None:
            return Gate(True, f"{there}; the job starts at once.")
        sentence = f"{there}, the job needs {count}; the wait is {self.wait}."
        return Gate(bool(self.entries.wait), sentence)

    @property
    def elsewhere(self) -> list[Offered]:
        """Where the job would start at once."""
        if self.priced is None:
            return []
        free = [(each.region, each.gpu_type) for each in self.priced.capacity.elsewhere]
        return [self.lists.places[place] for place in free if place in self.lists.places]

    @property
    def approvable(self) -> bool:
        """Whether nothing is wrong and both gates are open."""
        gates = (self.balance_gate, self.capacity_gate)
        return not self.problems and all(gate is not None and gate.is_open for gate in gates)

    @property
    def seen(self) -> str:
        """What tells this estimate from others: only what was seen is approved."""
        if self.request is None or self.priced is None:
            return ""
        priced = self.priced.estimate
        choices = self.request.model_dump(mode="json", exclude={"wait", "suffix"})
        whole = json.dumps([choices, priced.low.micros, priced.high.micros], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    @property
    def command_line(self) -> str | None:
        """The same choices for `ecolink`."""
        return command_line(self.request) if self.request and not self.problems else None

    def python(self, base_url: str) -> str | None:
        """The same choices for the `openai` package."""
        return python(self.request, base_url) if self.request and not self.problems else None


def gib(size: float) -> str:
    """GiB as people read them: two decimals, and from ten on one."""
    if 0 < size < LEAST_GIB:
        return f"under {LEAST_GIB}"
    return f"{size:.2f}" if size < FEW_GIB else f"{size:.1f}"


def _module_order(name: str) -> tuple[int, str]:
    """Attention before the rest of a layer, as people list them."""
    known = next((n for n, part in enumerate(LAYER) if name.startswith(part)), len(LAYER))
    return known, name


def _by_field(error: DomainError) -> dict[str, str]:
    """A refusal's sentences by the fields that they are about."""
    problems = error.problems if isinstance(error, SeveralProblems) else (error,)
    return {
        (each.field or "").removeprefix("hyperparameters."): sentence(each.message)
        for each in problems
    }


def _parts(fit: FitAnswer) -> Iterator[Part]:
    start = 0.0
    for name, size in fit.items_gib.items():
        width = BAR * size / fit.vram_gib
        yield Part(name, MEMORY.get(name, name), gib(size), round(start, 2), round(width, 2))
        start += width


def _duration(low_seconds: float, high_seconds: float) -> str:
    low, high = _spoken(low_seconds), _spoken(high_seconds)
    return low if low == high else f"{low} – {high}"


def _spoken(seconds: float) -> str:
    written = spoken(seconds) if seconds >= 10 else f"{seconds:.1f} s"
    return written.replace(" ", NO_BREAK)


def context(view: View, base_url: str, **more: Any) -> dict[str, Any]:
    """What the templates know."""
    return {
        "view": view,
        "fields": FIELDS,
        "basic": names_in(Group.BASIC),
        "advanced": names_in(Group.ADVANCED),
        "carried": (*ONLY_IN_API, "deploy"),
        "python": view.python(base_url),
        **more,
    }
