"""The report of a trainer in the artifact store, for a scheduler that cannot read its disk."""

from __future__ import annotations

import threading

from infrastructure.artifacts.store import STORE_ERRORS, Artifacts
from infrastructure.training.reports import SegmentSpec, stored_report_ref
from services.trainer.store_keys import StoreKeys

RETRY_SECONDS = 1.0


class StoredReport:
    """The newest report of a segment, which a thread stores again until it succeeds."""

    def __init__(self, url: str, spec: SegmentSpec, keys: StoreKeys | None = None) -> None:
        self._url, self._ref = url, stored_report_ref(spec.checkpoint_prefix)
        self._keys = keys if keys is not None and keys.limited else None
        self._changed = threading.Condition()
        self._newest: bytes | None = None  # not stored yet
        threading.Thread(target=self._run, name="stored report", daemon=True).start()

    def put(self, content: bytes) -> None:
        """Store a report soon. Return immediately."""
        with self._changed:
            self._newest = content
            self._changed.notify_all()

    def await_stored(self, seconds: float) -> bool:
        """Wait until the newest report is stored. Return False if that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._newest is None, seconds)

    def _run(self) -> None:
        artifacts: Artifacts | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None)
                content = self._newest
            assert content is not None
            try:
                artifacts = artifacts or Artifacts(self._url, credentials=self._keys)
                artifacts.put(self._ref, content)
            except STORE_ERRORS as error:
                print(f"WARNING the report was not stored yet: {error!r}", flush=True)
                threading.Event().wait(RETRY_SECONDS)
                continue
            with self._changed:
                if self._newest is content:
                    self._newest = None
                    self._changed.notify_all()
