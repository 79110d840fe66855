"""`ecolink notices` against a gateway and the work of the webhooks process."""

from __future__ import annotations

import httpx
import pytest

from extensions.notifications.notices.tables import MailResult, Outcome
from tests.extensions.notifications.notices.conftest import MailProcess
from tests.gateway.cli.conftest import Owner, meanwhile
from tests.gateway.cli.conftest import me as me
from tests.gateway.cli.conftest import url as url
from tests.polling import eventually

ADA = "ada@example.com"


def test_an_address_is_set_shown_and_deleted(me: Owner, mail: MailProcess) -> None:
    assert me.read("notices", "show")["email"] is None
    made = me.result("notices", "set", ADA, "--kind", "balance.low")
    assert "Open it to receive notices" in made.stderr
    assert ADA in made.stdout
    mail.work()
    me.run("notices", "confirm")
    assert mail.work() == 1
    assert "notice.confirmation" in me.run("notices", "list")
    assert me.read("notices", "set", "--none")["kinds"] == []
    me.run("notices", "delete")
    assert me.read("notices", "show")["email"] is None
    assert "no e-mail address" in me.refused("notices", "test", code=6)


@pytest.mark.parametrize("arguments", [(), ("--none", "--kind", "balance.low")])
def test_set_needs_one_change(me: Owner, arguments: tuple[str, ...]) -> None:
    me.refused("notices", "set", *arguments, code=2)


def test_a_test_reports_its_result(me: Owner, mail: MailProcess) -> None:
    me.run("notices", "set", ADA)
    mail.work()
    assert httpx.post(f"{me.url}{mail.link('confirm')}").status_code == 200
    sent = meanwhile(lambda: eventually(mail.work))
    assert "accepted the test" in me.result("notices", "test").stderr
    sent.join()
    mail.result = MailResult(Outcome.FAILED, "The mail server refused the mail (554 spam)")
    sent = meanwhile(lambda: eventually(mail.work))
    assert "554 spam" in me.refused("notices", "test", code=1)
    sent.join()
