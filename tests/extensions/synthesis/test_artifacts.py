"""The files of a synthesis that audits compare, and that backups copy."""

from __future__ import annotations

from extensions.synthesis.domain.synthesis import StoredFile
from services.projector.artifact_check import Kept, kept_artifacts
from tests.builders.commands import command
from tests.extensions.synthesis.domain.test_synthesis import FILE, PLAN, after


def test_an_audit_compares_the_request_the_batches_and_the_examples() -> None:
    examples = StoredFile(ref="syntheses/examples", sha256="a" * 64)
    provenance = StoredFile(ref="syntheses/provenance", sha256="b" * 64)
    with command("review"):
        synthesis = after(10)
        synthesis.finish_generation(examples, provenance)
    assert kept_artifacts(synthesis, ()) == [
        Kept(PLAN.request_ref, PLAN.request_sha256, False),
        *(Kept(each.ref, each.sha256, False) for each in (FILE, examples, provenance)),
    ]
