"""The parts of a report that the page of a verification shows."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from infrastructure.bus.exchange import read


class SealDifference(BaseModel):
    """A difference between the log and its seals."""

    kind: str
    text: str
    position: int | None
    """Position of the event that differs, if the log still has it."""


class SealReport(BaseModel):
    """The comparison of the log with its seals."""

    events: int
    unsealed: int
    heads: int
    size: int
    root: str | None
    last_event: int
    position: int = 0
    """The last compared event. Reports of earlier versions do not have it."""
    sealed_at: datetime | None
    counts: dict[str, int]
    differences: list[SealDifference]

    @property
    def unlisted(self) -> int:
        """The number of differences that are only counted."""
        return sum(self.counts.values()) - len(self.differences)


class Difference(BaseModel):
    """A difference between the log and the data derived from it, or an artifact."""

    kind: str
    text: str


class Content(BaseModel):
    """The number of rows of a table, and the hash of its rows."""

    rows: int
    sha256: str


class Comparison(BaseModel):
    """A stored table, and the same table replayed to the same position."""

    table: str
    position: int
    lag: int
    live: Content
    refolded: Content
    equal: bool


class ReplayReport(BaseModel):
    """The comparison of the read models with a replay."""

    events: int
    accounts: int
    meters: int
    minutes: int
    snapshots: int
    outdated_snapshots: int = 0
    trial_balance_micros: int
    tables: list[Comparison]
    differences: list[Difference]


class ArtifactReport(BaseModel):
    """The comparison of the artifact store with the log."""

    artifacts: int
    files: int
    total_bytes: int
    differences: list[Difference]


class KeptHead(BaseModel):
    """A head that the person who verified had kept."""

    size: int
    last_event: int


class ReportOptions(BaseModel):
    """The options of the verification."""

    replay: bool
    kept_heads: list[KeptHead]


class Report(BaseModel):
    """The report of a verification."""

    started_at: datetime
    finished_at: datetime
    public_key: str
    options: ReportOptions
    seals: SealReport
    replay: ReplayReport | None = None
    artifacts: ArtifactReport | None = None


def read_report(text: str) -> Report:
    """Parse a report. The replay is at the top level of the JSON."""
    report = read(Report, text)
    if report.options.replay:
        report.replay = read(ReplayReport, text)
    return report
