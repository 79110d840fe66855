"""Temporary keys of the artifact store for trainers: one set per segment, limited to its files.

The scheduler gets them from STS, with a session policy that names the files of the segment, and
renews them while the segment runs. A file store has none, because it has no users.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from infrastructure.artifacts.object_stores import is_s3, s3_location
from infrastructure.artifacts.s3_requests import S3Refused, sts_request
from infrastructure.settings import Settings
from infrastructure.training.reports import StoreCredentials
from infrastructure.training.segment_credentials import SPARE_SECONDS

SHORTEST_SECONDS, LONGEST_SECONDS = 900, 3600
"""Limits of STS for the validity of temporary keys, with the default maximum of a role."""

PATTERN = re.compile(r"[*?$]")
"""Characters with a meaning in a policy."""

MALFORMED = "MalformedResponse"


@dataclass(frozen=True)
class StoreAccess:
    """The refs that a segment may read and write. `folders` are prefixes of refs."""

    read_files: Sequence[str]
    read_folders: Sequence[str]
    written_folders: Sequence[str]


def session_policy(url: str, access: StoreAccess) -> str:
    """Return the policy of temporary keys as JSON, without deletion, listing and wildcards."""
    bucket, prefix = s3_location(url)
    home = f"arn:aws:s3:::{bucket}/{prefix}/" if prefix else f"arn:aws:s3:::{bucket}/"
    read = [*access.read_files, *(f"{each}/*" for each in access.read_folders)]
    for ref in (*access.read_files, *access.read_folders, *access.written_folders):
        if PATTERN.search(ref):
            raise ValueError(f"{ref!r} cannot be in a policy. Import the base model again.")
    statements = [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [f"{home}{each}" for each in read],
        },
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:AbortMultipartUpload"],
            "Resource": [f"{home}{each}/*" for each in access.written_folders],
        },
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


@dataclass(frozen=True)
class StoreIssuer:
    """An issuer of temporary keys for the store at `url`, with the permissions of a role."""

    url: str
    role: str
    valid_seconds: int

    @classmethod
    def of(cls, settings: Settings) -> StoreIssuer | None:
        """Return the configured issuer. None: a file store, or no role is set."""
        if not is_s3(settings.artifacts) or settings.artifacts_role is None:
            return None
        paid = (settings.lease_seconds + settings.grace_seconds) / settings.clock_speed
        wanted = round(paid + SPARE_SECONDS)
        valid = min(max(wanted, SHORTEST_SECONDS), LONGEST_SECONDS)
        return cls(settings.artifacts, settings.artifacts_role, valid)

    def issue(self, job_id: UUID, segment: int, access: StoreAccess) -> StoreCredentials:
        """Return keys for a segment that are valid from now. Raise S3Refused."""
        answer = sts_request(
            {
                "Action": "AssumeRole",
                "Version": "2011-06-15",
                "RoleArn": self.role,
                "RoleSessionName": f"{job_id.hex}.{segment}",
                "DurationSeconds": str(self.valid_seconds),
                "Policy": session_policy(self.url, access),
            }
        )
        return _credentials(answer)


def _credentials(answer: ET.Element) -> StoreCredentials:
    found = next(answer.iter("Credentials"), None)
    if found is None:
        raise S3Refused(MALFORMED, "the answer of STS has no credentials")
    return StoreCredentials(
        access_key_id=found.findtext("AccessKeyId", ""),
        secret_access_key=found.findtext("SecretAccessKey", ""),
        session_token=found.findtext("SessionToken", ""),
        expires_at=datetime.fromisoformat(found.findtext("Expiration", "")),
    )


def required_store_issuer(settings: Settings) -> StoreIssuer | None:
    """Return the issuer of keys; None for a file store. On S3, a role is required."""
    issuer = StoreIssuer.of(settings)
    if issuer is None and is_s3(settings.artifacts):
        raise RuntimeError(
            f"Artifacts are at {settings.artifacts}, but ECOLINK_ARTIFACTS_ROLE is not set, so "
            "trainers get no keys for them. Set it to the ARN of a role; see "
            "docs/operate/artifacts.md."
        )
    return issuer
