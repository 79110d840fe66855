"""Streams and their contents for tests of the relay."""

from __future__ import annotations

import pytest
from nats.js import JetStreamContext

from infrastructure.bus.streams import EVENTS, STREAMS, provision


@pytest.fixture
async def streams(js: JetStreamContext) -> None:
    """Create the streams, with a short deduplication window."""
    await provision(js, ())
    (declared,) = [config for config in STREAMS if config.name == EVENTS]
    await js.update_stream(declared.evolve(duplicate_window=0.1))
