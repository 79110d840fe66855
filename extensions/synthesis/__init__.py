"""Synthesis: datasets that a model generates in priced batches, for a review by their owner."""

from extensions.synthesis.domain.synthesis import Synthesis
from extensions.synthesis.edits import EDITS
from extensions.synthesis.endpoint_rows import ENDPOINTS, KEYS
from extensions.synthesis.names import NAMES
from extensions.synthesis.settings import SynthesisSettings
from infrastructure.extensions import Extension, Panel, Process
from infrastructure.limits import Limit, Scope
from infrastructure.rights import ADD, KEEP, READ, Access, ArtifactAccess

EXTENSION = Extension(
    package=__name__,
    summary="Datasets that a model generates in priced batches, for a review by their owner.",
    tables=(EDITS, ENDPOINTS, KEYS, NAMES),
    aggregates=(Synthesis,),
    projections=("synthesis_rows:SYNTHESES",),
    folders=("syntheses",),
    artifacts={Synthesis: "artifacts:kept_artifacts"},
    open_files=r"syntheses/[^/]+/[^/]+/attempts/.+",  # answers, which may be paid already
    settings=SynthesisSettings,
    limits=(
        Limit(
            "syntheses",
            5,
            Scope.ACCOUNT,
            "Syntheses that generate or are paused.",
            header="syntheses",
            refusal="Your account has the maximum of {limit} unfinished syntheses. Finish or "
            "cancel one, or ask your operator for a higher quota.",
        ),
        Limit(
            "synthesis_endpoints",
            20,
            Scope.ACCOUNT,
            "External endpoints of syntheses.",
            header="synthesis-endpoints",
            refusal="Your account has the maximum of {limit} external endpoints. Delete one, or "
            "ask your operator for a higher quota.",
        ),
    ),
    billing_handlers=("metering:handlers",),
    charge_names=("names:synthesis_names",),
    dataset_users=("service:require_unused",),
    endings=("erasing:end_syntheses",),
    events={
        "gateway": (
            *(Synthesis.SynthesisApproved, Synthesis.SynthesisPaused, Synthesis.SynthesisResumed),
            *(Synthesis.SynthesisCancelled, Synthesis.GenerationStopped),
            Synthesis.DatasetCreated,
        ),
        "operator": (Synthesis,),
    },
    rights={
        "gateway": {
            NAMES.name: ADD,
            EDITS.name: KEEP,
            ENDPOINTS.name: f"{ADD}, DELETE, UPDATE (has_key)",
            # It stores and replaces keys without reading any.
            KEYS.name: "INSERT, DELETE, SELECT (endpoint_id)",
        },
    },
    processes={
        "synthesis": Process(
            run="process.app:run",
            access=Access(
                events=(
                    *(Synthesis.BatchStarted, Synthesis.BatchCompleted, Synthesis.SynthesisPaused),
                    *(Synthesis.SynthesisFailed, Synthesis.GenerationFinished),
                ),
                reads_snapshots=True,
                tables=dict.fromkeys(("syntheses", ENDPOINTS.name, KEYS.name), READ),
            ),
            artifacts=ArtifactAccess(reads=("uploads", "datasets"), writes=("syntheses",)),
            metrics_place=12,
            shares="outbound",
        )
    },
    api=("api:router", "endpoints_api:router"),
    pages=("pages:router",),
    panels={
        "billing.charge": Panel("synthesis/charge.html"),
        "datasets.actions": Panel("synthesis/link.html"),
    },
    commands={"syntheses": "cli:syntheses", "datasets": "cli:dataset_commands"},
)
