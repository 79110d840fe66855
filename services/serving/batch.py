"""The rows that one base model decodes together. Rows can join and leave at every step."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from uuid import UUID

import torch
from torch import Tensor

from services.serving.base_model import BaseModel
from services.serving.fair_queue import FairQueue
from services.serving.kv_cache import KVCache, bytes_per_token, reserved_length
from services.serving.multi_lora import TokenAdapters
from services.serving.row import Row
from services.serving.step import Part, Step

READ_AT_ONCE = 256
"""Prompt tokens per step if any row generates: chunks limit the delay of other rows."""
READ_ALONE = 1024
"""Prompt tokens per step if no row generates."""

FAIR_ROWS, FAIR_READ = 2, 64
"""Rows and prompt tokens of an account in a step, to bound the delay of other accounts."""

log = logging.getLogger("engine")


class NotFinite(Exception):
    """A model computed NaN or infinity."""


class Batch:
    """The active rows by slot, and the queue for slots. Only the engine's thread runs its steps."""

    def __init__(self, base: BaseModel, max_rows: int, cache_bytes: int) -> None:
        """Create a batch of `max_rows` rows and `cache_bytes`, or one row of any size."""
        self.base, self._max_rows, self._cache_bytes = base, max_rows, cache_bytes
        self.token_adapters = TokenAdapters()
        self.queue = FairQueue()
        self._rows: list[Row] = []  # rows by slot
        self._by_age: list[Row] = []
        self._steps = 0
        self.busy_elsewhere: frozenset[UUID] = frozenset()
        """Accounts with rows of other bases on the same processor."""
        self._cache = KVCache()
        self._token_bytes = bytes_per_token(base.weights)

    @property
    def busy(self) -> bool:
        """True if there are rows."""
        return bool(self._rows or self.queue)

    @property
    def free(self) -> int:
        """Number of unused slots."""
        return max(0, self._max_rows - len(self._rows))

    def accounts(self) -> set[UUID]:
        """Return the accounts that have rows in the batch."""
        return {row.account_id for row in self._rows}

    def uses(self, adapter: str | None) -> bool:
        """Return True if an active or queued row uses the adapter. None is the base model alone."""
        return any(row.adapter == adapter for row in (*self._rows, *self.queue.rows()))

    @torch.inference_mode()
    def step(self) -> None:
        """Prefill pending tokens, and sample a token for each row that is fully prefilled."""
        self._leave([row for row in self._rows if row.cancelled])
        self.queue.forget_cancelled()
        self._admit()
        parts = self._parts()
        if not parts:
            return
        weights = self.base.weights
        step = Step(parts, self._cache, weights.dtype, weights.device)
        rows = [(self._rows[part.slot], part) for part in step.parts]
        self._steps += 1
        for row, _ in rows:
            row.stepped = self._steps
        adapters = [(row.adapter, len(part.tokens)) for row, part in rows]
        self.token_adapters.begin(adapters, weights.device)
        logits = self.base.logits(step)
        for row, part in rows:
            row.read = part.end
        self._leave(_sample([row for row, part in rows if part.answers], logits))

    def fail(self, error: Exception) -> None:
        """End all rows with an error."""
        rows = [*self._rows, *self.queue.clear()]
        self._rows.clear()
        self._by_age.clear()
        self._cache.clear()
        for row in rows:
            row.fail(error)

    def _admit(self) -> None:
        """Move rows from the queue into the batch in fair order, while slots and memory allow.

        If there is no space, preempt the youngest row of the account with the most rows, provided
        that the account of the queued row has at least two rows fewer.
        """
        while (row := self.queue.next(self._rows)) is not None:
            longest = max(len(each.tokens) for each in (*self._rows, row))
            roomy = len(self._rows) < self._max_rows and (
                not self._rows
                or self._fits(len(self._rows) + 1, reserved_length(longest, self.base.context))
            )
            if roomy:
                self.queue.leave(row)
                self._rows.append(row)
                self._by_age.append(row)
            elif not self._give_up_row(row.account_id):
                return

    def _give_up_row(self, account_id: UUID) -> bool:
        """Preempt the youngest row of the busiest account, if it has two more rows than this."""
        held = Counter(row.account_id for row in self._rows)
        ((most, count),) = held.most_common(1)
        if count < held[account_id] + 2:
            return False
        self._send_back(next(row for row in reversed(self._by_age) if row.account_id == most))
        return True

    def _parts(self) -> list[Part]:
        """Return the tokens of each row in the next step, after preempting rows without memory."""
        while True:
            parts = self._wanted()
            held = [row.read for row in self._rows]
            if not parts or self._has_room(max([*held, *(part.end for part in parts)])):
                return parts
            self._send_back(self._by_age[-1])

    def _has_room(self, length: int) -> bool:
        """Resize the cache to all rows at `length`, with spare space. Return False if too large."""
        rows, cache = len(self._rows), self._cache
        if rows <= cache.slots and length <= cache.length:
            return True
        ample = reserved_length(length, self.base.context)
        doubled = min(self._max_rows, 1 << (rows - 1).bit_length())
        for slots, wanted in (
            (max(doubled, cache.slots), max(ample, cache.length)),
            (rows, ample),
            (rows, length),
        ):
            if self._fits(slots, wanted):
                cache.resize(slots, wanted)
                return True
        if rows == 1:
            cache.resize(rows, length)
        return rows == 1

    def _wanted(self) -> list[Part]:
        budget = READ_AT_ONCE if any(row.unread == 1 for row in self._rows) else READ_ALONE
        held = Counter(row.account_id for row in self._rows)
        shared = len(held.keys() | self.busy_elsewhere) > 1
        most = max(FAIR_ROWS, min(held.values(), default=0) if shared else len(self._rows))
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
        """Move a row back to the queue and free its cache. Its tokens are prefilled again later."""
        self._leave([row])
        row.read = 0
        self.queue.send_back(row)

    def _leave(self, rows: Iterable[Row]) -> None:
        """Remove rows. Move the last rows into their slots, so that no slot is empty."""
        for row in rows:
            slot, last = self._rows.index(row), len(self._rows) - 1
            self._cache.wipe(slot, row.read)
            if slot != last:
                moved = self._rows[slot] = self._rows[last]
                self._cache.move(last, slot, moved.read)
                self._cache.wipe(last, moved.read)
            self._rows.pop()
            self._by_age.remove(row)
        if not self._rows:
            self._cache.clear()

    def _fits(self, rows: int, length: int) -> bool:
        return rows * length * self._token_bytes <= self._cache_bytes


def _next_token(row: Row, logits: Tensor, likeliest: int) -> int:
    """Return the next token of a row. `likeliest` is the one that any text would have."""
    if row.grammar is not None:
        return row.sampler.sample(row.grammar.restrict(logits))
    return likeliest if row.sampler.greedy else row.sampler.sample(logits)


def _sample(rows: list[Row], logits: Tensor) -> list[Row]:
    """Append the next token to each row. Return the rows whose answer has ended."""
    likeliest, finite = logits.argmax(-1).tolist(), logits.isfinite().all(-1).tolist()
    ended = []
    for index, row in enumerate(rows):
        try:
            if not finite[index]:
                raise NotFinite("the logits of an answer are not finite")
            if row.append(_next_token(row, logits[index], likeliest[index])):
                ended.append(row)
        except Exception as error:
            log.exception("an answer failed; the others continue")
            ended.append(row)
            row.fail(error)
    return ended
