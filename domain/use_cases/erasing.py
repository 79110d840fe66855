"""The use case that ends everything of an account before its personal data is erased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from domain.access.api_key import ApiKey
from domain.billing.account import Account
from domain.core.errors import WrongState
from domain.core.event_log import EventLog, retrying
from domain.datasets.dataset import Dataset
from domain.deployments.deployment import Deployment
from domain.jobs.job import Job
from domain.jobs.job_request import JobRequest
from domain.use_cases.auto_top_ups import AutoToppingUp


@dataclass(frozen=True)
class Holdings:
    """IDs of everything that an account ever had in the event log."""

    keys: tuple[UUID, ...] = ()
    datasets: tuple[UUID, ...] = ()
    jobs: tuple[UUID, ...] = ()
    requests: tuple[UUID, ...] = ()
    """IDs of the aggregates of job requests, not of their jobs."""
    deployments: tuple[UUID, ...] = ()


def kept_card(log: EventLog, account_id: UUID) -> str:
    """Return a sentence for the operator if the provider keeps the card of an erased account."""
    known = AutoToppingUp(log).find(account_id)
    if known is None or known.card is None:
        return ""
    return (
        f" The payment provider keeps the card of its customer {known.customer}, because payments "
        "by card are disabled. Delete this customer there, or enable payments and repeat `ecolink "
        "accounts erase` with the ID of the account."
    )


class Erasing:
    """The use case of operators. It must run inside `because(cause)`.

    `remove_cards` removes all cards of a customer of the payment provider, whose ID it gets. None:
    payments by card are disabled, so the provider keeps a saved card.
    `end_others` ends everything of an account that extensions have. Its errors end the command.
    """

    def __init__(
        self,
        log: EventLog,
        remove_cards: Callable[[str], None] | None = None,
        end_others: Callable[[UUID], None] | None = None,
    ) -> None:
        self.log = log
        self._remove_cards = remove_cards
        self._end_others = end_others

    def erase(self, account_id: UUID, holdings: Holdings) -> Account:
        """End everything of a suspended account, and record the erasure. It deletes no data.

        Revokes the keys, removes the saved card, cancels the jobs, undeploys the models, and
        deletes the models and datasets. After a crash, a repetition continues. Raise NotFound if
        the account does not exist, and WrongState if it is not suspended, or one of its jobs still
        has GPUs.
        """
        self.log.load(Account, account_id).require_suspended()
        self._require_stopped(holdings.jobs)
        if self._end_others is not None:
            self._end_others(account_id)
        for key_id in holdings.keys:
            self._revoke(key_id)
        cards = AutoToppingUp(self.log)
        if self._remove_cards is None:
            cards.disable(account_id)  # `kept_card` names the card
        elif (known := cards.find(account_id)) is not None:
            self._remove_cards(known.customer)
            cards.remove_card(account_id)
        for request_id in holdings.requests:
            self._cancel_request(request_id)
        for job_id in holdings.jobs:
            self._end_job(job_id)
        for deployment_id in holdings.deployments:
            self._undeploy(deployment_id)
        for dataset_id in holdings.datasets:
            self._delete_dataset(dataset_id)
        return self._record(account_id)

    def _require_stopped(self, job_ids: tuple[UUID, ...]) -> None:
        running = [str(id) for id in job_ids if self.log.load(Job, id).running is not None]
        if running:
            one = len(running) == 1
            raise WrongState(
                f"{len(running):,} {'job' if one else 'jobs'} of the account still "
                f"{'has' if one else 'have'} GPUs: {', '.join(running)}. Running jobs of a "
                "suspended account save a checkpoint and pause. Wait a minute and try again.",
                figures={"jobs": running},
            )

    @retrying
    def _revoke(self, key_id: UUID) -> None:
        key = self.log.load(ApiKey, key_id)
        key.revoke()
        self.log.commit(key)

    @retrying
    def _cancel_request(self, request_id: UUID) -> None:
        request = self.log.load(JobRequest, request_id)
        if request.is_open:
            request.cancel()
            self.log.commit(request)

    @retrying
    def _end_job(self, job_id: UUID) -> None:
        job = self.log.load(Job, job_id)
        if job.model is not None:
            job.delete_model()
        elif not job.status.is_final:
            self._require_stopped((job_id,))
            job.cancel(timedelta(0))
        self.log.commit(job)

    @retrying
    def _undeploy(self, deployment_id: UUID) -> None:
        deployment = self.log.load(Deployment, deployment_id)
        deployment.undeploy()
        self.log.commit(deployment)

    @retrying
    def _delete_dataset(self, dataset_id: UUID) -> None:
        dataset = self.log.load(Dataset, dataset_id)
        dataset.delete(used_by=())
        self.log.commit(dataset)

    @retrying
    def _record(self, account_id: UUID) -> Account:
        account = self.log.load(Account, account_id)
        account.erase()
        self.log.commit(account)
        return account
