"""Every environment variable that EcoLink reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field, HttpUrl
from pydantic_settings import BaseSettings, SettingsConfigDict

from infrastructure.limits import known_limits


def _origin(url: str) -> str:
    """Return the origin of a URL. Raise ValueError if the URL contains more than an origin."""
    parsed = HttpUrl(url)
    more = parsed.path not in (None, "/") or parsed.query or parsed.fragment or parsed.username
    if more:
        raise ValueError(f"{url!r} is not an origin; write it as https://ecolink.example.org")
    return str(parsed).rstrip("/")


class Settings(BaseSettings):
    """Configuration of all EcoLink processes. The variable of a field is `ECOLINK_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")

    home: Path = Field(
        default=Path(".ecolink"),
        description="Folder with the data, logs and passwords of the embedded stack.",
    )
    database_url: str | None = Field(
        default=None, description="PostgreSQL of the services. Unset: the embedded server."
    )
    owner_database_url: str | None = Field(
        default=None,
        description="PostgreSQL as the owner of the tables, for migrations. "
        "Unset: `ECOLINK_DATABASE_URL`.",
    )
    nats_url: str | None = Field(
        default=None, description="NATS server. Unset: the embedded server."
    )
    nats_credentials: Path | None = Field(
        default=None, description="File with the NATS credentials of the services (.creds)."
    )
    nats_trainer_seed: str | None = Field(
        default=None,
        description="Seed of the NATS account of trainers, or of one of its signing keys. The "
        "scheduler signs the credentials of each segment with it; no other process "
        "needs it.",
    )
    nats_trainer_account: str | None = Field(
        default=None,
        description="Public key of the NATS account of trainers. Unset: the key of the seed.",
    )
    trainer_nats_url: str | None = Field(
        default=None, description="NATS server as trainers reach it. Unset: `ECOLINK_NATS_URL`."
    )
    snapshot_secret: str | None = Field(
        default=None,
        description="Secret that signs snapshots of accounts, the same for all services. Unset: no "
        "snapshots; accounts always load from their events.",
    )
    seal_key: Path | None = Field(
        default=None,
        description="File with the Ed25519 key that signs seals of the event log (PEM). Only the "
        "sealer needs it. Unset: `<home>/seal-key.pem`, made at the first start.",
    )
    timestamp_url: HttpUrl | None = Field(
        default=None,
        description="RFC 3161 timestamp authority, which confirms the time of signed tree heads. "
        "Unset: none.",
    )
    artifacts_url: str | None = Field(
        default=None,
        description="Object store, such as `file://` or `s3://`. Unset: `<home>/artifacts`.",
    )
    postgres_port: int = Field(
        default=0, description="Port of the embedded PostgreSQL. 0: a free port."
    )
    nats_port: int = Field(
        default=0, description="Port of the embedded NATS server. 0: a free port."
    )
    gateway_host: str = Field(
        default="127.0.0.1", description="Address on which the gateway listens."
    )
    gateway_port: int = Field(default=0, description="Port of the gateway. 0: a free port.")
    gateway_url: str | None = Field(
        default=None, description="Address of the gateway for the command line."
    )
    public_url: Annotated[str, AfterValidator(_origin)] | None = Field(
        default=None,
        description="Public address of the gateway behind a reverse proxy, such as "
        "`https://ecolink.example.org`. Unset: the address of each request.",
    )
    trusted_proxies: str | None = Field(
        default=None,
        description="Addresses of reverse proxies whose X-Forwarded-For is trusted, separated by "
        "commas. Unset: loopback if `ECOLINK_PUBLIC_URL` is set, otherwise none.",
    )
    limits: Annotated[dict[str, int], AfterValidator(known_limits)] = Field(
        default={},
        description='Limits and quotas that differ from their defaults, such as `{"datasets": 50}`.'
        " `ecolink security limits` lists them.",
    )
    security_days: int = Field(
        default=30,
        ge=1,
        description="Days to keep security events, which contain client addresses.",
    )
    serving_host: str = Field(
        default="127.0.0.1", description="Address on which the serving process listens."
    )
    serving_port: int = Field(default=0, description="Port of the serving process. 0: a free port.")
    serving_url: str | None = Field(
        default=None, description="Address of the serving process for the gateway."
    )
    serving_secret: str | None = Field(
        default=None, description="Secret that the gateway sends to the serving process."
    )
    serving_queue_limit: int = Field(
        default=64,
        ge=1,
        description="Chats that may wait, at most half of them from one account. Further chats get "
        "429.",
    )
    serving_rows: int = Field(
        default=32, ge=1, description="Chats that each base model answers at the same time."
    )
    serving_cache_mib: int = Field(
        default=2048,
        ge=1,
        description="Memory for keys and values of each base model, MiB. A single chat may use "
        "more.",
    )
    serving_precision: Literal["bf16", "fp32"] | None = Field(
        default=None,
        description="Precision of served base models. Unset: the best for the machine.",
    )
    serving_device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Device that serves models. `cuda:1` is GPU 1 of nvidia-smi; EcoLink does not "
        "train on it.",
    )
    serving_threads: int | None = Field(
        default=None, ge=1, description="CPU threads of serving. Unset: all cores."
    )
    api_key: str | None = Field(default=None, description="API key of the command line.")
    account: UUID | None = Field(
        default=None, description="Account that the command line of an auditor reads."
    )

    dataset_max_bytes: int = Field(
        default=512 * 1024**2, description="Largest dataset upload, bytes."
    )
    heartbeat_seconds: float = Field(
        default=1.0, gt=0, description="Interval between the reports of a trainer, s."
    )
    meter_minute_seconds: int = Field(
        default=60, ge=1, description="Length of a metered minute, s."
    )
    lease_seconds: int = Field(
        default=300, ge=1, description="Segment time that a full lease pays for, s."
    )
    lease_extension_seconds: int = Field(
        default=60, ge=1, description="Interval between two extensions of a lease, s."
    )
    grace_seconds: int = Field(
        default=30, ge=0, description="Time to save and exit after the end of a lease, s."
    )
    stall_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Time without progress after which a trainer ends itself, s.",
    )
    silence_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Time without a sign of life after which a trainer is relaunched, s.",
    )
    launcher: str = Field(
        default="local",
        description="Where trainers run: `local` starts them on the scheduler's machine.",
    )
    warm_trainers: int = Field(
        default=1,
        ge=0,
        le=16,
        description="Trainers that the local launcher starts ahead, about 0.5 GB each.",
    )
    test_payments: bool = Field(
        default=False,
        description="Accept test payments from clients on this host, up to $1,000 an account and "
        "day. Only for trying EcoLink out.",
    )
    payment_instructions: str | None = Field(
        default=None,
        description="How to pay, shown on the billing page. Unset: ask the operator.",
    )
    retention_days: int = Field(
        default=30, ge=1, description="Days to keep the checkpoint of a cancelled job."
    )
    log_days: int = Field(
        default=90,
        ge=1,
        description="Days to keep the log lines of a finished job. Metrics and the last output of a"
        " failed job stay.",
    )
    cache_gib: float = Field(
        default=100.0,
        gt=0,
        description="Disk for local copies of base models from a remote store, GiB. The least "
        "recently used copies are deleted first.",
    )
    compiled_gib: float = Field(
        default=2.0,
        gt=0,
        description="Disk for compiled kernels of trainers, GiB. The least recently used files are "
        "deleted first.",
    )
    disk_low_gib: float = Field(
        default=5.0,
        ge=0,
        description="Free disk below which logs, `ecolink status` and `/healthz` warn, GiB.",
    )
    disk_critical_gib: float = Field(
        default=1.0,
        ge=0,
        description="Free disk below which uploads are refused, GiB.",
    )
    clock_speed: float = Field(
        default=1.0, gt=0, description="Test clock: platform seconds in a real second."
    )
    clock_origin: AwareDatetime | None = Field(
        default=None, description="Test clock: its start. Set by the local supervisor."
    )
    beat_file: Path | None = Field(
        default=None,
        description="File that a process touches while it lives. Set by its supervisor.",
    )
    hung_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Time without a sign of life after which a process is restarted, s.",
    )
    step_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Longest time for one step of a service, such as loading a model, before its "
        "process is restarted, s.",
    )
    supervisor_pid: int | None = Field(
        default=None,
        description="Process whose end also ends local trainers. Set by the local supervisor.",
    )
    log_level: str = Field(default="INFO", description="Log level of the services.")

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
    def proxies(self) -> frozenset[str]:
        """Addresses of the reverse proxies whose X-Forwarded-For header EcoLink trusts."""
        if self.trusted_proxies is not None:
            return frozenset(filter(None, map(str.strip, self.trusted_proxies.split(","))))
        return frozenset({"127.0.0.1", "::1"} if self.public_url else ())

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
