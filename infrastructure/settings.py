"""Every environment variable that EcoLink reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, ByteSize, Field, HttpUrl
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.core.quantities import GIB
from domain.core.target import Network, TargetPolicy, parsed_networks
from infrastructure.limits import positive_limits


def _origin(url: str) -> str:
    """Return the origin of a URL. Raise ValueError if the URL contains more than an origin."""
    parsed = HttpUrl(url)
    more = parsed.path not in (None, "/") or parsed.query or parsed.fragment or parsed.username
    if more:
        raise ValueError(
            f"{url!r} is not an origin. Use only scheme, host and port, for example "
            "https://ecolink.example.org."
        )
    return str(parsed).rstrip("/")


def _networks(text: str) -> str:
    """Raise ValueError if the text is not a list of networks."""
    parsed_networks(text)
    return text


def _factor(number: float) -> float:
    """Raise ValueError if a guarantee would end before the estimated time."""
    if 0 < number < 1:
        raise ValueError(f"{number:g} is below 1. Use 1 or more, or 0 to turn the guarantee off.")
    return number


def _proxies(text: str) -> str:
    """Raise ValueError if the text is not a list of addresses and networks."""
    for each in text.split(","):
        try:
            parsed_networks(each)
        except ValueError as error:
            raise ValueError(
                f"{each.strip()!r} is not an IP address or network: {error}. Use for example "
                "10.0.0.10 or 10.0.0.0/24."
            ) from error
    return text


@dataclass(frozen=True)
class Internal:
    """Mark of a setting for tests, or that one process of EcoLink sets for another."""


INTERNAL = Internal()


class Variables(BaseSettings):
    """Settings from variables. The variable of a field is `ECOLINK_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")


class ServerSettings(Variables):
    """Server."""

    home: Path = Field(
        default=Path(".ecolink"),
        description="Directory with the data, logs and passwords of the embedded servers.",
    )
    public_url: Annotated[str, AfterValidator(_origin)] | None = Field(
        default=None,
        description="Public URL of the gateway behind a reverse proxy, such as "
        "`https://ecolink.example.org`. If unset, the gateway uses the address of each request.",
    )
    gateway_host: str = Field(
        default="127.0.0.1", description="Address on which the gateway listens."
    )
    gateway_port: int | None = Field(
        default=None,
        description="Port of the gateway. 0 selects a free port. If unset, `ecolink up` selects "
        "8000, or a free port if another program uses 8000.",
    )
    database_url: str | None = Field(
        default=None,
        description="URL of PostgreSQL for the services, with one host, or with a primary and its "
        "standbys as `host1:5432,host2:5432`. If unset, EcoLink starts an embedded server.",
    )
    nats_url: str | None = Field(
        default=None,
        description="URL of the NATS server, or the URLs of a cluster's servers, separated by "
        "commas. If unset, EcoLink starts an embedded server.",
    )
    artifacts_url: str | None = Field(
        default=None,
        description="URL of the object store, such as `file://` or `s3://`. The default is "
        "`<home>/artifacts`.",
    )
    secrets_dir: Path | None = Field(
        default=None,
        description="Directory of secret files. Each file sets the variable with its name in upper "
        "case, unless that is already set: `ecolink_database_url` sets `ECOLINK_DATABASE_URL`, and "
        "`aws_secret_access_key` sets `AWS_SECRET_ACCESS_KEY`.",
    )


class GatewaySettings(Variables):
    """Gateway."""

    trusted_proxies: Annotated[str, AfterValidator(_proxies)] | None = Field(
        default=None,
        description="Comma-separated addresses and networks, such as `10.0.0.10,10.1.0.0/24`, of "
        "reverse proxies whose `X-Forwarded-For` header the gateway trusts. The default is "
        "loopback if `ECOLINK_PUBLIC_URL` is set, otherwise none.",
    )
    limits: Annotated[dict[str, int], AfterValidator(positive_limits)] = Field(
        default={},
        description='Limits and quotas that differ from their defaults, such as `{"datasets": 50}`.'
        " `ecolink security limits` lists them.",
    )
    webhook_networks: Annotated[str, AfterValidator(_networks)] = Field(
        default="",
        description="Comma-separated networks, such as `10.0.0.0/8`, to which EcoLink may send "
        "webhooks, metrics of jobs to trackers, and prompts of syntheses to external endpoints, "
        "although their addresses are not public.",
    )
    webhook_http: bool = Field(
        default=False,
        description="Allow webhooks, trackers and external endpoints at URLs without TLS (`http://`).",
    )


class DatabaseSettings(Variables):
    """Database."""

    owner_database_url: str | None = Field(
        default=None,
        description="URL of PostgreSQL with the role that owns the tables, for migrations. The "
        "default is `ECOLINK_DATABASE_URL`.",
    )
    postgres_port: int = Field(
        default=0, description="Port of the embedded PostgreSQL. 0 selects a free port."
    )
    snapshot_secret: str | None = Field(
        default=None,
        description="Secret that signs snapshots of accounts, meters and GPU pools. It is the same "
        "for all services. If unset, EcoLink stores none and loads everything from events.",
    )


class BusSettings(Variables):
    """NATS."""

    nats_port: int = Field(
        default=0, description="Port of the embedded NATS server. 0 selects a free port."
    )
    nats_ca: Path | None = Field(
        default=None,
        description="File with certificates of authorities (PEM), one of which signed the "
        "certificates of the NATS servers. All URLs of NATS must then start with `tls://`. The "
        "default is the authorities of the system. Trainers get a copy.",
    )
    nats_replicas: int = Field(
        default=1,
        ge=1,
        le=5,
        description="Number of NATS servers that hold a copy of each stream. Use 1, or 3 of a "
        "cluster. A change applies when a service starts.",
    )
    nats_credentials: Path | None = Field(
        default=None,
        description="File with the NATS credentials of the process (.creds), or a directory with a "
        "file for each process, such as `relay.creds`. Operator commands use `operator.creds`.",
    )
    nats_trainer_seed: str | None = Field(
        default=None,
        description="Seed of the NATS account of trainers, or of one of its signing keys. The "
        "scheduler signs the credentials of each segment with it. No other process needs it.",
    )
    nats_trainer_account: str | None = Field(
        default=None,
        description="Public key of the NATS account of trainers. The default is the key of the "
        "seed.",
    )
    trainer_nats_url: str | None = Field(
        default=None,
        description="URL at which trainers reach the NATS server, or several URLs, separated by "
        "commas. The default is `ECOLINK_NATS_URL`.",
    )


class SealSettings(Variables):
    """Seals of the event log."""

    seal_key: Path | None = Field(
        default=None,
        description="File with the Ed25519 key that signs seals of the event log (PEM). Only the "
        "sealer needs it. The default is `<home>/seal-key.pem`, which the sealer makes at its "
        "first start.",
    )
    timestamp_url: HttpUrl | None = Field(
        default=None,
        description="URL of a timestamp authority (RFC 3161), which confirms the time of signed "
        "tree heads. If unset, EcoLink requests no timestamps.",
    )


class DiskSettings(Variables):
    """Artifacts and disk space."""

    artifacts_role: str | None = Field(
        default=None,
        description="ARN of the role on S3 that the scheduler assumes for each trainer, limited "
        "to the files of its segment. Required if the artifacts are on S3; see "
        "[Artifact store](../operate/artifacts.md).",
    )
    model_cache_bytes: ByteSize = Field(
        default=ByteSize(100 * GIB),
        ge=1,
        description="Disk space for local copies of base models from a remote store. EcoLink "
        "deletes the least recently used copies first.",
    )
    kernel_cache_bytes: ByteSize = Field(
        default=ByteSize(2 * GIB),
        ge=1,
        description="Disk space for compiled kernels of trainers. EcoLink deletes the least "
        "recently used files first.",
    )
    disk_low_bytes: ByteSize = Field(
        default=ByteSize(5 * GIB),
        ge=0,
        description="Free disk space below which logs, `ecolink status` and `/healthz` warn.",
    )
    disk_critical_bytes: ByteSize = Field(
        default=ByteSize(GIB), ge=0, description="Free disk space below which uploads fail."
    )


class DatasetSettings(Variables):
    """Datasets and hub."""

    dataset_max_bytes: ByteSize = Field(
        default=ByteSize(GIB // 2), ge=1, description="Maximum size of a dataset upload."
    )
    dataset_max_unpacked_bytes: ByteSize = Field(
        default=ByteSize(4 * GIB),
        ge=1,
        description="Maximum size of a compressed dataset when it is unpacked.",
    )
    hub_endpoint: str | None = Field(
        default=None,
        pattern="^https?://",
        description="URL of a Hugging Face hub, such as `https://huggingface.co`, to which "
        "accounts may push exports, and from which they may download datasets. If unset, both are "
        "disabled.",
    )


class TrainerSettings(Variables):
    """Trainers."""

    launcher: str = Field(
        default="local",
        description="Launcher of trainers. `local` starts them on the scheduler's machine. "
        "Extensions add others.",
    )
    warm_trainers: int = Field(
        default=1,
        ge=0,
        le=16,
        description="Number of trainers that the local launcher starts in advance. Each uses "
        "about 0.5 GB.",
    )
    launch_seconds: float = Field(
        default=30.0,
        gt=0,
        description="Seconds that the local launcher waits for the process of a trainer to start. "
        "If a busy machine takes longer, the scheduler tries again.",
    )
    launch_retry_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Seconds for which the scheduler repeats the launch of a trainer if the "
        "launcher fails. Then it pauses the job. Its owner can resume it.",
    )
    heartbeat_seconds: float = Field(
        default=1.0, gt=0, description="Seconds between two reports of a trainer."
    )
    trainer_silence_timeout_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Seconds without a sign of life after which the scheduler relaunches a "
        "trainer.",
    )
    trainer_stall_timeout_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Seconds without progress after which a trainer ends itself.",
    )
    store_reports: Annotated[bool, INTERNAL] = Field(
        default=False,
        description="Also store the reports of a trainer in the object store. Launchers whose "
        "trainers share no disk with the scheduler set it.",
    )


class ServingSettings(Variables):
    """Serving."""

    serving_host: str = Field(
        default="127.0.0.1", description="Address on which the serving process listens."
    )
    serving_port: int = Field(
        default=0, description="Port of the serving process. 0 selects a free port."
    )
    serving_url: str | None = Field(
        default=None,
        description="URL at which the gateway reaches the serving process, or the URLs of several "
        "serving processes, separated by commas.",
    )
    serving_secret: str | None = Field(
        default=None, description="Secret that the gateway sends to the serving process."
    )
    serving_device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Device that serves models. `cuda:1` is GPU 1 of nvidia-smi. EcoLink "
        "does not train on this GPU.",
    )
    serving_precision: Literal["bf16", "fp32"] | None = Field(
        default=None,
        description="Precision of served base models. If unset, serving chooses the best "
        "precision for the machine.",
    )
    serving_threads: int | None = Field(
        default=None, ge=1, description="CPU threads of serving. If unset, serving uses all cores."
    )
    serving_rows: int = Field(
        default=32,
        ge=1,
        description="Maximum number of chats to which each base model responds at the same time.",
    )
    serving_cache_bytes: ByteSize = Field(
        default=ByteSize(2 * GIB),
        ge=1,
        description="Memory for the keys and values of each base model. A single chat may use "
        "more.",
    )
    serving_queue_limit: int = Field(
        default=64,
        ge=1,
        description="Maximum number of queued chats, at most half of them from one account. "
        "Further chats fail with 429.",
    )


class BillingSettings(Variables):
    """Billing."""

    payment_instructions: str | None = Field(
        default=None,
        description="Payment instructions for the billing page. If unset, the page tells "
        "users to ask their operator.",
    )
    test_payments: bool = Field(
        default=False,
        description="Accept test payments from clients on this host, up to $1,000 per account "
        "and day. Use this only to try out EcoLink.",
    )
    guarantee_factor: Annotated[float, AfterValidator(_factor)] = Field(
        default=3,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Charges for a job stop at the upper bound of its estimate. The job pauses "
        "after this many times the upper bound of its estimated time, at least 1. 0 turns this "
        "guarantee off.",
    )
    lease_seconds: int = Field(
        default=300, ge=1, description="Segment time that a full lease pays for, in seconds."
    )
    lease_extension_seconds: int = Field(
        default=60, ge=1, description="Seconds between two extensions of a lease."
    )
    grace_seconds: int = Field(
        default=30,
        ge=0,
        description="Seconds that a trainer has to save and exit after the end of its lease.",
    )
    meter_minute_seconds: Annotated[int, INTERNAL] = Field(
        default=60, ge=1, description="Length of a metered minute, in seconds."
    )


class RetentionSettings(Variables):
    """Retention."""

    checkpoint_retention_days: int = Field(
        default=30,
        ge=1,
        description="Days for which EcoLink keeps the checkpoint of a cancelled job.",
    )
    log_retention_days: int = Field(
        default=90,
        ge=1,
        description="Days for which EcoLink keeps the log lines of a finished job. It keeps "
        "metrics and the last output of a failed job longer.",
    )
    security_event_retention_days: int = Field(
        default=30,
        ge=1,
        description="Days for which EcoLink keeps security events, which contain client addresses.",
    )


class ProcessSettings(Variables):
    """Processes and monitoring."""

    extensions: str | None = Field(
        default=None,
        description="Comma-separated names of the extensions to use, such as `alerts`. If unset, "
        "EcoLink uses all whose packages are installed, and if empty, none. See "
        "[Select extensions](../contribute/extending.md#select-extensions).",
    )
    separate_roles: str = Field(
        default="",
        description="Comma-separated roles that run in a process of their own, such as "
        "`projector,exporter`, or `all`. By default, some roles share a process; see "
        "[Processes](../operate/operations.md#processes).",
    )
    hung_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds without a sign of life after which the supervisor restarts a process.",
    )
    step_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Maximum seconds for one step of a service, such as loading a model. "
        "After this time, the supervisor restarts the process.",
    )
    log_level: str = Field(default="INFO", description="Log level of the services.")
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Format of the services' logs: one line of text, or one JSON object, for each "
        "record.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address on which the Prometheus endpoints listen."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65_000,
        description="First port of the Prometheus endpoints. Each process serves `/metrics` on its "
        "own port; [Monitoring](../operate/monitoring.md) lists them. If unset, there are none.",
    )
    beat_file: Annotated[Path | None, INTERNAL] = Field(
        default=None,
        description="File that a process touches while it lives. The supervisor of the "
        "process sets it.",
    )
    supervisor_pid: Annotated[int | None, INTERNAL] = Field(
        default=None,
        description="ID of the process whose end also ends local trainers. The local "
        "supervisor sets it.",
    )
    clock_speed: Annotated[float, INTERNAL] = Field(
        default=1.0,
        gt=0,
        description="Speed of the test clock, in platform seconds per real second.",
    )
    clock_origin: Annotated[AwareDatetime | None, INTERNAL] = Field(
        default=None, description="Start of the test clock. The local supervisor sets it."
    )


class ClientSettings(Variables):
    """Command line."""

    gateway_url: str | None = Field(
        default=None, description="URL of the gateway for the command line."
    )
    api_key: str | None = Field(default=None, description="API key for the command line.")
    account: UUID | None = Field(
        default=None, description="Account that the command line of an auditor reads."
    )


class Settings(
    ServerSettings,
    GatewaySettings,
    DatabaseSettings,
    BusSettings,
    SealSettings,
    DiskSettings,
    DatasetSettings,
    TrainerSettings,
    ServingSettings,
    BillingSettings,
    RetentionSettings,
    ProcessSettings,
    ClientSettings,
):
    """Configuration of all EcoLink processes. The reference lists the bases in this order."""

    @property
    def artifacts(self) -> str:
        """URL of the artifact store, or its default below `home`."""
        if self.artifacts_url is not None:
            return self.artifacts_url
        return (self.home.resolve() / "artifacts").as_uri()

    @property
    def seal_key_file(self) -> Path:
        """File of the key that signs seals, or its default below `home`."""
        return self.seal_key or self.home.resolve() / "seal-key.pem"

    @property
    def webhook_policy(self) -> TargetPolicy:
        """The targets to which EcoLink may send webhooks."""
        return TargetPolicy(parsed_networks(self.webhook_networks), self.webhook_http)

    @property
    def proxies(self) -> tuple[Network, ...]:
        """Networks of the reverse proxies whose X-Forwarded-For header EcoLink trusts."""
        if self.trusted_proxies is not None:
            return parsed_networks(self.trusted_proxies)
        return parsed_networks("127.0.0.1, ::1") if self.public_url else ()

    @property
    def cache(self) -> Path:
        """Folder for local copies of base models, which all processes on the machine share."""
        return self.home.resolve() / "cache"

    @property
    def compiled(self) -> Path:
        """Folder for compiled kernels of trainers, which all jobs on the machine share."""
        return self.home.resolve() / "compiled"

    @property
    def serving_gpu(self) -> int | None:
        """Index of the GPU that serves models; None: models are served on the CPU."""
        kind, _, index = self.serving_device.partition(":")
        return int(index or 0) if kind == "cuda" else None
