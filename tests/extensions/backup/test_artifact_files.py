"""The artifact store of a restore."""

from __future__ import annotations

from uuid import uuid4

import pytest

from extensions.backup.artifact_files import require_empty_store
from extensions.backup.target import BackupError
from infrastructure.artifacts.store import Artifacts


def test_a_bucket_that_does_not_exist_is_created_empty(s3_url: str) -> None:
    missing = f"s3://bucket-{uuid4().hex}"
    require_empty_store(Artifacts(missing), missing)
    assert Artifacts(missing).list("") == []


def test_a_store_with_a_file_is_refused(s3_url: str) -> None:
    artifacts = Artifacts(s3_url)
    artifacts.put("models/base", b"weights")
    with pytest.raises(BackupError, match="has 1 files, such as models/base"):
        require_empty_store(artifacts, s3_url)
