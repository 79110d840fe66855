"""Each condition is caused for real, fires once, and resolves."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from psycopg_pool import ConnectionPool

from deploy.local.ports import free_port
from domain.billing.account import Account
from domain.core.event_log import EventLog
from domain.jobs.job import SegmentEnd
from domain.jobs.lifecycle import PauseReason
from extensions.alerts.tables import observe_epochs
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus import event_handlers
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.event_handlers import EventHandlers, HandlerEffect
from infrastructure.postgres.leadership import leading
from infrastructure.postgres.log_identity import log_identity
from infrastructure.postgres.store import Connection, connect
from infrastructure.seals.archive import HEADS, SealArchive, make_key, origin_of
from infrastructure.settings import Settings
from projections import PROJECTIONS
from projections.projection import ProjectionEffect
from services.sealer.sealer import Sealer
from tests.builders.commands import FixedClock, command
from tests.builders.history import History
from tests.certificates import Authority
from tests.extensions.alerts.process import AlertsProcess, only
from tests.extensions.alerts.webhook import Webhook
from tests.tls_servers import HOST, running_nats


class Platform:
    """A platform in steps, and its alerts process."""

    def __init__(
        self, settings: Settings, log: EventLog, pool: ConnectionPool[Connection], ops: Webhook
    ) -> None:
        self.settings, self.log, self.pool, self.ops = settings, log, pool, ops
        self.history = History(log)

    def watch(self, *rules: str, more: str = "") -> AlertsProcess:
        """Start an alerts process that has only these rules."""
        receivers = f'ops = "{self.ops.url}"'
        self.process = AlertsProcess(
            self.settings, self.log, self.pool, only(*rules, receivers=receivers) + more
        )
        return self.process

    def project(self) -> None:
        """Bring all projections up to date."""
        for projection in PROJECTIONS:
            effect = ProjectionEffect(projection, self.pool.connection)
            OrderedConsumer(effect, self.log).catch_up()

    async def expect(self, *titles: str, after_seconds: float = 60) -> None:
        """Step twice, and compare all titles that the receiver has had."""
        await self.process.step(after_seconds=after_seconds)
        await self.process.step(after_seconds=after_seconds)
        found = [title.partition(" (")[0] for title in self.ops.titles]
        assert found == list(titles), self.ops.messages


@pytest.fixture
def platform(
    settings: Settings, log: EventLog, pool: ConnectionPool[Connection], ops: Webhook
) -> Platform:
    return Platform(settings, log, pool, ops)


async def test_a_low_balance(platform: Platform) -> None:
    platform.watch("balance-low")
    platform.history.open_account(1_000_000)
    with platform.history.changing_account() as account:
        account.watch_runway(100, 3600)
    await platform.expect("[info] Balance is low")
    with platform.history.changing_account() as account:
        account.watch_runway(None, 3600)
    await platform.expect("[info] Balance is low", "[resolved] Balance is low")


async def test_a_failed_job(platform: Platform) -> None:
    platform.watch("job-failed")
    platform.history.run_until("training")
    platform.history.end_segment(
        1, SegmentEnd.CRASHED, error_class="ValueError", failure="bad_data"
    )
    await platform.expect("[warning] Job failed")
    await platform.expect("[warning] Job failed", "[resolved] Job failed", after_seconds=3600)


async def test_a_job_that_the_platform_paused(platform: Platform) -> None:
    platform.watch("job-paused")
    platform.history.run_until("training")
    platform.history.end_segment(1, SegmentEnd.LEASE_ENDED, 300, shortfall=PauseReason.BALANCE)
    await platform.expect("[info] EcoLink paused a job")
    platform.history.resume()
    await platform.expect("[info] EcoLink paused a job", "[resolved] EcoLink paused a job")


async def test_a_rejected_checkpoint(platform: Platform) -> None:
    platform.watch("checkpoint-rejected")
    platform.history.run_until("training")
    platform.history.save_checkpoint(1, 10, 40)
    platform.history.end_segment(1, SegmentEnd.CRASHED, 100, error_class="ProcessLost")
    platform.history.allocate_segment(2)
    platform.history.grant_lease(2)
    platform.history.start_pod(2)
    platform.history.reject_checkpoint(2, "checkpoints/1/10")
    await platform.expect("[warning] Checkpoint rejected")
    await platform.expect(
        "[warning] Checkpoint rejected", "[resolved] Checkpoint rejected", after_seconds=3600
    )


async def test_exhausted_capacity(platform: Platform) -> None:
    platform.watch("capacity-exhausted")
    platform.history.run_until("training")
    platform.project()
    await platform.expect()
    queued = platform.history.another_job()
    queued.approve_job()
    platform.project()
    await platform.expect("[warning] Too few GPUs are free")
    queued.cancel()
    platform.project()
    await platform.expect("[warning] Too few GPUs are free", "[resolved] Too few GPUs are free")


async def test_a_queued_job_that_needs_more_gpus_than_are_free(platform: Platform) -> None:
    platform.watch("capacity-exhausted")
    platform.history.open_account(50_000_000_000)
    platform.history.open_pool(capacity=2)
    platform.history.approve_job()
    platform.history.allocate_segment(1)
    platform.history.another_job().approve_job(gpu_count=2)
    platform.project()
    await platform.expect("[warning] Too few GPUs are free")
    message = platform.ops.messages[0]["message"]
    assert "1 of 2" in message
    assert "the next job needs 2 GPUs" in message


async def test_a_job_that_does_not_get_the_free_gpus(platform: Platform) -> None:
    platform.watch("job-skipped")
    platform.history.open_account(50_000_000_000)
    platform.history.open_pool(capacity=1)
    platform.history.approve_job()
    platform.project()
    await platform.expect("[critical] Queued job is skipped")
    assert str(platform.history.job_id) in platform.ops.messages[0]["message"]
    platform.history.allocate_segment(1)
    platform.project()
    await platform.expect("[critical] Queued job is skipped", "[resolved] Queued job is skipped")


async def test_a_job_behind_which_another_one_got_gpus(platform: Platform) -> None:
    platform.watch("job-skipped")
    platform.history.open_account(50_000_000_000)
    platform.history.open_pool(capacity=1)
    platform.history.approve_job()
    later = platform.history.another_job()
    later.approve_job()
    with command("skip the first job"):
        pool = platform.history.pool
        first, second = pool.queue.values()
        pool.allocate(second, {first.job_id})
        platform.log.commit(pool)
    platform.project()
    await platform.expect("[critical] Queued job is skipped")


async def test_consumers_that_are_behind(platform: Platform) -> None:
    platform.watch("consumer-lag")
    platform.project()
    platform.history.open_account(1_000_000)
    await platform.expect()
    await platform.expect("[critical] Consumer is behind", after_seconds=600)
    assert "projection-accounts is" in platform.ops.messages[0]["message"]
    platform.project()
    await platform.expect("[critical] Consumer is behind", "[resolved] Consumer is behind")


async def test_a_parked_event(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_handlers, "ATTEMPT_PAUSE_SECONDS", 0.0)
    platform.watch("parked-event")
    broken = [True]

    def handle(_: object) -> list[Any]:
        if broken:
            raise ValueError("broken")
        return []

    handlers = EventHandlers({Account: handle})
    connect = platform.pool.connection
    effect = HandlerEffect("billing", platform.log, FixedClock(), handlers, connect)
    platform.history.open_account(1_000_000)
    OrderedConsumer(effect, platform.log).catch_up()
    await platform.expect("[critical] Event is parked")
    broken.clear()
    with platform.pool.connection() as connection:
        connection.execute("UPDATE parked_events SET replay = true")
    assert effect.replay_requested() > 0
    await platform.expect("[critical] Event is parked", "[resolved] Event is parked")


class Seals:
    """The sealer of a platform, and an attacker who is a superuser of its database."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        key = make_key(platform.settings.seal_key_file)
        with connect(platform.settings) as store:
            origin = origin_of(log_identity(store))
        self.artifacts = Artifacts(platform.settings.artifacts)
        self.archive = SealArchive(self.artifacts)
        self.sealer = Sealer(self.archive, origin, key, lambda: datetime.now(UTC))
        self.archive.put_public_key(self.sealer.log_key)
        with connect(platform.settings) as store:
            self.sealer.resume(store)

    def seal(self) -> None:
        with connect(self.platform.settings) as store:
            while self.sealer.step(store):
                pass
        self.sealer.export()

    def tamper(self, statement: str) -> None:
        assert self.platform.settings.owner_database_url is not None
        url = self.platform.settings.owner_database_url
        with psycopg.connect(url, autocommit=True) as superuser:
            superuser.execute("SET session_replication_role = replica")
            superuser.execute(statement.encode())


async def test_a_changed_event_breaks_its_seal(platform: Platform) -> None:
    platform.watch("seal-broken")
    platform.history.run_until("training")
    seals = Seals(platform)
    seals.seal()
    await platform.expect()
    where = "WHERE topic = 'JobApproved'"
    seals.tamper(f"UPDATE ecolink_events SET state = state || '\\x20' {where}")
    await platform.expect("[critical] Seal does not match the event log")
    seals.tamper(f"UPDATE ecolink_events SET state = substr(state, 1, length(state) - 1) {where}")
    await platform.expect(
        "[critical] Seal does not match the event log",
        "[resolved] Seal does not match the event log",
    )


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ecolink_events WHERE topic = 'JobApproved'",
        "DELETE FROM ecolink_events WHERE notification_id = "
        "(SELECT max(notification_id) FROM ecolink_events)",
        "DELETE FROM ecolink_events",
    ],
)
async def test_a_deleted_event_breaks_its_seal(platform: Platform, statement: str) -> None:
    platform.history.run_until("training")
    platform.watch("seal-broken")
    seals = Seals(platform)
    seals.seal()
    await platform.expect()
    seals.tamper(statement)
    await platform.expect("[critical] Seal does not match the event log")


async def test_a_damaged_head_breaks_the_seal(platform: Platform) -> None:
    platform.watch("seal-broken")
    platform.history.run_until("training")
    seals = Seals(platform)
    seals.seal()
    ref = seals.artifacts.list(HEADS)[-1]
    content = seals.artifacts.get(ref)
    seals.artifacts.put(ref, content.replace(b"ecolink/", b"ecolunk/"))
    await platform.expect("[critical] Seal does not match the event log")
    seals.artifacts.put(ref, content)
    await platform.expect(
        "[critical] Seal does not match the event log",
        "[resolved] Seal does not match the event log",
    )


async def test_a_verification_that_differs_breaks_the_seal(platform: Platform) -> None:
    platform.watch("seal-broken")
    with platform.pool.connection() as connection:
        for verdict in ("differs", "matches"):
            connection.execute(
                "INSERT INTO verifications (id, requested_by, requested_at, options, stage, done, "
                "differences, verdict, finished_at) VALUES (%s, %s, clock_timestamp(), '{}', "
                "'seals', 1, 3, %s, clock_timestamp())",
                [uuid4(), uuid4(), verdict],
            )
            if verdict == "differs":
                await platform.expect("[critical] Seal does not match the event log")
    await platform.expect(
        "[critical] Seal does not match the event log",
        "[resolved] Seal does not match the event log",
    )


async def test_a_sealer_that_is_behind(platform: Platform) -> None:
    platform.watch("sealer-behind")
    platform.history.open_account(1_000_000)
    seals = Seals(platform)
    seals.seal()
    platform.history.top_up(1_000_000, "a")
    await platform.expect()
    await platform.expect("[critical] Events are not sealed", after_seconds=600)
    seals.seal()
    await platform.expect("[critical] Events are not sealed", "[resolved] Events are not sealed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk(platform: Platform, small_disk: Path) -> None:
    parameters = f'parameters = {{ free_gib = 0.001, paths = ["{small_disk}"] }}'
    added = f'[rules.small]\ncondition = "disk_low"\nseverity = "critical"\n{parameters}\n'
    platform.watch(more=added)
    await platform.expect()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(4 * 1024**2 - 4096))
    await platform.expect("[critical] Disk space is low")
    filler.unlink()
    await platform.expect("[critical] Disk space is low", "[resolved] Disk space is low")


async def test_the_disk_of_the_home_and_the_artifact_store_is_reported_once(
    platform: Platform,
) -> None:
    Artifacts(platform.settings.artifacts).put("a", b"a")
    platform.settings = platform.settings.model_copy(update={"disk_low_bytes": 10**18})
    platform.watch("disk-low")
    await platform.expect("[warning] Disk space is low")


def write_certificate(file: Path, ends: datetime) -> None:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ecolink.example.org")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=90))
        .not_valid_after(ends)
        .sign(key, None)
    )
    file.write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.mark.parametrize("days", [10, -1, None])
async def test_a_certificate_that_expires(platform: Platform, days: int | None) -> None:
    file = platform.settings.home / "cert.pem"
    added = f"""
    [rules.tls]
    condition = "certificate_expiring"
    severity = "warning"
    parameters = {{ file = "{file}" }}
    """
    process = platform.watch(more=added)
    if days is not None:
        write_certificate(file, process.clock.time + timedelta(days=days))
    await platform.expect("[warning] Certificate expires")
    write_certificate(file, process.clock.time + timedelta(days=60))
    await platform.expect("[warning] Certificate expires", "[resolved] Certificate expires")


async def test_a_process_that_is_down(platform: Platform) -> None:
    platform.watch(
        more='[rules.relay]\ncondition = "process_down"\nseverity = "critical"\n'
        'parameters = { processes = ["relay"] }'
    )
    with leading(platform.settings, "relay"):
        await platform.expect()
    await platform.expect("[critical] Process is down")
    with leading(platform.settings, "relay"):
        await platform.expect("[critical] Process is down", "[resolved] Process is down")


async def test_the_gateway_and_nats_are_checked_by_their_addresses(platform: Platform) -> None:
    free = free_port(0)
    platform.settings = platform.settings.model_copy(
        update={
            "gateway_url": f"http://127.0.0.1:{free}",
            "nats_url": f"nats://127.0.0.1:{free}",
        }
    )
    platform.watch("process-down")
    await platform.expect(*["[critical] Process is down"] * 2)
    assert [each.alert.group for each in platform.process.firing()] == [
        "process=gateway",
        "process=nats",
    ]


async def test_nats_with_tls_is_checked_with_a_handshake(
    platform: Platform, tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    certificates = authority.issue(tmp_path / "certificates", HOST)
    with running_nats(tmp_path / "nats", certificates) as server:
        known = {"nats_url": server.settings.nats_url, "nats_ca": authority.file}
        platform.settings = platform.settings.model_copy(update=known)
        platform.watch("process-down")
        await platform.expect()
        found = server.connections()
        assert found, "the check connects"
        assert {each.get("tls_version") for each in found} == {"1.3"}
        platform.settings = platform.settings.model_copy(update={"nats_ca": other.file})
        platform.watch("process-down")
        await platform.expect("[critical] Process is down")


class Proxy(BaseHTTPRequestHandler):
    """A proxy whose gateway is down."""

    def do_GET(self) -> None:
        self.send_error(502)


async def test_a_gateway_is_down_if_its_proxy_replies_with_an_error(platform: Platform) -> None:
    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{proxy.server_port}"
        platform.settings = platform.settings.model_copy(update={"gateway_url": url})
        platform.watch("process-down")
        await platform.expect("[critical] Process is down")
        proxy.shutdown()


async def test_a_process_that_keeps_restarting(platform: Platform) -> None:
    process = platform.watch("process-restarting")
    with leading(platform.settings, "relay"):
        await process.step(after_seconds=10)
    for _ in range(3):
        with leading(platform.settings, "relay"):
            await process.step(after_seconds=10)
    await platform.expect("[warning] Process keeps restarting", after_seconds=10)
    process.restart()
    await platform.expect("[warning] Process keeps restarting", after_seconds=70)
    await platform.expect(
        "[warning] Process keeps restarting",
        "[resolved] Process keeps restarting",
        after_seconds=600,
    )


async def test_a_restored_database_counts_restarts_again(platform: Platform) -> None:
    with platform.pool.connection() as connection:
        observe_epochs(connection, {"relay": 1000}, FixedClock().time, None)
    process = platform.watch("process-restarting")
    for _ in range(4):
        with leading(platform.settings, "relay"):
            await process.step(after_seconds=10)
    await platform.expect("[warning] Process keeps restarting", after_seconds=10)


async def test_restarts_while_no_alerts_process_ran_count_as_one(platform: Platform) -> None:
    process = platform.watch("process-restarting")
    with leading(platform.settings, "relay"):
        await process.step(after_seconds=10)
    for _ in range(5):
        with leading(platform.settings, "relay"):
            pass
    process.restart()
    await platform.expect(after_seconds=10)


async def test_estimates_that_miss_the_actual_cost(platform: Platform) -> None:
    process = platform.watch(
        more='[rules.off]\ncondition = "estimates_off"\nseverity = "info"\n'
        "parameters = { jobs = 2, below_percent = 60 }"
    )

    def score(actual_micros: int) -> None:
        history = platform.history.another_job()
        history.approve_job(queued=False)
        platform.project()
        with platform.pool.connection() as connection:
            connection.execute(
                "UPDATE estimates SET scored_at = clock_timestamp(), low_micros = 10, "
                "high_micros = 20, actual_micros = %s WHERE job_id = %s",
                [actual_micros, history.job_id],
            )

    score(30)
    await process.step()
    assert process.firing() == []
    score(15)
    await platform.expect("[info] Estimates miss the actual price")
    score(20)
    await platform.expect(
        "[info] Estimates miss the actual price", "[resolved] Estimates miss the actual price"
    )


async def test_a_check_that_cannot_tell_changes_nothing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.settings = platform.settings.model_copy(update={"disk_low_bytes": 10**18})
    platform.watch("disk-low")
    await platform.expect("[warning] Disk space is low")
    monkeypatch.setattr("shutil.disk_usage", lambda _: 1 / 0)
    await platform.expect("[warning] Disk space is low")


async def test_a_check_that_always_fails(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = platform.watch("disk-low", "check-failed")
    process.write(
        process.file.read_text().replace('[rules.check-failed]\nfor = "0s"', "[rules.check-failed]")
    )
    process.restart()
    with monkeypatch.context() as broken:
        broken.setattr("shutil.disk_usage", lambda _: 1 / 0)
        await platform.expect(after_seconds=200)
        await platform.expect("[warning] Check fails", after_seconds=300)
        process.restart()
        await platform.expect("[warning] Check fails")
    message = platform.ops.messages[0]["message"]
    assert "The check of the rule disk-low fails: ZeroDivisionError: division by zero" in message
    await platform.expect("[warning] Check fails", "[resolved] Check fails")
