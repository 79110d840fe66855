"""The files of syntheses that must be stored."""

from __future__ import annotations

from extensions.synthesis.domain.synthesis import Synthesis
from services.projector.artifact_check import Kept


def kept_artifacts(synthesis: Synthesis) -> list[Kept]:
    """Return the request of a synthesis, its batches, its examples and their provenance."""
    plan, files = synthesis.plan, [*synthesis.files, synthesis.examples, synthesis.provenance]
    return [
        Kept(plan.request_ref, plan.request_sha256, False),
        *(Kept(each.ref, each.sha256, False) for each in files if each is not None),
    ]
