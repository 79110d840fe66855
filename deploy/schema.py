"""The tables of this version of EcoLink, and the revision of its database schema."""

from __future__ import annotations

import hashlib
import json

from deploy.database_roles import ACCESS, OPERATOR
from domain.core.topics import topics_of
from infrastructure.accounts import key_uses, profiles, security_log, sessions
from infrastructure.bus.event_handlers import PARKED_DDL
from infrastructure.datasets import wanted_counts
from infrastructure.extensions import extension_tables
from infrastructure.http import idempotency
from infrastructure.postgres import (
    event_recorder,
    format_in_use,
    leadership,
    log_identity,
    presence,
    schema_revision,
)
from infrastructure.rights import Access
from infrastructure.seals import verifications
from infrastructure.training import drafts, measurements
from projections import PROJECTIONS
from projections.projection import POSITIONS_DDL

TABLES = (
    leadership.DDL,
    event_recorder.DDL,
    format_in_use.DDL,
    presence.DDL,
    schema_revision.DDL,
    log_identity.DDL,
    PARKED_DDL,
    POSITIONS_DDL,
    measurements.DDL,
    profiles.DDL,
    drafts.DDL,
    idempotency.DDL,
    sessions.DDL,
    key_uses.DDL,
    security_log.DDL,
    verifications.DDL,
    wanted_counts.DDL,
    *(each.ddl for each in extension_tables()),
)
"""Statements that create tables and functions, without those of read models."""


def revision_of(tables: tuple[str, ...], shapes: dict[str, str], access: dict[str, Access]) -> str:
    """Return the hash of a schema.

    `shapes` has the shapes of the read models, and `access` the rights of roles, by name.
    """
    parts = {
        "tables": tables,
        "shapes": shapes,
        "access": {name: _rights(each) for name, each in access.items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _rights(access: Access) -> dict[str, object]:
    """Return the rights of a role as JSON, in an order that is always the same."""
    return {
        "events": sorted(topics_of(*access.events)),
        "snapshots": sorted(each.__name__ for each in access.snapshots),
        "flags": [access.reads_snapshots, access.handles_events, access.leads],
        "tables": dict(access.tables),
    }


REVISION = revision_of(
    TABLES, {each.name: each.shape for each in PROJECTIONS}, ACCESS | {"operator": OPERATOR}
)
"""Revision of the schema that this version needs."""
