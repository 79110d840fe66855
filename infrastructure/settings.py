"""Every environment variable that EcoLink reads, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, HttpUrl
from pydantic_settings import BaseSettings, SettingsConfigDict

from infrastructure.limits import known_limits


def _origin(url: str) -> str:
    """An address as browsers say it of a page; raises ValueError for more than an origin."""
    parsed = HttpUrl(url)
    more = parsed.path not in (None, "/") or parsed.query or parsed.fragment or parsed.username
    if more:
        raise ValueError("it is scheme, host and port, such as https://ecolink.example.org")
    return str(parsed).rstrip("/")


class Settings(BaseSettings):
    """Configuration of any EcoLink process; each field is `ECOLINK_<FIELD>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="ECOLINK_", extra="ignore")

    home: Path = Field(
        default=Path(".ecolink"), description="Where the embedded stack keeps its data."
    )
    database_url: str | None = Field(
        default=None, description="PostgreSQL of the services; unset: the embedded server."
    )
    owner_database_url: str | None = Field(
        default=None,
        description="PostgreSQL as the owner of the tables, for migrations; unset: the same.",
    )
    nats_url: str | None = Field(
        default=None, description="NATS server; unset: the embedded server."
    )
    nats_credentials: Path | None = Field(
        default=None, description="File with the services' NATS credentials (.creds)."
    )
    nats_trainer_seed: str | None = Field(
        default=None,
        description="Seed of the NATS account of trainers, or of a signing key of it, with which "
        "the scheduler issues each segment's credentials. No other process needs it.",
    )
    nats_trainer_account: str | None = Field(
        default=None,
        description="Public key of the NATS account of trainers; unset: that of the seed.",
    )
    trainer_nats_url: str | None = Field(
        default=None, description="NATS server as trainers reach it; unset: the same as nats_url."
    )
    snapshot_secret: str | None = Field(
        default=None,
        description="Signs snapshots of accounts, the same for all services; unset: no snapshot "
        "is taken or read, and an account is always loaded from its events.",
    )
    artifacts_url: str | None = Field(
        default=None, description="Object store (file://, s3://, ...); unset: <home>/artifacts."
    )
    postgres_port: int = Field(
        default=0, description="Port of the embedded PostgreSQL; 0: a free one."
    )
    nats_port: int = Field(default=0, description="Port of the embedded NATS; 0: a free one.")
    gateway_host: str = Field(
        default="127.0.0.1", description="Address that the gateway listens on."
    )
    gateway_port: int = Field(default=0, description="Port of the gateway; 0: a free one.")
    gateway_url: str | None = Field(
        default=None, description="Where the command line finds the gateway."
    )
    public_url: Annotated[str, AfterValidator(_origin)] | None = Field(
        default=None,
        description="Where browsers and programs find the gateway, behind a reverse proxy, such as "
        "https://ecolink.example.org; unset: at the address that they ask.",
    )
    trusted_proxies: str | None = Field(
        default=None,
        description="Addresses of reverse proxies whose X-Forwarded-For is trusted, with commas; "
        "unset: loopback if public_url is set, otherwise none.",
    )
    limits: Annotated[dict[str, int], AfterValidator(known_limits)] = Field(
        default={},
        description="Limits and quotas that differ from their defaults, as JSON, such as "
        '{"datasets": 50}; `ecolink security limits` lists them.',
    )
    security_days: int = Field(
        default=30,
        ge=1,
        description="How long security events, which name client addresses, are kept.",
    )
    serving_host: str = Field(
        default="127.0.0.1", description="Address that the serving process listens on."
    )
    serving_port: int = Field(default=0, description="Port of the serving process; 0: a free one.")
    serving_url: str | None = Field(
        default=None, description="Where the gateway finds the serving process."
    )
    serving_secret: str | None = Field(
        default=None, description="What the gateway shows to the serving process, and no one else."
    )
    serving_queue_limit: int = Field(
        default=64,
        ge=1,
        description="Answers that may wait to be begun, one account's half; others get 429.",
    )
    serving_rows: int = Field(
        default=32, ge=1, description="Answers that are given at once, of each base."
    )
    serving_cache_mib: int = Field(
        default=2048,
        ge=1,
        description="Memory for what these have read, MiB of each base; a single one may use more.",
    )
    serving_precision: Literal["bf16", "fp32"] | None = Field(
        default=None, description="How served bases are held; unset: what the machine is good at."
    )
    serving_device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Where; `cuda:1` is the GPU that nvidia-smi counts as 1, and trains no more.",
    )
    serving_threads: int | None = Field(
        default=None, ge=1, description="CPU threads that serving computes with; unset: all cores."
    )
    api_key: str | None = Field(default=None, description="API key that the command line sends.")

    dataset_max_bytes: int = Field(
        default=512 * 1024**2, description="Largest dataset upload, bytes."
    )
    heartbeat_seconds: float = Field(
        default=1.0, gt=0, description="Interval of a trainer's reports."
    )
    meter_minute_seconds: int = Field(
        default=60, ge=1, description="Length of one metered minute, s."
    )
    lease_seconds: int = Field(
        default=300, ge=1, description="Segment time that a full lease pays for."
    )
    lease_extension_seconds: int = Field(
        default=60, ge=1, description="How often a lease is extended."
    )
    grace_seconds: int = Field(
        default=30, ge=0, description="Time to save and exit after the lease ends."
    )
    stall_seconds: float = Field(
        default=900.0, gt=0, description="Time without progress after which a trainer ends itself."
    )
    silence_seconds: float = Field(
        default=120.0,
        gt=0,
        description="Time without a sign of life after which a trainer is killed and relaunched.",
    )
    launcher: str = Field(
        default="local",
        description="Where trainers run: `local` starts them on the scheduler's machine.",
    )
    warm_trainers: int = Field(
        default=1,
        ge=0,
        le=16,
        description="Trainers that the local launcher starts ahead, some 0.5 GB each; 0: none.",
    )
    test_payments: bool = Field(
        default=False,
        description="Account holders on this host top up with test money, at most $1,000 a day: "
        "only for trying EcoLink out. Requests through a proxy or a relay are refused.",
    )
    payment_instructions: str | None = Field(
        default=None,
        description="How account holders pay, as their billing page says it; unset: by asking.",
    )
    retention_days: int = Field(
        default=30, ge=1, description="How long what a cancelled job saved is kept."
    )
    log_days: int = Field(
        default=90,
        ge=1,
        description="How long the log lines of a job that is over are kept; what was measured, and "
        "the end of a failed job's output, stay.",
    )
    cache_gib: float = Field(
        default=100.0,
        gt=0,
        description="Disk for copies of a remote store's bases, GiB; above it, those that nobody "
        "uses are deleted, the least recently used first.",
    )
    compiled_gib: float = Field(
        default=2.0,
        gt=0,
        description="Disk for what the compiler made for trainers, GiB; above it, what was least "
        "recently used is deleted.",
    )
    disk_low_gib: float = Field(
        default=5.0,
        ge=0,
        description="Free disk, GiB, below which logs, `ecolink status` and /healthz warn.",
    )
    disk_critical_gib: float = Field(
        default=1.0,
        ge=0,
        description="Free disk, GiB, below which uploads are refused.",
    )
    clock_speed: float = Field(
        default=1.0, gt=0, description="Test clock: seconds of platform time in a real second."
    )
    clock_origin: AwareDatetime | None = Field(
        default=None, description="Test clock: when it began to run; set by the local supervisor."
    )
    beat_file: Path | None = Field(
        default=None,
        description="File that a process touches while it lives; set by its supervisor.",
    )
    hung_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Time without a heartbeat or an answer after which a process is restarted.",
    )
    step_seconds: float = Field(
        default=900.0,
        gt=0,
        description="Most time for one step of a service, such as loading a model, before its "
        "process is restarted.",
    )
    supervisor_pid: int | None = Field(
        default=None, description="Process whose end ends local pods; set by the local supervisor."
    )
    log_level: str = Field(default="INFO", description="Level of the services' logs.")

    @property
    def artifacts(self) -> str:
        """URL of the artifact store, with the default filled in."""
        if self.artifacts_url is not None:
            return self.artifacts_url
        return (self.home.resolve() / "artifacts").as_uri()

    @property
    def proxies(self) -> frozenset[str]:
        """Addresses of the reverse proxies that are trusted to name their clients."""
        if self.trusted_proxies is not None:
            return frozenset(filter(None, map(str.strip, self.trusted_proxies.split(","))))
        return frozenset({"127.0.0.1", "::1"} if self.public_url else ())

    @property
    def cache(self) -> Path:
        """Copies of what a remote artifact store holds, for all processes of this machine."""
        return self.home.resolve() / "cache"

    @property
    def compiled(self) -> Path:
        """What torch's compiler made for one job, and finds again for the next."""
        return self.home.resolve() / "compiled"

    @property
    def serving_gpu(self) -> int | None:
        """The index of the GPU that served models are held on, if it is one."""
        kind, _, index = self.serving_device.partition(":")
        return int(index or 0) if kind == "cuda" else None
