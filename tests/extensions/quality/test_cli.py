"""Findings, filters and comparisons on the command line."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from psycopg_pool import ConnectionPool

from extensions.quality.comparisons import ComparisonKind, Key, request_comparison
from infrastructure.postgres.store import Connection
from tests.builders.planted import Writer, line_of
from tests.builders.platform import Platform
from tests.extensions.quality.conftest import QualityService
from tests.gateway.cli.conftest import CommandLine

pytestmark = pytest.mark.full


def test_findings_versions_and_comparisons_are_printed(
    url: str,
    platform: Platform,
    service: QualityService,
    pool: ConnectionPool[Connection],
    tmp_path: Path,
) -> None:
    me, chats = CommandLine(url, platform.person().key), [Writer(n).chat() for n in range(6)]
    near = [chats[0][0], chats[0][1].replace(".", "!", 1)]

    def uploaded(name: str, given: list[list[str]]) -> str:
        file = tmp_path / name
        file.write_bytes(b"".join(line_of(chat) + b"\n" for chat in given))
        return me.read("datasets", "upload", str(file), "--no-follow")["id"]

    train = uploaded("train.v1.jsonl.gz", [chats[0], near, *chats[1:4]])
    validation = uploaded("validation.jsonl", chats[3:])
    assert me.refused("datasets", "quality", train, "--no-follow", code=6)
    service.catch_up()
    service.analyze()
    shown = me.run("datasets", "quality", train)
    assert "Near-duplicates: 1 (lines 2)" in shown
    assert "line 2, like line 1 (" in shown
    chosen = ("--near-duplicates", "--similarity", "0.6")
    new = me.read("datasets", "filter", train, *chosen, "--no-follow")
    assert (new["name"], new["filters"]["similarity"]) == ("train.v1 (filtered)", 0.6)
    service.catch_up()
    origin = "Removes near-duplicates, from a similarity of 60%."
    assert origin in me.run("datasets", "versions", train)
    assert origin in me.run("datasets", "show", new["id"])
    assert "near duplicate 1" in me.run("datasets", "show", train)
    assert "refusl is not allowed" in me.refused(
        "datasets", "filter", train, "--answer", "refusl", code=2
    )
    keys: list[Key] = [
        (UUID(train), UUID(validation), ComparisonKind.CONTAMINATION),
        (UUID(new["id"]), UUID(validation), ComparisonKind.DIFFERENCE),
        (UUID(new["id"]), UUID(train), ComparisonKind.DIFFERENCE),
    ]
    with pool.connection() as connection:
        for key in keys:
            request_comparison(connection, service.dataset(UUID(train)).account_id, key)
    service.compare()
    shown = me.run("datasets", "quality", train, "--validation", validation)
    assert "1 of 3 validation examples are also in the dataset" in shown
    assert "4 unchanged, 0 added, 1 removed" in me.run("datasets", "diff", new["id"])
    other = me.read("datasets", "diff", new["id"], "--base", validation)
    assert (other["base"], other["result"]["unchanged"]) == (validation, 1)
