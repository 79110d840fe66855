"""`ecolink security replace-secrets` on a real stack: all data remains, and no old secret works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import nats
import psycopg
import pytest
from nats.errors import Error as NatsError

from deploy.demo.account import demo_account, sign_in_link
from deploy.local import stack
from deploy.local.home import Home, Passwords
from deploy.processes import PROCESSES
from domain.access.api_key import secret_sha256
from domain.core.identity import api_key_id
from gateway.cli.exits import ExitCode
from infrastructure.accounts.sessions import begin_session, session_of
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus import streams as bus
from infrastructure.postgres.store import connect
from infrastructure.seals.archive import LastHead
from infrastructure.settings import Settings
from tests.deploy.operator.command_line import ecolink
from tests.polling import eventually

SERVICES = {name: PROCESSES[name] for name in ("relay", "sealer", "projector", "gateway")}


@contextmanager
def running(home: Path) -> Iterator[tuple[Settings, httpx.Client]]:
    """Run a stack. Yield its settings and a client without a key."""
    with stack.up(Settings(home=home), SERVICES) as started:
        assert started.settings.gateway_url is not None
        with httpx.Client(base_url=started.settings.gateway_url, timeout=60) as client:
            yield started.settings, client


def status(client: httpx.Client, key: str) -> int:
    return client.get("/api/account", headers={"authorization": f"Bearer {key}"}).status_code


def stored_events(settings: Settings) -> int:
    """Return the number of events in the stream."""

    async def count() -> int:
        client = await bus.connect(settings)
        try:
            return (await client.jetstream().stream_info(bus.EVENTS)).state.messages
        finally:
            await client.close()

    return asyncio.run(count())


async def refused_by_nats(settings: Settings, credentials: str) -> None:
    assert settings.nats_url is not None

    async def ignore(_: Exception) -> None:
        pass

    options: dict[str, Any] = {"allow_reconnect": False, "error_cb": ignore, "connect_timeout": 30}
    with pytest.raises(NatsError):
        await nats.connect(settings.nats_url, user_credentials=credentials, **options)


@pytest.mark.full
def test_all_data_remains_and_no_old_secret_works(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECOLINK_HOME", str(home))
    with running(home) as (settings, client):
        old = demo_account(settings)
        sign_in_link(settings, old)
        eventually(lambda: status(client, old.key) == 200)
        with connect(settings) as connection:
            session = begin_session(connection, api_key_id(secret_sha256(old.key)))
        eventually(lambda: Artifacts(settings.artifacts).list("seals"))
        events = stored_events(settings)
        assert ecolink("security", "replace-secrets", exit_code=ExitCode.FAILED)  # it runs
        before = Home(home).passwords()
    credentials = tmp_path / "old.creds"
    credentials.write_text(Home(home).nats_credentials(bus.OPERATOR).read_text())
    seal_key = settings.seal_key_file.read_bytes()

    ecolink("security", "replace-secrets")
    after = Home(home).passwords()
    kept, new = (json.loads(each.model_dump_json()) for each in (before, after))
    assert set(kept) == set(new) == set(Passwords.model_fields)
    for name in kept:
        pairs = zip(kept[name].items(), new[name].items(), strict=True) if name == "nats" else ()
        assert kept[name] != new[name], name
        assert all(one != other for one, other in pairs)

    with running(home) as (settings, client):
        assert demo_account(settings).key != old.key
        eventually(lambda: status(client, demo_account(settings).key) == 200)
        assert status(client, old.key) == 401
        assert stored_events(settings) > events  # the same stream, with the events of the new key
        asyncio.run(refused_by_nats(settings, str(credentials)))
        url = f"postgresql://{{}}:{{}}@127.0.0.1:{settings.postgres_port}/ecolink"
        for role, password in {"ecolink": before.postgres_owner, **before.database_roles}.items():
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(url.format(role, password))
        eventually(LastHead.beside(settings.seal_key_file).path.exists)
        assert settings.seal_key_file.read_bytes() != seal_key
        assert Artifacts(settings.artifacts).list("seals-before-replacement")
        with connect(settings) as connection:
            assert session_of(connection, session) is None
            for table in ("sign_in_links", "ecolink_snapshots"):
                assert connection.execute(f"TABLE {table}").fetchall() == []  # type: ignore[arg-type]
        everything = "".join(
            path.read_text(errors="replace")
            for path in home.rglob("*")
            if path.is_file() and "postgres" not in path.parts and "logs" not in path.parts
        )
        for secret in (before.postgres_owner, before.serving, before.snapshots, old.key):
            assert secret not in everything
        ecolink("audit", "verify")
