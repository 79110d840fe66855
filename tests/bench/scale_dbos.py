"""DBOS beside the ticker: one durable workflow for each job-minute, on the same PostgreSQL server.

`python -m tests.bench.scale_dbos WORKFLOWS THREADS` runs with the URL of its own database in
DBOS_URL, and prints the seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from infrastructure.settings import Settings

MODULE = "tests.bench.scale_dbos"
DATABASE = "bench_dbos"
JOBS_OF_ACCOUNT = 10
AMOUNT_MICROS = 60_000
TABLES = """
CREATE TABLE minutes (
    job_id integer NOT NULL,
    minute integer NOT NULL,
    account_id integer NOT NULL,
    amount_micros bigint NOT NULL,
    PRIMARY KEY (job_id, minute)
);
CREATE TABLE balances (account_id integer PRIMARY KEY, balance_micros bigint NOT NULL)
"""


class Workflows(NamedTuple):
    """The workflows that DBOS ran, and the seconds from the first to the last."""

    workflows: int
    seconds: float
    processes: int

    @property
    def per_second(self) -> float:
        """Job-minutes per second."""
        return self.workflows / self.seconds


def measure_dbos(settings: Settings, workflows: int, processes: int, threads: int) -> Workflows:
    """Run a job-minute in each of many workflows, in a database of their own.

    A workflow has one step. Its transaction inserts the minute, updates the balance of the account
    and records the step. The workflows run directly in threads, because a queue adds statements.
    Raise AssertionError unless each minute is billed once.
    """
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, dbname=DATABASE)
    _create(settings.owner_database_url, url)
    each = workflows // processes
    running = [
        subprocess.Popen(
            [sys.executable, "-m", MODULE, str(number * each), str(each), str(threads)],
            env=os.environ | {"DBOS_URL": _as_url(settings.owner_database_url)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "DBOS did not start"
    began = time.perf_counter()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"done": each}
    taken = time.perf_counter() - began
    for process in running:
        process.communicate(timeout=60)
    with psycopg.connect(url) as connection:
        billed = connection.execute(
            "SELECT (SELECT count(*) FROM minutes), (SELECT -sum(balance_micros) FROM balances)"
        ).fetchone()
    assert billed == (each * processes, each * processes * AMOUNT_MICROS), billed
    return Workflows(each * processes, taken, processes)


def _as_url(url: str) -> str:
    return url.rpartition("/")[0] + f"/{DATABASE}"


def _create(owner_url: str, url: str) -> None:
    with psycopg.connect(owner_url, autocommit=True) as connection:
        name = sql.Identifier(DATABASE)
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
        connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
    with psycopg.connect(url) as connection:
        connection.execute(TABLES)
        connection.execute(
            "INSERT INTO balances SELECT account_id, 0 FROM generate_series(0, 100000) "
            "AS ids (account_id)"
        )


def main(first: int, count: int, threads: int) -> None:
    """Run `count` workflows after a line of input."""
    from dbos import DBOS, SQLAlchemyDatasource
    from sqlalchemy import text

    url = os.environ["DBOS_URL"]
    pool = {"pool_size": threads, "max_overflow": 0}
    source = SQLAlchemyDatasource.create(url, engine_kwargs=pool)
    DBOS(
        config={
            "name": "bench",
            "executor_id": str(first),
            "system_database_url": url,
            "sys_db_pool_size": threads,
            "log_level": "ERROR",
            "use_listen_notify": False,
        }
    )
    insert = text("INSERT INTO minutes VALUES (:job, :minute, :account, :amount)")
    charge = text(
        "UPDATE balances SET balance_micros = balance_micros - :amount WHERE account_id = :account"
    )

    @source.transaction(isolation_level="READ COMMITTED")
    def bill(job: int, minute: int) -> None:
        values = {"job": job, "account": job // JOBS_OF_ACCOUNT, "amount": AMOUNT_MICROS}
        session = source.sql_session()
        session.execute(insert, values | {"minute": minute})
        session.execute(charge, values)

    @DBOS.workflow()
    def meter(job: int) -> None:
        bill(job, 1)

    DBOS.launch()
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(meter, range(-first - threads, -first)))  # opens the connections
        with psycopg.connect(url) as connection:
            connection.execute("DELETE FROM minutes WHERE job_id < 0")
            connection.execute("UPDATE balances SET balance_micros = 0 WHERE balance_micros <> 0")
        print("ready", flush=True)
        sys.stdin.readline()
        list(executor.map(meter, range(first, first + count)))
    print(json.dumps({"done": count}), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main(*(int(each) for each in sys.argv[1:]))
