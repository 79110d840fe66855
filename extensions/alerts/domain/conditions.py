"""The conditions that an alert rule can name."""

from __future__ import annotations

from dataclasses import dataclass

from extensions.alerts.domain import parameters as of
from extensions.alerts.domain.parameters import Parameters


@dataclass(frozen=True)
class Condition:
    """A condition of rules. It holds for subjects, such as a job or a disk.

    The first label identifies the subject. `group_by` of a rule may name all labels.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    parameters: type[Parameters] = Parameters
    by_event: bool = False
    """True if events raise it. Otherwise, the process checks it periodically."""
    momentary: bool = False
    """True if no event takes it back, so that it holds for the rule's `resolve_after`."""


CONDITIONS = {
    each.name: each
    for each in (
        Condition("balance_low", "Balance is low", ("account",), by_event=True),
        Condition("balance_empty", "Balance is empty", ("account",), by_event=True),
        Condition(
            "job_failed",
            "Job failed",
            ("job", "account", "failure"),
            of.JobFailedParameters,
            by_event=True,
            momentary=True,
        ),
        Condition(
            "job_paused",
            "EcoLink paused a job",
            ("job", "account", "reason"),
            of.JobPausedParameters,
            by_event=True,
        ),
        Condition(
            "checkpoint_rejected",
            "Checkpoint rejected",
            ("job", "account"),
            by_event=True,
            momentary=True,
        ),
        Condition("payment_disputed", "Payment is disputed", ("dispute", "account"), by_event=True),
        Condition(
            "payment_mismatch",
            "Payment differs at Stripe",
            ("payment", "account"),
            by_event=True,
            momentary=True,
        ),
        Condition(
            "refund_refused",
            "Refund failed",
            ("refund", "account"),
            by_event=True,
            momentary=True,
        ),
        Condition("capacity_exhausted", "Too few GPUs are free", ("pool", "region", "gpu_type")),
        Condition("job_skipped", "Queued job is skipped", ("job", "region", "gpu_type")),
        Condition("consumer_lag", "Consumer is behind", ("consumer",), of.LagParameters),
        Condition("parked_event", "Event is parked", ("consumer",)),
        Condition("seal_broken", "Seal does not match the event log", ("seal",)),
        Condition("sealer_behind", "Events are not sealed", ("seal",), of.LagParameters),
        Condition("disk_low", "Disk space is low", ("path",), of.DiskParameters),
        Condition(
            "certificate_expiring", "Certificate expires", ("file",), of.CertificateParameters
        ),
        Condition("process_down", "Process is down", ("process",), of.ProcessParameters),
        Condition(
            "process_restarting", "Process keeps restarting", ("process",), of.RestartParameters
        ),
        Condition(
            "estimates_off",
            "Estimates miss the actual price",
            ("estimates",),
            of.EstimateParameters,
        ),
        Condition(
            "overruns_high",
            "Price guarantees cover too much",
            ("pool", "region", "gpu_type"),
            of.OverrunParameters,
        ),
        Condition("check_failed", "Check fails", ("rule",)),
    )
}
"""All conditions, by name."""
