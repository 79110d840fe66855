"""The pages of estimates, seals, security, checks and trainer output."""

from __future__ import annotations

import csv
import html
import re
from datetime import UTC, datetime
from io import StringIO
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.audit.consistency_proof import ConsistencyProof
from domain.audit.tree_head import LogKey
from domain.jobs.job import Job, SegmentEnd
from gateway.ops.inspection import estimates, pages
from infrastructure.accounts import security_log
from infrastructure.artifacts.store import Artifacts
from infrastructure.checks.machine import Check, Level, server_checks
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import SealArchive, origin_of
from infrastructure.settings import Settings
from infrastructure.training.job_artifacts import kept_log_ref
from services.sealer.sealer import Sealer
from tests.builders.history import History
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in


def registered(history: History) -> Job:
    """A job that was billed for 100 s and registered."""
    history.run_until("training")
    history.bill(1, 61)
    history.complete(1)
    history.end_segment(1, SegmentEnd.COMPLETED, 100)
    return history.job


def test_the_range_and_the_cost_of_a_job_are_shown(
    operator: Browser, history: History, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(operator, "/ops/estimates")
    assert 'data-empty="accuracy"' in page
    job = registered(history)
    platform.project()
    page = shown(operator, "/ops/estimates")
    assert "inside their range" in page.partition("data-accuracy>")[2]
    name = f"ftjob-{job.id.hex}"
    assert row(page, f'data-job="{name}"').startswith(f"{name[:14]}…")
    monkeypatch.setattr(estimates, "PART", 1)
    answer = operator.client.get("/ops/estimates.csv")
    (line,) = csv.DictReader(StringIO(answer.text))
    assert line["job"] == name


@pytest.fixture
def sealer(platform: Platform, settings: Settings) -> Sealer:
    """A sealer that has sealed the log."""
    archive = SealArchive(platform.artifacts)
    with connect(settings) as connection:
        origin = origin_of(log_identity(connection))
        sealer = Sealer(archive, origin, Ed25519PrivateKey.generate(), lambda: datetime.now(UTC))
        archive.put_public_key(sealer.log_key)
        seal(sealer, settings)
    return sealer


def seal(sealer: Sealer, settings: Settings) -> None:
    with connect(settings) as connection:
        while sealer.step(connection):
            pass
    sealer.export()


def text_of(page: str, id: str) -> str:
    return html.unescape(page.partition(f'<code id="{id}">')[2].partition("</code>")[0])


def test_there_is_no_seal(operator: Browser) -> None:
    page = shown(operator, "/ops/seals")
    assert 'data-empty="key"' in page
    assert 'data-empty="head"' in page


def test_the_key_and_the_proof_for_a_kept_head_are_shown(
    operator: Browser, platform: Platform, settings: Settings, sealer: Sealer
) -> None:
    first = shown(operator, "/ops/seals")
    key, kept = LogKey.parse(text_of(first, "public-key")), text_of(first, "newest-head")
    platform.person()
    seal(sealer, settings)
    answer = operator.client.get("/ops/seals", params={"kept_head": kept.replace("\n", "\r\n")})
    assert "data-grown" in answer.text
    proof = ConsistencyProof.model_validate_json(text_of(answer.text, "proof"))
    assert proof.failures(key, key.verify(kept)) == []
    wrong = operator.client.get("/ops/seals", params={"kept_head": "no head"}).text
    assert "data-refused" in wrong
    assert "data-grown" not in wrong


def test_security_events_and_limits_are_shown(operator: Browser, settings: Settings) -> None:
    assert 'data-empty="events"' in shown(operator, "/ops/security")
    with connect(settings) as connection:
        security_log.record(connection, "lockout", "198.51.100.7", "12 wrong keys")
    page = shown(operator, "/ops/security")
    text = row(page, 'data-event="lockout"')
    assert text.startswith("lockout 12 wrong keys ")
    assert text.endswith(" 198.51.100.7")
    assert row(page, 'data-limit="connections"').startswith("connections 2,000 2,000 process")


def test_the_gateway_checks_its_machine_and_its_servers(operator: Browser) -> None:
    page = shown(operator, "/ops/checks")
    assert "data-passed" in page
    for name in ("python", "disk", "postgresql", "nats", "artifacts"):
        assert " ok " in row(page, f'data-check="{name}"'), name


def test_a_gateway_without_a_nats_user_finds_nats_up_or_down(settings: Settings) -> None:
    def found(**changed: object) -> Level:
        own = settings.model_copy(update={"nats_credentials": None} | changed)
        (check,) = (each for each in server_checks(own, on_the_bus=False) if each.name == "nats")
        return check.level

    assert found() is Level.OK
    assert found(nats_url="nats://127.0.0.1:1") is Level.FAILED


def test_the_checks_run_one_at_a_time(
    operator: Browser, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[int] = []

    def checks(_settings: Settings) -> list[Check]:
        if not inside:
            inside.append(0)
            inside.append(client.get("/ops/checks").status_code)
        return []

    monkeypatch.setattr(pages, "machine_checks", checks)
    shown(operator, "/ops/checks")
    assert inside == [0, 429]
    shown(operator, "/ops/checks")


def test_the_complete_output_of_a_trainer_is_shown(
    operator: Browser, owner: Owner, platform: Platform, settings: Settings
) -> None:
    path = f"/ops/jobs/{owner.name}/trainer-log"
    owner.train()
    assert operator.client.get(path).status_code == 404
    job = platform.log.load(Job, owner.job_id)
    trace = b'Traceback:\n  File "<x>", line 1\n'
    Artifacts(settings.artifacts).put(kept_log_ref(job, 1), trace)
    page = html.unescape(shown(operator, f"{path}?segment=1"))
    assert trace.decode() in page
    assert operator.client.get(f"/ops/jobs/ftjob-{uuid4().hex}/trainer-log").status_code == 404


def test_an_auditor_sees_no_addresses_and_no_trainer_output(
    client: TestClient, platform: Platform, owner: Owner
) -> None:
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    for path in ("/ops/estimates", "/ops/seals"):
        page = shown(auditor, path)
        assert re.search(r'href="/ops/security" data-needs="operator"', page), path
    for path in ("/ops/security", "/ops/checks", f"/ops/jobs/{owner.name}/trainer-log"):
        assert auditor.client.get(path).status_code == 403
