"""The plan of failovers, and the table of takeovers."""

from __future__ import annotations

from tests.chaos.failovers import WAYS, Takeovers, planned
from tests.chaos.rig import LEADERS

TURNS = 20


def test_each_leader_fails_over_once_in_each_turn_and_in_every_way() -> None:
    faults = list(planned(1, range(1, TURNS * len(LEADERS) + 1), lease_seconds=4))
    for turn in range(TURNS):
        part = faults[turn * len(LEADERS) : (turn + 1) * len(LEADERS)]
        assert sorted(each.target for each in part) == sorted(f"leader {name}" for name in LEADERS)
    assert {each.kind for each in faults} == set(WAYS)


def test_a_stop_or_a_cut_lasts_longer_than_the_lease() -> None:
    for each in planned(1, range(1, 100), lease_seconds=20):
        assert each.seconds == 0 if each.kind == "kill" else each.seconds > 20


def test_the_table_has_the_median_and_the_worst_takeover() -> None:
    taken, other = Takeovers(), Takeovers(failed=["no standby"])
    taken.seconds["kill", "relay"] += [0.1, 0.5]
    other.seconds["kill", "relay"] += [0.2]
    other.seconds["stop", "billing"] += [4.0]
    taken.add(other)
    rows = [line.split() for line in taken.lines()]
    assert ["kill", "3", "0.20", "0.50"] in rows
    assert ["billing", "1", "4.00", "4.00"] in rows
    assert taken.failed == ["no standby"]
