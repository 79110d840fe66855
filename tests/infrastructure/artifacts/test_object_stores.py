"""S3 that breaks connections, is away, or has parts of a failed upload."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from obstore.exceptions import BaseError

from infrastructure.artifacts.object_stores import PATIENT_SECONDS, s3_location
from infrastructure.artifacts.s3_bucket import Bucket
from infrastructure.artifacts.store import MANIFEST, PART_BYTES, ArtifactCorrupt, Artifacts
from tests.gate import Gate
from tests.polling import eventually

CONTENT = os.urandom(3 * PART_BYTES)


@pytest.fixture
def impatient(gate: Gate, s3_url: str) -> Artifacts:
    """Artifacts that repeat no request."""
    return Artifacts(s3_url, patience_seconds=0)


@pytest.fixture
def patient(gate: Gate, s3_url: str) -> Artifacts:
    return Artifacts(s3_url, patience_seconds=PATIENT_SECONDS)


def downloads(gate: Gate, ref: str) -> list[str]:
    return [each for each in gate.requests if each.startswith("GET") and f"/{ref}" in each]


def unfinished(s3_url: str) -> list[str]:
    return Bucket(s3_url).unfinished_uploads()


def test_a_location_has_a_bucket_and_a_prefix() -> None:
    assert s3_location("s3://bucket") == ("bucket", "")
    assert s3_location("s3://bucket/a/b/") == ("bucket", "a/b")


@pytest.mark.full
def test_a_broken_download_continues_where_it_broke(
    gate: Gate, impatient: Artifacts, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(CONTENT)
    impatient.put_directory("models/one", source)
    gate.requests.clear()
    gate.cut_next_after(2 * PART_BYTES)
    impatient.get_directory("models/one", tmp_path / "copy")
    assert (tmp_path / "copy/weights").read_bytes() == CONTENT
    whole, rest = downloads(gate, "weights")
    assert "bytes=" not in whole
    start, _, end = rest.partition("bytes=")[2].partition("-")
    assert PART_BYTES < int(start) <= 2 * PART_BYTES
    assert int(end) == len(CONTENT) - 1


def test_a_download_whose_object_changes_meanwhile_fails(
    gate: Gate, impatient: Artifacts, s3_url: str
) -> None:
    impatient.put("one", CONTENT)
    gate.cut_next_after(PART_BYTES)
    chunks = impatient.stream("one")
    next(chunks)
    impatient.put("one", CONTENT[::-1])
    with pytest.raises(BaseError):
        list(chunks)


def test_a_resumed_download_is_verified(gate: Gate, impatient: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(CONTENT)
    impatient.put_directory("models/one", source)
    impatient.put("models/one/weights", CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    gate.cut_next_after(PART_BYTES)
    with pytest.raises(ArtifactCorrupt):
        impatient.get_directory("models/one", tmp_path / "copy")
    assert len(downloads(gate, "weights")) == 2


@pytest.mark.full
def test_a_store_that_is_away_raises_a_store_error(gate: Gate, impatient: Artifacts) -> None:
    gate.close()
    for call in (
        lambda: impatient.put("a", b"1"),
        lambda: impatient.get("a"),
        lambda: impatient.exists("a"),
        lambda: impatient.delete("a"),
        lambda: impatient.list(""),
        lambda: impatient.create("a", b"1"),
    ):
        with pytest.raises(BaseError):
            call()


class Outage:
    """Closes the gate at the first request that contains a text, until `end`."""

    def __init__(self, gate: Gate, at: str) -> None:
        self._gate, self._at, self.began = gate, at, False
        gate.on_request = self._notice

    def _notice(self, request: str) -> None:
        if self._at in request and not self.began:
            self.began = True
            self._gate.close()

    def end(self) -> None:
        self._gate.open()


def in_background(call: Any) -> tuple[Thread, list[Exception]]:
    failures: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  # the test inspects it
            failures.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    return thread, failures


def test_an_upload_waits_while_the_store_is_away(
    gate: Gate, patient: Artifacts, s3_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    outage = Outage(gate, "partNumber=2")
    thread, failures = in_background(lambda: patient.put_file("one", path))
    eventually(lambda: outage.began)
    assert thread.is_alive()
    outage.end()
    thread.join()
    assert (failures, patient.get("one")) == ([], CONTENT)
    assert unfinished(s3_url) == []


def test_a_download_waits_while_the_store_is_away(gate: Gate, patient: Artifacts) -> None:
    patient.put("one", CONTENT)
    chunks = patient.stream("one")
    received = [next(chunks)]
    gate.close()
    thread, failures = in_background(lambda: received.extend(chunks))
    thread.join(0.2)
    gate.open()
    thread.join()
    assert (failures, b"".join(received)) == ([], CONTENT)


def test_an_upload_to_a_store_that_stays_away_fails_and_can_be_repeated(
    gate: Gate, impatient: Artifacts, s3_url: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(CONTENT)
    outage = Outage(gate, "partNumber=2")
    with pytest.raises(BaseError):
        impatient.put_directory("models/one", source)
    outage.end()
    assert not impatient.exists(f"models/one/{MANIFEST}")
    assert not impatient.exists("models/one/weights")
    assert unfinished(s3_url) == ["models/one/weights"], "the store was away; a bucket rule ends it"
    impatient.put_directory("models/one", source)
    assert impatient.get("models/one/weights") == CONTENT


@pytest.mark.parametrize("parts", [0, 1, 3])
async def test_a_stream_to_a_store_that_is_away_raises_a_store_error(
    gate: Gate, impatient: Artifacts, parts: int
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        for _ in range(parts):
            yield bytes(PART_BYTES)

    gate.close()
    with pytest.raises(BaseError):
        await impatient.put_stream("one", chunks())


async def test_a_failed_stream_leaves_no_parts(impatient: Artifacts, s3_url: str) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield CONTENT
        raise ConnectionResetError

    impatient.put("one", b"before")
    with pytest.raises(ConnectionResetError):
        await impatient.put_stream("one", failing())
    assert unfinished(s3_url) == []
