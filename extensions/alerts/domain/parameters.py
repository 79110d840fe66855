"""Parameters of alert conditions. Each condition has one class."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field

from domain.core.value import Value
from domain.jobs.failures import FailureClass
from domain.jobs.lifecycle import PauseReason
from extensions.alerts.domain.durations import parse_duration

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class Parameters(Value):
    """Base class. A condition without parameters uses it directly."""


class JobFailedParameters(Parameters):
    """Parameters of `job_failed`."""

    failures: tuple[FailureClass, ...] = Field(
        default=tuple(FailureClass), description="Failure classes that count."
    )


class JobPausedParameters(Parameters):
    """Parameters of `job_paused`."""

    reasons: tuple[PauseReason, ...] = Field(
        default=(PauseReason.BALANCE, PauseReason.CAPACITY, PauseReason.OVERRUN),
        description="Pause reasons that count. By default, the owner's requests and cost limits "
        "do not count.",
    )


class LagParameters(Parameters):
    """Parameters of `consumer_lag` and `sealer_behind`."""

    older_than: Duration = Field(
        default=timedelta(minutes=5), description="Age of the oldest unprocessed event."
    )


class EstimateParameters(Parameters):
    """Parameters of `estimates_off`."""

    jobs: int = Field(default=20, ge=1, description="Number of newest finished jobs that count.")
    below_percent: float = Field(
        default=70.0,
        gt=0,
        le=100,
        description="Share of jobs whose actual cost was within the approved range.",
    )


class OverrunParameters(Parameters):
    """Parameters of `overruns_high`."""

    jobs: int = Field(default=20, ge=1, description="Number of newest ended jobs of a pool.")
    above_percent: float = Field(
        default=5.0,
        ge=0,
        lt=100,
        description="Share of their price that price guarantees covered.",
    )


class DiskLimit(StrEnum):
    """Settings with a limit of free disk space."""

    LOW = "low"
    CRITICAL = "critical"


class DiskParameters(Parameters):
    """Parameters of `disk_low`."""

    limit: DiskLimit = Field(
        default=DiskLimit.LOW,
        description="Limit: `low` is ECOLINK_DISK_LOW_BYTES, `critical` is "
        "ECOLINK_DISK_CRITICAL_BYTES.",
    )
    free_gib: float | None = Field(
        default=None,
        gt=0,
        description="Free space below which the disk is low, instead of a limit.",
    )
    paths: tuple[str, ...] = Field(
        default=(),
        description="Folders on the disks to check. By default, the home directory and the "
        "artifact store if it is a folder.",
    )


class CertificateParameters(Parameters):
    """Parameters of `certificate_expiring`."""

    file: str = Field(min_length=1, description="File with certificates (PEM).")
    within: Duration = Field(
        default=timedelta(days=14), description="Time before the end of a certificate."
    )


class ProcessParameters(Parameters):
    """Parameters of `process_down`."""

    processes: tuple[str, ...] = Field(
        default=(),
        description="Processes to check. By default, all that ever ran, the gateway if "
        "ECOLINK_GATEWAY_URL is set, and NATS.",
    )


class RestartParameters(ProcessParameters):
    """Parameters of `process_restarting`."""

    restarts: int = Field(default=3, ge=1, description="Number of restarts that is too many.")
    within: Duration = Field(
        default=timedelta(minutes=10), description="Period in which the restarts count."
    )
