"""The plan of failovers, the table of takeovers, and the rules of chats."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.chaos.chats import Chats, Seen, sorted_out
from tests.chaos.failovers import WAYS, Takeovers, planned
from tests.chaos.rig import LEADERS, Customer

TURNS = 20


def test_each_leader_fails_over_once_in_each_turn_and_in_every_way() -> None:
    faults = list(planned(1, range(1, TURNS * len(LEADERS) + 1), lease_seconds=4))
    for turn in range(TURNS):
        part = faults[turn * len(LEADERS) : (turn + 1) * len(LEADERS)]
        assert sorted(each.target for each in part) == sorted(f"leader {name}" for name in LEADERS)
    assert {each.kind for each in faults} == set(WAYS)


def test_only_the_chosen_leaders_fail_over() -> None:
    faults = planned(1, range(1, 10), lease_seconds=4, leaders=["serving"])
    assert {each.target for each in faults} == {"leader serving"}


def test_a_stop_or_a_cut_lasts_longer_than_the_lease() -> None:
    for each in planned(1, range(1, 100), lease_seconds=20):
        assert each.seconds == 0 if each.kind == "kill" else each.seconds > 20


def test_the_table_has_the_median_and_the_worst_takeover() -> None:
    taken, other = Takeovers(), Takeovers(failed=["no standby"])
    taken.seconds["kill", "relay"] += [0.1, 0.5]
    other.seconds["kill", "relay"] += [0.2]
    other.seconds["stop", "billing"] += [4.0]
    other.answered += [7.0]
    taken.add(other)
    rows = [line.split() for line in taken.lines()]
    assert ["kill", "3", "0.20", "0.50"] in rows
    assert ["billing", "1", "4.00", "4.00"] in rows
    assert ["first", "answer", "1", "7.00", "7.00"] in rows
    assert taken.failed == ["no standby"]


def response(status: int, code: str, **headers: str) -> openai.APIStatusError:
    found = httpx.Response(status, headers=headers, request=httpx.Request("POST", "http://x"))
    return openai.APIStatusError("", response=found, body={"code": code})


LATER = {"retry-after": "1"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (response(503, "not_serving", **LATER), "refused"),
        (response(503, "model_loading", **LATER), "refused"),
        (response(503, "broken_off", **LATER), "interrupted"),
        (response(503, "not_serving"), "unclear"),
        (response(500, "internal_error", **LATER), "unclear"),
        (EOFError("the stream ended"), "unclear"),
        (httpx.RemoteProtocolError("the stream ended"), "unclear"),
        (openai.APIConnectionError(request=httpx.Request("POST", "http://x")), "unclear"),
    ],
)
def test_what_a_client_sees_is_clear_or_not(error: Exception, kind: str) -> None:
    def ask() -> str:
        raise error

    assert sorted_out(ask)[0] == kind


def rules(*seen: Seen) -> Iterator[str]:
    chats = Chats("", Customer("", "", ""), list(seen))
    return (each.partition(":")[0] for each in chats.violations())


def test_chats_end_clearly_and_have_the_whole_answer() -> None:
    whole, refused = Seen("answered", 0, 1, "four"), Seen("refused", 0, 1)
    assert list(rules(whole, refused, whole)) == []
    assert list(rules(whole, Seen("answered", 0, 1, "fo"))) == ["chats_have_the_whole_answer"]
    assert list(rules(whole, Seen("unclear", 0, 1, "500"))) == ["chats_end_clearly"]
    assert list(rules(refused)) == ["chats_are_answered"]
