"""Pages of the operator commands of invoices."""

from __future__ import annotations

from tests.docs.operator_pages import OFFLINE, page_at

OPERATOR_COMMANDS = {
    "audit what-if": page_at("/ops/what-if"),
    "audit invoice create": page_at("/audit/invoices", "/audit/invoices"),
    "audit invoice verify": OFFLINE,
}
