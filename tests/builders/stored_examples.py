"""The stored examples of all events, in their current versions, as entries of a log."""

from __future__ import annotations

import json
from uuid import UUID

from eventsourcing.persistence import JSONTranscoder, StoredEvent
from eventsourcing.utils import resolve_topic

from domain.core.aggregate import Event
from domain.core.event_log import PydanticMapper
from domain.core.recorded import Recorded
from tests.docs.stored_events import current_version, examples, version_of


def _examples() -> list[Recorded]:
    mapper, found = PydanticMapper(JSONTranscoder()), list[Recorded]()
    for number, row in enumerate(examples(), start=1):
        if version_of(row["state"]) != current_version(resolve_topic(row["topic"])):
            continue
        id, state = UUID(row["originator_id"]), json.dumps(row["state"]).encode()
        stored = StoredEvent(id, row["originator_version"], row["topic"], state)
        event = mapper.to_domain_event(stored)
        assert isinstance(event, Event)
        found.append(Recorded.of(number, event))
    return found


EXAMPLES = _examples()
