"""Pushes of exports, with the hub's own client and a local hub."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from domain.access.role import Role
from domain.core.aggregate import because
from domain.exports.hub_push import HubPush, PushStatus
from domain.use_cases.exports import Exporting
from infrastructure.hub_targets import NoKey, TokenKey, add_target, shown_targets, target_of
from infrastructure.store import connect
from services.exporter import pushing
from services.exporter.pushing import Pushes
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID
from tests.polling import TIMEOUT_SECONDS
from tests.services.exporter.conftest import Service
from tests.services.exporter.fake_hub import TOKEN, Hub, fake_hub

pytestmark = pytest.mark.usefixtures("in_this_process")

REPOSITORY = "acme/support-bot"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with fake_hub() as running:
        yield running


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "exporter-key.pem"
    TokenKey(file)
    return file


class Pusher:
    """An account with a ready export, and the exporter's pushes."""

    def __init__(self, service: Service, hub: Hub, key_file: Path) -> None:
        self.service, self.hub = service, hub
        self.key_file = service.folder / "key.pem"
        shutil.copy(key_file, self.key_file)
        with because(service.platform.cause):
            service.platform.ecolink.open_account(ACCOUNT_ID, Role.OWNER)
        export = service.request()
        service.run()
        self.export = service.find(export)
        self.start()

    def start(self, endpoint: str | None = "") -> None:
        """Start the exporter again."""
        self.pushes = Pushes(
            self.service.platform.log,
            self.service.clock,
            self.service.artifacts,
            self.service.pool,
            TokenKey(self.key_file),
            self.hub.url if endpoint == "" else endpoint,
            self.service.folder / "pushes",
        )

    def request(self, token: str = TOKEN) -> UUID:
        push_id = uuid4()
        with self.service.pool.connection() as connection:
            add_target(connection, push_id, ACCOUNT_ID, REPOSITORY, True, token, NOW)
        with because(self.service.platform.cause):
            Exporting(self.service.platform.log).push(push_id, self.export)
        return push_id

    def run(self) -> None:
        self.service.platform.project()
        self.pushes.start_pending()
        assert self.pushes.work.finish(TIMEOUT_SECONDS)
        self.service.platform.project()

    def find(self, push_id: UUID) -> HubPush:
        return self.service.platform.log.load(HubPush, push_id)

    def row(self, push_id: UUID) -> dict[str, object]:
        with self.service.pool.connection() as connection:
            (row,) = connection.execute(
                "SELECT failure_code, commit_id FROM hub_pushes WHERE push_id = %s", [push_id]
            ).fetchall()
            return row | shown_targets(connection, [push_id])[push_id]


@pytest.fixture
def pusher(service: Service, hub: Hub, key_file: Path) -> Pusher:
    return Pusher(service, hub, key_file)


def test_all_files_are_committed_to_a_private_repository(pusher: Pusher, tmp_path: Path) -> None:
    push_id = pusher.request()
    pusher.run()
    files = pusher.hub.repositories[REPOSITORY]
    folder = pusher.service.download(pusher.export, tmp_path / "out")
    expected = {each.name: each.read_bytes() for each in folder.iterdir()}
    assert files == expected
    assert pusher.hub.private == {REPOSITORY: True}
    row = pusher.row(push_id)
    assert row["url"] == f"{pusher.hub.url}/{REPOSITORY}/commit/{row['commit_id']}"
    assert pusher.export.files is not None
    assert row["done_bytes"] == pusher.export.files.total_bytes
    assert pusher.find(push_id).status is PushStatus.COMPLETED


def test_a_repeated_push_uploads_no_large_file_again(pusher: Pusher) -> None:
    for _ in range(2):
        pusher.request()
        pusher.run()
    assert len(pusher.hub.uploads) == 1


def test_the_token_is_nowhere_in_plain_text(
    pusher: Pusher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    push_id = pusher.request()
    dump = everything(pusher)
    assert TOKEN.encode() not in dump
    assert REPOSITORY.encode() in dump
    with pusher.service.pool.connection() as connection:
        target = target_of(connection, push_id)
    assert target is not None
    assert target.token is not None
    pusher.run()
    with pusher.service.pool.connection() as connection:
        target = target_of(connection, push_id)
    assert target is not None
    assert target.token is None
    assert TOKEN.encode() not in everything(pusher)
    assert TOKEN not in caplog.text
    assert pusher.key_file.stat().st_mode & 0o077 == 0
    states = b"".join(
        each.state
        for each in pusher.service.platform.log.recorder.select_notifications(start=1, limit=1000)
    )
    assert REPOSITORY.encode() not in states


def everything(pusher: Pusher) -> bytes:
    """Return the contents of all tables."""
    with connect(pusher.service.platform.settings) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        found = bytearray()
        for table in tables:
            rows = connection.execute(f"SELECT * FROM {table['tablename']}").fetchall()  # type: ignore[arg-type]
            for row in rows:
                for value in row.values():
                    found += bytes(value) if isinstance(value, bytes) else str(value).encode()
    return bytes(found)


def test_a_failing_hub_is_tried_again(pusher: Pusher) -> None:
    push_id = pusher.request()
    pusher.hub.failures = [500, 503]
    for _ in range(3):
        pusher.run()
        pusher.service.clock.time += timedelta(minutes=10)
    assert pusher.find(push_id).status is PushStatus.COMPLETED


def test_a_hub_that_never_responds_fails_the_push(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "MOST_FAILURES", 2)
    push_id = pusher.request()
    pusher.hub.failures = [500] * 10
    for _ in range(2):
        pusher.run()
        pusher.service.clock.time += timedelta(minutes=10)
    assert pusher.row(push_id)["failure_code"] == "unreachable"


def test_a_wrong_token_fails_the_push(pusher: Pusher) -> None:
    push_id = pusher.request("hf_wrong")
    pusher.run()
    row = pusher.row(push_id)
    assert (row["failure_code"], row["message"]) == (
        "unauthorized",
        "Invalid username or password.",
    )
    assert pusher.hub.repositories == {}


def test_another_exporter_cannot_read_the_token(pusher: Pusher) -> None:
    push_id = pusher.request()
    pusher.key_file = pusher.service.folder / "other.pem"
    pusher.start()
    pusher.run()
    assert pusher.row(push_id)["failure_code"] == "token_lost"


def test_a_deleted_export_fails_the_push(pusher: Pusher) -> None:
    push_id = pusher.request()
    pusher.service.delete(pusher.export)
    pusher.service.run()
    pusher.run()
    assert pusher.row(push_id)["failure_code"] == "export_deleted"


def test_tokens_that_a_crash_left_are_forgotten(pusher: Pusher) -> None:
    unrecorded, ended, pending = uuid4(), pusher.request(), pusher.request()
    with pusher.service.pool.connection() as connection:
        add_target(connection, unrecorded, ACCOUNT_ID, REPOSITORY, True, TOKEN, NOW)
    with because(pusher.service.platform.cause):
        push = pusher.find(ended)
        push.complete("c0ffee")
        pusher.service.platform.log.commit(push)

    def stored() -> set[UUID]:
        pusher.pushes.forget_tokens()
        found = (unrecorded, ended, pending)
        with pusher.service.pool.connection() as connection:
            targets = {each: target_of(connection, each) for each in found}
        return {each for each, target in targets.items() if target and target.token}

    pusher.service.clock.time = NOW
    assert stored() == {unrecorded, ended, pending}
    pusher.service.clock.time = NOW + timedelta(hours=2)
    assert stored() == {pending}


def test_no_token_is_stored_before_an_exporter_ran(service: Service) -> None:
    with service.pool.connection() as connection, pytest.raises(NoKey):
        add_target(connection, uuid4(), ACCOUNT_ID, REPOSITORY, True, TOKEN, NOW)
