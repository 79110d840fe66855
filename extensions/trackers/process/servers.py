"""The servers of trackers: an account's own, or the operator's."""

from __future__ import annotations

from ipaddress import ip_network

from domain.core.target import TargetPolicy
from domain.training.integrations import Integration, MlflowIntegration, Tracker, WandbIntegration
from extensions.trackers.connections import Server, TrackerConnection, server_of
from extensions.trackers.process.mlflow import Mlflow
from extensions.trackers.process.server_client import ServerClient
from extensions.trackers.process.tracker import TrackerClient, TrackerFailure
from extensions.trackers.process.wandb import Wandb
from extensions.trackers.runs import TrackedRun
from extensions.trackers.settings import TrackerSettings
from infrastructure.accounts.profiles import name_of_account
from infrastructure.http.guarded import GuardedTransport
from infrastructure.postgres.store import Connection
from infrastructure.process.role import settings_of
from infrastructure.settings import Settings

ANY_ADDRESS = TargetPolicy((ip_network("0.0.0.0/0"), ip_network("::/0")), http=True)
"""Targets of the operator, who chose the URL in the settings."""


class Servers:
    """Clients of trackers. They share two transports, which `aclose` closes."""

    def __init__(self, settings: Settings) -> None:
        self._policy = settings.webhook_policy
        known = settings_of(TrackerSettings)
        self._mlflow = (
            Server(known.mlflow_url, known.mlflow_user, known.mlflow_password, of_operator=True)
            if known.mlflow_url is not None
            else None
        )
        self._transport = GuardedTransport(self._policy)
        self._of_operator = GuardedTransport(ANY_ADDRESS)

    def client_of(self, connection: Connection, run: TrackedRun) -> TrackerClient:
        """Return the client of a run. Raise TrackerFailure if the account has no connection."""
        server = server_of(connection, run.account_id, run.tracker)
        prefix = ""
        if server is None and run.tracker is Tracker.MLFLOW and self._mlflow is not None:
            server = self._mlflow
            # The names of experiments are those of all accounts.
            prefix = f"{name_of_account(connection, run.account_id) or run.account_id}/"
        if server is None:
            raise TrackerFailure(
                f"Your account has no connection to {run.tracker.product}. Set it up on the page "
                "Trackers, or with `ecolink trackers connect`."
            )
        return self._client(run.tracker, server, run.integration, prefix)

    def client_for_test(
        self, connection: Connection, tested: TrackerConnection
    ) -> TrackerClient | None:
        """Return the client of a connection, or None if the owner has deleted it."""
        server = server_of(connection, tested.account_id, tested.tracker)
        return None if server is None else self._client(tested.tracker, server)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()
        await self._of_operator.aclose()

    def _client(
        self,
        tracker: Tracker,
        server: Server,
        integration: Integration | None = None,
        prefix: str = "",
    ) -> TrackerClient:
        policy, transport = self._policy, self._transport
        if server.of_operator:
            policy, transport = ANY_ADDRESS, self._of_operator
        client = ServerClient(tracker.product, server, policy, transport)
        match tracker:
            case Tracker.MLFLOW:
                assert integration is None or isinstance(integration, MlflowIntegration)
                return Mlflow(client, integration and integration.mlflow, prefix)
            case Tracker.WANDB:
                assert integration is None or isinstance(integration, WandbIntegration)
                return Wandb(client, integration and integration.wandb)
            case Tracker.TENSORBOARD:
                raise TrackerFailure("TensorBoard has no server.")
