"""The sealer process publishes the key that verifies its heads, which needs a second source."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from infrastructure.artifacts.store import Artifacts
from infrastructure.extensions import Extension
from infrastructure.postgres.event_rows import read_rows
from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import PUBLIC_KEY, SealArchive, SealDamaged, make_key, origin_of
from infrastructure.seals.proofs import SealStatus, evidence_of
from infrastructure.settings import Settings
from services.sealer import app, sealer
from services.sealer.app import seal
from services.sealer.sealer import Sealer
from tests.logs import grow
from tests.polling import eventually_async

OTHER, KEPT = (LogKey("ecolink/test", Ed25519PrivateKey.generate().public_key()) for _ in range(2))


def seal_until_exported(settings: Settings, key: LogKey) -> None:
    """Run the sealer until the archive has a head."""
    archive = SealArchive(Artifacts(settings.artifacts))

    async def is_exported() -> bool:
        return archive.last_head(key) is not None

    async def run() -> None:
        with leading(settings, "sealer") as leadership, connect(settings) as store:
            sealing = asyncio.create_task(seal(settings, leadership, store))
            await eventually_async(is_exported)
            sealing.cancel()
            with suppress(asyncio.CancelledError):
                await sealing

    asyncio.run(run())


@pytest.mark.parametrize("stored", [None, str(OTHER), "damaged"], ids=["no", "other", "damaged"])
def test_the_archive_has_the_key_of_the_sealer(
    settings: Settings, log: EventLog, monkeypatch: pytest.MonkeyPatch, stored: str | None
) -> None:
    monkeypatch.setattr(sealer, "SEAL_SECONDS", 0.0)
    grow(log, 10)
    artifacts = Artifacts(settings.artifacts)
    if stored is not None:
        artifacts.put(PUBLIC_KEY, stored.encode())
    with connect(settings) as store:
        origin = origin_of(log_identity(store))
    expected = LogKey(origin, make_key(settings.seal_key_file).public_key())
    seal_until_exported(settings, expected)
    assert SealArchive(artifacts).public_key() == expected


def test_a_sealer_without_the_key_of_a_sealed_log_makes_none(
    settings: Settings, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby on another machine has another home."""
    monkeypatch.setattr(sealer, "SEAL_SECONDS", 0.0)
    grow(log, 10)
    with connect(settings) as store:
        origin = origin_of(log_identity(store))
    archive = SealArchive(Artifacts(settings.artifacts))
    key = archive.sealing_key(settings.seal_key_file)
    seal_until_exported(settings, LogKey(origin, key.public_key()))
    settings.seal_key_file.unlink()
    with pytest.raises(SealDamaged, match="ECOLINK_SEAL_KEY"):
        archive.sealing_key(settings.seal_key_file)
    assert not settings.seal_key_file.exists()


def test_an_archive_without_a_readable_key_has_none(settings: Settings) -> None:
    artifacts = Artifacts(settings.artifacts)
    assert SealArchive(artifacts).public_key() is None
    artifacts.put(PUBLIC_KEY, b"damaged")
    with pytest.raises(SealDamaged, match=PUBLIC_KEY):
        SealArchive(artifacts).public_key()


def test_a_forged_key_and_head_do_not_verify_with_the_kept_key(
    settings: Settings, log: EventLog
) -> None:
    """The published key alone proves nothing: an attacker can replace it with the heads."""
    grow(log, 10)
    artifacts, forger = Artifacts(settings.artifacts), Ed25519PrivateKey.generate()
    forged = Sealer(SealArchive(artifacts), KEPT.origin, forger, lambda: datetime.now(UTC))
    with connect(settings) as store:
        while forged.step(store):
            pass
        forged.export()
        SealArchive(artifacts).put_public_key(forged.log_key)
        (row,) = read_rows(store, 0, 1)
    found = evidence_of(row, SealArchive(artifacts))
    assert found.status is SealStatus.PROVEN  # as far as the published key can tell
    assert found.proof is not None
    assert found.proof.failures(KEPT) == [f"The head is not signed by the key of {KEPT.origin}."]


def test_an_extension_that_fails_starts_again_and_sealing_goes_on(
    settings: Settings, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealer, "SEAL_SECONDS", 0.0)
    monkeypatch.setattr(app, "RETRY_SECONDS", 0.01)
    starts: list[Leadership] = []

    async def failing(_settings: Settings, leadership: Leadership) -> None:
        starts.append(leadership)
        raise ValueError("unexpected")

    extension = Extension(
        package="tests", summary="An example.", signed_documents={"documents": "app:failing"}
    )
    monkeypatch.setattr(Extension, "load", lambda *_: failing)
    monkeypatch.setattr(app, "selected", lambda: (extension,))
    archive = SealArchive(Artifacts(settings.artifacts))
    public = make_key(settings.seal_key_file).public_key()

    async def run() -> None:
        with leading(settings, "sealer") as leadership, connect(settings) as store:
            key = LogKey(origin_of(log_identity(store)), public)

            async def is_sealed() -> bool:
                head = archive.last_head(key)
                return len(starts) >= 3 and head is not None

            sealing = asyncio.create_task(app.seal_and_sign(settings, leadership))
            grow(log, 10)
            await eventually_async(is_sealed)
            assert not sealing.done()
            sealing.cancel()
            with suppress(asyncio.CancelledError):
                await sealing

    asyncio.run(run())
