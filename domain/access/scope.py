"""Scopes of API keys."""

from enum import StrEnum


class Scope(StrEnum):
    """A permission of an API key."""

    READ = "read"
    """See jobs, models, datasets, events and bills, and download them."""
    TRAIN = "train"
    """Upload and delete datasets, get estimates, and start, pause, resume and cancel jobs."""
    DEPLOY = "deploy"
    """Deploy, undeploy, export and delete models, and chat with them. With the scope read, also
    push exports to a hub. For operators, also base models."""
    BILLING = "billing"
    """Top up the balance, and set budgets. For operators, also credit and top up other accounts."""
    KEYS = "keys"
    """Create and revoke API keys, and manage webhooks, trackers and notices. For operators, also
    create and suspend other accounts, and create and revoke their keys."""
