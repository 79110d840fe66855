"""Timestamps of heads by an authority, and their verification."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.x509 import load_pem_x509_certificates

from domain.core.event_log import EventLog
from infrastructure.seals.timestamps import TimestampRefused, request_timestamp
from infrastructure.settings import Settings
from services.sealer.app import timestamp_newest
from services.sealer.sealer import Sealer
from services.sealer.verification import SealFindings, TamperKind
from tests.infrastructure.timestamp_authority import Authority, timestamp_authority
from tests.logs import grow
from tests.services.sealer.test_sealer import KEY, ORIGIN, PUBLIC, Seals


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[Authority]:
    with timestamp_authority(tmp_path) as running:
        yield running


@pytest.fixture
def seals(settings: Settings, log: EventLog) -> Seals:
    """A sealed log of 60 events."""
    grow(log, 60)
    made = Seals(settings, log)
    made.seal()
    return made


def verified(seals: Seals, authority: Authority) -> SealFindings:
    return seals.verify(roots=load_pem_x509_certificates(authority.roots.read_bytes()))


def test_a_timestamp_confirms_the_time_of_the_newest_head(
    seals: Seals, authority: Authority
) -> None:
    assert timestamp_newest(seals.archive, PUBLIC, authority.url)
    grow(seals.log, 10)
    seals.seal()
    found = verified(seals, authority)
    (timestamp,) = found.timestamps
    assert found.differences == []
    assert found.head is not None
    assert timestamp.size < found.head.size
    assert abs((timestamp.time - found.head.sealed_at).total_seconds()) < 3600


def test_heads_without_a_timestamp_within_an_hour_are_a_difference(
    seals: Seals, authority: Authority
) -> None:
    """A log that was sealed again has heads with old times and no timestamps from then."""
    head = seals.archive.last_head(PUBLIC)
    assert head is not None
    grow(seals.log, 10)
    sealer = Sealer(seals.archive, ORIGIN, KEY, lambda: head.sealed_at + timedelta(hours=-9), 50)
    seals.artifacts.delete_directory("seals")
    seals.seal(sealer)
    assert verified(seals, authority).counts == {TamperKind.NOT_TIMESTAMPED: 1}
    timestamp_newest(seals.archive, PUBLIC, authority.url)
    assert verified(seals, authority).counts == {TamperKind.NOT_TIMESTAMPED: 1}


def test_a_head_receives_one_timestamp(seals: Seals, authority: Authority) -> None:
    assert timestamp_newest(seals.archive, PUBLIC, authority.url)
    assert not timestamp_newest(seals.archive, PUBLIC, authority.url)


def test_a_timestamp_of_another_authority_is_invalid(
    seals: Seals, authority: Authority, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with timestamp_authority(other) as untrusted:
        timestamp_newest(seals.archive, PUBLIC, untrusted.url)
    assert verified(seals, authority).counts == {TamperKind.TIMESTAMP_INVALID: 1}


def test_a_timestamp_of_another_head_is_invalid(seals: Seals, authority: Authority) -> None:
    timestamp_newest(seals.archive, PUBLIC, authority.url)
    ((_, first),) = seals.archive.timestamps()
    grow(seals.log, 10)
    seals.seal()
    head = seals.archive.last_head(PUBLIC)
    assert head is not None
    seals.archive.put_timestamp(head.size, first)
    seals.archive.put_timestamp(head.size + 1, first)
    assert verified(seals, authority).counts == {TamperKind.TIMESTAMP_INVALID: 2}


def test_a_damaged_timestamp_is_invalid(seals: Seals, authority: Authority) -> None:
    timestamp_newest(seals.archive, PUBLIC, authority.url)
    ((size, response),) = seals.archive.timestamps()
    seals.archive.put_timestamp(size, response[:-20])
    assert verified(seals, authority).counts == {TamperKind.TIMESTAMP_INVALID: 1}


def test_an_authority_that_fails_or_refuses_is_an_error(seals: Seals, tmp_path: Path) -> None:
    head = seals.archive.last_head(PUBLIC)
    assert head is not None
    with timestamp_authority(tmp_path, status=503) as failing, pytest.raises(httpx.HTTPStatusError):
        request_timestamp(failing.url, head)
    with (
        timestamp_authority(tmp_path, digests="sha512") as refusing,
        pytest.raises(TimestampRefused),
    ):
        request_timestamp(refusing.url, head)
