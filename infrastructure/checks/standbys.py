"""Checks of the primary and the standbys of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from infrastructure.checks.machine import Check, Level
from infrastructure.postgres.database_url import each_server
from infrastructure.postgres.primary import Timeline, timeline_of
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings

NAME = "standbys"

COMMITS = """
SELECT current_setting('synchronous_commit') AS commit,
    current_setting('synchronous_standby_names') AS wanted
"""

ATTACHED = """
SELECT coalesce(application_name, '?') AS name, state, sync_state,
    round(extract(epoch FROM replay_lag)::numeric, 1) AS lag_seconds
FROM pg_stat_replication ORDER BY name
"""


@dataclass(frozen=True)
class Primary:
    """A server that accepts writes, and the standbys that follow it."""

    address: str
    timeline: Timeline
    commit: str
    wanted: str
    attached: list[dict[str, Any]]


def standby_checks(settings: Settings) -> Iterator[Check]:
    """Check all servers of the database's URL. Yield nothing for one server without standbys."""
    url = settings.owner_database_url or settings.database_url
    if url is None:
        return
    primaries: list[Primary] = []
    others = 0
    unreachable = list[Check]()
    servers = each_server(url)
    for parameters in servers:
        address = f"{parameters['host']}:{parameters['port']}"
        try:
            with Connection.connect(autocommit=True, row_factory=dict_row, **parameters) as server:
                found = _primary(server, address)
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            fix = "Start it, or remove it from ECOLINK_DATABASE_URL."
            text = f"Cannot connect to {address}: {reason}. {fix}"
            unreachable.append(Check(NAME, Level.WARNING, text))
        else:
            others += found is None
            primaries += [] if found is None else [found]
    if len(servers) == 1 and (unreachable or not any(each.attached for each in primaries)):
        return  # the check `postgresql` reports an unreachable server
    yield from unreachable
    yield _roles(primaries, others)


def _primary(server: Connection, address: str) -> Primary | None:
    timeline = timeline_of(server)
    if timeline is None:
        return None
    row = server.execute(COMMITS).fetchone()
    assert row is not None
    return Primary(address, timeline, attached=server.execute(ATTACHED).fetchall(), **row)


def _roles(primaries: list[Primary], standbys: int) -> Check:
    if not primaries:
        fix = "Promote one with `pg_ctl promote`."
        text = f"None of the {standbys} reachable servers accepts writes. {fix}"
        return Check(NAME, Level.FAILED, text)
    newest = max(primaries, key=lambda each: each.timeline.number)
    if len(primaries) > 1:
        shown = ", ".join(
            f"{each.address} (timeline {each.timeline.file_prefix})" for each in primaries
        )
        former = ", ".join(each.address for each in primaries if each is not newest)
        fix = f"Stop {former}, and make it a standby of {newest.address}. Its last events are lost."
        return Check(NAME, Level.FAILED, f"Several servers accept writes: {shown}. {fix}")
    return _replication(newest)


def _replication(primary: Primary) -> Check:
    attached = primary.attached
    if any(each["state"] is None for each in attached):
        fix = "Run `GRANT pg_read_all_stats` to the role of ECOLINK_OWNER_DATABASE_URL."
        text = f"Primary {primary.address}. This role cannot see its standbys. {fix}"
        return Check(NAME, Level.WARNING, text)
    shown = ", ".join(_described(each) for each in attached) or "no standby"
    text = f"Primary {primary.address}; {shown}; synchronous_commit is {primary.commit}."
    synchronous = any(each["sync_state"] in ("sync", "quorum") for each in attached)
    if primary.wanted and not synchronous:
        fix = "Start the standby, or empty synchronous_standby_names."
        text += f" Saves wait, because no standby of {primary.wanted!r} is attached. {fix}"
        return Check(NAME, Level.FAILED, text)
    if not synchronous:
        fix = "Set synchronous_standby_names, or accept this."
        text += f" No standby is synchronous, so a failover can lose the last events. {fix}"
        return Check(NAME, Level.WARNING, text)
    if primary.commit == "local":
        text += " Commits do not wait for the standby. Set synchronous_commit to on."
        return Check(NAME, Level.WARNING, text)
    return Check(NAME, Level.OK, text)


def _described(standby: dict[str, Any]) -> str:
    lag = standby["lag_seconds"]
    late = "" if not lag else f", {lag} s behind"
    return f"standby {standby['name']} ({standby['sync_state']}, {standby['state']}{late})"
