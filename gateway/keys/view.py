"""The API keys as the page shows them."""

from __future__ import annotations

from typing import Any

from domain.access.scope import Scope
from gateway.backend import Backend
from gateway.billing.budgets import budgets_of
from gateway.http.access import Caller
from gateway.keys.service import list_keys

LIFETIME_DAYS = (7, 30, 90, 365)
"""Lifetimes of a key that the form offers."""

MEANINGS = {
    Scope.READ: "see and download everything of the account",
    Scope.TRAIN: "upload datasets, and start and control jobs",
    Scope.DEPLOY: "deploy models and chat with them",
    Scope.BILLING: "top up the balance, and set budgets",
    Scope.KEYS: "create and revoke keys, and manage webhooks, trackers and notices",
}


def shown_keys(backend: Backend, caller: Caller) -> dict[str, Any]:
    """Return the variables of the templates of keys."""
    budgets = [each for each in budgets_of(backend, caller) if each.key is not None]
    return {
        "keys": list_keys(backend, caller),
        "budgets": budgets,
        "rights": caller.rights,
        "lifetimes": LIFETIME_DAYS,
        "meanings": MEANINGS,
    }
