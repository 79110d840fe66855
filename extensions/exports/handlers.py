"""The event handlers of the exporter, which delete files."""

from __future__ import annotations

from collections.abc import Sequence

from domain.core.aggregate import Aggregate
from domain.core.event_log import EventLog
from domain.jobs.events import ModelDeleted
from extensions.exports.domain.export import Export
from extensions.exports.domain.use_cases import exports_of_model
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.event_handlers import Handlers


class Cleaning:
    """Event handlers that delete the files of exports."""

    def __init__(self, log: EventLog, artifacts: Artifacts) -> None:
        self._log = log
        self._artifacts = artifacts

    @property
    def handlers(self) -> Handlers:
        """Event handlers, by event."""
        return {
            Export.ExportDeleted: self.on_deleted,
            Export.ExportExpired: self.on_deleted,
            ModelDeleted: self.on_model_deleted,
        }

    def on_deleted(self, event: Export.ExportDeleted | Export.ExportExpired) -> Sequence[Aggregate]:
        """Delete the files of all attempts, except those of one that was requested since."""
        export = self._log.load(Export, event.originator_id)
        kept = export.ref if export.status.is_wanted else None
        stored = {ref.rpartition("/")[0] for ref in self._artifacts.list(export.home)}
        for directory in sorted(stored - {kept}):
            self._artifacts.delete_directory(directory)
        return []

    def on_model_deleted(self, event: ModelDeleted) -> Sequence[Aggregate]:
        """Delete the exports of a deleted model."""
        exports = exports_of_model(self._log, event.originator_id)
        for export in exports:
            export.delete()
        return exports
