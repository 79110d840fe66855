"""Schemas of accounts, the ledger and statements."""

from gateway.billing.api.accounts import AccountAnswer
from gateway.billing.api.ledger import Posting
from gateway.billing.api.statements import StatementDay, StatementJob

__all__ = ["AccountAnswer", "Posting", "StatementDay", "StatementJob"]
