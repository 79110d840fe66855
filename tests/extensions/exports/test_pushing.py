"""Pushes of exports, with the hub's own client and a local hub."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID, uuid4

import pytest
from obstore.exceptions import PermissionDeniedError
from prometheus_client import REGISTRY

from domain.access.role import Role
from domain.core.aggregate import because
from domain.jobs.documents import PROVENANCE
from extensions.exports import pushing
from extensions.exports.app import measure_pending
from extensions.exports.domain.export import Export
from extensions.exports.domain.failures import push_advice
from extensions.exports.domain.hub_push import HubPush, PushStatus
from extensions.exports.domain.use_cases import Exporting
from extensions.exports.pushing import LIMITS, Options, Pushes
from extensions.exports.tables import Target, add_target, shown_targets, stored_tokens, target_of
from extensions.exports.worker import hub as hub_worker
from infrastructure.postgres.log_identity import set_held
from infrastructure.postgres.store import connect
from infrastructure.process import full_disk
from infrastructure.process.limited_process import Exceeded, LimitExceeded, Limits
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.extensions.exports.conftest import PRIVATE, Service
from tests.localhub.server import WRITE_TOKEN as TOKEN
from tests.localhub.server import Hub, Repository, local_hub
from tests.polling import TIMEOUT_SECONDS, eventually

pytestmark = pytest.mark.usefixtures("in_this_process")

REPOSITORY = "acme/support-bot"
OTHER_ACCOUNT_ID = UUID("7b0c53b4-2f0e-4f0e-9d68-3f2f4f1f8a11")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as running:
        yield running


class Pusher:
    """An account with a ready export, and the exporter's pushes."""

    def __init__(self, service: Service, hub: Hub) -> None:
        self.service, self.hub = service, hub
        self.export = self.exported(ACCOUNT_ID, JOB_ID)
        self.start()

    def exported(self, account_id: UUID, job_id: UUID) -> Export:
        """Open an account, and return its ready export."""
        with because(self.service.platform.cause):
            self.service.platform.ecolink.open_account(account_id, Role.OWNER)
        export = self.service.request(account_id=account_id, job_id=job_id)
        self.service.run()
        return self.service.find(export)

    def start(self, endpoint: str | None = "", limits: Limits = LIMITS) -> None:
        """Start the exporter again."""
        self.pushes = Pushes(
            self.service.platform.log,
            self.service.clock,
            self.service.artifacts,
            self.service.pool,
            Options(
                endpoint=self.hub.url if endpoint == "" else endpoint,
                scratch=self.service.folder / "pushes",
                kept_free_bytes=0,
                at_once=2,
                limits=limits,
            ),
        )

    def request(self, token: str = TOKEN, *, private: bool = True, provenance: bool = True) -> UUID:
        push_id = uuid4()
        with self.service.pool.connection() as connection:
            target = Target(REPOSITORY, private, provenance, token)
            add_target(connection, push_id, ACCOUNT_ID, target, NOW)
        with because(self.service.platform.cause):
            Exporting(self.service.platform.log).push(push_id, self.export)
        return push_id

    def run(self) -> None:
        self.service.platform.project()
        self.pushes.start_pending()
        assert self.pushes.work.finish(TIMEOUT_SECONDS)
        self.service.platform.project()

    def tokens(self) -> set[UUID]:
        """Return the pushes whose tokens are stored."""
        with self.service.pool.connection() as connection:
            return set(stored_tokens(connection))

    def find(self, push_id: UUID) -> HubPush:
        return self.service.platform.log.load(HubPush, push_id)

    def row(self, push_id: UUID) -> dict[str, object]:
        with self.service.pool.connection() as connection:
            (row,) = connection.execute(
                "SELECT failure_code, commit_id FROM hub_pushes WHERE push_id = %s", [push_id]
            ).fetchall()
            return row | shown_targets(connection, [push_id])[push_id]


@pytest.fixture
def pusher(service: Service, hub: Hub) -> Pusher:
    return Pusher(service, hub)


def test_all_files_are_committed_to_a_private_repository(pusher: Pusher, tmp_path: Path) -> None:
    push_id = pusher.request()
    pusher.run()
    files = pusher.hub.models[REPOSITORY].files
    folder = pusher.service.download(pusher.export, tmp_path / "out")
    expected = {each.name: each.read_bytes() for each in folder.iterdir()}
    assert files == expected
    assert pusher.hub.models[REPOSITORY].private
    row = pusher.row(push_id)
    assert row["url"] == f"{pusher.hub.url}/{REPOSITORY}/commit/{row['commit_id']}"
    assert pusher.export.files is not None
    assert row["done_bytes"] == pusher.export.files.total_bytes
    assert pusher.find(push_id).status is PushStatus.COMPLETED


@pytest.mark.full
def test_a_push_without_provenance_leaves_out_one_file(pusher: Pusher) -> None:
    manifest = pusher.service.artifacts.manifest(pusher.export.ref)
    stored = {each.path for each in manifest.files}
    assert PROVENANCE in stored
    pusher.request(provenance=False)
    pusher.run()
    pushed = pusher.hub.models[REPOSITORY].files
    assert set(pushed) == stored - {PROVENANCE}
    assert all(PRIVATE.encode() not in content for content in pushed.values())


@pytest.mark.full
def test_a_private_push_adds_nothing_to_a_public_repository(pusher: Pusher) -> None:
    pusher.hub.models[REPOSITORY] = Repository()
    push_id = pusher.request()
    pusher.run()
    row = pusher.row(push_id)
    assert (row["failure_code"], row["message"]) == (
        "public_repository",
        f"The repository {REPOSITORY} is public.",
    )
    assert (pusher.hub.models[REPOSITORY].files, pusher.hub.uploads) == ({}, [])
    assert "Make the repository private" in push_advice("public_repository")


@pytest.mark.full
@pytest.mark.parametrize("was_private", [True, False], ids=["private", "public"])
def test_a_public_push_leaves_the_visibility_of_a_repository(
    pusher: Pusher, was_private: bool
) -> None:
    pusher.hub.models[REPOSITORY] = Repository(private=was_private)
    push_id = pusher.request(private=False)
    pusher.run()
    assert pusher.find(push_id).status is PushStatus.COMPLETED
    assert pusher.hub.models[REPOSITORY].private is was_private


@pytest.mark.full
def test_a_repeated_push_uploads_no_large_file_again(pusher: Pusher) -> None:
    for _ in range(2):
        pusher.request()
        pusher.run()
    assert len(pusher.hub.uploads) == 1


@pytest.mark.full
def test_the_token_is_in_one_table_until_the_push_ends(
    pusher: Pusher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pusher.request()
    dump = everything(pusher, "hub_tokens")
    assert TOKEN.encode() not in dump
    assert REPOSITORY.encode() in dump
    assert len(pusher.tokens()) == 1
    pusher.run()
    assert TOKEN.encode() not in everything(pusher)
    assert TOKEN not in caplog.text
    states = b"".join(
        each.state
        for each in pusher.service.platform.log.recorder.select_notifications(start=1, limit=1000)
    )
    assert REPOSITORY.encode() not in states


def everything(pusher: Pusher, *without: str) -> bytes:
    """Return the contents of all tables except some."""
    with connect(pusher.service.platform.settings) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
            "AND NOT tablename = ANY(%s)",
            [list(without)],
        ).fetchall()
        found = bytearray()
        for table in tables:
            rows = connection.execute(f"SELECT * FROM {table['tablename']}").fetchall()  # type: ignore[arg-type]
            for row in rows:
                for value in row.values():
                    found += bytes(value) if isinstance(value, bytes) else str(value).encode()
    return bytes(found)


@pytest.mark.full
def test_a_failing_hub_is_tried_again(pusher: Pusher) -> None:
    push_id = pusher.request()
    pusher.hub.failures = [500, 503]
    errors: list[object] = []
    for _ in range(3):
        pusher.run()
        errors.append(pusher.row(push_id)["message"])
        pusher.service.clock.time += timedelta(minutes=10)
    assert pusher.find(push_id).status is PushStatus.COMPLETED
    down = "The hub responded with status {}: The hub is down."
    assert errors == [down.format(500), down.format(503), None]


@pytest.mark.full
def test_a_hub_that_never_responds_fails_the_push(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "MOST_FAILURES", 2)
    pusher.start("http://127.0.0.1:1")
    push_id = pusher.request()
    for _ in range(2):
        assert pusher.find(push_id).status is PushStatus.PENDING
        pusher.run()
        pusher.service.clock.time += timedelta(minutes=10)
    row = pusher.row(push_id)
    assert (row["failure_code"], row["message"]) == ("unreachable", "The hub did not respond.")


@pytest.mark.full
def test_a_hub_that_always_fails_ends_the_push_with_its_response(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "MOST_FAILURES", 1)
    pusher.start()
    push_id = pusher.request()
    pusher.hub.failures = [500] * 10
    pusher.run()
    row = pusher.row(push_id)
    assert row["failure_code"] == "hub_error"
    assert row["message"] == "The hub responded with status 500: The hub is down."


def test_a_push_that_takes_too_long_fails(pusher: Pusher) -> None:
    pusher.start(limits=Limits(cpu_seconds=60, wall_seconds=0.01, memory_mib=2048))
    push_id = pusher.request()
    pusher.run()
    assert pusher.row(push_id)["failure_code"] == "timed_out"


def test_a_push_that_exceeds_its_memory_fails(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> NoReturn:
        raise LimitExceeded(Exceeded.MEMORY)

    monkeypatch.setattr(pushing, "run", run)
    push_id = pusher.request()
    pusher.run()
    row = pusher.row(push_id)
    assert (row["failure_code"], row["message"]) == (
        "limit_exceeded",
        "The work exceeded its memory limit.",
    )


@pytest.mark.full
def test_a_push_from_a_remote_store_needs_space(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pusher.service.artifacts, "root", None)
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(pusher.service.folder)._replace(free=1000)
        patch.setattr(full_disk.shutil, "disk_usage", lambda _: usage)
        push_id = pusher.request()
        pusher.run()
    assert pusher.row(push_id)["failure_code"] == "no_space"
    push_id = pusher.request()
    pusher.run()
    assert pusher.find(push_id).status is PushStatus.COMPLETED


def test_accounts_push_at_the_same_time(pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier = threading.Barrier(2, timeout=TIMEOUT_SECONDS)

    def run(*_: Any) -> dict[str, Any]:
        barrier.wait()
        return {"commit": "c", "url": "u"}

    monkeypatch.setattr(pushing, "run", run)
    first = pusher.request()
    pusher.export = pusher.exported(OTHER_ACCOUNT_ID, uuid4())
    second = pusher.request()
    pusher.run()
    for push_id in (first, second):
        assert pusher.find(push_id).status is PushStatus.COMPLETED


def test_an_account_with_slow_pushes_delays_no_other(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [pusher.request() for _ in range(3)]
    pusher.export = pusher.exported(OTHER_ACCOUNT_ID, uuid4())
    release = threading.Event()

    def run(_module: str, asked: dict[str, Any], *_: Any) -> dict[str, Any]:
        if not asked["directory"].endswith(pusher.export.ref):
            assert release.wait(TIMEOUT_SECONDS)
        return {"commit": "c", "url": "u"}

    monkeypatch.setattr(pushing, "run", run)
    pusher.service.platform.project()
    try:
        for _ in slow:
            pusher.pushes.start_pending()
        other = pusher.request()
        pusher.service.platform.project()
        pusher.pushes.start_pending()
        eventually(lambda: pusher.find(other).status is PushStatus.COMPLETED)
        assert {pusher.find(each).status for each in slow} == {PushStatus.PENDING}
    finally:
        release.set()
        assert pusher.pushes.work.finish(TIMEOUT_SECONDS)


def stop(pusher: Pusher, push_id: UUID) -> None:
    with because(pusher.service.platform.cause):
        Exporting(pusher.service.platform.log).stop_push(ACCOUNT_ID, JOB_ID, push_id)


def test_a_stopped_push_commits_nothing_and_loses_its_token(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_id = pusher.request()

    def run(*arguments: Any) -> dict[str, Any]:
        stop(pusher, push_id)
        on_progress = arguments[-1]
        on_progress({"bytes": 0})
        raise AssertionError("the process ends")

    monkeypatch.setattr(pushing, "run", run)
    pusher.run()
    assert pusher.find(push_id).status is PushStatus.STOPPED
    assert pusher.row(push_id)["commit_id"] is None
    assert pusher.tokens() == set()


@pytest.mark.full
def test_a_push_that_is_stopped_between_two_attempts_never_runs_again(pusher: Pusher) -> None:
    push_id = pusher.request()
    pusher.hub.failures = [500]
    pusher.run()
    stop(pusher, push_id)
    pusher.service.clock.time += timedelta(minutes=10)
    pusher.run()
    pusher.pushes.delete_tokens()
    assert pusher.tokens() == set()
    assert REPOSITORY not in pusher.hub.models


def test_the_upload_of_a_large_file_reports_that_it_still_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_worker, "REPORT_SECONDS", 0.01)
    reports: list[object] = []

    def push(*_: Any) -> dict[str, str]:
        eventually(lambda: len(reports) > 2)
        return {"commit": "c", "url": "u"}

    monkeypatch.setattr(hub_worker, "_push", push)
    assert hub_worker.handle({}, reports.append) == {"commit": "c", "url": "u"}
    assert reports[0] == {"bytes": 0}


@pytest.mark.full
def test_a_wrong_token_fails_the_push(pusher: Pusher) -> None:
    push_id = pusher.request("hf_wrong")
    pusher.run()
    row = pusher.row(push_id)
    assert (row["failure_code"], row["message"]) == (
        "unauthorized",
        "Invalid username or password.",
    )
    assert pusher.hub.models == {}


def test_a_push_whose_token_a_restore_lost_fails(pusher: Pusher) -> None:
    push_id = pusher.request()
    with pusher.service.pool.connection() as connection:
        connection.execute("DELETE FROM hub_tokens")
    pusher.run()
    assert pusher.row(push_id)["failure_code"] == "token_lost"


def test_a_store_that_denies_access_fails_the_push_after_all_attempts(
    pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: Any) -> NoReturn:
        raise PermissionDeniedError("AccessDenied")

    monkeypatch.setattr(pusher.service.artifacts, "manifest", deny)
    push_id = pusher.request()
    for number in range(pushing.MOST_FAILURES):
        assert pusher.find(push_id).status is PushStatus.PENDING, number
        pusher.run()
        pusher.service.clock.time += timedelta(minutes=10)
    assert pusher.row(push_id)["failure_code"] == "store_denied"


@pytest.mark.full
def test_the_wait_of_an_account_is_measured_since_its_last_push(pusher: Pusher) -> None:
    service = pusher.service
    start = service.clock.time = service.platform.cause.now

    def seconds() -> float | None:
        service.platform.project()
        measure_pending(service.pool, service.clock)
        return REGISTRY.get_sample_value("ecolink_pending_seconds", {"work": "pushes"})

    assert seconds() == 0
    pusher.request()
    service.clock.time = start + timedelta(hours=2)
    assert seconds() == 2 * 3600
    pusher.run()
    assert seconds() == 0
    pusher.request()
    service.clock.time += timedelta(hours=1)
    assert seconds() == 3600


def test_a_push_of_an_erased_account_ends(pusher: Pusher) -> None:
    push_id = pusher.request()
    with pusher.service.pool.connection() as connection:
        connection.execute("DELETE FROM hub_targets")
    pusher.run()
    assert pusher.find(push_id).status is PushStatus.FAILED
    assert pusher.hub.models == {}


def test_a_deleted_export_fails_the_push(pusher: Pusher) -> None:
    push_id = pusher.request()
    pusher.service.delete(pusher.export)
    pusher.service.run()
    pusher.run()
    assert pusher.row(push_id)["failure_code"] == "export_deleted"


class Killed(BaseException):
    """The end of the exporter, after which none of its code runs."""


def killed(call: Callable[..., object], *, after: bool) -> Callable[..., None]:
    """Return a call that ends the exporter, before it or after it."""

    def instead(*args: Any, **kwargs: Any) -> None:
        if after:
            call(*args, **kwargs)
        raise Killed

    return instead


@pytest.mark.full
@pytest.mark.parametrize("token", [TOKEN, "hf_wrong"], ids=["completed", "failed"])
@pytest.mark.parametrize("point", ["uploaded", "outcome", "event", "token"])
def test_a_push_is_exact_after_a_kill_at_its_end(
    point: str, token: str, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill is after the upload, the outcome, the event, or the deletion of the token."""
    push_id = pusher.request(token)
    log = pusher.service.platform.log
    with monkeypatch.context() as patch:
        match point:
            case "uploaded":
                patch.setattr(pushing, "set_outcome", killed(pushing.set_outcome, after=False))
            case "outcome":
                patch.setattr(pushing, "set_outcome", killed(pushing.set_outcome, after=True))
            case "event":
                patch.setattr(log, "commit", killed(log.commit, after=True))
            case _:
                patch.setattr(pushing, "delete_token", killed(pushing.delete_token, after=True))
        with pytest.raises(Killed):
            pusher.pushes.push(push_id)
    assert pusher.tokens() == (set() if point == "token" else {push_id})
    pusher.start()
    pusher.pushes.delete_tokens()
    pusher.run()
    assert pusher.tokens() == set()
    row = pusher.row(push_id)
    if token == TOKEN:
        assert row["commit_id"] is not None
        assert row["url"] == f"{pusher.hub.url}/{REPOSITORY}/commit/{row['commit_id']}"
        assert row["message"] is None
    else:
        assert (row["failure_code"], row["message"]) == (
            "unauthorized",
            "Invalid username or password.",
        )


def test_tokens_that_a_crash_left_are_deleted(pusher: Pusher) -> None:
    unrecorded, pending = uuid4(), pusher.request()
    with pusher.service.pool.connection() as connection:
        add_target(connection, unrecorded, ACCOUNT_ID, Target(REPOSITORY, True, True, TOKEN), NOW)
    pusher.service.clock.time = NOW
    pusher.pushes.delete_tokens()
    assert pusher.tokens() == {unrecorded, pending}
    pusher.service.clock.time = NOW + timedelta(hours=2)
    pusher.pushes.delete_tokens()
    assert pusher.tokens() == {pending}


def test_a_repeated_target_keeps_the_first_token(pusher: Pusher) -> None:
    push_id = pusher.request()
    with pusher.service.pool.connection() as connection:
        add_target(connection, push_id, ACCOUNT_ID, Target("a/b", True, True, "hf_other"), NOW)
        target = target_of(connection, push_id)
    assert target == (REPOSITORY, True, True, TOKEN)


@pytest.mark.full
def test_a_restored_copy_pushes_after_the_confirmation(pusher: Pusher) -> None:
    push_id = pusher.request()
    with pusher.service.pool.connection() as connection:
        set_held(connection, True)
        pusher.run()
        assert pusher.find(push_id).status is PushStatus.PENDING
        assert REPOSITORY not in pusher.hub.models
        set_held(connection, False)
    pusher.run()
    assert pusher.find(push_id).status is PushStatus.COMPLETED
