"""Metrics of the trackers process."""

from prometheus_client import Counter, Gauge, Histogram

TRACKER_ATTEMPT_SECONDS = Histogram(
    "ecolink_tracker_attempt_seconds",
    "Duration of attempts to send the metrics of a job to a tracker, by outcome: accepted or "
    "failed.",
    ["tracker", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
TRACKER_POINTS = Counter(
    "ecolink_tracker_points", "Steps and evaluations that a tracker accepted.", ["tracker"]
)
TRACKED_RUNS = Gauge(
    "ecolink_tracked_runs",
    "Runs of trackers that are not finished, and those of them whose last attempt failed.",
    ["state"],
)
TRACKER_FAILING_SECONDS = Gauge(
    "ecolink_tracker_failing_seconds", "Longest time for which a tracker has accepted nothing."
)
