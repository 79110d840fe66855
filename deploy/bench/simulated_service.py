"""A service in a simulation: its real reactions to the log, as late as the simulation wants."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from domain.aggregate import Aggregate, Cause, Event, because
from domain.event_log import EventLog


class SimulatedService:
    """Answers events one by one, in the order of the log; those that wait are its lag."""

    def __init__(
        self,
        log: EventLog,
        react: Callable[[Event], Sequence[Aggregate]],
        cause: Callable[[], Cause],
    ) -> None:
        self._log = log
        self._react = react
        self._cause = cause
        self._waiting: deque[Event] = deque()

    @property
    def lags(self) -> bool:
        """Whether there are events that it has not answered."""
        return bool(self._waiting)

    def hear(self, event: Event) -> None:
        """An event stands in the log."""
        self._waiting.append(event)

    def answer(self) -> None:
        """Answer the next event, if one waits; what that changes is saved at once."""
        if self._waiting:
            with because(self._cause()):
                aggregates = self._react(self._waiting.popleft())
                if any(each.pending_events for each in aggregates):
                    self._log.commit(*aggregates)
