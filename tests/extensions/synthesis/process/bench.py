"""A synthesis on a database, with billing's handlers and the synthesis process's work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from uuid import UUID, uuid4

from psycopg_pool import ConnectionPool

from domain.access.role import Role
from domain.billing.account import Account
from domain.billing.budget import BudgetName
from domain.billing.token_meter import TokenMeter
from domain.billing.token_rates import FREE, TokenRates
from domain.core.aggregate import Cause, because
from domain.core.event_log import EventLog
from domain.core.identity import token_meter_id
from domain.core.target import TargetPolicy
from domain.deployments.deployment import Deployment, Weights
from domain.use_cases.accounts import EcoLink
from extensions.synthesis import metering
from extensions.synthesis.domain.plan import Generator, SynthesisPlan
from extensions.synthesis.domain.price import Pricing
from extensions.synthesis.domain.prompts import Prompts, Seed
from extensions.synthesis.domain.request import SynthesisRequest, request_ref
from extensions.synthesis.domain.synthesis import Synthesis
from extensions.synthesis.domain.use_cases import Synthesizing
from extensions.synthesis.endpoint_rows import add_endpoint
from extensions.synthesis.process.generating import Generating, Pace
from extensions.synthesis.process.models import open_connections
from infrastructure.artifacts.store import Artifacts
from infrastructure.bus.event_handlers import EventHandlers
from infrastructure.postgres.store import Connection
from infrastructure.settings import Settings
from tests.builders.commands import NOW, FixedClock
from tests.builders.examples import ACCOUNT_ID

LOCAL = TargetPolicy((ip_network("127.0.0.0/8"),), http=True)
QUICK = Pace(at_once=4, tries=3, first_pause=0.01, longest_pause=0.2, look=0.02)
RATES = TokenRates(prompt_micros=100_000, completion_micros=400_000)

REQUEST = SynthesisRequest(
    name="support chats",
    instructions="Customers of a shop ask about their orders.",
    topics=("returns", "delivery", "invoices"),
    external_model="gpt-test",
)


@dataclass
class Bench:
    """The parts of a platform that a synthesis needs."""

    log: EventLog
    pool: ConnectionPool[Connection]
    artifacts: Artifacts
    settings: Settings

    def open_account(self, balance_micros: int = 5_000_000) -> None:
        with self.commanding():
            EcoLink(self.log).open_account(ACCOUNT_ID, Role.OWNER)
            if balance_micros:
                EcoLink(self.log).grant_credit(ACCOUNT_ID, balance_micros, "first")

    def grant(self, micros: int) -> None:
        with self.commanding():
            EcoLink(self.log).grant_credit(ACCOUNT_ID, micros, str(uuid4()))

    def set_budget(self, name: BudgetName, limit_micros: int) -> None:
        """Set a budget of the account or of a key, which need not exist."""
        with self.commanding():
            account = self.account
            known = account.budgets.get(name)
            account.set_budget(name, limit_micros, known.spent_micros if known else 0)
            self.log.commit(account)

    @contextmanager
    def commanding(self, actor: str = "account:test") -> Iterator[Synthesizing]:
        """Run the block as a command of the account holder."""
        with because(Cause(actor, str(uuid4()), NOW)):
            yield Synthesizing(self.log)

    def deployed(self) -> Generator:
        """Return a deployed model."""
        weights = Weights(
            base_model="tiny", base_ref="models/tiny", base_manifest_sha256="b" * 64, adapter=None
        )
        with self.commanding():
            deployment = Deployment.request(ACCOUNT_ID, "tiny", weights)
            deployment.activate()
            self.log.commit(deployment)
        return Generator(deployment_id=deployment.id, endpoint_id=None, model="tiny")

    def external(self, url: str, key: str = "sk-secret") -> Generator:
        """Return a stored external endpoint."""
        with self.pool.connection() as connection:
            made = add_endpoint(connection, ACCOUNT_ID, "provider", f"{url}/v1", key, NOW)
        return Generator(deployment_id=None, endpoint_id=made.id, model=None)

    def approve(
        self,
        generator: Generator,
        request: SynthesisRequest = REQUEST,
        max_cost_micros: int | None = None,
        seeds: list[dict[str, Any]] | None = None,
        actor: str = "account:test",
        **plan: Any,
    ) -> UUID:
        """Approve a synthesis of 20 examples, and return its ID."""
        id = uuid4()
        ref = request_ref(ACCOUNT_ID, id, request.sha256)
        self.artifacts.put(ref, request.content)
        given: dict[str, Any] = {
            "request_ref": ref,
            "request_sha256": request.sha256,
            "sources": request.sources(seeded=seeds is not None),
            "seed_dataset_id": None,
            "seed_dataset_sha256": None,
            "examples": 20,
            "turns": 2,
            "personas": True,
            "generator": generator,
            "judged": True,
            "least_score": 6,
            "answer_tokens": 200,
            "attempts": 3,
            "temperature": 0.9,
            "top_p": 0.95,
            "seed": 7,
            "similarity": 0.7,
            "rates": FREE if generator.external else RATES,
        }
        made = SynthesisPlan(**(given | plan))
        cost = Pricing(
            made, Prompts.of(made, request, [Seed.of(each) for each in seeds or ()]).sizes()
        ).range()
        with self.commanding(actor) as use_case:
            use_case.approve(ACCOUNT_ID, id, made, cost, max_cost_micros)
        return id

    def synthesis(self, id: UUID) -> Synthesis:
        return self.log.load(Synthesis, id)

    @property
    def account(self) -> Account:
        return self.log.load(Account, ACCOUNT_ID)

    def meter(self, id: UUID) -> TokenMeter:
        return self.log.load(TokenMeter, token_meter_id(id))

    def work(self, id: UUID, serving_url: str | None = None, **options: Any) -> Synthesis:
        """Work on a synthesis until it pauses or ends, while billing handles its events."""
        with self.billing():
            asyncio.run(work(self, id, serving_url, **options))
        return self.synthesis(id)

    @contextmanager
    def billing(self) -> Iterator[None]:
        """Handle the events of syntheses in a thread during the block, and the rest at its end."""
        ended = threading.Event()
        handlers = EventHandlers(metering.handlers(self.log))
        reached = 0

        def handle_new() -> None:
            nonlocal reached
            for item in self.log.recorder.select_notifications(reached + 1, limit=500):
                event: Any = self.log.mapper.to_domain_event(item)

                def handle(event: Any = event, id: int = item.id) -> None:
                    with because(Cause("service:billing", f"billing:{id}", NOW)):
                        self.log.commit(*handlers.handle(event))

                self.log.retrying(handle)
                reached = item.id

        def run() -> None:
            while not ended.wait(0.01):
                handle_new()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            handle_new()


async def work(
    bench: Bench,
    id: UUID,
    serving_url: str | None = None,
    pace: Pace = QUICK,
    seconds: float = 20.0,
    policy: TargetPolicy = LOCAL,
) -> None:
    """Work on a synthesis until it pauses or ends."""
    async with _generating(bench, serving_url, pace, seconds, policy) as generating:
        await generating.work(id, lambda: False, lambda: None)


async def one_turn(
    bench: Bench, id: UUID, serving_url: str, completed: Callable[[], None] = lambda: None
) -> None:
    """Work on a synthesis while others wait."""
    async with _generating(bench, serving_url, QUICK, 20.0, LOCAL) as generating:
        await generating.work(id, lambda: True, completed)


async def give_up(bench: Bench, id: UUID) -> bool:
    """Pause a synthesis whose work keeps failing. Return True if it needs no more work."""
    async with _generating(bench, None, QUICK, 20.0, LOCAL) as generating:
        return await generating.give_up(id)


@asynccontextmanager
async def _generating(
    bench: Bench, serving_url: str | None, pace: Pace, seconds: float, policy: TargetPolicy
) -> AsyncIterator[Generating]:
    settings = bench.settings.model_copy(
        update={"serving_url": serving_url, "serving_secret": "secret"}
    )
    async with open_connections(settings, policy) as connections:
        yield Generating(
            *(bench.log, FixedClock(), bench.artifacts, bench.pool),
            connections.within(seconds),
            pace,
        )
