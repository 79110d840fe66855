"""Prometheus metrics of a process, and the endpoint that serves them."""

from __future__ import annotations

import logging

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from infrastructure.settings import Settings

HTTP_SECONDS = Histogram(
    "ecolink_http_request_seconds",
    "Duration of HTTP requests, by route.",
    ["method", "route", "status"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
PUBLISHED_EVENTS = Counter(
    "ecolink_events_published", "Events that the relay published, by topic.", ["topic"]
)
PUBLISH_DELAY_SECONDS = Histogram(
    "ecolink_publish_delay_seconds",
    "Time from an event to its publication.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300),
)
METERED_SECONDS = Counter("ecolink_metered_seconds", "Billed seconds of GPU time.")
CHARGED_MICROS = Counter("ecolink_charged_micros", "Charges in micro-dollars.")
LEASE_LEAD_SECONDS = Histogram(
    "ecolink_lease_lead_seconds",
    "Paid time that is left of a lease when billing settles it.",
    buckets=(0, 10, 20, 30, 60, 90, 120, 180, 300),
)
SEALED_EVENTS = Gauge("ecolink_sealed_events", "Events that the newest signed head covers.")
SEALED_TIME = Gauge(
    "ecolink_sealed_timestamp_seconds",
    "Time up to which the log is sealed, in seconds since 1970: of the newest signed head, or now "
    "if no event is newer than it.",
)

ROLE_RESTARTS = Counter(
    "ecolink_role_restarts", "Restarts of a role in a process with several roles.", ["role"]
)

PENDING_SECONDS = Gauge(
    "ecolink_pending_seconds",
    "Longest time for which an account waits for the end of an export or of a push, or for the "
    "progress of a synthesis.",
    ["work"],
)


def serve_metrics(settings: Settings, place: int) -> None:
    """Serve the metrics at `metrics_port`, if set, plus the process's number `place`."""
    if settings.metrics_port is None:
        return
    port = settings.metrics_port + place
    log = logging.getLogger("metrics")
    try:
        start_http_server(port, settings.metrics_host)
    except OSError as error:  # a service runs without its metrics
        log.error("no metrics on %s:%d: %s", settings.metrics_host, port, error)
    else:
        log.info("metrics on http://%s:%d/metrics", settings.metrics_host, port)
