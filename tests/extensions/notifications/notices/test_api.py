"""Notices over the API."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from domain.access.rights import KeyRequest
from domain.access.scope import Scope
from extensions.notifications.domain.kind import CHOSEN
from extensions.notifications.notices.tables import MailResult, Outcome
from infrastructure.http.limits import Limits
from tests.builders.platform import Platform
from tests.extensions.notifications.notices.conftest import MailProcess
from tests.gateway.api_user import ApiUser

ADA = "ada@example.com"
ALL = [each.value for each in CHOSEN]
PATH = "/api/notices"


@pytest.fixture
def user(client: TestClient, platform: Platform) -> ApiUser:
    return ApiUser(client, platform.person())


def changed(user: ApiUser, status: int = 200, **changes: Any) -> Any:
    answer = user.client.patch(PATH, json=changes, headers=user.person.headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def confirmed(user: ApiUser, mail: MailProcess) -> None:
    """Set an address, and open its link."""
    changed(user, email=ADA)
    mail.work()
    assert user.client.post(mail.link("confirm")).status_code == 200


def test_an_address_is_set_confirmed_and_deleted(user: ApiUser, mail: MailProcess) -> None:
    first = user.get(PATH).json()
    assert (first["available"], first["email"], first["kinds"]) == (True, None, ALL)
    made = changed(user, email=f" {ADA} ")
    assert (made["email"], made["confirmed_at"], made["kinds"]) == (ADA, None, ALL)
    assert made["confirm_until"] is not None
    assert mail.work() == 1
    link = mail.link("confirm")
    assert ADA in user.client.get(link).text
    assert user.get(PATH).json()["confirmed_at"] is None, "a preview confirms nothing"
    assert user.client.post(link).status_code == 200
    assert user.get(PATH).json()["confirmed_at"] is not None
    assert user.client.post(link).status_code == 404, "the link works once"
    assert user.client.delete(PATH, headers=user.person.headers).status_code == 204
    assert user.get(PATH).json() == first
    assert user.list(f"{PATH}/newest") == []


def test_a_new_address_ends_the_links_of_the_previous_one(user: ApiUser, mail: MailProcess) -> None:
    changed(user, email=ADA)
    mail.work()
    link = mail.link("confirm")
    changed(user, email="eve@example.com", kinds=["balance.low"])
    assert user.client.get(link).status_code == 404
    mail.work()
    assert mail.mails[-1]["To"] == "eve@example.com"
    assert user.get(PATH).json()["kinds"] == ["balance.low"]


def test_the_link_is_sent_again_only_while_the_address_is_not_confirmed(
    user: ApiUser, mail: MailProcess
) -> None:
    assert user.post(f"{PATH}/confirmation").status_code == 409
    changed(user, email=ADA)
    mail.work()
    assert user.post(f"{PATH}/confirmation").status_code == 202
    assert mail.work() == 1
    assert user.client.post(mail.link("confirm")).status_code == 200
    assert user.post(f"{PATH}/confirmation").status_code == 409


def test_only_the_newest_link_confirms(user: ApiUser, mail: MailProcess) -> None:
    changed(user, email=ADA)
    mail.work()
    first = mail.link("confirm")
    user.post(f"{PATH}/confirmation")
    mail.work()
    assert user.client.post(first).status_code == 404
    assert user.client.post(mail.link("confirm")).status_code == 200


def test_a_used_link_does_not_confirm_an_address_that_was_refused(
    user: ApiUser, mail: MailProcess
) -> None:
    # given a confirmed address
    confirmed(user, mail)
    used = mail.link("confirm")
    # when the mail server refuses it
    user.post(f"{PATH}/test")
    mail.result = MailResult(Outcome.REFUSED, "The mail server refused the address.")
    mail.work()
    # then only another link confirms it
    assert user.client.post(used).status_code == 404
    shown = user.get(PATH).json()
    assert (shown["confirm_until"], shown["refusal"]) == (None, mail.result.error)
    mail.result = MailResult(Outcome.SENT)
    shown = user.post(f"{PATH}/confirmation").json()
    assert shown["confirm_until"] is not None
    assert shown["refusal"] is None
    mail.work()
    assert user.client.post(mail.link("confirm")).status_code == 200


def test_a_test_reports_its_result(user: ApiUser, mail: MailProcess) -> None:
    changed(user, email=ADA)
    assert user.post(f"{PATH}/test").status_code == 409, "the address is not confirmed"
    confirmed(user, mail)
    mail.result = MailResult(Outcome.FAILED, "The mail server refused the mail (554 spam)")
    sent = user.post(f"{PATH}/test").json()
    assert (sent["kind"], sent["status"]) == ("notice.test", "pending")
    mail.work()
    newest = user.list(f"{PATH}/newest")[0]
    assert (newest["id"], newest["status"]) == (sent["id"], "failed")
    assert "554 spam" in newest["error"]


def test_a_link_unsubscribes_without_sign_in(user: ApiUser, mail: MailProcess) -> None:
    confirmed(user, mail)
    user.post(f"{PATH}/test")
    mail.work()
    link = mail.link("unsubscribe")
    assert mail.mails[-1]["List-Unsubscribe"] == f"<http://testserver{link}>"
    assert ADA in user.client.get(link).text
    assert user.get(PATH).json()["kinds"] == ALL, "a preview unsubscribes nothing"
    # The request of a mail program (RFC 8058), from another site
    form, headers = {"List-Unsubscribe": "One-Click"}, {"origin": "https://mail.example"}
    assert user.client.post(link, data=form, headers=headers).status_code == 200
    shown = user.get(PATH).json()
    assert (shown["kinds"], shown["email"]) == ([], ADA)
    assert user.client.post(link).status_code == 200, "a repeated request succeeds"
    assert user.client.post(f"{link}x").status_code == 404
    assert user.client.post(link.replace("unsubscribe", "confirm")).status_code == 404


WRONG = (
    ({"email": "ada"}, "email"),
    ({"email": "ada@example.com\nBcc: eve@example.com"}, "email"),
    ({"email": ""}, "email"),
    ({"kinds": ["notice.test"]}, "kinds"),
    ({"kinds": ["x"]}, "kinds"),
)


def test_a_wrong_value_is_refused_with_its_field(user: ApiUser) -> None:
    for changes, named in WRONG:
        error = changed(user, 422, **changes)["error"]
        (first, *_) = error.get("fields") or [error]
        assert first["field"].startswith(named)
    assert changed(user, 409, kinds=["balance.low"])["error"]["code"] == "wrong_state"


def test_an_account_requests_few_mails(user: ApiUser, mail: MailProcess) -> None:
    for number in range(Limits({})["notice_mails"]):
        changed(user, email=f"a{number}@example.com")
    changed(user, 429, email="b@example.com")
    assert user.post(f"{PATH}/confirmation").status_code == 429
    assert mail.work() == 1, "only the newest address receives a link"


def test_a_key_without_the_scope_keys_sees_no_address(
    user: ApiUser, client: TestClient, platform: Platform, mail: MailProcess
) -> None:
    confirmed(user, mail)
    mail.result = MailResult(Outcome.REFUSED, f"The mail server refused {ADA}.")
    user.post(f"{PATH}/test")
    mail.work()
    reader = ApiUser(client, platform.key(user.person.account_id, KeyRequest(scopes=[Scope.READ])))
    shown = reader.get(PATH)
    assert shown.json()["email"] == "a…@example.com"
    for answer in (shown, reader.get(f"{PATH}/newest"), client.get("/notices")):
        assert ADA not in answer.text
    assert reader.post(f"{PATH}/test").status_code == 403


def test_accounts_have_their_own_addresses(
    user: ApiUser, client: TestClient, platform: Platform, mail: MailProcess
) -> None:
    confirmed(user, mail)
    other = ApiUser(client, platform.person())
    assert other.get(PATH).json()["email"] is None
    changed(other, email=ADA)
    assert user.get(PATH).json()["confirmed_at"] is not None
    assert other.list(f"{PATH}/newest")[0]["kind"] == "notice.confirmation"
