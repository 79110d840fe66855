"""Invoices: signed bills with the events that prove them, and bills under other prices."""

from extensions.invoices.tables import INVOICES
from infrastructure.extensions import Extension, Panel
from infrastructure.limits import Limit, Scope
from infrastructure.rights import KEEP

EXTENSION = Extension(
    package=__name__,
    summary="Signed bills with the events that prove them, and bills under other prices.",
    tables=(INVOICES,),
    rights={
        "sealer": {INVOICES.name: "SELECT, UPDATE"},
        "gateway": {INVOICES.name: KEEP},
    },
    signed_documents={"invoices": "issuing:keep_invoicing"},
    limits=(
        Limit(
            "invoices",
            400,
            Scope.ACCOUNT,
            "Invoices that an account requested.",
            header="invoices",
            refusal="Your account requested the maximum of {limit} invoices. Ask your operator "
            "for a higher quota.",
        ),
        Limit(
            "invoice_requests",
            30,
            Scope.ACCOUNT,
            "Requests for an invoice.",
            600,
            "invoices",
            "Your account can request at most {limit} invoices in 10 minutes.",
        ),
    ),
    api=("api:router",),
    pages=("pages:router", "what_if.pages:router"),
    panels={
        "billing.actions": Panel("invoices/billing_link.html"),
        "audit.actions": Panel("invoices/audit_link.html"),
    },
    operator_tabs={"/ops/what-if": "What if"},
    commands={"invoices": "cli:invoices"},
    operator_commands=("operator_cli:commands",),
)
