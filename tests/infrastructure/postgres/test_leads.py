"""The processes that lead, as operators see them."""

from __future__ import annotations

import os
from threading import Thread

from infrastructure.postgres.leadership import Leadership, leading
from infrastructure.postgres.leads import leads
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.polling import eventually


def test_a_lead_is_shown_until_its_session_ends(settings: Settings) -> None:
    with connect(settings) as connection:
        assert leads(connection) == []
        with leading(settings, "billing"), leading(settings, "relay"):
            billing, relay = leads(connection)
            assert (billing.name, billing.pid, billing.epoch) == ("billing", os.getpid(), 1)
            assert billing.leads
            assert relay.leads
            assert (billing.standbys, relay.standbys) == (0, 0)
        eventually(lambda: not any(each.leads for each in leads(connection)))
        with leading(settings, "relay"):
            found = {each.name: (each.epoch, each.leads) for each in leads(connection)}
            assert found == {"billing": (1, False), "relay": (2, True)}


def test_a_process_that_waits_for_the_lead_is_a_standby(settings: Settings) -> None:
    with connect(settings) as connection, leading(settings, "relay"):
        standby = Leadership(settings, "relay", end=lambda reason: None)
        waiting = Thread(target=standby.take, daemon=True)
        waiting.start()
        eventually(lambda: [each.standbys for each in leads(connection)] == [1])
    waiting.join()
    with connect(settings) as connection:
        (relay,) = leads(connection)
        assert (relay.epoch, relay.leads, relay.standbys) == (2, True, 0)
    standby.close()
