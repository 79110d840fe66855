"""Exports: states, repeated requests and attempts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from domain.core.aggregate import Cause, because
from extensions.exports.domain.export import (
    Export,
    ExportedFiles,
    ExportFormat,
    ExportSource,
    ExportStatus,
)
from extensions.exports.domain.failures import EXPORT_ADVICE, EXPORT_AGAIN, export_advice
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID

SOURCE = ExportSource(
    base_model="tiny",
    base_ref="models/tiny/1",
    base_manifest_sha256="b" * 64,
    adapter_ref="jobs/a",
    adapter_manifest_sha256="a" * 64,
)
LATER = NOW + timedelta(days=7)


@pytest.fixture(autouse=True)
def cause() -> Iterator[None]:
    with because(Cause("service:test", "1", NOW)):
        yield


@pytest.fixture
def export() -> Export:
    return Export.request(ACCOUNT_ID, JOB_ID, "ft:tiny:1", ExportFormat.GGUF_F16, SOURCE)


def files(export: Export, attempt: int | None = None) -> ExportedFiles:
    ref = export.ref if attempt is None else f"{export.home}/{attempt}"
    return ExportedFiles(ref=ref, manifest_sha256="d" * 64, total_bytes=9)


def test_a_wanted_export_is_not_renewed(export: Export) -> None:
    export.renew(SOURCE)
    assert (export.version, export.attempt) == (1, 1)
    export.complete(files(export), {}, LATER)
    export.renew(SOURCE)
    assert (export.status, export.version) == (ExportStatus.READY, 2)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda export: export.fail("no_space", "Full."), ExportStatus.FAILED),
        (lambda export: export.delete(), ExportStatus.DELETED),
    ],
)
def test_an_ended_export_is_renewed_in_another_place(
    export: Export, end: Callable[[Export], None], status: ExportStatus
) -> None:
    first = export.ref
    end(export)
    assert export.status is status
    export.renew(SOURCE)
    assert (export.status, export.attempt) == (ExportStatus.PENDING, 2)
    assert export.ref != first
    assert export.ref.startswith(f"exports/{ACCOUNT_ID}/")


def test_files_of_an_earlier_attempt_are_ignored(export: Export) -> None:
    export.delete()
    export.renew(SOURCE)
    export.complete(files(export, attempt=1), {}, LATER)
    assert export.status is ExportStatus.PENDING


def test_an_export_expires_only_after_its_time(export: Export) -> None:
    export.complete(files(export), {}, LATER)
    export.expire(LATER - timedelta(seconds=1))
    assert export.status is ExportStatus.READY
    export.expire(LATER)
    assert (export.status, export.files) == (ExportStatus.EXPIRED, None)


def test_results_of_a_deleted_export_have_no_effect(export: Export) -> None:
    export.delete()
    export.complete(files(export), {}, LATER)
    export.fail("no_space", "Full.")
    export.delete()
    assert (export.status, export.version) == (ExportStatus.DELETED, 2)


def test_each_failure_has_advice() -> None:
    assert export_advice("no_space") == EXPORT_ADVICE["no_space"]
    assert export_advice("failed") == EXPORT_AGAIN
