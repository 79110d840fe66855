"""Credentials of segments: one NATS user per segment, limited to the subjects of that segment.

The scheduler issues them at launch and renews the JWT with each extension of the lease. The user's
key is derived from the account's key and the segment's name, so the scheduler stores nothing.
"""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from uuid import UUID

from infrastructure.bus.keys import KeyKind, new_seed, public_key, user_jwt
from infrastructure.bus.streams import CONTROL, MAX_REPORT_BYTES
from infrastructure.rights import AllowedSubjects
from infrastructure.settings import Settings
from infrastructure.training.reports import Credentials, control_subject

SPARE_SECONDS = 600.0
"""Seconds of validity after lease and grace, for clock skew and outages of the bus."""

MAX_SUBSCRIPTIONS = 16
"""Subscriptions of a segment. Its trainer needs one for replies."""


def publish_subjects(account_id: UUID, job_id: UUID, segment: int) -> tuple[str, ...]:
    """Return a segment's subjects: reports, measurements, log lines, requests of Control."""
    name = f"{account_id}.{job_id}.{segment}"
    return (
        *(f"{kind}.{name}" for kind in ("reports", "telemetry", "evaluations", "logs")),
        f"$JS.API.DIRECT.GET.{CONTROL}.{control_subject(job_id, segment)}",
    )


def inbox_prefix(job_id: UUID, segment: int) -> str:
    """Return the prefix of a segment's reply subjects. It may subscribe to no other subjects."""
    return f"_INBOX_{job_id.hex}_{segment}"


@dataclass(frozen=True)
class CredentialIssuer:
    """An issuer of credentials under the NATS account of the trainers.

    `seed` is the seed of the account, or of a signing key of `account`. Credentials are valid for
    `valid_seconds` of real time.
    """

    seed: str
    account: str | None
    valid_seconds: float

    @classmethod
    def of(cls, settings: Settings) -> CredentialIssuer | None:
        """Return the configured issuer, or None. A lease ends at most `lease_seconds` from now."""
        if settings.nats_trainer_seed is None:
            return None
        paid = (settings.lease_seconds + settings.grace_seconds) / settings.clock_speed
        account = settings.nats_trainer_account
        return cls(settings.nats_trainer_seed, account, paid + SPARE_SECONDS)

    def issue(self, account_id: UUID, job_id: UUID, segment: int) -> Credentials:
        """Return credentials for a segment that are valid from now."""
        name = f"{account_id}.{job_id}.{segment}"
        derived = hmac.digest(self.seed.encode(), f"segment {name}".encode(), "sha256")
        seed = new_seed(KeyKind.USER, derived)
        jwt = user_jwt(
            self.seed,
            seed,
            f"segment {job_id} {segment}",
            AllowedSubjects(
                publish=publish_subjects(account_id, job_id, segment),
                subscribe=(f"{inbox_prefix(job_id, segment)}.>",),
                payload=MAX_REPORT_BYTES,
                subscriptions=MAX_SUBSCRIPTIONS,
            ),
            expires_at=int(time.time() + self.valid_seconds),
            account=self.account,
        )
        return Credentials(jwt=jwt, seed=seed)


def required_issuer(settings: Settings) -> CredentialIssuer:
    """Return the configured issuer. Raise RuntimeError if it is missing or its seed is invalid."""
    issuer = CredentialIssuer.of(settings)
    if issuer is None:
        raise RuntimeError(
            "ECOLINK_NATS_TRAINER_SEED is not set, so trainers get no NATS credentials. Run "
            "`ecolink nats-config` to create a server configuration with a seed."
        )
    try:
        public_key(issuer.seed)
    except ValueError as error:
        raise RuntimeError(f"ECOLINK_NATS_TRAINER_SEED is {error}. Correct the setting.") from error
    return issuer
