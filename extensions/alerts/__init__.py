"""Alerts: rules that notify operators of failed jobs, late processes, full disks and more."""

from extensions.alerts.domain.signals import MAX_EVENT_AGE
from extensions.alerts.settings import AlertSettings
from extensions.alerts.tables import ALERTS, NOTICES, SILENCES, TABLES
from infrastructure.extensions import Extension, Panel, Process
from infrastructure.rights import CHANGE, READ, REMOVE, Access, ArtifactAccess, BusAccess

EXTENSION = Extension(
    package=__name__,
    summary="Rules that notify operators of failed jobs, late processes, full disks and more.",
    tables=TABLES,
    settings=AlertSettings,
    processes={
        "alerts": Process(
            run="app:run",
            access=Access(
                handles_events=True,
                tables=dict.fromkeys((each.name for each in TABLES), CHANGE)
                | dict.fromkeys(("estimates", "gpu_pools", "gpu_claims", "job_detail"), READ)
                | dict.fromkeys(("projection_positions", "log_identity"), READ)
                | dict.fromkeys(("leaderships", "verifications"), READ)
                | {SILENCES.name: REMOVE},
            ),
            bus=BusAccess(consumes={"EVENTS": ("alerts",)}),
            artifacts=ArtifactAccess(reads=("seals",)),
            metrics_place=8,
            shares="outbound",
            rereads=MAX_EVENT_AGE,
        )
    },
    rights={
        "gateway": {ALERTS.name: READ, NOTICES.name: READ, SILENCES.name: CHANGE},
        "operator": {SILENCES.name: CHANGE},
    },
    pages=("pages:router",),
    panels={"ops.health": Panel("alerts/health.html", data="service:firing_alerts")},
    operator_tabs={"/ops/alerts": "Alerts"},
    operator_commands=("operator_cli:commands",),
)
