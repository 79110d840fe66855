"""Notifications: events that account holders receive by webhook and by e-mail."""

from extensions.notifications.notices import tables as notices
from extensions.notifications.settings import NotificationSettings
from extensions.notifications.webhooks import deliveries, endpoints
from infrastructure.extensions import Extension, Panel, Process
from infrastructure.limits import Limit, Scope
from infrastructure.rights import ADD, CHANGE, READ, REMOVE, Access, BusAccess

EXTENSION = Extension(
    package=__name__,
    summary="Events that account holders receive by webhook and by e-mail.",
    tables=(*notices.TABLES, *endpoints.TABLES, *deliveries.TABLES),
    settings=NotificationSettings,
    secrets={"smtp_password": ("webhooks",)},
    processes={
        "webhooks": Process(
            run="app:run",
            access=Access(
                handles_events=True,
                tables={
                    "webhook_endpoints": "SELECT, UPDATE (enabled, disabled_reason, disabled_at, "
                    "held_until)",
                    "webhook_secrets": REMOVE,
                    "webhook_deliveries": CHANGE,
                    "webhook_attempts": ADD,
                    "notice_addresses": f"{REMOVE}, UPDATE ({notices.PACED})",
                    "notices": CHANGE,
                },
            ),
            bus=BusAccess(consumes={"EVENTS": ("webhooks",)}),
            metrics_place=6,
            shares="outbound",
        )
    },
    rights={
        "gateway": {
            "webhook_endpoints": CHANGE,
            # Rights to store and replace secrets, without reading any.
            "webhook_secrets": "INSERT, DELETE, SELECT (endpoint_id, expires_at), "
            "UPDATE (expires_at)",
            "webhook_deliveries": f"{ADD}, UPDATE ({deliveries.REPLAYED})",
            "webhook_attempts": READ,
            "notice_addresses": CHANGE,
            "notices": "SELECT, INSERT, DELETE",
        }
    },
    renewals=(notices.RENEWAL,),
    limits=(
        Limit(
            "webhooks",
            10,
            Scope.ACCOUNT,
            "Endpoints of webhooks.",
            header="webhooks",
            refusal="Your account has the maximum of {limit} endpoints of webhooks. Delete one, or "
            "ask your operator for a higher quota.",
        ),
        Limit(
            "webhook_sends",
            60,
            Scope.ACCOUNT,
            "Tests and replays of webhooks. A replay of many deliveries counts once.",
            600,
            "webhooks",
            "Your account can request at most {limit} tests and replays of webhooks in 10 minutes.",
        ),
        Limit(
            "notice_mails",
            5,
            Scope.ACCOUNT,
            "Requests for a confirmation or a test of the e-mail address for notices.",
            3600,
            "notices",
            "Your account can request at most {limit} confirmations and tests by e-mail in an "
            "hour.",
        ),
    ),
    api=("webhooks.api:router", "notices.api:router"),
    pages=("webhooks.pages:router", "notices.pages:router"),
    secret_paths=("/notices/confirm/", "/notices/unsubscribe/"),
    panels={
        "page.banners": Panel("notifications/webhooks/banner.html", "webhooks.service:disabled")
    },
    account_links={"/webhooks": "Webhooks", "/notices": "E-mail notices"},
    commands={"webhooks": "webhooks.cli:webhooks", "notices": "notices.cli:notices"},
)
