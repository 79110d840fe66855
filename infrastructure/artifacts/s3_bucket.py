"""The bucket of the artifact store: its rules, unfinished uploads, and what is wrong with it."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from infrastructure.artifacts.object_stores import s3_endpoint, s3_location, s3_region
from infrastructure.artifacts.s3_requests import NO_KEYS, NO_URL, UNREACHABLE, S3Refused, s3_request

OTHER_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraint")


class Bucket:
    """The bucket and the prefix of an `s3://` URL. Every method may raise S3Refused."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name, self.prefix = s3_location(url)

    def require(self) -> None:
        """List one object. Raise S3Refused if the bucket, the endpoint or the keys are wrong."""
        s3_request(self.name, {"list-type": "2", "max-keys": "1", "prefix": self._key("")})

    @property
    def aborts_uploads(self) -> bool:
        """True if a rule deletes the parts of unfinished uploads."""
        return any(each.find("AbortIncompleteMultipartUpload") is not None for each in self._rules)

    @property
    def expires_versions(self) -> bool:
        """True if a rule deletes old versions of objects."""
        return any(each.find("NoncurrentVersionExpiration") is not None for each in self._rules)

    @property
    def versioned(self) -> bool:
        """True if the bucket keeps deleted and replaced objects as versions."""
        return s3_request(self.name, {"versioning": ""}).find("Status") is not None

    def unfinished_uploads(self) -> list[str]:
        """Return the refs of up to 1,000 unfinished multipart uploads, sorted."""
        found = s3_request(self.name, {"uploads": "", "prefix": self._key("")})
        keys = (each.findtext("Key", "") for each in found.iter("Upload"))
        return sorted(key.removeprefix(self._key("")) for key in keys)

    def problem(self, refused: S3Refused) -> str:
        """Return a sentence that names the wrong setting, its value and the fix."""
        key = os.environ.get("AWS_ACCESS_KEY_ID", "")
        endpoint = s3_endpoint() or "AWS"
        match refused.code:
            case code if code == NO_KEYS:
                return f"{refused}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            case code if code in (UNREACHABLE, NO_URL):
                return (
                    f"No S3 server answers at {endpoint}. Correct AWS_ENDPOINT_URL, or start the "
                    "server."
                )
            case "InvalidAccessKeyId" | "InvalidClientTokenId":
                return (
                    f"{endpoint} does not know the key {key!r}. Correct AWS_ACCESS_KEY_ID, or "
                    "AWS_ENDPOINT_URL if the key belongs to another server."
                )
            case "SignatureDoesNotMatch":
                return (
                    f"The secret does not belong to the key {key!r}. Correct AWS_SECRET_ACCESS_KEY."
                )
            case "NoSuchBucket" | "InvalidBucketName":
                return (
                    f"{endpoint} has no bucket {self.name!r}. Create it, or correct "
                    f"ECOLINK_ARTIFACTS_URL, which is {self.url}."
                )
            case code if code in OTHER_REGION:
                return (
                    f"The bucket {self.name!r} is not in the region {s3_region()!r}. Correct "
                    "AWS_REGION."
                )
            case "AccessDenied":
                return (
                    f"The key {key!r} may not use the bucket {self.name!r}. Grant it the actions "
                    "that docs/operate/artifacts.md lists."
                )
        return f"S3 at {endpoint} refused a request for the bucket {self.name!r}: {refused}."

    @property
    def _rules(self) -> Iterator[ET.Element]:
        try:
            found = s3_request(self.name, {"lifecycle": ""})
        except S3Refused as error:
            if error.code == "NoSuchLifecycleConfiguration":
                return
            raise
        for rule in found.iter("Rule"):
            if rule.findtext("Status") == "Enabled" and self._covered_by(rule):
                yield rule

    def _key(self, ref: str) -> str:
        return f"{self.prefix}/{ref}" if self.prefix else ref

    def _covered_by(self, rule: ET.Element) -> bool:
        """Return True if the rule applies to every artifact, whatever its tags and size."""
        filtered = rule.find("Filter")
        wanted = rule if filtered is None else filtered
        narrow = {"And", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"}
        if narrow & {each.tag for each in wanted}:
            return False
        return self._key("").startswith(wanted.findtext("Prefix") or "")
