"""Formats of log records: one line of text, or one JSON object on a line."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from domain.core.aggregate import current_cause
from infrastructure.process import tracing
from infrastructure.process.role import current_role

ESCAPED = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
"""Escapes of control characters, which could change how a terminal displays a log."""

EXTRA = ("request_id", "method", "path", "status", "duration_ms")
"""Fields that a record may have in addition, in the order of the JSON object."""


class OneLine(logging.Formatter):
    """A formatter of records as one line.

    The line has the UTC time, level, role if the process has several, logger, message and escaped
    traceback.
    """

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(role)s%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line without control characters."""
        role = current_role()
        record.role = "" if role is None else f"{role.name}/"
        return super().format(record).replace("\n", " ⏎ ").translate(ESCAPED)


class JsonLine(logging.Formatter):
    """A formatter of records as JSON objects, with the command that the record belongs to.

    `command_id` is that of the events of the command; for an HTTP request, it is the request ID.
    `causation_id` is the ID of the event that a handler reacts to. `trace_id` and `span_id` are
    those of the current span.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        role = current_role()
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process if role is None else role.name,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: vars(record)[name] for name in EXTRA if name in vars(record)}
        try:
            cause = current_cause()
        except LookupError:
            pass
        else:
            fields["actor"], fields["command_id"] = cause.actor, cause.command_id
            if cause.causation_id is not None:
                fields["causation_id"] = cause.causation_id
        fields |= tracing.ids()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)
