"""The processes that lead, as operators see them."""

from __future__ import annotations

import os

from infrastructure.leadership import leading
from infrastructure.leads import leads
from infrastructure.settings import Settings
from infrastructure.store import connect
from tests.polling import eventually


def test_a_lead_is_shown_until_its_session_ends(settings: Settings) -> None:
    with connect(settings) as connection:
        assert leads(connection) == []
        with leading(settings, "billing"), leading(settings, "relay"):
            billing, relay = leads(connection)
            assert (billing.name, billing.pid, billing.epoch) == ("billing", os.getpid(), 1)
            assert billing.leads
            assert relay.leads
        eventually(lambda: not any(each.leads for each in leads(connection)))
        with leading(settings, "relay"):
            found = {each.name: (each.epoch, each.leads) for each in leads(connection)}
            assert found == {"billing": (1, False), "relay": (2, True)}
