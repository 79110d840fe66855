"""GPU pools: capacity, what is held, and how many segments wait."""

from __future__ import annotations

from domain.aggregate import Event
from domain.gpu_pool import GpuPool
from infrastructure.store import Connection
from projections.projection import Cursor, Projection, Row

DDL = """
CREATE TABLE IF NOT EXISTS gpu_pools (
    pool_id uuid PRIMARY KEY,
    region text NOT NULL,
    gpu_type text NOT NULL,
    capacity integer NOT NULL,
    held integer NOT NULL,
    waiting integer NOT NULL
)
"""


def apply(cursor: Cursor, event: Event) -> None:
    """Fold one event into the table."""
    match event:
        case GpuPool.GpuPoolOpened():
            cursor.execute(
                "INSERT INTO gpu_pools VALUES (%s, %s, %s, 0, 0, 0)",
                [event.originator_id, event.region, event.gpu_type],
            )
        case GpuPool.CapacityChanged():
            cursor.execute(
                "UPDATE gpu_pools SET capacity = %s WHERE pool_id = %s",
                [event.capacity, event.originator_id],
            )
        case GpuPool.GpusRequested():
            _move(cursor, event, held=0, waiting=1)
        case GpuPool.GpusAllocated():
            _move(cursor, event, held=event.count, waiting=-1)
        case GpuPool.GpusReleased():
            _move(cursor, event, held=-event.count, waiting=0)
        case _:
            pass


def _move(cursor: Cursor, event: Event, held: int, waiting: int) -> None:
    cursor.execute(
        "UPDATE gpu_pools SET held = held + %s, waiting = waiting + %s WHERE pool_id = %s",
        [held, waiting, event.originator_id],
    )


GPU_POOLS = Projection("gpu_pools", ("gpu_pools",), DDL, apply)


def all_gpu_pools(connection: Connection) -> list[Row]:
    """Every pool, by region and type."""
    return connection.execute("SELECT * FROM gpu_pools ORDER BY region, gpu_type").fetchall()
