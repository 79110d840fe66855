"""Projections that share one reading of the event stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from statistics import median_low

from domain.core.recorded import Recorded
from projections.projection import (
    Connect,
    ForeignShape,
    Projection,
    apply_batch,
    consumer_name,
    foreign,
    lowest_position,
    positions_of,
)

NAME = "projections"


class ProjectionGroup:
    """An effect that applies each batch to all projections of a group in one transaction.

    A projection that fails leaves the group, so that it holds back no other one. The projector then
    brings it up to date alone, and it joins the group again. A projection whose tables another
    release has rebuilt leaves the group, too.
    """

    name = NAME

    def __init__(self, projections: Sequence[Projection], connect: Connect) -> None:
        self._connect = connect
        self._members = tuple(projections)
        self._joining: list[Projection] = []
        self._left: list[Projection] = []
        self._lock = threading.Lock()
        """Held while one of the three lists changes."""

    def leave_behind(self) -> None:
        """Remove the projections that are further behind than most, as after a failure.

        Also remove those with tables of another release, unless all are.
        """
        with self._connect() as connection:
            positions = positions_of(connection, self._members)
            changed = foreign(connection, self._members)
        typical = median_low(positions.values())
        behind = [each for each in self._members if positions[each.name] < typical]
        self._leave(list(dict.fromkeys([*behind, *changed])))

    def take_left(self) -> list[Projection]:
        """Return the projections that left the group since the last call."""
        with self._lock:
            left, self._left = self._left, []
        return left

    def join(self, projection: Projection) -> None:
        """Add a projection that left the group. It may be behind the other ones by some events."""
        with self._lock:
            self._joining.append(projection)

    def position(self) -> int:
        """Return the notification ID of the last event that all members have applied.

        Projections join here, so that `apply` receives the events after their positions.
        """
        with self._lock:
            self._members, self._joining = (*self._members, *self._joining), []
        with self._connect() as connection:
            return lowest_position(connection, self._members)

    def apply(self, batch: Sequence[Recorded]) -> None:
        """Apply a batch of events. Each projection skips events that it has already applied."""
        try:
            with self._connect() as connection:
                apply_batch(connection, self._members, batch)
        except ForeignShape as error:
            if len(error.projections) == len(self._members):
                raise
            self._leave(error.projections)
            self.apply(batch)
        except Exception:
            if len(self._members) == 1:
                raise
            logging.getLogger(f"consumer.{NAME}").warning(
                "applying the events %d to %d to one projection after the other",
                *(batch[0].id, batch[-1].id),
                exc_info=True,
            )
            self._apply_alone(batch)

    def _apply_alone(self, batch: Sequence[Recorded]) -> None:
        """Apply a batch to one projection after the other. Those that fail leave the group.

        If all fail, raise the error, because they are not its cause.
        """
        failed: list[Projection] = []
        for each in self._members:
            with self._connect() as connection:  # no projection fails for lack of a connection
                try:
                    apply_batch(connection, [each], batch)
                except Exception:
                    if len(failed) == len(self._members) - 1:
                        raise
                    failed.append(each)
                    logging.getLogger(f"consumer.{consumer_name(each)}").exception(
                        "stopping alone at the events %d to %d", batch[0].id, batch[-1].id
                    )
        self._leave(failed)

    def _leave(self, projections: Sequence[Projection]) -> None:
        """Remove projections. Keep one if all would leave."""
        if len(projections) == len(self._members):
            projections = projections[1:]
        with self._lock:
            self._members = tuple(each for each in self._members if each not in projections)
            self._left += projections
