"""The plan and the price of a form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from domain.billing.token_rates import FREE, TokenRates
from domain.core.errors import Invalid, WrongState
from domain.core.money import MICROS_PER_DOLLAR, micros_of
from domain.datasets.dataset import Dataset, DatasetStatus
from domain.deployments.deployment import DeploymentStatus
from extensions.synthesis.domain.plan import Generator, SynthesisPlan
from extensions.synthesis.domain.price import CostRange, Pricing
from extensions.synthesis.domain.prompts import prompt_sizes
from extensions.synthesis.domain.request import SynthesisRequest, request_ref
from extensions.synthesis.domain.synthesis import Synthesis
from extensions.synthesis.endpoint_rows import endpoint_of
from extensions.synthesis.schemas import SynthesisForm
from extensions.synthesis.seeds import MOST_BYTES, MOST_LINE_BYTES, READ_EXAMPLES, seed_examples
from extensions.synthesis.settings import SynthesisSettings
from gateway.backend import Backend
from gateway.datasets.service import own_dataset
from gateway.http.access import Caller
from infrastructure.artifacts.store import Artifacts
from infrastructure.http.ndjson import lines_of
from infrastructure.process.role import settings_of
from projections.deployments import deployment_named

KEPT_SIZES = 1_000
"""Seed datasets, with a seed, whose sizes the process keeps. A form quotes again at each change."""


@dataclass(frozen=True)
class Planned:
    """A plan with its request and its price. `max_cost_micros` is None without a maximum."""

    plan: SynthesisPlan
    request: SynthesisRequest
    cost: CostRange
    max_cost_micros: int | None


def planned(backend: Backend, caller: Caller, synthesis_id: UUID, form: SynthesisForm) -> Planned:
    """Return the plan of a form. Raise Invalid, NotFound or WrongState if it cannot run."""
    request = _request(form)
    request.sources(seeded=form.seed_dataset is not None)  # before any look-up
    generator = _generator(backend, caller, form)
    seed_sha256, seed_sizes = _seeds(backend, caller, form)
    rates = FREE
    if not generator.external:
        own = settings_of(SynthesisSettings)
        rates = TokenRates(
            prompt_micros=int(own.synthesis_prompt_price_dollars * MICROS_PER_DOLLAR),
            completion_micros=int(own.synthesis_completion_price_dollars * MICROS_PER_DOLLAR),
        )
    ref = request_ref(caller.account_id, synthesis_id, request.sha256)
    plan = _plan(form, request, ref, generator, seed_sha256, rates)
    cost = Pricing(plan, prompt_sizes(plan, request, seed_sizes)).range()
    return Planned(plan, request, cost, max_cost_of(form))


def max_cost_of(form: SynthesisForm) -> int | None:
    """Return the maximum cost of a form in micro-dollars, if it has one. Raise Invalid."""
    return micros_of(form.max_cost, field="max_cost") if form.max_cost else None


def repeated_plan(caller: Caller, existing: Synthesis, form: SynthesisForm) -> SynthesisPlan:
    """Return an approved form's plan without look-ups. Equal choices mean the same form."""
    request = _request(form)
    generator = Generator(deployment_id=None, endpoint_id=form.endpoint, model=form.model)
    ref = request_ref(caller.account_id, existing.id, request.sha256)
    return _plan(form, request, ref, generator, None, FREE)


def _request(form: SynthesisForm) -> SynthesisRequest:
    return SynthesisRequest(
        name=form.name,
        instructions=form.instructions,
        topics=tuple(form.topics),
        documents=tuple(form.documents),
        system=form.system,
        external_model=form.endpoint_model,
    )


def _plan(
    form: SynthesisForm,
    request: SynthesisRequest,
    ref: str,
    generator: Generator,
    seed_sha256: str | None,
    rates: TokenRates,
) -> SynthesisPlan:
    return SynthesisPlan(
        request_ref=ref,
        request_sha256=request.sha256,
        sources=request.sources(seeded=form.seed_dataset is not None),
        seed_dataset_id=form.seed_dataset,
        seed_dataset_sha256=seed_sha256,
        examples=form.examples,
        turns=form.turns,
        personas=form.personas,
        generator=generator,
        judged=form.judge,
        least_score=form.least_score if form.judge else 0,
        answer_tokens=form.answer_tokens,
        attempts=form.attempts,
        temperature=form.temperature,
        top_p=form.top_p,
        seed=form.seed,
        similarity=form.similarity,
        rates=rates,
    )


def _generator(backend: Backend, caller: Caller, form: SynthesisForm) -> Generator:
    if (form.model is None) == (form.endpoint is None):
        raise Invalid(
            "Choose the model that writes the examples: either a deployed `model`, or an external "
            "`endpoint` with an `endpoint_model`.",
            field="model",
        )
    with backend.pool.connection() as connection:
        if form.endpoint is not None:
            if endpoint_of(connection, caller.account_id, form.endpoint) is None:
                raise Invalid(
                    f"Unknown endpoint {form.endpoint}. See GET /api/synthesis-endpoints.",
                    field="endpoint",
                )
            if form.endpoint_model is None:
                raise Invalid(
                    "Enter the name of the model at the endpoint.", field="endpoint_model"
                )
            return Generator(deployment_id=None, endpoint_id=form.endpoint, model=None)
        assert form.model is not None
        row = deployment_named(connection, caller.account_id, form.model)
    if row is None or row["status"] != DeploymentStatus.ACTIVE:
        state = "does not exist or is not deployed" if row is None else f"is {row['status']}"
        raise WrongState(
            f"The model {form.model!r} {state}. Choose a model that GET /api/models lists as "
            "active, or deploy it.",
            field="model",
        )
    return Generator(deployment_id=row["deployment_id"], endpoint_id=None, model=form.model)


def _seeds(
    backend: Backend, caller: Caller, form: SynthesisForm
) -> tuple[str | None, tuple[int, ...]]:
    if form.seed_dataset is None:
        return None, ()
    own_dataset(backend, caller, form.seed_dataset)
    dataset = backend.log.load(Dataset, form.seed_dataset)
    if dataset.status is not DatasetStatus.READY_FOR_TRAINING:
        raise WrongState(
            f"The seed dataset is {dataset.status}. Choose one that is ready for training.",
            field="seed_dataset",
        )
    try:
        sizes = _seed_sizes(backend.artifacts, dataset.ref, form.seed)
    except FileNotFoundError:
        raise WrongState(
            "The seed dataset was deleted. Choose another one.", field="seed_dataset"
        ) from None
    if not sizes:
        raise Invalid(
            f"The first {READ_EXAMPLES:,} examples of the seed dataset, or its first "
            f"{MOST_BYTES // 1024**2} MiB, have no chat of at most {MOST_LINE_BYTES // 1024} KiB "
            "with texts of a user and an assistant. Choose another.",
            field="seed_dataset",
        )
    return dataset.sha256, sizes


@lru_cache(KEPT_SIZES)
def _seed_sizes(artifacts: Artifacts, ref: str, seed: int) -> tuple[int, ...]:
    """Return the sizes of a dataset's seed examples. The file with a ref never changes."""
    lines = lines_of(artifacts.stream(ref))
    return tuple(each.size for each in seed_examples(lines, seed))
