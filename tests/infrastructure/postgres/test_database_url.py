"""Connection parameters from the URL of a database."""

from __future__ import annotations

from infrastructure.postgres.database_url import (
    CONNECT_SECONDS,
    connection_parameters,
    each_server,
    version_problem,
)


def test_one_server_gets_timeouts() -> None:
    found = connection_parameters("postgresql://user:secret@db:5433/ecolink?sslmode=require")
    assert (found["host"], found["port"], found["sslmode"]) == ("db", "5433", "require")
    assert found["connect_timeout"] == CONNECT_SECONDS
    assert "target_session_attrs" not in found


def test_of_several_servers_the_one_that_accepts_writes_is_used() -> None:
    found = connection_parameters("postgresql://user@one:5433,two/ecolink")
    assert found["target_session_attrs"] == "read-write"


def test_the_url_can_set_each_parameter() -> None:
    url = "postgresql://user@one,two/ecolink?target_session_attrs=primary&connect_timeout=9"
    found = connection_parameters(url)
    assert (found["target_session_attrs"], found["connect_timeout"]) == ("primary", "9")


def test_each_server_has_its_own_port() -> None:
    def ports(url: str) -> list[tuple[object, object, object]]:
        return [(s["host"], s["port"], s["target_session_attrs"]) for s in each_server(url)]

    expected = [("one", "5433", "any"), ("two", "5432", "any")]
    assert ports("postgresql://user@one:5433,two/ecolink") == expected
    assert ports("postgresql://user@one:6000,two:6000/x")[1] == ("two", "6000", "any")
    assert ports("host=one,two port=7000 dbname=x user=u")[1] == ("two", "7000", "any")


def test_an_old_server_is_refused_with_the_version_to_install() -> None:
    assert version_problem(170_000) is None
    assert version_problem(160_009) == "Version 16. Upgrade to 17 or later."
