"""Storage of telemetry and log lines as rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg_pool import ConnectionPool
from pydantic import ValidationError

from infrastructure.measurements import add_evaluation, add_log_line, add_step
from infrastructure.reports import EvaluationMeasured, LogLine, Message, StepMeasured
from infrastructure.store import Connection

M = TypeVar("M", bound=Message)


def store_steps(pool: ConnectionPool[Connection], messages: Sequence[object]) -> None:
    """Store a batch of optimizer steps in one transaction."""
    _keep(pool, _readable(StepMeasured, messages), add_step)


def store_evaluations(pool: ConnectionPool[Connection], messages: Sequence[object]) -> None:
    """Store a batch of evaluations in one transaction."""
    _keep(pool, _readable(EvaluationMeasured, messages), add_evaluation)


def store_log_lines(pool: ConnectionPool[Connection], messages: Sequence[object]) -> None:
    """Store a batch of log lines in one transaction."""
    _keep(pool, _readable(LogLine, messages), add_log_line)


def _readable(kind: type[M], messages: Sequence[object]) -> list[M]:
    """Return the valid messages. Log and drop invalid ones."""
    found: list[M] = []
    for message in messages:
        try:
            found.append(kind.model_validate(message))
        except ValidationError as error:
            logging.getLogger("measurements").warning("dropping an invalid message: %s", error)
    return found


def _keep(
    pool: ConnectionPool[Connection], rows: Sequence[M], add: Callable[[Connection, M], None]
) -> None:
    """Add rows. If the database rejects a row, drop only that row."""
    with pool.connection() as connection:
        try:
            with connection.transaction():
                for row in rows:
                    add(connection, row)
        except psycopg.DataError as error:
            if len(rows) == 1:
                logging.getLogger("measurements").warning("dropping a row: %s", error)
                return
        else:
            return
    for row in rows:
        _keep(pool, [row], add)
