"""Settings of the Slurm launcher."""

from __future__ import annotations

from pathlib import Path

from pydantic import ByteSize, Field

from infrastructure.settings import Settings


class SlurmSettings(Settings):
    """The settings of EcoLink, and those of the Slurm launcher."""

    slurm_url: str | None = Field(
        default=None, description="URL of slurmrestd, such as `http://slurm:6820`."
    )
    slurm_user: str | None = Field(
        default=None,
        description="User of the Slurm jobs, which is also the user of the scheduler.",
    )
    slurm_token_file: Path | None = Field(
        default=None,
        description="File with the JWT of this user for slurmrestd. The scheduler reads it before "
        "each request, so you can renew it at any time.",
    )
    slurm_regions: dict[str, str] = Field(
        default={},
        description='Slurm partition of each region, such as `{"local": "gpu"}`.',
    )
    slurm_directory: Path | None = Field(
        default=None,
        description="Directory for the files of pods. The scheduler and all nodes see it under "
        "the same path.",
    )
    slurm_node_home: Path = Field(
        default=Path("/var/tmp/ecolink"),
        description="Directory on each node for copies of base models and compiled kernels.",
    )
    slurm_python: str | None = Field(
        default=None,
        description="Python of EcoLink on the nodes. The default is the path of the scheduler's.",
    )
    slurm_prologue: str = Field(
        default="",
        description="Shell commands that each Slurm job runs first, such as `module load cuda`.",
    )
    slurm_account: str | None = Field(
        default=None, description="Slurm account of the jobs. The default is the user's."
    )
    slurm_qos: str | None = Field(
        default=None, description="Quality of service of the jobs. The default is the account's."
    )
    slurm_cpus_per_gpu: int | None = Field(
        default=None,
        ge=1,
        description="CPUs of a Slurm job for each GPU. The default is that of the partition.",
    )
    slurm_memory_per_gpu_bytes: ByteSize | None = Field(
        default=None,
        ge=1,
        description="Memory of a Slurm job for each GPU. The default is that of the partition.",
    )
    slurm_time_limit_seconds: int | None = Field(
        default=None,
        ge=60,
        description="Time limit of a Slurm job, rounded down to minutes. Before it ends, the "
        "trainer saves a checkpoint and EcoLink continues in a new Slurm job. The default is that "
        "of the partition.",
    )
