"""A service declares the events that it handles. All others pass without being decoded."""

from __future__ import annotations

from typing import Any

import pytest

from domain.core.topics import topics_of
from infrastructure.event_handlers import EventHandler
from infrastructure.settings import Settings
from services.billing import handlers as billing
from services.datasets import handlers as datasets
from services.scheduler import handlers as scheduler
from services.serving import handlers as serving
from tests.builders.stored_examples import EXAMPLES


class Touched(Exception):
    """A handler used what it needs to handle an event."""


class Untouchable:
    """A dependency of a handler that cannot be used."""

    def __getattr__(self, name: str) -> Any:
        raise Touched


OUT: Any = Untouchable()
SCHEDULING = scheduler.Scheduling(OUT, OUT, OUT, OUT, OUT, Settings())

HANDLERS = {
    "billing": EventHandler(billing.ANSWERS, billing.Metering(OUT, OUT, OUT).handle),
    "datasets": EventHandler(datasets.ANSWERS, lambda event: datasets.clean(OUT, OUT, OUT, event)),
    "scheduler": EventHandler(scheduler.ANSWERS, SCHEDULING.handle),
    "serving": EventHandler(serving.ANSWERS, serving.Serving(OUT, OUT, OUT, OUT, OUT).handle),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS.keys())
def test_a_service_declares_the_events_that_it_handles(handler: EventHandler) -> None:
    handled = set[str]()
    for each in EXAMPLES:
        try:
            assert handler.handle(each.event) == []
        except Touched:
            handled.add(each.topic)
    assert handled == topics_of(*handler.answers)
