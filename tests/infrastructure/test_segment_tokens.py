"""A token is one segment's alone, and nobody makes it without the secret."""

from __future__ import annotations

from uuid import UUID

import pytest

from infrastructure.reports import PodSeen
from infrastructure.segment_tokens import is_genuine, segment_token
from tests.domain.examples import ACCOUNT_ID, JOB_ID

SECRET = "secret-of-a-test"
ANOTHER_ID = UUID(int=1)


def seen(token: str) -> PodSeen:
    return PodSeen(
        account_id=ACCOUNT_ID, job_id=JOB_ID, segment=1, token=token, elapsed_seconds=0.0
    )


def test_a_message_with_its_segments_token_is_genuine() -> None:
    assert is_genuine(SECRET, seen(segment_token(SECRET, ACCOUNT_ID, JOB_ID, 1)))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "ö",
        segment_token("another", ACCOUNT_ID, JOB_ID, 1),
        segment_token(SECRET, ANOTHER_ID, JOB_ID, 1),
        segment_token(SECRET, ACCOUNT_ID, ANOTHER_ID, 1),
        segment_token(SECRET, ACCOUNT_ID, JOB_ID, 2),
    ],
    ids=["none", "no ASCII", "secret", "account", "job", "segment"],
)
def test_any_other_is_not(token: str) -> None:
    assert not is_genuine(SECRET, seen(token))


def test_without_a_secret_there_are_no_tokens() -> None:
    assert segment_token(None, ACCOUNT_ID, JOB_ID, 1) == ""
    assert is_genuine(None, seen(""))
