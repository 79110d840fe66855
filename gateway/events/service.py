"""Queries of events, for the API and the pages."""

from __future__ import annotations

from fastapi.concurrency import run_in_threadpool

from domain.access.role import Role
from domain.core.errors import Invalid
from gateway.backend import Backend
from gateway.events.feed import EventFeed, Page, read_log
from gateway.events.schemas import EventPage, EventsAsked, PageAsked
from gateway.http.access import Caller, until_expiry
from gateway.http.errors import Forbidden, Unauthenticated
from gateway.jobs.service import own_job
from projections.account_events import EventFilter


def interest_of(backend: Backend, caller: Caller, asked: EventsAsked) -> EventFilter:
    """Return the requested events if the caller may follow them."""
    if asked.all_accounts and caller.role not in (Role.OPERATOR, Role.AUDITOR):
        raise Forbidden(
            "Only operators and auditors can read events of all accounts. Omit `all_accounts`."
        )
    if asked.job is not None and not asked.all_accounts:
        own_job(backend, caller, asked.job)
    head = backend.log.recorder.max_notification_id() or 0
    if asked.after > head:
        raise Invalid(
            f"There is no event {asked.after} yet. The log ends at {head}. Use a lower `after`.",
            field="after",
        )
    return EventFilter(None if asked.all_accounts else caller.account_id, asked.job)


async def next_events(
    feed: EventFeed, caller: Caller, interest: EventFilter, asked: PageAsked
) -> EventPage:
    """Return a page of events. If there are none, wait up to the requested time for one.

    Raise RateLimited, or Unauthenticated if the caller's key ends before an event comes.
    """
    backend = feed.backend
    page = await run_in_threadpool(read_log, backend, interest, asked.after, asked.limit)
    if asked.wait and not page.events and not page.has_more:
        with (
            backend.quotas.slots.hold("sockets", caller.holder_id),
            feed.follow(interest, page.position, caller.key_id) as follower,
        ):
            async with until_expiry(backend, caller):
                page = await follower.next_page(asked.limit, asked.wait)
            if follower.revoked:
                raise Unauthenticated("This API key was revoked. Use another key.")
    return shown(page)


def read_events(backend: Backend, caller: Caller, asked: PageAsked) -> Page:
    """Return a page of events without waiting. Raise the errors of `interest_of`."""
    return read_log(backend, interest_of(backend, caller, asked), asked.after, asked.limit)


def shown(page: Page) -> EventPage:
    return EventPage(
        data=[event.answer for event in page.events],
        has_more=page.has_more,
        next_after=page.position,
    )
