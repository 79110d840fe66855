"""A job that ran, was paused at zero, topped up, resumed and registered, by the real services."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from domain.billing.budget import BudgetName, BudgetPeriod
from domain.core.event_log import EventLog
from domain.jobs.job import Job
from domain.training.training_plan import Order
from tests.builders.examples import ESTIMATE, PLAN, POLICY
from tests.simulation.platform import SimulatedPlatform

SECOND_MICROS = 1_000
"""Price of a second, in micro-dollars."""

STORY_PLAN = PLAN.model_copy(
    update={"gpu_type": "gpu", "rate_micros_per_hour": 3_600 * SECOND_MICROS}
)


@dataclass
class Story:
    """The platform after the story, and the objects in it."""

    platform: SimulatedPlatform
    account_id: UUID
    job_id: UUID

    def work(self, seconds: int) -> None:
        """Let the trainer work and report, and bill the time."""
        self.platform.pass_time(seconds)
        for trainer in self.platform.trainers.values():
            trainer.report()
        self.platform.tick(self.account_id)

    def save(self) -> None:
        """Save a checkpoint."""
        (trainer,) = self.platform.trainers.values()
        self.platform.save_checkpoint(trainer)

    def complete(self) -> None:
        """Register the model."""
        (trainer,) = self.platform.trainers.values()
        self.platform.complete(trainer)

    def resume(self) -> None:
        """Resume the job as its owner."""
        rate = STORY_PLAN.rate_micros_per_hour

        def resume(job: Job) -> None:
            job.resume(ESTIMATE, rate, "test", 1)

        self.platform.command_job(self.job_id, resume)


def approved(log: EventLog, seconds_of_money: int = 100, order: Order = Order()) -> Story:
    """Return a story in which a job trains, with money for some seconds."""
    platform = SimulatedPlatform(log, POLICY)
    platform.open_pool("local", 1)
    account_id = platform.open_account("account")
    platform.top_up(account_id, seconds_of_money * SECOND_MICROS, "first")
    return Story(platform, account_id, platform.approve(account_id, "job", STORY_PLAN, order))


def limited(log: EventLog) -> Story:
    """Return a story with pauses at a maximum cost of 100 s and at a budget of 160 s."""
    story = approved(log, 1_000, Order(max_cost_micros=100 * SECOND_MICROS))
    platform = story.platform
    story.work(200)
    platform.end_finished()
    platform.command_job(story.job_id, lambda job: job.change_max_cost(500 * SECOND_MICROS))
    platform.set_budget(story.account_id, BudgetName(BudgetPeriod.DAY), 160 * SECOND_MICROS)
    story.resume()
    story.work(200)
    platform.end_finished()
    platform.set_budget(story.account_id, BudgetName(BudgetPeriod.DAY), 900 * SECOND_MICROS)
    story.resume()
    story.work(130)
    story.complete()
    return story


def told(log: EventLog) -> Story:
    """Return the whole story: 100 s until the balance is zero, an hour's pause, and 130 s."""
    story = approved(log)
    story.work(65)
    story.save()
    story.work(35)
    story.platform.end_finished()
    story.platform.pass_time(3_600)
    story.platform.top_up(story.account_id, 1_000 * SECOND_MICROS, "second")
    story.resume()
    story.work(130)
    story.complete()
    return story
