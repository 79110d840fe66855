"""Functions of syntheses that the API and the pages call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from domain.billing.account import Account
from domain.billing.token_rates import TokenRates, TokenUsage
from domain.core.aggregate import because
from domain.core.errors import WrongState
from domain.core.identity import created_id
from domain.core.money import Toward, micros_of
from extensions.synthesis import synthesis_rows as rows
from extensions.synthesis.domain.synthesis import (
    StopReason,
    Synthesis,
    SynthesisFailure,
    SynthesisStatus,
)
from extensions.synthesis.domain.use_cases import Synthesizing, require_repetition
from extensions.synthesis.edits import EditCounts, counts_of_edits, edit_counts
from extensions.synthesis.endpoint_rows import SynthesisEndpoint, endpoints_of
from extensions.synthesis.names import set_synthesis_name, synthesis_names
from extensions.synthesis.planning import max_cost_of, planned, repeated_plan
from extensions.synthesis.reviewing import create_dataset
from extensions.synthesis.schemas import (
    SynthesisCounts,
    SynthesisEstimateResponse,
    SynthesisForm,
    SynthesisResponse,
)
from extensions.synthesis.synthesis_rows import SYNTHESES
from gateway.backend import Backend
from gateway.datasets.columns import UNNAMED
from gateway.datasets.schemas import DatasetResponse
from gateway.datasets.service import dataset_answer, show_dataset
from gateway.http.access import Caller
from gateway.http.read_your_writes import caught_up, found, room
from gateway.schemas import Money, Page
from infrastructure.postgres.store import Connection
from projections.projection import Row

EXPLANATIONS: dict[StopReason, str] = {
    StopReason.OWNER: "You paused the generation. Resume it to continue.",
    StopReason.BALANCE: "The balance does not pay for the next attempt. Top up, then resume.",
    StopReason.BUDGET: "A budget does not pay for the next attempt. Raise it, then resume.",
    StopReason.MAX_COST: "The maximum cost is used up. Resume with a higher one, or review what "
    "is accepted.",
    StopReason.ENDPOINT: "The model did not answer several times in a row. Check that it is "
    "deployed, or the endpoint, its key and its limits. Then resume.",
    StopReason.UNUSABLE: "The model answers, but none of its last attempts was usable. Change the "
    "model, or resume to try again.",
    StopReason.SUSPENDED: "The account was suspended. Resume after an operator reinstates it.",
    StopReason.ERROR: "The generation failed several times in a row with an unexpected error. "
    "Resume to try again, or report it to the operator.",
}

FAILURES: dict[SynthesisFailure, str] = {
    SynthesisFailure.REQUEST_LOST: "EcoLink no longer has the instructions. Start another one.",
    SynthesisFailure.SEED_LOST: "The seed dataset was deleted. Start another one.",
    SynthesisFailure.BATCH_LOST: "Stored attempts are missing. Ask your operator.",
}


def quote(backend: Backend, caller: Caller, form: SynthesisForm) -> SynthesisEstimateResponse:
    """Return the price of a synthesis. Raise the errors of `planned`."""
    found = planned(backend, caller, created_id(caller.account_id, "synthesis", "quote"), form)
    account = backend.log.load(Account, caller.account_id)
    high = found.cost.high_micros
    needed = high if found.max_cost_micros is None else min(high, found.max_cost_micros)
    rates = found.plan.rates
    return SynthesisEstimateResponse(
        low=Money.of(min(found.cost.low_micros, needed), Toward.DOWN),
        high=Money.of(needed, Toward.UP),
        external=found.plan.generator.external,
        prompt_price=Money.price(rates.prompt_micros),
        completion_price=Money.price(rates.completion_micros),
        most_attempts=found.plan.most_attempts,
        balance=Money.of(account.balance_micros),
        allowed=account.can_pay(needed, released_micros=account.reserved_micros),
    )


def approve(
    backend: Backend, caller: Caller, form: SynthesisForm, command_key: str
) -> SynthesisResponse:
    """Approve a synthesis, once per command key. A repetition must have the same form."""
    synthesis_id = created_id(caller.account_id, "synthesis", command_key)
    existing = backend.log.find(Synthesis, synthesis_id)
    if existing is not None:
        require_repetition(existing, repeated_plan(caller, existing, form), max_cost_of(form))
    else:
        _approve_new(backend, caller, synthesis_id, form)
    with backend.pool.connection() as connection:
        set_synthesis_name(connection, caller.account_id, synthesis_id, form.name)
    return show(backend, caller, synthesis_id)


def _approve_new(backend: Backend, caller: Caller, synthesis_id: UUID, form: SynthesisForm) -> None:
    found = planned(backend, caller, synthesis_id, form)
    adding = room(backend, "syntheses", caller.account_id, rows.unfinished, SYNTHESES)
    ref = found.plan.request_ref
    backend.artifacts.put(ref, found.request.content)
    try:
        with adding, because(caller.cause(backend)):
            Synthesizing(backend.log).approve(
                caller.account_id, synthesis_id, found.plan, found.cost, found.max_cost_micros
            )
    except Exception:
        winner = backend.log.find(Synthesis, synthesis_id)
        if winner is None or winner.plan.request_ref != ref:
            backend.artifacts.delete(ref)
        raise


def list_syntheses(
    backend: Backend, caller: Caller, after: UUID | None, limit: int
) -> Page[SynthesisResponse]:
    """Return the syntheses of the account, newest first. Raise NotFound for an unknown `after`."""
    if after is not None:
        own_row(backend, caller, after)
    with backend.pool.connection() as connection:
        read_rows = partial(rows.syntheses_of, connection, caller.account_id, after)
        page = Page[Row].of(read_rows, limit, lambda row: row)
        return Page(data=_answers(connection, page.data), has_more=page.has_more)


def own_row(backend: Backend, caller: Caller, synthesis_id: UUID) -> Row:
    """Return the row of the account's synthesis. Raise NotFound."""
    return found(
        backend,
        SYNTHESES,
        lambda connection: rows.synthesis_of(connection, caller.account_id, synthesis_id),
        f"Unknown synthesis {synthesis_id}. See `ecolink syntheses list`.",
    )


def show(backend: Backend, caller: Caller, synthesis_id: UUID) -> SynthesisResponse:
    """Return a synthesis of the account. Raise NotFound."""
    row = own_row(backend, caller, synthesis_id)
    with backend.pool.connection() as connection:
        (answer,) = _answers(connection, [row])
    return answer


Command = Callable[[UUID, UUID], Synthesis]


def give(
    backend: Backend, caller: Caller, synthesis_id: UUID, command: Command
) -> SynthesisResponse:
    """Give a command to a synthesis. Raise NotFound and the errors of the command."""
    own_row(backend, caller, synthesis_id)
    with because(caller.cause(backend)):
        command(caller.account_id, synthesis_id)
    caught_up(backend, SYNTHESES)
    return show(backend, caller, synthesis_id)


def resume(
    backend: Backend, caller: Caller, synthesis_id: UUID, max_cost: str | None
) -> SynthesisResponse:
    """Resume a generation. Raise the errors of `Synthesizing.resume`."""
    micros = micros_of(max_cost, field="max_cost") if max_cost else None
    return give(
        backend,
        caller,
        synthesis_id,
        lambda account_id, id: Synthesizing(backend.log).resume(account_id, id, micros),
    )


def finish(
    backend: Backend, caller: Caller, synthesis_id: UUID, name: str | None
) -> DatasetResponse:
    """Create the dataset of the reviewed examples, once. EcoLink then validates it.

    Raise NotFound, WrongState before the review, and QuotaExceeded.
    """
    own_row(backend, caller, synthesis_id)
    synthesis = Synthesizing(backend.log).owned(caller.account_id, synthesis_id)
    if synthesis.dataset_id is not None:
        return show_dataset(backend, caller, synthesis.dataset_id)
    with backend.pool.connection() as connection:
        removed = edit_counts(connection, synthesis_id).removed
        known = synthesis_names(connection, [synthesis_id]).get(synthesis_id)
    synthesis.require_finishable(removed)
    row = create_dataset(backend, caller, synthesis, name or known or UNNAMED)
    caught_up(backend, SYNTHESES)
    return dataset_answer(backend, row)


def _answers(connection: Connection, found: Sequence[Row]) -> list[SynthesisResponse]:
    ids = [row["synthesis_id"] for row in found]
    names, edits = synthesis_names(connection, ids), counts_of_edits(connection, ids)
    accounts = {row["account_id"] for row in found if row["pause_reason"] == StopReason.ENDPOINT}
    endpoints = {each.id: each for id in accounts for each in endpoints_of(connection, id)}
    return [
        _answer(
            row,
            names.get(row["synthesis_id"]),
            edits.get(row["synthesis_id"], EditCounts()),
            _explanation(endpoints, row),
        )
        for row in found
    ]


def _answer(
    row: Row, name: str | None, edits: EditCounts, explanation: str | None
) -> SynthesisResponse:
    rates = TokenRates(
        prompt_micros=row["prompt_micros"], completion_micros=row["completion_micros"]
    )
    usage = TokenUsage(
        prompt_tokens=row["prompt_tokens"], completion_tokens=row["completion_tokens"]
    )
    counts = {key: row[key] for key in ("accepted", "invalid", "rejected", "duplicates")}
    most = row["max_cost_micros"]
    fields: dict[str, Any] = {key: row[key] for key in SynthesisResponse.model_fields if key in row}
    return SynthesisResponse(
        **fields,
        id=row["synthesis_id"],
        name=name,
        examples=row["wanted"],
        explanation=explanation,
        counts=SynthesisCounts(attempts=sum(counts.values()), **counts),
        cost=Money.of(rates.charge_micros(usage)),
        low=Money.of(min(row["low_micros"], most), Toward.DOWN),
        high=Money.of(min(row["high_micros"], most), Toward.UP),
        max_cost=Money.of(most, Toward.UP),
        edited=edits.edited,
        removed=edits.removed,
        eta_seconds=_eta_seconds(row),
    )


def _explanation(endpoints: Mapping[UUID, SynthesisEndpoint], row: Row) -> str | None:
    if row["status"] == SynthesisStatus.FAILED:
        return FAILURES[SynthesisFailure(row["failure"])]
    if row["status"] != SynthesisStatus.PAUSED:
        return None
    reason, endpoint_id = StopReason(row["pause_reason"]), row["endpoint_id"]
    if reason is StopReason.ENDPOINT and endpoint_id is not None:
        endpoint = endpoints.get(endpoint_id)
        if endpoint is None:
            return "The endpoint was deleted. Review what is accepted, or start another synthesis."
        if endpoint.key_lost:
            return (
                f"A restore of a backup lost the key of the endpoint {endpoint.name}. Replace the "
                f"key of endpoint {endpoint.name}, then resume."
            )
    sentence = EXPLANATIONS[reason]
    status = row["pause_status"]
    return sentence if status is None else f"{sentence} Its last status was {status}."


def _eta_seconds(row: Row) -> int | None:
    """Return the seconds until all examples are accepted, at the speed so far, without pauses."""
    if row["status"] != SynthesisStatus.GENERATING or not row["accepted"]:
        return None
    taken = (row["changed_at"] - row["approved_at"]).total_seconds() - row["paused_seconds"]
    return round(taken * (row["wanted"] - row["accepted"]) / row["accepted"])


def require_unused(backend: Backend, caller: Caller, dataset_id: UUID) -> None:
    """Raise WrongState while unfinished syntheses use a dataset as their seed."""
    caught_up(backend, SYNTHESES)
    with backend.pool.connection() as connection:
        found = rows.unfinished_with_seed(connection, caller.account_id, dataset_id)
    if found:
        one = len(found) == 1
        raise WrongState(
            f"{len(found):,} unfinished {'synthesis uses' if one else 'syntheses use'} this "
            f"dataset as the seed. Wait until the generation has ended, or cancel "
            f"{'it' if one else 'them'}.",
            figures={"syntheses": [str(synthesis_id) for synthesis_id in found]},
        )
