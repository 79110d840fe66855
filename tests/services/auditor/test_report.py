"""The report of a verification, and its verdict."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.tree_head import LogKey, TreeHead
from gateway.audit.verification.report import read_report
from infrastructure.seals.verifications import Verdict
from services.auditor.report import Circumstances, KeySource, Results, report
from services.projector.artifact_check import ArtifactFindings
from services.projector.audit import Comparison, Findings, Table
from services.projector.store_checks import Difference, DifferenceKind
from services.sealer.verification import SealFindings, TamperKind, Trust

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HEAD = TreeHead("ecolink/test", 3, b"r" * 32, 9, NOON)
KEY = LogKey("ecolink/test", Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key())
UNEQUAL = Comparison("accounts", "accounts", 9, 0, Table(2, "a" * 64), Table(1, "b" * 64))


def seals(*kinds: TamperKind) -> SealFindings:
    found = SealFindings(position=9, is_complete=True, head=HEAD, heads=2, events=3)
    for kind in kinds:
        found.add(kind, 7, 7, f"Event 7: {kind}.")
    return found


def replay(*kinds: DifferenceKind) -> Findings:
    differences = [Difference(kind, kind) for kind in kinds]
    return Findings(events=3, lags=Counter(accounts=4), tables=[UNEQUAL], differences=differences)


def document(results: Results) -> str:
    of = Circumstances(Trust(KEY, [HEAD]), KeySource.GIVEN, 2, NOON, NOON)
    return json.dumps(report(results, of), default=str)


@pytest.mark.parametrize(
    ("results", "verdict", "count"),
    [
        (Results(seals(), replay(), None), Verdict.MATCHES, 0),
        (Results(SealFindings(), None, None), Verdict.NOT_PROVEN, 0),
        (Results(replace(seals(), since=4), None, None), Verdict.PARTIAL, 0),
        (Results(replace(seals(), since=9), None, None), Verdict.NOT_PROVEN, 0),
        (Results(replace(seals(), unsealed=3), None, None), Verdict.MATCHES, 0),
        (Results(replace(seals(), unsealed=4), None, None), Verdict.PARTIAL, 0),
        (Results(replace(seals(), events=5_000, unsealed=1_000), None, None), Verdict.MATCHES, 0),
        (Results(replace(seals(), events=5_000, unsealed=1_001), None, None), Verdict.PARTIAL, 0),
        (Results(replace(seals(), is_complete=False), None, None, True), Verdict.PARTIAL, 0),
        (Results(seals(TamperKind.CHANGED), None, None, True), Verdict.DIFFERS, 1),
        (Results(seals(TamperKind.DELETED), None, None), Verdict.DIFFERS, 1),
        (Results(SealFindings(), replay(DifferenceKind.TABLE), None), Verdict.DIFFERS, 1),
        (
            Results(
                seals(*[TamperKind.CHANGED] * 150),
                replay(DifferenceKind.TABLE),
                ArtifactFindings(differences=[Difference(DifferenceKind.ARTIFACT, "x")]),
            ),
            Verdict.DIFFERS,
            152,
        ),
    ],
)
def test_the_verdict_counts_all_differences(results: Results, verdict: Verdict, count: int) -> None:
    assert (results.verdict, results.differences) == (verdict, count)


@pytest.mark.parametrize(
    ("results", "summary"),
    [
        (Results(seals(), None, None), "Events 1 to 9 match their seals."),
        (
            Results(replace(seals(), unsealed=1), None, None),
            "Events 1 to 9 match their seals. 1 newer event is not proven yet.",
        ),
        (
            Results(replace(seals(), since=4, unsealed=1_200), None, None),
            "Events 5 to 9 match their seals. Events up to 4 were not compared. "
            "1,200 newer events are not proven yet.",
        ),
        (
            Results(seals(TamperKind.CHANGED), None, None),
            "Events 1 to 9 were compared with their seals.",
        ),
        (
            Results(replace(SealFindings(is_complete=True), unsealed=2), None, None),
            "No event was compared with a seal. 2 newer events are not proven yet.",
        ),
        (
            Results(replace(seals(), is_complete=False), None, None, stopped=True),
            "Stopped by request. Events 1 to 9 match their seals. Later events were not compared.",
        ),
        (
            Results(seals(), None, None, stopped=True),
            "Stopped by request. Events 1 to 9 match their seals.",
        ),
    ],
)
def test_the_summary_names_what_was_compared_and_what_was_not(
    results: Results, summary: str
) -> None:
    assert results.summary == summary


def test_a_report_says_when_with_which_key_and_with_which_options() -> None:
    made = json.loads(document(Results(seals(), None, None)))
    assert (made["started_at"], made["public_key"]) == (str(NOON), str(KEY))
    assert made["key_source"] == "given"
    options = made["options"]
    assert (options["since"], options["replay"], options["artifacts"]) == (2, False, False)
    assert options["kept_heads"][0]["root"] == HEAD.root.hex()
    assert not {"events", "artifacts"} & made.keys()


def test_only_an_event_that_the_log_has_gets_a_position() -> None:
    made = json.loads(document(Results(seals(*TamperKind), None, None)))
    found = {each["kind"]: each["position"] for each in made["seals"]["differences"]}
    positioned = {kind for kind, position in found.items() if position is not None}
    assert positioned == {TamperKind.CHANGED, TamperKind.INSERTED}


def test_the_page_reads_the_report() -> None:
    stored = ArtifactFindings(artifacts=2, files=5, total_bytes=7)
    shown = read_report(document(Results(seals(), replay(DifferenceKind.TABLE), stored)))
    assert shown.seals.sealed_at == NOON
    assert shown.replay is not None
    assert [(each.table, each.equal) for each in shown.replay.tables] == [("accounts", False)]
    assert [each.kind for each in shown.replay.differences] == ["table"]
    assert shown.artifacts is not None
    assert shown.artifacts.files == 5
    assert read_report(document(Results(seals(), None, None))).replay is None
