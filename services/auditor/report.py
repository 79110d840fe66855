"""The report of a verification, the same for the command line and for the pages."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from domain.audit.tree_head import TreeHead
from infrastructure.seals.verifications import Verdict
from services.projector.artifact_check import ArtifactFindings
from services.projector.audit import Findings
from services.sealer.sealer import SEAL_EVENTS
from services.sealer.verification import SealFindings, Tampering, TamperKind, Trust

IN_THE_LOG = {TamperKind.CHANGED, TamperKind.INSERTED}
"""Differences that are about one event that the log still has."""


NORMAL_UNSEALED = SEAL_EVENTS
"""Most events without a head of a log whose sealer keeps up."""


class KeySource(StrEnum):
    """The place that the public key of a verification comes from."""

    GIVEN = "given"
    """The person who verifies entered it."""
    KEY_FILE = "key_file"
    """The private key on the machine of the operator."""
    ARCHIVE = "archive"
    """The archive with the seals, where the sealer publishes it."""


@dataclass(frozen=True)
class Circumstances:
    """The trust, the options and the times of a verification."""

    trust: Trust
    key_source: KeySource
    since: int
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True)
class Results:
    """The findings of a verification. Those of an omitted or stopped stage are None."""

    seals: SealFindings
    replay: Findings | None
    artifacts: ArtifactFindings | None
    stopped: bool = False
    """True if a person stopped the verification."""

    @property
    def differences(self) -> int:
        """The number of differences, including those that are only counted."""
        others = (each for each in (self.replay, self.artifacts) if each is not None)
        return sum(self.seals.counts.values()) + sum(len(each.differences) for each in others)

    @property
    def verdict(self) -> Verdict:
        if self.differences:
            return Verdict.DIFFERS
        if not self._compared:
            return Verdict.NOT_PROVEN
        return Verdict.PARTIAL if self._is_partial else Verdict.MATCHES

    @property
    def summary(self) -> str:
        """The events that were compared with their seals, and those that were not, for people."""
        seals = self.seals
        texts = ["Stopped by request."] if self.stopped else []
        if not self._compared:
            texts.append("No event was compared with a seal.")
        else:
            verb = "were compared with" if seals.counts else "match"
            texts.append(f"Events {seals.since + 1} to {seals.position} {verb} their seals.")
            if seals.since:
                texts.append(f"Events up to {seals.since} were not compared.")
        if not seals.is_complete:
            texts.append("Later events were not compared.")
        elif seals.unsealed == 1:
            texts.append("1 newer event is not proven yet.")
        elif seals.unsealed:
            texts.append(f"{seals.unsealed:,} newer events are not proven yet.")
        return " ".join(texts)

    @property
    def _compared(self) -> bool:
        return self.seals.position > self.seals.since

    @property
    def _is_partial(self) -> bool:
        """True if more is unproven than the newest events, which the sealer has not sealed yet."""
        seals = self.seals
        newest = min(NORMAL_UNSEALED, seals.events)
        return self.stopped or seals.since > 0 or seals.unsealed > newest


def report(results: Results, of: Circumstances) -> dict[str, Any]:
    """Return the report as a JSON document. Its times are datetimes.

    The findings of the replay are at the top level. They are missing if there was no replay.
    """
    replay, artifacts, trust = results.replay, results.artifacts, of.trust
    document: dict[str, Any] = {
        "verdict": results.verdict,
        "summary": results.summary,
        "stopped": results.stopped,
        "started_at": of.started_at,
        "finished_at": of.finished_at,
        "public_key": str(trust.key),
        "key_source": of.key_source,
        "options": {
            "since": of.since,
            "replay": replay is not None,
            "artifacts": artifacts is not None,
            "kept_heads": [_head(each) for each in trust.kept],
            "timestamp_roots": len(trust.roots),
        },
        "seals": _seals(results.seals),
    }
    if replay is not None:
        tables = [asdict(each) | {"equal": each.equal} for each in replay.tables]
        document |= vars(replay) | {"tables": tables} | _differences(replay)
    if artifacts is not None:
        document["artifacts"] = vars(artifacts) | _differences(artifacts)
    return document


def _differences(found: Findings | ArtifactFindings) -> dict[str, object]:
    return {"differences": [each._asdict() for each in found.differences]}


def _seals(seals: SealFindings) -> dict[str, Any]:
    nothing = {"size": 0, "root": None, "last_event": 0, "sealed_at": None}
    return {
        "events": seals.events,
        "position": seals.position,
        "unsealed": seals.unsealed,
        "heads": seals.heads,
        **(_head(seals.head) if seals.head else nothing),
        "timestamps": [each._asdict() for each in seals.timestamps],
        "counts": seals.counts,
        "differences": [_tampering(each) for each in seals.differences],
    }


def _tampering(found: Tampering) -> dict[str, object]:
    position = found.first if found.kind in IN_THE_LOG else None
    return {**found._asdict(), "position": position}


def _head(head: TreeHead) -> dict[str, object]:
    return {
        "size": head.size,
        "root": head.root.hex(),
        "last_event": head.last_event,
        "sealed_at": head.sealed_at,
    }
