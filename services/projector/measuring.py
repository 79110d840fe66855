"""Keeps telemetry and log lines as rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from psycopg_pool import ConnectionPool
from pydantic import ValidationError

from infrastructure.measurements import add_evaluation, add_log_line, add_step
from infrastructure.reports import EvaluationMeasured, LogLine, Message, StepMeasured
from infrastructure.store import Connection

M = TypeVar("M", bound=Message)


def keep_steps(pool: ConnectionPool[Connection], messages: Sequence[dict[str, Any]]) -> None:
    """Store a batch of optimizer steps in one transaction."""
    with pool.connection() as connection, connection.transaction():
        for step in _readable(StepMeasured, messages):
            add_step(connection, step)


def keep_evaluations(pool: ConnectionPool[Connection], messages: Sequence[dict[str, Any]]) -> None:
    """Store a batch of evaluations in one transaction."""
    with pool.connection() as connection, connection.transaction():
        for evaluation in _readable(EvaluationMeasured, messages):
            add_evaluation(connection, evaluation)


def keep_log_lines(pool: ConnectionPool[Connection], messages: Sequence[dict[str, Any]]) -> None:
    """Store a batch of log lines in one transaction."""
    with pool.connection() as connection, connection.transaction():
        for line in _readable(LogLine, messages):
            add_log_line(connection, line)


def _readable(kind: type[M], messages: Sequence[dict[str, Any]]) -> Iterator[M]:
    """The messages that can be read; the others are dropped, and logged."""
    for message in messages:
        try:
            yield kind.model_validate(message)
        except ValidationError as error:
            logging.getLogger("measurements").warning("dropping a message: %s", error)
