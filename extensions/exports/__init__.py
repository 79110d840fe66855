"""Exports: merged models as safetensors or GGUF files, and pushes of them to a model hub."""

from extensions.exports.domain.export import Export
from extensions.exports.domain.hub_push import HubPush
from extensions.exports.settings import ExportSettings
from extensions.exports.tables import PROGRESS, TABLES, TARGETS, TOKENS
from infrastructure.extensions import Extension, Panel, Process
from infrastructure.limits import Limit, Scope
from infrastructure.rights import ADD, CHANGE, READ, REMOVE, Access, ArtifactAccess, BusAccess

EXTENSION = Extension(
    package=__name__,
    summary="Merged models as safetensors or GGUF files, and pushes of them to a model hub.",
    tables=TABLES,
    aggregates=(Export, HubPush),
    projections=("export_rows:EXPORTS", "push_rows:HUB_PUSHES"),
    descriptions="descriptions:describe",
    folders=("exports",),
    artifacts={Export: "artifacts:kept_artifacts"},
    settings=ExportSettings,
    events={
        "gateway": (
            *(Export.ExportRequested, Export.ExportRenewed, Export.ExportDeleted),
            *(HubPush.PushRequested, HubPush.PushStopped),
        ),
        "operator": (Export, HubPush),
    },
    rights={
        "gateway": {
            PROGRESS.name: READ,
            TARGETS.name: f"{ADD}, DELETE",
            TOKENS.name: "INSERT",
        },
    },
    processes={
        "exporter": Process(
            run="app:run",
            access=Access(
                events=(
                    *(Export.ExportCompleted, Export.ExportFailed),
                    *(Export.ExportExpired, Export.ExportDeleted),
                    *(HubPush.PushCompleted, HubPush.PushFailed),
                ),
                handles_events=True,
                tables=dict.fromkeys(("exports", "hub_pushes"), READ)
                | {PROGRESS.name: CHANGE, TOKENS.name: REMOVE}
                | {TARGETS.name: "SELECT, UPDATE (done_bytes, url, message)"},
            ),
            bus=BusAccess(consumes={"EVENTS": ("exporter",)}),
            artifacts=ArtifactAccess(reads=("models", "jobs"), writes=("exports",)),
            metrics_place=10,
            shares="outbound",
        )
    },
    limits=(
        Limit(
            "exports",
            10,
            Scope.ACCOUNT,
            "Exports of models that are stored or pending.",
            header="exports",
            refusal="Your account has the maximum of {limit} exports. Delete some, or ask your "
            "operator for a higher quota.",
        ),
    ),
    api=("api:router",),
    pages=("pages:router",),
    panels={
        "models.lists": Panel("exports/poll.html", data="pages:shown_exports"),
        "model.facts": Panel("exports/list.html"),
        "model.actions": Panel("exports/actions.html"),
        "model.dialogs": Panel("exports/dialogs.html"),
    },
    commands={"models": "cli:commands"},
    verify_export="verification:verify_export",
)
