"""The projector process, which runs all projections and stores metrics."""

from __future__ import annotations

from functools import partial

from infrastructure.bus.consumer import subscribe_batches
from infrastructure.bus.service import broker_of, serve
from infrastructure.bus.streams import TELEMETRY, Durable
from infrastructure.postgres.log_identity import watch_log
from infrastructure.postgres.store import open_log, open_pool
from infrastructure.settings import Settings
from infrastructure.training.measurements import add_evaluation, add_log_line, add_step
from infrastructure.training.reports import EvaluationMeasured, LogLine, StepMeasured
from services.projector.following import Following
from services.projector.handover import leading_projector
from services.projector.measuring import store
from services.projector.platform_metrics import register

STORES = {
    Durable("measurements-steps", TELEMETRY, "telemetry.>"): partial(store, StepMeasured, add_step),
    Durable("measurements-evaluations", TELEMETRY, "evaluations.>"): partial(
        store, EvaluationMeasured, add_evaluation
    ),
    Durable("measurements-logs", TELEMETRY, "logs.>"): partial(store, LogLine, add_log_line),
}


def run(settings: Settings) -> None:
    """Wait until no other projector runs, then apply events to the projections until SIGTERM."""
    with leading_projector(settings):
        _project(settings)


def _project(settings: Settings) -> None:
    pool = open_pool(settings)
    log = open_log(settings, pool=pool)
    register(settings)
    broker = broker_of(settings, "projector")
    following = Following(log, pool.connection)
    following.subscribe(broker)
    for durable, keep in STORES.items():
        subscribe_batches(broker, durable, partial(keep, pool))
    work = [following.run, partial(watch_log, log)]
    serve(broker, [following.durable, *STORES], work)
