"""Audit check of the charges that count against API keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from uuid import UUID

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.billing.token_meter import TokenMeter
from domain.core.money import exact_dollars
from infrastructure.bus.consumer import Recorded
from services.projector.store_checks import Difference, DifferenceKind


class KeyChargeCheck:
    """A comparison of what accounts count against API keys with what the meters of the keys billed.

    Both are charges less credits.
    """

    def __init__(self) -> None:
        self._keys: dict[UUID, UUID] = {}  # by meter
        self._counted: Counter[UUID] = Counter()  # micro-dollars by key
        self._billed: Counter[UUID] = Counter()

    def take(self, batch: Sequence[Recorded]) -> None:
        """Sum the charges and credits of some events."""
        for item in batch:
            match item.event:
                case (
                    Meter.MeterOpened(originator_id=meter_id, key_id=UUID() as key_id)
                    | TokenMeter.TokenMeterOpened(originator_id=meter_id, key_id=UUID() as key_id)
                ):
                    self._keys[meter_id] = key_id
                case (
                    Meter.MinuteMetered(originator_id=meter_id, amount_micros=micros)
                    | TokenMeter.TokensMetered(originator_id=meter_id, amount_micros=micros)
                ):
                    self._bill(meter_id, micros)
                case Meter.LostWorkCredited(originator_id=meter_id, amount_micros=micros):
                    self._bill(meter_id, -micros)
                case Account.UsageSettled(keys=shares):
                    for each in shares:
                        self._counted[each.key_id] += each.captured_micros
                case Account.ChargeReversed(key_id=UUID() as key_id, amount_micros=micros):
                    self._counted[key_id] -= micros
                case _:
                    pass

    def _bill(self, meter_id: UUID, micros: int) -> None:
        if (key_id := self._keys.get(meter_id)) is not None:
            self._billed[key_id] += micros

    def differences(self) -> Iterable[Difference]:
        """Return the differences. Call this after the last batch."""
        for key_id in self._counted.keys() | self._billed.keys():
            counted, billed = self._counted[key_id], self._billed[key_id]
            if counted != billed:
                yield Difference(
                    DifferenceKind.KEY_CHARGES,
                    f"{exact_dollars(counted)} count against API key {key_id}, but its meters "
                    f"billed {exact_dollars(billed)}",
                )
