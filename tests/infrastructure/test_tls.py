"""TLS to NATS and PostgreSQL on real servers, with an authority of the test."""

from __future__ import annotations

import asyncio
import os
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from deploy.processes import environment
from infrastructure.bus import streams as bus
from infrastructure.bus.service import broker_of
from infrastructure.bus.tls import UntrustedServer, tls_context
from infrastructure.checks.machine import Level, server_checks
from infrastructure.postgres.database_url import tls_fix
from infrastructure.settings import Settings
from infrastructure.training.reports import Control
from tests.certificates import Authority
from tests.clusters.trainer import PAID_SECONDS, ReportingTrainer
from tests.polling import eventually, eventually_async
from tests.tls_servers import HOST, running_nats


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder / "authority")


@pytest.fixture(scope="module")
def other(folder: Path) -> Authority:
    """An authority that signed nothing that a server uses."""
    return Authority(folder / "other", "another authority")


@pytest.fixture(scope="module")
def nats(folder: Path, authority: Authority) -> Iterator[Settings]:
    certificates = authority.issue(folder / "nats-certificates", HOST)
    with running_nats(folder / "nats", certificates) as server:
        yield server.settings.model_copy(update={"nats_ca": authority.file})


async def refusal(settings: Settings) -> str:
    with pytest.raises(UntrustedServer) as caught:
        await bus.connect(settings, max_reconnect_attempts=1, reconnect_time_wait=0)
    return str(caught.value)


async def test_operators_and_services_connect_over_tls(nats: Settings) -> None:
    client = await bus.connect(nats)
    assert client.connected_url is not None
    await bus.provision(client.jetstream(), ())
    await client.close()
    broker = broker_of(nats, "relay")
    js = await broker.jetstream()
    assert (await js.publish("events.a.Job.1.JobApproved", b"{}")).stream == bus.EVENTS
    await broker.stop()


async def test_a_certificate_of_another_authority_is_refused(
    nats: Settings, other: Authority
) -> None:
    for changed in (other.file, None):
        found = await refusal(nats.model_copy(update={"nats_ca": changed}))
        assert "is not trusted" in found
        assert "Set ECOLINK_NATS_CA" in found


async def test_a_certificate_of_another_host_is_refused(folder: Path, authority: Authority) -> None:
    certificates = authority.issue(folder / "elsewhere", "nats.example.org")
    with running_nats(folder / "nats-elsewhere", certificates) as server:
        found = await refusal(server.settings.model_copy(update={"nats_ca": authority.file}))
    assert "another host" in found
    assert "ECOLINK_NATS_URL" in found


async def test_a_server_without_tls_gets_no_credentials(folder: Path, authority: Authority) -> None:
    """It could be anybody between the client and the server."""
    with running_nats(folder / "plain", None) as server:
        found = await refusal(server.settings.model_copy(update={"nats_ca": authority.file}))
    assert "offers no TLS" in found
    assert "ECOLINK_NATS_URL" in found


async def test_a_url_without_tls_is_refused(nats: Settings) -> None:
    assert nats.nats_url is not None
    plain = nats.nats_url.replace("tls://", "nats://")
    with pytest.raises(RuntimeError, match="ECOLINK_NATS_CA is set, but a URL in ECOLINK_NATS_URL"):
        await bus.connect(nats.model_copy(update={"nats_url": plain}))
    found = await refusal(nats.model_copy(update={"nats_url": plain, "nats_ca": None}))
    assert "is not trusted" in found


async def test_a_client_that_speaks_no_tls_is_cut_off(nats: Settings) -> None:
    assert nats.nats_url is not None
    reader, writer = await asyncio.open_connection(HOST, int(nats.nats_url.rpartition(":")[2]))
    assert b'"tls_required":true' in await reader.readline()
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    await writer.drain()
    assert b"PONG" not in await reader.read()
    writer.close()


async def test_a_service_logs_what_to_do(
    nats: Settings, other: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_of(nats.model_copy(update={"nats_ca": other.file}), "relay")
    connecting = asyncio.ensure_future(broker.connect())
    await eventually_async(lambda: told("Set ECOLINK_NATS_CA", caplog))
    connecting.cancel()


async def told(text: str, caplog: pytest.LogCaptureFixture) -> bool:
    return text in caplog.text


@pytest.mark.parametrize("content", ["no certificate", None])
def test_an_invalid_authority_names_the_setting(
    nats: Settings, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(RuntimeError, match="ECOLINK_NATS_CA"):
        broker_of(nats.model_copy(update={"nats_ca": tmp_path / "ca.pem"}), "relay")


def test_a_trainer_reports_over_tls_with_the_authority_in_its_spec(
    nats: Settings, authority: Authority, tmp_path: Path
) -> None:
    async def provision() -> None:
        client = await bus.connect(nats)
        await bus.provision(client.jetstream(), ())
        await client.close()

    async def reports() -> int:
        client = await bus.connect(nats)
        try:
            return (await client.jetstream().stream_info(bus.REPORTS)).state.messages
        finally:
            await client.close()

    async def send(control: Control) -> None:
        broker = broker_of(nats, "scheduler")
        js = await broker.jetstream()
        await js.publish(control.subject, control.model_dump_json().encode())
        await broker.stop()

    asyncio.run(provision())
    trainer = ReportingTrainer(nats, tmp_path)
    assert trainer.spec.nats_ca == authority.file.read_text()
    before = asyncio.run(reports())
    with trainer.running() as thread:
        eventually(lambda: asyncio.run(reports()) > before)
        trainer.finish()
        answer = Control(
            job_id=trainer.spec.job_id, segment=1, paid_seconds=PAID_SECONDS, answered=True
        )
        asyncio.run(send(answer))
        thread.join()


# The embedded PostgreSQL is built without TLS. Its handshake is enough to see what libpq refuses.

ENCRYPTION_REQUEST_BYTES = 8


class Handshake(socketserver.BaseRequestHandler):
    """Reply to the request for encryption like PostgreSQL, then shake hands or end."""

    context: ssl.SSLContext | None = None

    def handle(self) -> None:
        self.request.recv(ENCRYPTION_REQUEST_BYTES)
        self.request.sendall(b"N" if self.context is None else b"S")
        if self.context is not None:
            with suppress(OSError):  # the client refuses the certificate
                self.context.wrap_socket(self.request, server_side=True).close()


@contextmanager
def handshaking(certificates: Path | None) -> Iterator[str]:
    """Run such a server. Yield its URL."""
    handler = type("Configured", (Handshake,), {})
    if certificates is not None:
        handler.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        files = certificates / "server.pem", certificates / "server-key.pem"
        handler.context.load_cert_chain(*files)
    with socketserver.ThreadingTCPServer((HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"postgresql://ecolink:secret@{HOST}:{server.server_address[1]}/ecolink"
        server.shutdown()


def refused(url: str, ca: Path, home: Path) -> str:
    verified = f"{url}?sslmode=verify-full&sslrootcert={quote(str(ca))}"
    found = server_checks(Settings(home=home, database_url=verified))
    (check,) = [each for each in found if each.name == "postgresql"]
    assert check.level is Level.FAILED
    return check.text


def test_postgresql_of_another_authority_or_host_is_refused(
    authority: Authority, other: Authority, tmp_path: Path
) -> None:
    with handshaking(authority.issue(tmp_path / "tls", HOST)) as url:
        assert "Add sslrootcert=FILE" in refused(url, other.file, tmp_path)
        assert "Add sslrootcert=FILE" in refused(url, tmp_path / "missing.pem", tmp_path)
        elsewhere = refused(url.replace(HOST, "localhost"), authority.file, tmp_path)
        assert "Use a host name of the certificate in ECOLINK_DATABASE_URL" in elsewhere
        ended = refused(url, authority.file, tmp_path)
        assert "sslrootcert" not in ended, "libpq accepted the certificate"


def test_a_postgresql_without_tls_is_refused(authority: Authority, tmp_path: Path) -> None:
    with handshaking(None) as url:
        assert "Turn on ssl in postgresql.conf" in refused(url, authority.file, tmp_path)


@pytest.mark.full
def test_a_migration_without_a_connection_names_the_fix(
    authority: Authority, other: Authority, tmp_path: Path
) -> None:
    with handshaking(authority.issue(tmp_path / "tls", HOST)) as url:
        verified = f"{url}?sslmode=verify-full&sslrootcert={quote(str(other.file))}"
        settings = Settings(home=tmp_path, database_url=verified)
        migration = subprocess.run(
            (sys.executable, "-P", "-m", "deploy.migrate"),
            env=os.environ | environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )
    assert migration.returncode == 1
    assert "Add sslrootcert=FILE" in migration.stderr
    assert "Traceback" not in migration.stderr


def test_a_refused_connection_without_tls_names_the_parameters() -> None:
    text = 'FATAL: no pg_hba.conf entry for host "10.0.0.7", user "ecolink", no encryption'
    assert "Add sslmode=verify-full" in (tls_fix(psycopg.OperationalError(text)) or "")
    assert tls_fix(psycopg.OperationalError("connection refused")) is None


def test_mixed_urls_are_refused(authority: Authority) -> None:
    text = authority.file.read_text()
    with pytest.raises(RuntimeError, match="does not start with `tls://`"):
        tls_context("tls://a:4222,nats://b:4222", text)
    assert tls_context("nats://a:4222", None) is None
    assert tls_context("tls://a:4222", None) is not None
