"""One reading of the event stream for all projections."""

from __future__ import annotations

import asyncio
import logging

import psycopg
from faststream.nats import NatsBroker

from domain.core.event_log import EventLog
from infrastructure.bus.consumer import OrderedConsumer
from infrastructure.bus.streams import Durable
from projections import PROJECTIONS
from projections.group import ProjectionGroup
from projections.projection import (
    Connect,
    ForeignShape,
    Projection,
    ProjectionEffect,
    foreign,
)

POLL_SECONDS = 0.5
"""Seconds between two checks for projections that left the group."""


class Following:
    """All projections, which follow the log together. One that fails catches up alone."""

    def __init__(self, log: EventLog, connect: Connect) -> None:
        self._log, self._connect = log, connect
        self._group = ProjectionGroup(PROJECTIONS, connect)
        self._group.leave_behind()
        self._consumer = OrderedConsumer(self._group, log)
        self._logger = logging.getLogger("projector")

    @property
    def durable(self) -> Durable:
        """The durable consumer of the stream."""
        return self._consumer.durable

    def subscribe(self, broker: NatsBroker) -> None:
        """Start consuming from the bus when the broker starts."""
        self._consumer.subscribe(broker)

    async def run(self) -> None:
        """Catch up with the log. Projections that leave the group catch up alone."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._consumer.begin())
            while True:
                for each in self._group.take_left():
                    tasks.create_task(self._catch_up(each))
                await asyncio.sleep(POLL_SECONDS)

    async def _catch_up(self, projection: Projection) -> None:
        """Catch up alone until a projection can process the newest events, and join the group.

        While the tables have the shape of another release, wait. A projector of that release, or
        the migration of this one, may follow at any time.
        """
        await self._until_own_shape(projection)
        alone = OrderedConsumer(ProjectionEffect(projection, self._connect), self._log)
        await alone.begin()
        self._group.join(projection)
        await alone.begin()  # applies the events that arrived before it joined

    async def _until_own_shape(self, projection: Projection) -> None:
        warned = False
        while True:
            if not await asyncio.to_thread(self._is_foreign, projection):
                return
            if not warned:
                self._logger.warning("%s", ForeignShape([projection]))
            warned = True
            await asyncio.sleep(POLL_SECONDS)

    def _is_foreign(self, projection: Projection) -> bool:
        try:
            with self._connect() as connection:
                return bool(foreign(connection, [projection]))
        except psycopg.Error as error:
            self._logger.warning("cannot read the shape of %s: %s", projection.name, error)
            return True
