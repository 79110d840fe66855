"""Trackers: the metrics of jobs in MLflow, Weights & Biases and TensorBoard."""

from extensions.trackers.connections import CONNECTIONS, SECRETS
from extensions.trackers.runs import RUNS
from extensions.trackers.settings import TrackerSettings
from infrastructure.extensions import Extension, Panel, Process
from infrastructure.limits import Limit, Scope
from infrastructure.rights import ADD, READ, Access

SENDING = (
    "status, run_id, url, server, sent, turns, failures, failing_since, error, sent_at, "
    "next_attempt_at, finished_at"
)
"""Columns of a run that the trackers process changes."""

RESTARTED = (
    "status, run_id, url, server, sent, turns, failures, failing_since, error, next_attempt_at"
)
"""Columns of a run that its owner changes by a retry, or by another connection."""

TESTING = "test_requested_at, tested_at, test_error"
"""Columns of a connection that its test changes.

No role may change the URL of a tracker. Otherwise a compromised gateway could have the hidden
secret sent to its own server. A deletion also deletes the secret.
"""

EXTENSION = Extension(
    package=__name__,
    summary="Metrics of jobs in MLflow, Weights & Biases and TensorBoard.",
    tables=(CONNECTIONS, SECRETS, RUNS),
    settings=TrackerSettings,
    secrets={"mlflow_password": ("trackers",)},
    processes={
        "trackers": Process(
            run="process.app:run",
            access=Access(
                tables=dict.fromkeys(("job_detail", "projection_positions", "profiles"), READ)
                | dict.fromkeys(("step_measurements", "evaluation_measurements"), READ)
                | {
                    CONNECTIONS.name: f"SELECT, UPDATE ({TESTING})",
                    SECRETS.name: READ,
                    RUNS.name: f"SELECT, UPDATE ({SENDING})",
                },
            ),
            metrics_place=11,
            shares="outbound",
        )
    },
    rights={
        "gateway": {
            CONNECTIONS.name: f"{ADD}, DELETE, UPDATE ({TESTING})",
            SECRETS.name: "INSERT, DELETE, SELECT (account_id, tracker)",
            RUNS.name: f"{ADD}, UPDATE ({RESTARTED})",
        },
    },
    limits=(
        Limit(
            "tracker_tests",
            60,
            Scope.ACCOUNT,
            "Tests of connections to trackers.",
            600,
            "trackers",
            "Your account can request at most {limit} tests of trackers in 10 minutes.",
        ),
    ),
    api=("api:router",),
    pages=("pages:router",),
    account_links={"/trackers": "Trackers"},
    panels={
        "job.cards": Panel("trackers/card.html", data="service:runs_of_job"),
    },
    integrations="receiver:receiver",
    commands={"trackers": "cli:trackers", "jobs": "cli:job_commands"},
)
