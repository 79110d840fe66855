"""The webhooks process with a mail server, killed again and again."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

import pytest

from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from domain.jobs.public_id import job_name
from extensions.notifications.domain.kind import CHOSEN
from extensions.notifications.notices import tables as notices
from extensions.notifications.notices.tables import INTERRUPTED
from infrastructure.postgres.store import connect
from infrastructure.process.clock import clock_of
from infrastructure.settings import Settings
from tests.builders.examples import ACCOUNT_ID, ESTIMATE, PLAN
from tests.extensions.notifications.kills import DEADLINE_SECONDS, fast, running
from tests.extensions.notifications.mail_server import MailServer, mail_server
from tests.polling import eventually

JOBS, KILLS = 20, 6


@pytest.mark.full
@pytest.mark.timeout(900)
def test_each_notice_arrives_at_most_once_although_the_process_is_killed(
    settings: Settings, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server() as server:
        used = with_mail(fast(settings), server, monkeypatch)
        with connect(used) as connection:
            now = clock_of(used).now()
            notices.set_address(connection, ACCOUNT_ID, "ada@example.com", CHOSEN, now)
            address = notices.address_of(connection, ACCOUNT_ID)
            assert address is not None
            notices.confirm(connection, address.id, now)
        expected = set[str]()
        random = Random(1)
        with running(used, "relay"), running(used, "webhooks") as process:
            for number in range(JOBS):
                expected.add(pause_a_job(log))
                if number % (JOBS // KILLS) == 0:
                    before = len(server.mails)
                    eventually(lambda seen=before: len(server.mails) > seen, DEADLINE_SECONDS)
                    time.sleep(random.uniform(0, 0.2))
                    process.kill()
                    process.start()
            eventually(lambda: count_ended(used) == JOBS, DEADLINE_SECONDS)
            assert process.stop() == 0
        received = Counter(
            name for mail in server.mails for name in re.findall(r"Job (\S+) paused", text_of(mail))
        )
    with connect(used) as connection:
        rows = notices.newest_notices(connection, address.id, JOBS)
    lost = [each for each in rows if each.error == INTERRUPTED]
    assert max(received.values()) == 1
    assert set(received) <= expected
    assert len(received) >= JOBS - len(lost)


def with_mail(settings: Settings, server: MailServer, patch: pytest.MonkeyPatch) -> Settings:
    """Set the variables of a mail server, and return the other settings."""
    patch.setenv("ECOLINK_SMTP_HOST", "127.0.0.1")
    patch.setenv("ECOLINK_SMTP_PORT", str(server.port))
    patch.setenv("ECOLINK_SMTP_SECURITY", "none")
    patch.setenv("ECOLINK_SMTP_FROM", "ecolink@example.org")
    changes = {"public_url": "https://ecolink.example", "clock_origin": datetime.now(UTC)}
    return settings.model_copy(update=changes)


def pause_a_job(log: EventLog) -> str:
    """Append a job that pauses now at an empty balance. Return its name."""
    id = uuid4()
    with because(Cause("account:test", f"pause-{id}", datetime.now(UTC))):
        job = Job.approve(id, ACCOUNT_ID, PLAN, ESTIMATE)
        job.deplete()
        log.commit(job)
    return job_name(id)


def count_ended(settings: Settings) -> int:
    with connect(settings) as connection:
        return connection.execute("SELECT FROM notices WHERE finished_at IS NOT NULL").rowcount


def text_of(mail: object) -> str:
    """Return the subject and the text of a mail."""
    return f"{mail['Subject']}\n{mail.get_content()}"  # type: ignore[index, attr-defined]
