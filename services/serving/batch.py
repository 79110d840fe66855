"""The rows that one base answers at once: they join at any step, and leave when they are done."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import torch
from torch import Tensor

from services.serving.base_model import BaseModel
from services.serving.fair_queue import Waiting
from services.serving.kv_cache import KeysValues, bytes_per_token, grown
from services.serving.multi_lora import Mixing
from services.serving.row import Row
from services.serving.step import Part, Step

READ_AT_ONCE = 256
"""Tokens of prompts that are read in a step beside rows that answer: a long prompt is read in
pieces, so that it delays the next token of the others by no more than this takes."""

READ_ALONE = 1024
"""The same where nobody waits for a next token."""


FAIR_ROWS, FAIR_READ = 2, 64
"""What an account gets of a step while others are answered too: so many rows, or as many as the
account with the fewest has, and so many tokens of prompts. A flood of one account then delays the
others' next token by little."""

log = logging.getLogger("engine")


class NotFinite(Exception):
    """A model computed what is no number."""


@dataclass(frozen=True)
class Limits:
    """What a base may use."""

    rows: int = 32  # that are answered at once
    cache_bytes: int = 2 * 1024**3  # of keys and values; one row alone may use more


class Running:
    """Rows by slot, and those that wait for one. Only the engine's thread steps it."""

    def __init__(self, base: BaseModel, limits: Limits) -> None:
        self.base, self.limits = base, limits
        self.mixing = Mixing()
        self.waiting = Waiting()
        self._rows: list[Row] = []  # each at its slot
        self._by_age: list[Row] = []
        self._steps = 0
        self.elsewhere: frozenset[UUID] = frozenset()
        """Accounts that are answered by other bases, on the same processor."""
        self._store = KeysValues()
        self._token_bytes = bytes_per_token(base.weights)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._rows or self.waiting)

    @property
    def free(self) -> int:
        """Rows that may join."""
        return max(0, self.limits.rows - len(self._rows))

    def accounts(self) -> set[UUID]:
        """Accounts that are answered now."""
        return {row.account_id for row in self._rows}

    def uses(self, adapter: str | None) -> bool:
        """Whether a row is answered, or waits to be answered, by an adapter; None: the base."""
        return any(row.adapter == adapter for row in (*self._rows, *self.waiting.rows()))

    @torch.inference_mode()
    def step(self) -> None:
        """Read a piece of what is unread, and say a token of each row that has read everything."""
        self._leave([row for row in self._rows if row.cancelled])
        self.waiting.forget_cancelled()
        self._admit()
        parts = self._parts()
        if not parts:
            return
        step = Step(parts, self._store, self.base.weights.dtype, self.base.weights.device)
        rows = [self._rows[part.slot] for part in step.parts]
        self._steps += 1
        for row in rows:
            row.stepped = self._steps
        self.mixing.begin(
            [(row.adapter, len(part.tokens)) for row, part in zip(rows, step.parts, strict=True)],
            self.base.weights.device,
        )
        logits = self.base.logits(step)
        for row, part in zip(rows, step.parts, strict=True):
            row.read = part.end
        answering = [row for row, part in zip(rows, step.parts, strict=True) if part.answers]
        self._leave(_said(answering, logits))

    def fail(self, error: Exception) -> None:
        """Tell all rows that nothing more comes, and let go of them."""
        rows = [*self._rows, *self.waiting.clear()]
        self._rows.clear()
        self._by_age.clear()
        self._store.clear()
        for row in rows:
            row.break_off(error)

    def _admit(self) -> None:
        """Have rows join, each when it is its turn, as long as there is a slot and memory.

        Where there is none, an account with more rows than another gives up its youngest.
        """
        while (row := self.waiting.next(self._rows)) is not None:
            longest = max(len(each.tokens) for each in (*self._rows, row))
            roomy = len(self._rows) < self.limits.rows and (
                not self._rows or self._fits(len(self._rows) + 1, grown(longest, self.base.context))
            )
            if roomy:
                self.waiting.leave(row)
                self._rows.append(row)
                self._by_age.append(row)
            elif not self._give_up_row(row.account_id):
                return

    def _give_up_row(self, account_id: UUID) -> bool:
        """Send back a row of the account with the most, if it has two more than this one."""
        held = Counter(row.account_id for row in self._rows)
        ((most, count),) = held.most_common(1)
        if count < held[account_id] + 2:
            return False
        self._send_back(next(row for row in reversed(self._by_age) if row.account_id == most))
        return True

    def _parts(self) -> list[Part]:
        """What each row reads in the next step, with room for it; rows may have to go back."""
        while True:
            parts = self._wanted()
            held = [row.read for row in self._rows]
            if not parts or self._has_room(max([*held, *(part.end for part in parts)])):
                return parts
            self._send_back(self._by_age[-1])

    def _has_room(self, length: int) -> bool:
        """Make room for all rows at a length, in as large steps as memory allows."""
        rows, store = len(self._rows), self._store
        if rows <= store.slots and length <= store.length:
            return True
        ample = grown(length, self.base.context)
        doubled = min(self.limits.rows, 1 << (rows - 1).bit_length())
        for slots, wanted in (
            (max(doubled, store.slots), max(ample, store.length)),
            (rows, ample),
            (rows, length),
        ):
            if self._fits(slots, wanted):
                store.resize(slots, wanted)
                return True
        if rows == 1:
            store.resize(rows, length)
        return rows == 1

    def _wanted(self) -> list[Part]:
        budget = READ_AT_ONCE if any(row.unread == 1 for row in self._rows) else READ_ALONE
        held = Counter(row.account_id for row in self._rows)
        shared = len(held.keys() | self.elsewhere) > 1
        most = max(FAIR_ROWS, *held.values()) if not shared else max(FAIR_ROWS, min(held.values()))
        read = dict.fromkeys(held, min(budget, FAIR_READ) if shared else budget)
        taken: Counter[UUID] = Counter()
        slots = {id(row): slot for slot, row in enumerate(self._rows)}
        parts = []
        for row in sorted(self._by_age, key=lambda row: row.stepped) if shared else self._by_age:
            account = row.account_id
            count = row.unread if row.unread == 1 else min(row.unread, read[account])
            if count == 0 or taken[account] == most:
                continue
            taken[account] += 1
            if row.unread > 1:
                read[account] -= count
            tokens = row.tokens[row.read : row.read + count]
            parts.append(Part(slots[id(row)], row.read, tokens, answers=count == row.unread))
        return parts

    def _send_back(self, row: Row) -> None:
        """Take a row's memory; it reads again what it had read, when it is its turn."""
        self._leave([row])
        row.read = 0
        self.waiting.send_back(row)

    def _leave(self, rows: Iterable[Row]) -> None:
        """Free the slots of rows; the last ones move into them, so that no slot is empty."""
        for row in rows:
            slot, last = self._rows.index(row), len(self._rows) - 1
            self._store.wipe(slot, row.read)
            if slot != last:
                moved = self._rows[slot] = self._rows[last]
                self._store.move(last, slot, moved.read)
                self._store.wipe(last, moved.read)
            self._rows.pop()
            self._by_age.remove(row)
        if not self._rows:
            self._store.clear()

    def _fits(self, rows: int, length: int) -> bool:
        return rows * length * self._token_bytes <= self.limits.cache_bytes


def _said(rows: list[Row], logits: Tensor) -> list[Row]:
    """Have each row say its next token; returns those whose answer has ended."""
    if not rows:
        return []
    likeliest, whole = logits.argmax(-1).tolist(), logits.isfinite().all(-1).tolist()
    ended = []
    for index, row in enumerate(rows):
        try:
            if not whole[index]:
                raise NotFinite("the logits of an answer are no numbers")
            greedy = row.drawing.greedy
            if row.say(likeliest[index] if greedy else row.drawing.draw(logits[index])):
                ended.append(row)
        except Exception as error:
            log.exception("an answer breaks off; the others go on")
            ended.append(row)
            row.break_off(error)
    return ended
