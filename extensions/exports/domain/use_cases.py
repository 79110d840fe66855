"""Use cases that export the models of an account."""

from __future__ import annotations

from uuid import UUID

from domain.billing.account import Account
from domain.catalog.base_model import BaseModel
from domain.core.errors import NotFound, WrongState
from domain.core.event_log import EventLog, retrying
from domain.core.identity import base_model_id
from domain.jobs.job import MODEL_DELETED, Job
from extensions.exports.domain.export import Export, ExportFormat, ExportSource, export_id
from extensions.exports.domain.hub_push import HubPush


class Exporting:
    """Use cases of model owners. Each must run inside `because(cause)`."""

    def __init__(self, log: EventLog) -> None:
        self.log = log

    @retrying
    def request(self, account_id: UUID, job_id: UUID, format: ExportFormat) -> Export:
        """Export the model of a job. Return the existing export if there is one.

        Raise NotFound if the account has no such job, WrongState if the job has no model or the
        base model was deleted, and Suspended for a suspended account.
        """
        self.log.load(Account, account_id).require_active()
        job = self.log.find(Job, job_id)
        if job is None or job.account_id != account_id:
            raise NotFound(f"Unknown job {job_id}. See `ecolink jobs list`.")
        source = self._source(job)
        known = self.log.find(Export, export_id(job_id, format))
        if known is None:
            known = Export.request(account_id, job_id, job.model_name, format, source)
        known.renew(source)
        self.log.commit(known)
        return known

    @retrying
    def delete(self, account_id: UUID, job_id: UUID, format: ExportFormat) -> Export:
        """Delete the export of a model, or stop it. Raise NotFound if there is none."""
        export = self.log.find(Export, export_id(job_id, format))
        if export is None or export.account_id != account_id or not export.status.is_wanted:
            raise NotFound(
                f"There is no export of this model in the format {format}. "
                "`ecolink models exports` lists those that exist."
            )
        export.delete()
        self.log.commit(export)
        return export

    @retrying
    def push(self, push_id: UUID, export: Export) -> HubPush:
        """Push a ready export to a hub. The same ID returns the same push."""
        self.log.load(Account, export.account_id).require_active()
        if export.files is None:
            raise WrongState("The export is not ready. Wait until it is.")
        known = self.log.find(HubPush, push_id)
        if known is None:
            known = HubPush.request(push_id, export)
            self.log.commit(known)
        return known

    @retrying
    def stop_push(self, account_id: UUID, job_id: UUID, push_id: UUID) -> None:
        """Stop a push of a job's model that has not ended."""
        push = self.log.find(HubPush, push_id)
        if push is None or (push.account_id, push.job_id) != (account_id, job_id):
            raise NotFound(
                f"This model has no push {push_id}. `ecolink models pushes` lists those that exist."
            )
        push.stop()
        self.log.commit(push)

    def existing(self, job_id: UUID, format: ExportFormat) -> Export | None:
        """Return the export of a model if its files exist or will exist."""
        export = self.log.find(Export, export_id(job_id, format))
        return export if export is not None and export.status.is_wanted else None

    def _source(self, job: Job) -> ExportSource:
        if job.model_deleted:
            raise WrongState(MODEL_DELETED)
        if (model := job.model) is None:
            raise WrongState(
                f"The job is {job.status} and has no model. Wait until the model is registered."
            )
        base = self.log.find(BaseModel, base_model_id(job.plan.base_model))
        if base is None or base.manifests.get(job.plan.base_ref) is None:
            raise WrongState(
                f"The base model {job.plan.base_model} was deleted. Ask your operator to import "
                "the same files again."
            )
        return ExportSource(
            base_model=job.plan.base_model,
            base_ref=job.plan.base_ref,
            base_manifest_sha256=job.plan.base_manifest_sha256,
            adapter_ref=model.adapter_ref,
            adapter_manifest_sha256=model.manifest_sha256,
        )


def exports_of_model(log: EventLog, job_id: UUID) -> list[Export]:
    """Return the exports of a job's model that are pending or ready."""
    found = (log.find(Export, export_id(job_id, format)) for format in ExportFormat)
    return [each for each in found if each is not None and each.status.is_wanted]
