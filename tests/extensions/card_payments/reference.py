"""Pages of the operator commands of payments by card."""

from __future__ import annotations

from tests.docs.operator_pages import ACCOUNT, Host, page_at

OPERATOR_COMMANDS = {
    "accounts refund": page_at(ACCOUNT, f"{ACCOUNT}/refunds"),
    "accounts recover-payments": Host("It belongs to a restore, and runs before EcoLink starts."),
}
