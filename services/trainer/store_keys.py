"""The keys with which a trainer uses the artifact store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from infrastructure.bus.exchange import read
from infrastructure.training.reports import SegmentSpec, StoreCredentials

if TYPE_CHECKING:
    from obstore.store import S3Credential

RENEWED = "store-keys.json"
"""File next to the spec with the newest keys, which all ranks of the segment read."""


class StoreKeys:
    """The newest keys of a segment: those of its spec, until rank 0 receives others."""

    def __init__(self, spec: SegmentSpec, directory: Path) -> None:
        self._newest, self._path = spec.store, directory / RENEWED

    @property
    def limited(self) -> bool:
        """True if the segment has keys of its own."""
        return self._newest is not None

    def renew(self, credentials: StoreCredentials) -> None:
        """Store newer keys for all ranks, readable for this user alone."""
        if credentials == self._newest:
            return
        partial = self._path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(credentials.model_dump_json())
        partial.rename(self._path)
        self._newest = credentials

    def __call__(self) -> S3Credential:
        newest = self._newest
        assert newest is not None, "the segment has no keys of its own"
        try:
            renewed = read(StoreCredentials, self._path.read_bytes())
        except FileNotFoundError:
            renewed = newest
        return max(newest, renewed, key=lambda each: each.expires_at).for_obstore()
