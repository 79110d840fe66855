"""A watched job: its newest view and its recent changes, each rendered once.

Every change has a tick. A viewer stores the tick of its last frame, and the next frame has all
later changes. Nothing is queued per viewer, and a slow viewer skips to the newest view.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from markupsafe import Markup

from domain.jobs import events
from gateway.jobs.pages.timeline import Entry
from gateway.web.rendering import templates
from infrastructure.training.measurements import Place

KEPT = 500
"""Maximum entries, points and lines that each job keeps for viewers that reconnect."""

KEPT_FRAMES = 50
"""Maximum frames that each job keeps for viewers at the same tick."""


PlacedRow = tuple[Place, dict[str, Any]]
"""A measurement or log line, with its place (segment and number)."""


class Seen(NamedTuple):
    """The last event, step, evaluation and log line that a page shows."""

    sequence: int
    step: Place
    evaluation: Place
    line: Place


@dataclass
class Series:
    """The kept measurements or log lines of a job, in order."""

    floor: Place | None = None  # all later rows are kept; None: not read yet
    last: Place = (0, 0)

    complete: int = 0  # all changes after this tick are kept

    def __post_init__(self) -> None:
        self.rows: list[tuple[int, Place, dict[str, Any]]] = []
        self._late: set[Place] = set()  # out-of-order evaluations of the base model

    def unknown(self, rows: Sequence[dict[str, Any]], number: str) -> list[PlacedRow]:
        """Return the rows that are new."""
        placed = [((row["segment"], row[number]), row) for row in rows]
        return [(place, row) for place, row in placed if place not in self._late]

    def add(self, tick: int, rows: Sequence[PlacedRow], gap: bool) -> None:
        """Keep new rows. `gap` means that earlier rows may be missing."""
        if gap and rows:
            self.floor, self.complete = rows[0][0], tick
        elif self.floor is None:
            self.floor = (0, 0)
        for place, row in rows:
            self.last = max(self.last, place)
            self.rows.append((tick, place, row))
            if place[1] == 0:
                self._late.add(place)
        if len(self.rows) > 2 * KEPT:
            gone_at, self.floor, _ = self.rows[-KEPT - 1]
            self.complete = max(self.complete, gone_at)
            del self.rows[:-KEPT]

    def since(self, tick: int) -> list[PlacedRow] | None:
        """Return the rows after a tick, or None if some of them are no longer kept."""
        if tick < self.complete:
            return None
        begin = bisect_right(self.rows, tick, key=lambda row: row[0])
        return [(place, row) for _, place, row in self.rows[begin:]]

    def after(self, place: Place) -> list[PlacedRow] | None:
        """Return rows after a place or out of order; None if some are no longer kept."""
        if self.floor is None or place < self.floor:
            return None
        return [(at, row) for _, at, row in self.rows if at > place or at in self._late]


class WatchedJob:
    """The changes of one job for its viewers."""

    def __init__(self, account_id: UUID, job_id: UUID, sequence: int) -> None:
        self.account_id, self.job_id = account_id, job_id
        self.floor = sequence  # the job keeps all later events
        self.complete = 0  # the job keeps all events after this tick
        self.sequence = sequence  # sequence of the last event
        self.tick = 0
        self.wanted = sequence  # the view must include this event
        self.stale = True  # the view is out of date
        self.moved = False  # parts that change with every step are out of date
        self.over = False  # the job has ended
        self.checkpoints_state: object = None  # state of the checkpoints that the view shows
        self.retry_at, self.retry_seconds = 0.0, 0.0  # set after a failed view
        self.steps, self.evaluations, self.lines = Series(), Series(), Series()
        self.series = {"steps": self.steps, "evaluations": self.evaluations, "lines": self.lines}
        self._parts: dict[str, tuple[int, str]] = {}
        self._entries: list[tuple[int, Entry]] = []
        self._frames: dict[object, str] = {}

    @property
    def measured(self) -> bool:
        """True if every series has been read once. Until then, missed changes are unknown."""
        return all(each.floor is not None for each in self.series.values())

    def tell(self, entries: Sequence[Entry], sequence: int) -> None:
        """Add the entries of new events. The view follows later."""
        self.wanted, self.stale = sequence, True
        if entries:
            self._advance()
            self._entries += [(self.tick, entry) for entry in entries]
            self.sequence = max(self.sequence, entries[-1].sequence)
            if len(self._entries) > 2 * KEPT:
                gone_at, gone = self._entries[-KEPT - 1]
                self.floor, self.complete = gone.sequence, gone_at
                del self._entries[:-KEPT]

    def recall(self, entries: Sequence[Entry], after: int) -> bool:
        """Keep earlier entries for a viewer that reconnects. Return False if there are too many."""
        earlier = [(0, entry) for entry in entries if after < entry.sequence <= self.floor]
        if len(earlier) + len(self._entries) > 2 * KEPT:
            return False
        if after < self.floor:
            self._entries = earlier + self._entries
            self.floor = after
            self._frames.clear()
        return True

    def show(self, parts: Mapping[str, str]) -> bool:
        """Store a new view. Return True if it differs from the last one."""
        changed = {
            name: html for name, html in parts.items() if self._parts.get(name, (0, ""))[1] != html
        }
        if changed:
            self._advance()
            self._parts |= {name: (self.tick, html) for name, html in changed.items()}
        return bool(changed)

    def measure(self, found: Mapping[str, Sequence[dict[str, Any]]], limit: int) -> bool:
        """Store measurements and log lines. Return True if any are new."""
        news = {
            name: self.series[name].unknown(rows, "n" if name == "lines" else "step")
            for name, rows in found.items()
        }
        anything = any(news.values())
        if anything:
            self._advance()
        for name, rows in news.items():
            self.series[name].add(self.tick, rows, len(found[name]) == limit)
        return anything

    def frame_since(self, tick: int, hidden: Collection[str] = frozenset()) -> str:
        """Return a frame with all changes after a tick, except for `hidden` parts."""
        parts = {name: html for name, (at, html) in self._parts.items() if at > tick}
        entries = [entry for at, entry in self._entries if at > tick]
        return self._frame(
            (tick, *hidden),
            {name: html for name, html in parts.items() if name not in hidden},
            entries,
            self.steps.since(tick),
            self.evaluations.since(tick),
            self.lines.since(tick),
        )

    def frame_after(self, seen: Seen, hidden: Collection[str] = frozenset()) -> str:
        """Return a frame with the current view and the changes that a page has not seen."""
        parts = {name: html for name, (_, html) in self._parts.items()}
        entries = [entry for _, entry in self._entries if entry.sequence > seen.sequence]
        return self._frame(
            (seen, *hidden),
            {name: html for name, html in parts.items() if name not in hidden},
            entries,
            self.steps.after(seen.step),
            self.evaluations.after(seen.evaluation),
            self.lines.after(seen.line),
        )

    def _advance(self) -> None:
        self.tick += 1
        self._frames.clear()

    def _frame(
        self,
        key: object,
        parts: Mapping[str, str],
        entries: Sequence[Entry],
        steps: Sequence[PlacedRow] | None,
        evaluations: Sequence[PlacedRow] | None,
        lines: Sequence[PlacedRow] | None,
    ) -> str:
        """Return a frame that all viewers at the same place share."""
        known = self._frames.get(key)
        if known is not None:
            return known
        content = partials(parts)
        if entries:
            newest_first = "".join(entry_html(entry) for entry in reversed(entries))
            content.append(_partial("#timeline", "afterbegin", newest_first))
        frame: dict[str, Any] = {
            "sequence": self.sequence,
            "events": [entry.sequence for entry in entries],
        }
        ended = {entry.topic for entry in entries}
        if steps is None or evaluations is None or events.EvaluationCompleted.TOPIC in ended:
            frame["curve"] = None
        elif steps or evaluations:
            frame["curve"] = {
                "steps": [
                    [*place, row["loss"], row["smoothed"], *_rewards(row)] for place, row in steps
                ],
                "evaluations": [[*place, row["loss"]] for place, row in evaluations],
            }
        if lines is None or events.JobFailed.TOPIC in ended:
            frame["line"] = None
        elif lines:
            frame["line"] = lines[-1][0]
            content.append(_partial("#log-lines", "beforeend", lines_html([r for _, r in lines])))
        if content:
            frame["content"] = "".join(content)
        if len(self._frames) == KEPT_FRAMES:
            del self._frames[next(iter(self._frames))]
        text = self._frames[key] = json.dumps(frame, separators=(",", ":"))
        return text


def _rewards(row: Mapping[str, Any]) -> list[float]:
    """Return the rewards and the accuracy of a step with DPO; nothing for other methods."""
    if row.get("chosen") is None:
        return []
    return [row["chosen"], row["rejected"], row["accuracy"]]


def entry_html(entry: Entry) -> Markup:
    """Render an entry of the timeline."""
    return Markup(templates().get_template("jobs/job/entry.html").render(entry=entry))


def lines_html(lines: Sequence[Mapping[str, Any]]) -> Markup:
    """Render lines of the log."""
    return Markup(templates().get_template("jobs/job/lines.html").render(lines=lines))


def partials(parts: Mapping[str, str]) -> list[Markup]:
    """Wrap the parts of a page for htmx."""
    return [
        _partial("#balance-now", "outerMorph", html)
        if name == "balance"
        else _partial(f"#job-{name}", "innerMorph", html)
        for name, html in parts.items()
    ]


def _partial(target: str, swap: str, html: str) -> Markup:
    return Markup(f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>')
