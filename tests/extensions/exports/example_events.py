"""An export and a push, for the test that repeated events change no read model."""

from __future__ import annotations

from uuid import uuid4

from domain.core.event_log import EventLog
from extensions.exports.domain.export import Export, ExportFormat
from extensions.exports.domain.hub_push import HubPush
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.extensions.exports.test_export import SOURCE, files


def add(log: EventLog) -> None:
    """Complete an export, and request its push."""
    export = Export.request(ACCOUNT_ID, JOB_ID, "ft:tiny:1", ExportFormat.GGUF_F16, SOURCE)
    export.complete(files(export), {}, None)
    log.commit(export, HubPush.request(uuid4(), export))
