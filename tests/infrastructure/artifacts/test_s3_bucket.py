"""Rules of a bucket, and the signature of requests for them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from uuid import uuid4

import pytest

from infrastructure.artifacts import s3_bucket
from infrastructure.artifacts.s3_bucket import Bucket
from infrastructure.artifacts.s3_requests import S3Refused, Signer
from tests.object_store import ObjectStore


def test_the_signature_is_that_of_the_published_example() -> None:
    """Source: the example "GET Bucket Lifecycle" of Amazon's reference of Signature Version 4."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    signer = Signer(
        "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1", "s3"
    )
    found = signer.authorization(
        "GET",
        "https://examplebucket.s3.amazonaws.com/?lifecycle=",
        {
            "host": "examplebucket.s3.amazonaws.com",
            "x-amz-content-sha256": empty,
            "x-amz-date": "20130524T000000Z",
        },
        b"",
    )
    signature = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    assert found.endswith(f"Signature={signature}")


def test_a_new_bucket_has_no_rules_and_no_versions(s3_url: str, object_store: ObjectStore) -> None:
    bucket = Bucket(object_store.make_bucket(f"new-{uuid4().hex}"))
    bucket.require()
    assert (bucket.aborts_uploads, bucket.expires_versions, bucket.versioned) == (False,) * 3
    assert bucket.unfinished_uploads() == []


def test_a_missing_bucket_is_refused(s3_url: str) -> None:
    with pytest.raises(S3Refused) as refused:
        Bucket("s3://missing/x").require()
    assert refused.value.code == "NoSuchBucket"


ABORT = "<AbortIncompleteMultipartUpload/>"
ON = "<Status>Enabled</Status>"


@pytest.mark.parametrize(
    ("rule", "applies"),
    [
        (f"{ON}<Filter/>{ABORT}", True),
        (f"{ON}<Filter><Prefix></Prefix></Filter>{ABORT}", True),
        (f"{ON}<Filter><Prefix>eco</Prefix></Filter>{ABORT}", True),
        (f"{ON}<Prefix>ecolink/</Prefix>{ABORT}", True),
        (f"{ON}<Filter><Prefix>ecolink/jobs</Prefix></Filter>{ABORT}", False),
        (f"{ON}<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>{ABORT}", False),
        (f"{ON}<Filter><And><Prefix></Prefix></And></Filter>{ABORT}", False),
        (f"<Status>Disabled</Status><Filter/>{ABORT}", False),
        (f"{ON}<Filter/><Expiration><Days>1</Days></Expiration>", False),
    ],
)
def test_a_rule_counts_if_it_applies_to_every_artifact(
    rule: str, applies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ET.fromstring(f"<LifecycleConfiguration><Rule>{rule}</Rule></LifecycleConfiguration>")
    monkeypatch.setattr(s3_bucket, "s3_request", lambda *_: answer)
    assert Bucket("s3://bucket/ecolink").aborts_uploads is applies
