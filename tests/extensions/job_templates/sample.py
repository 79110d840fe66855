"""Job templates of the sample platform."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from extensions.job_templates.service import MOST_TEMPLATES
from extensions.job_templates.tables import JobTemplate, add_template
from gateway.jobs.launch.job_form import JobRequest
from infrastructure.postgres.store import Connection


def add(connection: Connection, ada: UUID, job: UUID) -> None:
    """Save three templates of an account, one of them from a job."""
    now = datetime.now(UTC)
    for days, (name, source, fields) in enumerate(
        (
            ("Support bot, rank 32, register the best state", job, {"gpu_type": "h100"}),
            ("Quick look", None, {}),
            ("Two GPUs", None, {"gpu_type": "h100", "gpu_count": 2, "region": "us-east-1"}),
        )
    ):
        request = JobRequest.model_validate(
            {"dataset": uuid4(), "base_model": "qwen2.5-7b-instruct", **fields}
        )
        document = request.model_dump(mode="json")
        saved_at = now - timedelta(days=days)
        template = JobTemplate(uuid4(), name, document, source, saved_at)
        add_template(connection, ada, template, MOST_TEMPLATES)
