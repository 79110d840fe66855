"""`ecolink audit head --since` and `verify-head`: proofs that the log only grew."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from domain.audit.tree_head import LogKey
from domain.core.event_log import EventLog
from infrastructure.artifacts.store import Artifacts
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive, make_key, origin_of
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.deploy.operator.command_line import ecolink
from tests.logs import grow


def seal(settings: Settings, log: EventLog, events: int = 10) -> LogKey:
    """Add events to the log, and export a head."""
    grow(log, events)
    with connect(settings) as store:
        key, origin = make_key(settings.seal_key_file), origin_of(log_identity(store))
        archive = SealArchive(Artifacts(settings.artifacts))
        sealer = Sealer(archive, origin, key, lambda: datetime.now(UTC))
        sealer.resume(store)
        while sealer.step(store):
            pass
        sealer.export()
    return sealer.log_key


@pytest.fixture
def kept(settings: Settings, log: EventLog, tmp_path: Path) -> Path:
    """The file of an auditor with a head, after which the log grew."""
    seal(settings, log)
    file = tmp_path / "kept.txt"
    file.write_text(ecolink("audit", "head"))
    seal(settings, log)
    return file


def proof_since(kept: Path) -> Path:
    file = kept.with_name("proof.json")
    file.write_text(ecolink("audit", "head", "--since", str(kept)))
    return file


def verified(proof: Path, kept: Path, key: str, exit_code: int = 0) -> str:
    arguments = (str(proof), "--kept-head", str(kept), "--public-key", key)
    return ecolink("audit", "verify-head", *arguments, exit_code=exit_code)


def test_an_auditor_verifies_offline_that_the_log_only_grew(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, newest = ecolink("audit", "key").strip(), ecolink("audit", "head")
    proof = proof_since(kept)
    for name in ("ECOLINK_DATABASE_URL", "ECOLINK_NATS_URL", "ECOLINK_HOME"):
        monkeypatch.delenv(name, raising=False)
    output = verified(proof, kept, key)
    assert "begins with the" in output
    assert output.endswith(newest)
    assert newest != kept.read_text()


def test_the_same_head_is_consistent_with_itself(
    settings: Settings, log: EventLog, kept: Path
) -> None:
    key = str(seal(settings, log, 1))
    kept.write_text(ecolink("audit", "head"))
    assert json.loads(proof_since(kept).read_text())["consistency_proof"] == []
    assert verified(proof_since(kept), kept, key).endswith(kept.read_text())


def test_a_log_that_was_sealed_again_is_not_consistent(
    settings: Settings, log: EventLog, kept: Path
) -> None:
    """Given an attacker with the key, who sealed a log with other events."""
    key = ecolink("audit", "key").strip()
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url) as owner:
        owner.execute("UPDATE ecolink_events SET topic = 'x' WHERE notification_id = 3")
    Artifacts(settings.artifacts).delete_directory("seals")
    seal(settings, log)
    output = ecolink("audit", "head", "--since", str(kept), exit_code=1)
    assert "does not begin with" in output
    proof = kept.with_name("proof.json")
    proof.write_text(output[: output.rindex("}") + 1])
    assert "does not begin with" in verified(proof, kept, key, exit_code=1)


@pytest.mark.full
@pytest.mark.parametrize(
    ("proof", "head", "reason"),
    [
        ("{}", None, "is not a document"),
        ("no JSON", None, "is not a document"),
        (None, "no head", "contains no head of this log"),
    ],
)
def test_other_files_are_refused(
    kept: Path, proof: str | None, head: str | None, reason: str
) -> None:
    key, file = ecolink("audit", "key").strip(), proof_since(kept)
    if proof is not None:
        file.write_text(proof)
    if head is not None:
        kept.write_text(head)
        assert reason in ecolink("audit", "head", "--since", str(kept), exit_code=1)
    assert reason in verified(file, kept, key, exit_code=1)
