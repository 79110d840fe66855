"""Connections to object stores, by the standard `AWS_*` variables, with limits and retries."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, cast

from obstore.store import ObjectStore, from_url

from infrastructure.process.role import current_role

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3CredentialProvider

S3 = "s3://"

PROMPT_SECONDS = 5.0
"""Seconds of retries of services: users wait, and handlers would delay other jobs."""

PATIENT_SECONDS = 150.0
"""Seconds of retries of trainers and imports. A signed request lasts for 15 minutes."""

FIRST_PAUSE, MAX_PAUSE = timedelta(milliseconds=100), timedelta(seconds=5)
UNLIMITED = 10_000
"""Number of retries that no request reaches, because the time is limited."""

REQUEST_TIMEOUT = timedelta(seconds=60)
"""Time limit of one attempt. A longer download continues with another request."""

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
KEYS = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
}
"""Variables with the keys of a role, and obstore's names of them."""


def is_s3(url: str) -> bool:
    """Return True if the artifact store at a URL is S3."""
    return url.startswith(S3)


def s3_location(url: str) -> tuple[str, str]:
    """Return the bucket of an `s3://` URL, and the prefix of its objects without slashes."""
    bucket, _, prefix = url.removeprefix(S3).partition("/")
    return bucket, prefix.strip("/")


def s3_endpoint() -> str | None:
    """Return the configured endpoint of S3. None: AWS."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)


def s3_region() -> str:
    """Return the configured region of S3, or AWS's default."""
    return next((os.environ[name] for name in REGIONS if os.environ.get(name)), "us-east-1")


def open_store(
    url: str, patience_seconds: float, credentials: S3CredentialProvider | None = None
) -> ObjectStore:
    """Open the store at a URL, without a request.

    A request to S3 that fails is repeated for `patience_seconds`, with exponential backoff.
    `credentials` returns temporary keys; None: those of the environment or of the machine. Raise
    ValueError or obstore's BaseError if the URL or a variable is malformed.
    """
    if not is_s3(url):
        return from_url(url)
    retries: RetryConfig = {
        "max_retries": UNLIMITED,
        "retry_timeout": timedelta(seconds=patience_seconds),
        "backoff": {"init_backoff": FIRST_PAUSE, "max_backoff": MAX_PAUSE, "base": 2},
    }
    client: ClientConfig = {"timeout": REQUEST_TIMEOUT}
    if (s3_endpoint() or "").startswith("http://"):
        client["allow_http"] = True
    return from_url(
        url,
        region=s3_region(),
        client_options=client,
        retry_config=retries,
        credential_provider=credentials,
        config=own_keys(),
    )


def own_keys() -> S3Config | None:
    """Return the keys of S3 of this thread's role; None if its process has one role."""
    role = current_role()
    if role is None:
        return None
    found = {key: role.variables[name] for name, key in KEYS.items() if name in role.variables}
    return cast("S3Config", found)
