"""A job that somebody looks at: its newest view, and what came since, each thing made once.

Whatever comes gets a tick. A viewer is a tick: what it is sent next is all that has a later one,
so that nothing is queued for anybody, and who is slow gets the newest view and skips those between.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from markupsafe import Markup

from domain.catalog.display_names import DisplayNames
from domain.jobs.job import Job
from gateway.jobs.pages.story import Entry
from gateway.web.rendering import templates
from infrastructure.measurements import Place

KEPT = 500
"""Entries, points and lines of each job that are kept for viewers who come back."""

KEPT_FRAMES = 50
"""Texts of each job that are kept for viewers who miss the same."""


PlacedRow = tuple[Place, dict[str, Any]]
"""What was measured, or a line, and where it stands."""


class Seen(NamedTuple):
    """How much of a job a page shows: up to which event, step, evaluation and line."""

    sequence: int
    step: Place
    evaluation: Place
    line: Place


@dataclass
class Series:
    """Measurements or lines of a job in their order, as far back as they are kept."""

    floor: Place | None = None  # all behind it are kept; None: nothing was read yet
    last: Place = (0, 0)

    complete: int = 0  # all that came after this tick is kept

    def __post_init__(self) -> None:
        self.rows: list[tuple[int, Place, dict[str, Any]]] = []
        self._late: set[Place] = set()  # of the base's evaluations, which come out of order

    def unknown(self, rows: Sequence[dict[str, Any]], number: str) -> list[PlacedRow]:
        """Those of the rows that were read which are news."""
        placed = [((row["segment"], row[number]), row) for row in rows]
        return [(place, row) for place, row in placed if place not in self._late]

    def add(self, tick: int, rows: Sequence[PlacedRow], gap: bool) -> None:
        """Keep what is news; with a gap there may have been more before it."""
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
        """What came after a tick; None if that is no longer all kept."""
        if tick < self.complete:
            return None
        begin = bisect_right(self.rows, tick, key=lambda row: row[0])
        return [(place, row) for _, place, row in self.rows[begin:]]

    def after(self, place: Place) -> list[PlacedRow] | None:
        """What stands behind a place, or came late; None if that is no longer all kept."""
        if self.floor is None or place < self.floor:
            return None
        return [(at, row) for _, at, row in self.rows if at > place or at in self._late]


class WatchedJob:
    """What is sent to the viewers of one job."""

    def __init__(self, account_id: UUID, job_id: UUID, places: DisplayNames, sequence: int) -> None:
        self.account_id, self.job_id = account_id, job_id
        self.places = places  # as they were when somebody began to look
        self.floor = sequence  # all events behind it are kept
        self.complete = 0  # and all that came after this tick
        self.sequence = sequence  # of the last event
        self.tick = 0
        self.wanted = sequence  # that the view has to show
        self.stale = True  # the view
        self.moved = False  # only what changes with each step
        self.over = False  # the job
        self.checkpoints_state: object = None  # that the view shows
        self.retry_at, self.retry_seconds = 0.0, 0.0  # after a view that could not be shown
        self.steps, self.evaluations, self.lines = Series(), Series(), Series()
        self.series = {
            "steps": self.steps,
            "evaluations": self.evaluations,
            "lines": self.lines,
        }
        self._parts: dict[str, tuple[int, str]] = {}
        self._entries: list[tuple[int, Entry]] = []
        self._frames: dict[object, str] = {}

    @property
    def measured(self) -> bool:
        """Whether what is measured was read once; before that nobody can be told what they miss."""
        return all(each.floor is not None for each in self.series.values())

    def tell(self, entries: Sequence[Entry], sequence: int) -> None:
        """These events came; the view will follow them."""
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
        """Keep also what happened before, behind a sequence; it is news to who comes back alone.

        False if that would be more than is kept of a job.
        """
        earlier = [(0, entry) for entry in entries if after < entry.sequence <= self.floor]
        if len(earlier) + len(self._entries) > 2 * KEPT:
            return False
        if after < self.floor:
            self._entries = earlier + self._entries
            self.floor = after
            self._frames.clear()
        return True

    def show(self, parts: Mapping[str, str]) -> bool:
        """Take a new view; whether there is anything new in it."""
        changed = {
            name: html for name, html in parts.items() if self._parts.get(name, (0, ""))[1] != html
        }
        if changed:
            self._advance()
            self._parts |= {name: (self.tick, html) for name, html in changed.items()}
        return bool(changed)

    def measure(self, found: Mapping[str, Sequence[dict[str, Any]]], limit: int) -> bool:
        """Take what was measured and logged; whether there is anything."""
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

    def frame_since(self, tick: int) -> str:
        """All that came after a tick, for who has what came before."""
        parts = {name: html for name, (at, html) in self._parts.items() if at > tick}
        entries = [entry for at, entry in self._entries if at > tick]
        return self._frame(
            tick,
            parts,
            entries,
            self.steps.since(tick),
            self.evaluations.since(tick),
            self.lines.since(tick),
        )

    def frame_after(self, seen: Seen) -> str:
        """The present view, and what a page that has seen so much misses."""
        parts = {name: html for name, (_, html) in self._parts.items()}
        entries = [entry for _, entry in self._entries if entry.sequence > seen.sequence]
        return self._frame(
            seen,
            parts,
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
        """One text for all viewers at the same place."""
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
        if steps is None or evaluations is None or Job.EvaluationCompleted.TOPIC in ended:
            frame["curve"] = None
        elif steps or evaluations:
            frame["curve"] = {
                "steps": [[*place, row["loss"], row["smoothed"]] for place, row in steps],
                "evaluations": [[*place, row["loss"]] for place, row in evaluations],
            }
        if lines is None or Job.JobFailed.TOPIC in ended:
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


def entry_html(entry: Entry) -> Markup:
    """One line of the timeline."""
    return Markup(templates().get_template("jobs/job/entry.html").render(entry=entry))


def lines_html(lines: Sequence[Mapping[str, Any]]) -> Markup:
    """Lines of the log."""
    return Markup(templates().get_template("jobs/job/lines.html").render(lines=lines))


def partials(parts: Mapping[str, str]) -> list[Markup]:
    """The parts of a page as htmx puts each into its place."""
    return [
        _partial("#balance-now", "outerMorph", html)
        if name == "balance"
        else _partial(f"#job-{name}", "innerMorph", html)
        for name, html in parts.items()
    ]


def _partial(target: str, swap: str, html: str) -> Markup:
    return Markup(f'<hx-partial hx-target="{target}" hx-swap="{swap}">{html}</hx-partial>')
