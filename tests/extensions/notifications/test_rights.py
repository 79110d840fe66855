"""The roles of the gateway and of the webhooks process have only the rights that they need."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from deploy.database_roles import role_of
from extensions.notifications.domain.kind import CHOSEN, NoticeKind
from extensions.notifications.domain.message import WebhookType, message_of_test
from extensions.notifications.notices import tables as notices
from extensions.notifications.notices.tables import MailResult, Outcome
from extensions.notifications.webhooks.deliveries import (
    Attempt,
    add_deliveries,
    add_delivery,
    delete_old,
    due_deliveries,
    record_attempt,
)
from extensions.notifications.webhooks.endpoints import (
    create_endpoint,
    delete_endpoint,
    endpoint_of,
    old_secret_ends,
    rotate_secret,
)
from infrastructure.accounts.personal_data import delete_personal_data
from infrastructure.artifacts.store import Artifacts
from infrastructure.http.dispatcher import Busy
from infrastructure.postgres.store import connect
from infrastructure.settings import Settings
from tests.deploy.test_database_roles import (  # noqa: F401
    PASSWORD,
    known_passwords,
    logged_in,
    refused,
)


def test_the_gateway_stores_secrets_of_webhooks_and_reads_none(settings: Settings) -> None:
    now = datetime.now(UTC)
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("gateway"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        made, first = create_endpoint(connection, uuid4(), "https://a.example/", "", (), now)
        second = rotate_secret(connection, made.id, now, now + timedelta(hours=1))
        assert list(old_secret_ends(connection, made.account_id, now)) == [made.id]
        for column in ("secret", "*"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT {column} FROM webhook_secrets".encode())
        add_delivery(connection, made.id, message_of_test(made.account_id, made.id, now), now)
    own = make_conninfo(settings.owner_database_url, user=role_of("webhooks"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": own})) as connection:
        event = replace(message_of_test(made.account_id, made.id, now), type=WebhookType.JOB_PAUSED)
        assert add_deliveries(connection, [(10**9, event)], now) == 1
        for due in due_deliveries(connection, now, now, 2, Busy()):
            record_attempt(connection, due.id, Attempt(now, 1, 410, "Status 410."), now)
        found = endpoint_of(connection, made.account_id, made.id)
        assert found is not None
        assert not found.enabled
    with logged_in(settings, "webhooks") as connection:
        rows = connection.execute("SELECT secret FROM webhook_secrets").fetchall()
        assert {secret for (secret,) in rows} == {first, second}
        refused(connection, "UPDATE webhook_endpoints SET url = 'https://b.example/'")
        delete_old(connection, now + timedelta(days=1), now + timedelta(hours=2))
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        delete_endpoint(connection, made.id)


def test_the_gateway_sets_an_address_and_the_webhooks_process_only_uses_it(
    settings: Settings,
) -> None:
    now, account_id = datetime.now(UTC), uuid4()
    assert settings.owner_database_url is not None
    url = make_conninfo(settings.owner_database_url, user=role_of("gateway"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        notices.set_address(connection, account_id, "ada@example.com", CHOSEN, now)
        address = notices.address_of(connection, account_id)
        assert address is not None
        notices.request_confirmation(connection, address.id, now)
        notices.confirm(connection, address.id, now)
        notices.set_kinds(connection, address.id, CHOSEN)
        notices.add_direct(connection, address.id, NoticeKind.TEST, now)
    own = make_conninfo(settings.owner_database_url, user=role_of("webhooks"), password=PASSWORD)
    with connect(settings.model_copy(update={"database_url": own})) as connection:
        event = replace(message_of_test(account_id, account_id, now), type=WebhookType.JOB_FAILED)
        notices.add_notices(connection, [(None, event)], now)
        (due,) = notices.due_mails(connection, now, (), 8)
        for outcome in (Outcome.SENT, Outcome.REFUSED):
            mail = notices.begin_mail(connection, due.id, now)
            assert mail is not None
            notices.end_mail(connection, mail, MailResult(outcome), now)
        for change in ("email = 'x'", "signing_key = 'x'", "kinds = '{}'"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"UPDATE notice_addresses SET {change}".encode())
        notices.delete_old_notices(connection, now + timedelta(days=1))
    with connect(settings.model_copy(update={"database_url": url})) as connection:
        notices.delete_address(connection, account_id)


def test_the_scheduler_erases_webhooks_that_it_cannot_read(settings: Settings) -> None:
    account_id, endpoint_id = uuid4(), uuid4()
    assert settings.owner_database_url is not None
    with psycopg.connect(settings.owner_database_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO webhook_endpoints (id, account_id, url, description, event_types, "
            "enabled, created_at, after_position) "
            "VALUES (%s, %s, 'https://a.example', '', '{}', true, now(), 0)",
            [endpoint_id, account_id],
        )
        owner.execute(
            "INSERT INTO webhook_secrets VALUES (gen_random_uuid(), %s, 'whsec_1', now())",
            [endpoint_id],
        )
        with logged_in(settings, "scheduler") as connection:
            refused(connection, "SELECT url FROM webhook_endpoints")
            connection.row_factory = dict_row
            artifacts = Artifacts(settings.artifacts)
            deleted = delete_personal_data(connection, artifacts, account_id)  # type: ignore[arg-type]
        assert deleted == (1, 0)
        assert owner.execute("SELECT 1 FROM webhook_secrets").fetchall() == []
