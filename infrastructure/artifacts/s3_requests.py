"""Signed requests to S3 and STS that obstore does not have, such as for the rules of a bucket.

The signature is AWS's Signature Version 4:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import os
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit

import httpx

from infrastructure.artifacts.object_stores import s3_endpoint, s3_region

TIMEOUT_SECONDS = 5.0
ALGORITHM, DATE = "AWS4-HMAC-SHA256", "%Y%m%dT%H%M%SZ"
FORM = "application/x-www-form-urlencoded; charset=utf-8"

UNREACHABLE, NO_KEYS, NO_URL = "Unreachable", "NoKeys", "InvalidEndpoint"
"""Codes of S3Refused without a response from S3."""


class S3Refused(OSError):
    """S3 or STS refused a request, or cannot be reached. `code` is the code of the error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code


def s3_request(bucket: str, parameters: Mapping[str, str]) -> ET.Element:
    """Send a GET request for a bucket. Return the root of the response, or raise S3Refused."""
    endpoint = s3_endpoint() or f"https://s3.{s3_region()}.amazonaws.com"
    query = urlencode(sorted(parameters.items()), quote_via=quote)
    return _response("GET", "s3", f"{endpoint.rstrip('/')}/{bucket}?{query}", b"")


def sts_request(parameters: Mapping[str, str]) -> ET.Element:
    """Send a request to STS, by default at S3's endpoint. Return the response's root."""
    own = os.environ.get("AWS_ENDPOINT_URL_STS") or s3_endpoint()
    endpoint = own or f"https://sts.{s3_region()}.amazonaws.com"
    return _response("POST", "sts", f"{endpoint.rstrip('/')}/", urlencode(parameters).encode())


def _response(method: str, service: str, url: str, body: bytes) -> ET.Element:
    try:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    except KeyError as error:
        raise S3Refused(NO_KEYS, f"{error.args[0]} is not set") from None
    headers = {"host": urlsplit(url).netloc, "x-amz-date": f"{datetime.now(UTC):{DATE}}"}
    if token := os.environ.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    if body:
        headers["content-type"] = FORM
    else:
        headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    signer = Signer(key, secret, s3_region(), service)
    headers["authorization"] = signer.authorization(method, url, headers, body)
    try:
        response = httpx.request(
            method, url, headers=headers, content=body or None, timeout=TIMEOUT_SECONDS
        )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise S3Refused(NO_URL, str(error)) from error
    except httpx.HTTPError as error:
        raise S3Refused(UNREACHABLE, str(error) or type(error).__name__) from error
    try:
        root = ET.fromstring(response.content)
    except ET.ParseError:
        raise S3Refused(str(response.status_code), "the response is not XML") from None
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]  # without the namespace
    if not response.is_success:
        raise S3Refused(_text(root, "Code", str(response.status_code)), _text(root, "Message", ""))
    return root


def _text(root: ET.Element, tag: str, default: str) -> str:
    found = next((each.text for each in root.iter(tag) if each.text), None)
    return found or default


@dataclass(frozen=True)
class Signer:
    """A key that signs the requests to a service in a region."""

    key: str
    secret: str = field(repr=False)
    region: str
    service: str

    def authorization(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
        """Return the Authorization header of a request.

        The names of `headers` are lower case and include `host` and `x-amz-date`. The query of the
        URL is encoded and sorted.
        """
        parsed, date = urlsplit(url), headers["x-amz-date"]
        names = ";".join(sorted(headers))
        canonical = "\n".join(
            (
                method,
                quote(parsed.path or "/", safe="/~"),
                parsed.query,
                *(f"{name}:{headers[name].strip()}" for name in sorted(headers)),
                "",
                names,
                hashlib.sha256(body).hexdigest(),
            )
        )
        scope = f"{date[:8]}/{self.region}/{self.service}/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        derived = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            derived = hmac.digest(derived, part.encode(), "sha256")
        signed = "\n".join((ALGORITHM, date, scope, hashed))
        signature = hmac.digest(derived, signed.encode(), "sha256").hex()
        credential = f"{self.key}/{scope}"
        return f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
