"""The page with the health of EcoLink."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient

from domain.access.role import Role
from domain.core.event_format import FORMAT
from infrastructure.accounts.profiles import add_account_name
from infrastructure.postgres import presence, upgrade
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.presence import present
from infrastructure.postgres.store import connect
from infrastructure.process.code_version import package_version
from infrastructure.seals.archive import PUBLIC_KEY, SealArchive, origin_of
from infrastructure.settings import Settings
from services.sealer.sealer import Sealer
from tests.builders.platform import Platform
from tests.gateway.jobs.owners import Owner
from tests.gateway.ops.pages import row, shown
from tests.gateway.web.signed_in import Browser, signed_in
from tests.polling import eventually


def test_a_new_platform_has_no_problem(operator: Browser) -> None:
    page = shown(operator, "/ops")
    assert "data-healthy" in page
    for empty in ("jobs", "leads"):
        assert f'data-empty="{empty}"' in page
    assert "never started" in row(page, 'data-consumer="billing"')
    assert "<html" not in operator.client.get("/ops", headers=operator.htmx).text


def test_consumers_and_leaders_are_shown(
    operator: Browser, platform: Platform, settings: Settings
) -> None:
    platform.project()
    with leading(settings, "billing"), leading(settings, "projector"):
        page = shown(operator, "/ops")
    assert row(page, 'data-consumer="projection-accounts"').endswith("up to date 0 0 0")
    events = f"{len(platform.topics()):,}"
    assert f" {events} " in row(page, 'data-consumer="billing"')
    assert row(page, 'data-lead="billing"').startswith("billing leads ")
    eventually(lambda: "no leader" in row(shown(operator, "/ops"), 'data-lead="billing"'))


def test_the_versions_of_processes_and_an_unfinished_upgrade_are_shown(
    operator: Browser, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(operator, "/ops")
    assert 'data-empty="processes"' in page
    with present(settings, "billing"):
        page = shown(operator, "/ops")
        assert row(page, 'data-process="billing"').startswith(
            f"billing {package_version()} {FORMAT} "
        )
        assert "data-upgrade" not in page
        monkeypatch.setattr(upgrade, "FORMAT", FORMAT + 1)
        page = shown(operator, "/ops")
        assert f"uses format {FORMAT} of {FORMAT + 1}" in page
        assert "older" in row(page, 'data-process="billing"')
        monkeypatch.setattr(upgrade, "FORMAT", FORMAT)
        monkeypatch.setattr(presence, "package_version", lambda: "0.9.0")
        with present(settings, "gateway"):
            page = shown(operator, "/ops")
        assert f"Processes of several versions run: {package_version()}, 0.9.0" in page


def test_parked_events_and_a_full_disk_are_problems(operator: Browser, settings: Settings) -> None:
    with connect(settings) as connection:
        connection.execute(
            "INSERT INTO parked_events VALUES ('billing', 7, %s, 'JobApproved', 'it failed')",
            [uuid4()],
        )
    page = shown(operator, "/ops")
    assert "billing has parked 1 event." in page
    assert "data-healthy" not in page


def test_running_and_queued_jobs_are_shown_with_their_account(
    client: TestClient, owner: Owner, platform: Platform, settings: Settings, operator: Browser
) -> None:
    with connect(settings) as connection:
        add_account_name(connection, owner.person.account_id, "ada")
    attribute = f'data-job="{owner.name}"'
    platform.project()
    queued = row(shown(operator, "/ops"), attribute)
    assert "ada waiting for a GPU since" in queued
    assert "not billed" in queued
    owner.train()
    owner.add_steps(12)
    platform.project()
    page = shown(operator, "/ops")
    assert "12 of 30" in row(page, attribute)
    assert "not billed" not in row(page, attribute)
    assert row(page, 'data-pool="local cpu"').startswith("local cpu 2 0 0 ")


def test_the_age_of_the_newest_seal_is_shown(
    operator: Browser, platform: Platform, settings: Settings
) -> None:
    assert "<dd>none<small>" in shown(operator, "/ops")
    archive, key = SealArchive(platform.artifacts), Ed25519PrivateKey.generate()
    with connect(settings) as connection:
        origin = origin_of(log_identity(connection))
        sealer = Sealer(archive, origin, key, lambda: datetime.now(UTC))
        archive.put_public_key(sealer.log_key)
        while sealer.step(connection):
            pass
    sealer.export()
    assert " old<small>0 events without a seal" in shown(operator, "/ops")
    platform.person()
    assert "0 events without a seal" not in shown(operator, "/ops")
    platform.artifacts.put(PUBLIC_KEY, b"no key")
    assert "data-seals-damaged" in shown(operator, "/ops")


def test_an_auditor_reads_the_page_and_an_owner_does_not(
    client: TestClient, platform: Platform
) -> None:
    auditor = signed_in(client, platform.person(Role.AUDITOR))
    assert "data-healthy" in shown(auditor, "/ops")
    owner = signed_in(client, platform.person())
    assert owner.client.get("/ops").status_code == 403
    assert 'href="/ops"' not in owner.client.get("/datasets").text
