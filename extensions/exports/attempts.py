"""Decisions on failed attempts of exports and pushes: another attempt, or the end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

import psycopg
from eventsourcing.persistence import PersistenceError
from obstore.exceptions import BaseError

from infrastructure.artifacts.store import DENIED
from infrastructure.process.full_disk import NoSpace, lacks_space
from infrastructure.process.limited_process import LimitExceeded, TimedOut

OUTAGES = (BaseError, psycopg.Error, PersistenceError)
"""Errors of an unreachable store or database, which end no export and no push."""

Key = TypeVar("Key", bound=Hashable)


class Final(Exception):
    """An export or a push fails, with a code and a message for the account holder."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Repeated(Exception):
    """An attempt failed with this code and message, and the next one may succeed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Attempts(Generic[Key]):
    """Counts the failed attempts of exports or pushes, except those in an outage."""

    def __init__(self, most: int, logger: logging.Logger) -> None:
        """Allow `most` failed attempts. The last one is final."""
        self._most = most
        self._failed = Counter[Key]()
        self._logger = logger

    def end(self, key: Key) -> None:
        """Forget a key that has ended."""
        self._failed.pop(key, None)

    def final(self, key: Key, error: Exception) -> Final | None:
        """Return the failure that an error is, or None if another attempt may succeed."""
        match error:
            case Final():
                return error
            case TimedOut():
                return Final("timed_out", str(error))
            case LimitExceeded():
                return Final("limit_exceeded", str(error))
            case NoSpace():
                return Final("no_space", str(error))
            case _ if lacks_space(error):
                return Final("no_space", "The disk of EcoLink is full.")
            case _ if isinstance(error, OUTAGES) and not isinstance(error, DENIED):
                return None
        self._failed[key] += 1
        if self._failed[key] < self._most:
            return None
        self._logger.error("%s fails after %d attempts", key, self._most, exc_info=error)
        if isinstance(error, DENIED):
            return Final("store_denied", "The artifact store denied access to the exporter.")
        if isinstance(error, Repeated):
            return Final(error.code, str(error))
        return Final("failed", f"{self._most} attempts failed.")
