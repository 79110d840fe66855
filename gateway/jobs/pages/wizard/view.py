"""The wizard's page: the form, its validation errors, the quote and the checks before the start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup

from domain.core.durations import spoken
from domain.core.errors import DomainError, SeveralProblems
from domain.core.money import CENT_MICROS
from domain.core.quantities import FEW_GIB
from domain.training.hyperparameters import DPO, Group, Hyperparameters, names_in
from domain.training.integrations import REMOTE, Tracker
from domain.training.phases import Phase
from domain.training.precision import Dtype
from domain.training.start import SHAPE, is_fine_tuned
from domain.use_cases.spending_limits import Outlook
from gateway.backend import Backend
from gateway.http.access import Caller
from gateway.jobs.launch import service
from gateway.jobs.launch.job_form import JobRequest
from gateway.jobs.launch.schemas import CostRangeResponse, FitResponse, JobEstimateResponse
from gateway.jobs.pages.wizard.entries import FIELDS, ONLY_IN_API, UNPRICED, Entries, read
from gateway.jobs.pages.wizard.lists import ListedDataset, Lists, Offer
from gateway.jobs.pages.wizard.snippets import command_line, python
from gateway.models.schemas import BaseModelResponse
from gateway.schemas import Money
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
    Phase.REFERENCE: "Reference",
    Phase.TRAINING: "Training",
    Phase.EVALUATION: "Evaluation",
    Phase.REGISTER: "Register",
}
ATTENTION = ("q_", "qkv_", "k_", "v_", "o_")
"""Beginnings of the names of an attention block's projections."""
ATTENTION_FIRST = (*ATTENTION, "gate_", "up_", "down_")
LEAST_GIB = 0.01
GLANCE_SECONDS = 0.05
"""Maximum seconds to wait for the current number of free GPUs. Approval checks it again."""
BAR = 1000.0
"""Width of the memory bar in SVG units."""


class Part(NamedTuple):
    """A part of a GPU's memory, and its position on the memory bar."""

    name: str
    label: str
    gib: str
    start: float
    width: float


class PhaseRow(NamedTuple):
    """A row of the estimate, for one phase."""

    label: str
    duration: str
    most: Markup


class ParameterBytes(NamedTuple):
    """Mean bytes per parameter of the base model, in full precision and in 4 bits."""

    memory: str
    full: float | None
    four_bits: float | None


class Preset(NamedTuple):
    """A usual choice of target modules."""

    title: str
    choice: str
    """Query string with the entry that selects it."""
    chosen: bool
    cost: str | None
    """Range of the cost; None if the form is incomplete or the job would not fit."""


class Gate(NamedTuple):
    """A check that must pass before a job starts."""

    is_open: bool
    sentence: str


@dataclass(frozen=True)
class View:
    entries: Entries
    lists: Lists
    request: JobRequest | None
    missing: tuple[str, ...]
    problems: Mapping[str, str]
    quote: JobEstimateResponse | None
    refusal: DomainError | None
    """The reason why a complete form has no quote."""
    presets: list[Preset] = field(default_factory=list)

    @classmethod
    def of(cls, backend: Backend, caller: Caller, entries: Entries) -> View:
        """Read the form. If it is complete, quote the job.

        If the job continues an adapter, the form has the shape of that adapter. The kind of the
        dataset determines the method.
        """
        lists = Lists.now(backend, caller, (entries.dataset, entries.validation_dataset))
        if (chosen := lists.dataset(entries.dataset)) is not None:
            entries = entries.training_on(chosen.kind)
        parent = service.parent_of(backend, caller, entries.base_model)
        if parent is not None:
            entries = entries.continuing(parent.lora)
        reading = read(entries)
        unconnected = lists.unconnected(entries)
        problems = {**reading.problems, **unconnected}
        quote, refusal = None, None
        if (asked := reading.request) is not None:
            if unconnected:  # the price does not depend on them
                asked = asked.model_copy(update={"integrations": []})
            try:
                quote = service.quote(backend, caller, asked, patience_seconds=GLANCE_SECONDS)
            except DomainError as error:
                refusal = error
                problems |= _by_field(error)
        if quote is None:  # with a quote, the choices exist even if the lists lag behind
            problems |= lists.gone(entries)
        view = cls(entries, lists, reading.request, reading.missing, problems, quote, refusal)
        return replace(view, presets=view.priced_presets(backend, caller))

    def priced_presets(self, backend: Backend, caller: Caller) -> list[Preset]:
        """Return the usual choices of target modules, with their prices if the form is complete."""
        if self.base is None or self.continues:
            return []
        linear = sorted(self.base.linear_modules, key=_module_order)
        default = [name for name in Hyperparameters().target_modules if name in linear]
        choices = {
            f"Default ({', '.join(default)})": default,
            "Attention only": [name for name in linear if name.startswith(ATTENTION)],
            "All linear layers": linear,
        }
        return [
            Preset(
                title,
                urlencode({"target_modules": ",".join(names)}),
                set(names) == set(self.entries.target_modules),
                self._cost_with(backend, caller, tuple(names)),
            )
            for title, names in choices.items()
            if names
        ]

    def _cost_with(
        self, backend: Backend, caller: Caller, target_modules: tuple[str, ...]
    ) -> str | None:
        if self.request is None or self.quote is None:
            return None
        tuned = self.request.hyperparameters.model_copy(update={"target_modules": target_modules})
        choices = replace(self.request.choices, hyperparameters=tuned)
        try:
            estimate = backend.quoting.quote(caller.account_id, choices).estimate
        except DomainError:
            return None
        quoted = CostRangeResponse.of(estimate)
        return written_range(quoted.low, quoted.high)

    @property
    def dataset(self) -> ListedDataset | None:
        return self.lists.dataset(self.entries.dataset)

    @property
    def trackers(self) -> list[Tracker]:
        """Trackers with an input: those of the account, and those that the form names."""
        return [each for each in REMOTE if each in {*self.lists.trackers, *self.entries.tracked}]

    @property
    def is_dpo(self) -> bool:
        """True if the job trains on preference pairs."""
        return self.entries.method == DPO

    @property
    def base(self) -> BaseModelResponse | None:
        wanted = self.lists.base_of(self.entries.base_model)
        return next((each for each in self.lists.bases if each.name == wanted), None)

    @property
    def continues(self) -> bool:
        """True if the job continues an adapter of the user."""
        return is_fine_tuned(self.entries.base_model)

    @property
    def fixed(self) -> tuple[str, ...]:
        """Hyperparameters that the job cannot change, because it continues an adapter."""
        return SHAPE if self.continues else ()

    @property
    def place(self) -> Offer | None:
        return self.lists.places.get((self.entries.region, self.entries.gpu_type))

    @property
    def parameter_bytes(self) -> ParameterBytes | None:
        """Memory per parameter of the base model on the chosen GPU type."""
        kinds = self.lists.gpu_types
        kind = next((each for each in kinds if each.gpu_type == self.entries.gpu_type), None)
        if (base := self.base) is None or kind is None or base.bytes_per_parameter_bf16 is None:
            return None
        memory = "memory" if kind.backing == "cpu" else "GPU memory"
        if kind.backing == "cpu" and not (self.fit and self.fit.dtype is Dtype.BF16):
            figures = base.bytes_per_parameter_fp32, base.bytes_per_parameter_nf4_fp32
        else:
            figures = base.bytes_per_parameter_bf16, base.bytes_per_parameter_nf4
        return ParameterBytes(memory, *figures)

    @property
    def warnings(self) -> list[str]:
        return service.size_warnings(self.dataset.examples) if self.dataset else []

    @property
    def modules(self) -> list[str]:
        """Linear modules of the base model, then chosen modules that it lacks."""
        known = self.base.linear_modules if self.base else []
        known = sorted(known, key=_module_order) or list(Hyperparameters().target_modules)
        return [*known, *(each for each in self.entries.target_modules if each not in known)]

    @property
    def priced(self) -> JobEstimateResponse | None:
        """Quote, or None if a field that affects the price is invalid."""
        return self.quote if self.problems.keys() <= UNPRICED else None

    @property
    def fit(self) -> FitResponse | None:
        return self.quote.fit if self.quote else None

    @property
    def parts(self) -> list[Part]:
        return list(_parts(self.fit)) if self.fit else []

    @property
    def memory(self) -> tuple[str, str, str]:
        assert self.fit is not None
        needed, there = self.fit.needed_gib, self.fit.vram_gib
        return f"{needed:g}", f"{there:g}", gib(max(0.0, there - needed))

    @property
    def gpu_title(self) -> str:
        return self.place.gpu_type.title if self.place else self.entries.gpu_type

    @property
    def choose(self) -> str:
        """A request for the missing entries, such as `Choose a dataset and a region`."""
        *first, last = self.missing
        return f"Choose {', '.join(first)} and {last}" if first else f"Choose {last}"

    @property
    def obstacle(self) -> str | None:
        """First reason why the job cannot be approved, or None."""
        if self.problems:
            return next(iter(self.problems.values()))
        if self.missing:
            return f"{self.choose}."
        return next((gate.sentence for gate in self.gates if not gate.is_open), None)

    @property
    def status(self) -> str:
        if self.problems or self.missing or self.priced is None:
            return self.obstacle or "No estimate."
        cost = self.cost.replace(" – ", " to ")
        return f"The estimate is {cost}. {self.obstacle or 'Ready to approve.'}"

    @property
    def proposal(self) -> str | None:
        """Query string with the entries that would make the job fit, or None."""
        figures = dict((self.refusal and self.refusal.figures) or {})
        return urlencode({name: figures[name] for name in figures if name in FIELDS}) or None

    @property
    def cost(self) -> str:
        assert self.priced is not None
        return written_range(self.priced.estimate.low, self.priced.estimate.high)

    @property
    def duration(self) -> str:
        assert self.priced is not None
        return _duration(self.priced.estimate.low_seconds, self.priced.estimate.high_seconds)

    @property
    def phases(self) -> list[PhaseRow]:
        assert self.priced is not None
        return [
            PhaseRow(
                PHASES[each.phase],
                _duration(each.low_seconds, each.high_seconds),
                written_amount(_bound(each.high)),
            )
            for each in self.priced.estimate.phases
        ]

    @property
    def gates(self) -> tuple[Gate, ...]:
        gates = (self.balance_gate, self.budget_gate, self.capacity_gate) if self.priced else ()
        return tuple(gate for gate in gates if gate is not None)

    @property
    def balance_gate(self) -> Gate:
        assert self.priced is not None
        balance = self.priced.balance
        bound = "maximum cost" if balance.capped else "upper bound"
        highest = f"the {bound} of {balance.needed.text}"
        if not balance.missing.micros:
            return Gate(True, f"The balance covers {highest}.")
        short = f"The balance of {balance.balance.text} does not cover {highest}."
        return Gate(False, f"{short} Top up {balance.missing.text} or more.")

    @property
    def budget_gate(self) -> Gate | None:
        """The check of a used-up budget, or None if all budgets permit the approval."""
        assert self.priced is not None
        used_up = (each for each in self.priced.budgets if each.outlook is Outlook.USED_UP)
        return next((Gate(False, each.text) for each in used_up), None)

    @property
    def budget_notices(self) -> list[str]:
        """Sentences about budgets that the job may reach, or that are nearly used."""
        budgets = self.priced.budgets if self.priced else []
        return [each.text for each in budgets if each.outlook is not Outlook.USED_UP]

    @property
    def wait(self) -> str | None:
        """Expected wait for the chosen GPUs, or None if they are free."""
        if self.priced is None or self.priced.capacity.free >= self.priced.capacity.needed:
            return None
        seconds = self.priced.capacity.wait_seconds
        return "unknown" if seconds is None else f"about {spoken(seconds)}"

    @property
    def capacity_gate(self) -> Gate:
        assert self.priced is not None
        capacity = self.priced.capacity
        region = self.place.region.title if self.place else self.entries.region
        free = (
            f"{region} has {capacity.free} free {'GPU' if capacity.free == 1 else 'GPUs'} "
            f"of type {self.gpu_title}"
        )
        if self.wait is None:
            return Gate(True, f"{free}. The job starts immediately.")
        short = f"{free}, but the job needs {capacity.needed}. The wait is {self.wait}."
        if self.entries.wait:
            return Gate(True, short)
        return Gate(False, f"{short} Choose to wait in the queue, or choose other GPUs.")

    @property
    def elsewhere(self) -> list[Offer]:
        """Regions and GPU types in which the job would start immediately."""
        if self.priced is None:
            return []
        free = [(each.region, each.gpu_type) for each in self.priced.capacity.elsewhere]
        return [self.lists.places[place] for place in free if place in self.lists.places]

    @property
    def approvable(self) -> bool:
        """True if there is no error and both checks pass."""
        return self.priced is not None and self.obstacle is None

    @property
    def seen(self) -> str:
        """Hash of the choices and their cost. Approval requires the hash that the user saw."""
        if self.request is None or self.priced is None:
            return ""
        priced = self.priced.estimate
        left_out = {"wait", "suffix", "max_cost", "integrations"}
        choices = self.request.model_dump(mode="json", exclude=left_out)
        whole = json.dumps([choices, priced.low.micros, priced.high.micros], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()

    def context(self, base_url: str) -> dict[str, Any]:
        code = self.request if not self.problems else None
        return {
            "view": self,
            "fields": FIELDS,
            "basic": names_in(Group.BASIC),
            "advanced": names_in(Group.ADVANCED),
            "carried": (*ONLY_IN_API, "copied_integrations"),
            "command_line": code and command_line(code),
            "python": code and python(code, base_url),
        }


def gib(size: float) -> str:
    """Return a size in GiB, with two decimals, or with one from 10 GiB on."""
    if 0 < size < LEAST_GIB:
        return f"under {LEAST_GIB}"
    return f"{size:.2f}" if size < FEW_GIB else f"{size:.1f}"


def _bound(high: Money) -> Money:
    """Return the upper bound of a phase, which the page shows as `<$0.01` if it is below a cent."""
    return high if high.micros >= CENT_MICROS else Money.of(high.micros)


def _module_order(name: str) -> tuple[int, str]:
    known = (n for n, prefix in enumerate(ATTENTION_FIRST) if name.startswith(prefix))
    return next(known, len(ATTENTION_FIRST)), name


def _by_field(error: DomainError) -> dict[str, str]:
    problems = error.problems if isinstance(error, SeveralProblems) else (error,)
    return {
        (each.field or "").removeprefix("hyperparameters."): sentence(each.message)
        for each in problems
    }


def _parts(fit: FitResponse) -> Iterator[Part]:
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
