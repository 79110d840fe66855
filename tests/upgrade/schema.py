"""The schema of a database, and what a migration must not change for processes of a release.

A release may add to the schema. What the release before it uses stays for one more release. Then
the next one may remove it, and lists it in `CONTRACTED`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg

from projections import PROJECTIONS

CONTRACTED: frozenset[str] = frozenset()
"""Names of tables, columns (`table.column`), constraints, functions and rights that the last
release no longer uses, and that this tree's migration removes. Empty it after each release.
"""

READ_MODELS = frozenset(table for projection in PROJECTIONS for table in projection.tables)
"""Tables that only a projector with the same shape writes, see decision 86."""

COLUMNS = """
SELECT relname || '.' || attname, format_type(atttypid, atttypmod), attnotnull,
    atthasdef OR attidentity <> ''
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
"""

CONSTRAINTS = """
SELECT conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid), contype <> 'n'
FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> 0 AND contype <> 'n'
"""

INDEXES = """
SELECT indrelid::regclass || ' ' || indexrelid::regclass, pg_get_indexdef(indexrelid), indisunique
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relnamespace = 'public'::regnamespace
"""

FUNCTIONS = """
SELECT oid::regprocedure::text, pg_get_function_result(oid), prosecdef FROM pg_proc
WHERE pronamespace = 'public'::regnamespace
"""

TRIGGERS = """
SELECT tgrelid::regclass || ' ' || tgname, pg_get_triggerdef(oid), true FROM pg_trigger
WHERE NOT tgisinternal AND (SELECT relnamespace FROM pg_class WHERE oid = tgrelid)
    = 'public'::regnamespace
"""

RIGHTS = """
SELECT rolname || ' ' || privilege_type || ' ' || object FROM (
    SELECT relname::text AS object, relacl AS acl, relnamespace AS namespace FROM pg_class
    UNION ALL
    SELECT relname || '.' || attname, attacl, relnamespace
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    UNION ALL
    SELECT oid::regprocedure::text, proacl, pronamespace FROM pg_proc
) AS objects, aclexplode(acl) JOIN pg_roles ON pg_roles.oid = grantee
WHERE namespace = 'public'::regnamespace
"""

POLICIES = """
SELECT tablename || ' ' || policyname, qual FROM pg_policies WHERE schemaname = 'public'
"""

ALLOWED = re.compile(r"'([^']+)'::text")
"""A literal of a policy: one value, or an array such as `{A,B}`."""


@dataclass(frozen=True)
class Column:
    """A column: its type, and what an insert must know."""

    type: str
    required: bool
    """True if the column is NOT NULL."""
    default: bool


@dataclass(frozen=True)
class Schema:
    """The schema that processes use."""

    columns: dict[str, Column] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """Definition of each index, and if it is unique."""
    functions: dict[str, str] = field(default_factory=dict)
    """Result of each function, by its name with the types of its arguments."""
    triggers: dict[str, str] = field(default_factory=dict)
    rights: frozenset[str] = frozenset()
    topics: dict[str, frozenset[str]] = field(default_factory=dict)
    """Values that each row policy allows."""

    @property
    def tables(self) -> frozenset[str]:
        """Names of the tables."""
        return frozenset(name.partition(".")[0] for name in self.columns)


def schema_of(url: str) -> Schema:
    """Read the schema of a database."""
    with psycopg.connect(url) as connection:

        def rows(query: LiteralString) -> list[tuple[Any, ...]]:
            return connection.execute(query).fetchall()

        return Schema(
            {name: Column(*rest) for name, *rest in rows(COLUMNS)},
            {name: text for name, text, _ in rows(CONSTRAINTS)},
            {name: (text, unique) for name, text, unique in rows(INDEXES)},
            {name: f"{result} {definer}" for name, result, definer in rows(FUNCTIONS)},
            {name: text for name, text, _ in rows(TRIGGERS)},
            frozenset(name for (name,) in rows(RIGHTS)),
            {name: _values(text) for name, text in rows(POLICIES)},
        )


def _values(policy: str) -> frozenset[str]:
    found = ALLOWED.findall(policy)
    return frozenset(value for each in found for value in each.strip("{}").split(","))


def breaks(before: Schema, after: Schema) -> list[str]:
    """Return what a migration did to the schema that processes of the last release need."""
    found = [
        *_removed(before, after),
        *_refused_writes(before, after),
        *(f"the right {name} was revoked" for name in sorted(before.rights - after.rights)),
        *_narrowed(before, after),
    ]
    return [each for each in found if not any(name in each.split() for name in CONTRACTED)]


def _removed(before: Schema, after: Schema) -> Iterator[str]:
    for name, column in before.columns.items():
        now = after.columns.get(name)
        if now is None:
            yield f"the column {name} was removed"
        elif now.type != column.type:
            yield f"the column {name} changed from {column.type} to {now.type}"
    for name, text in before.constraints.items():
        if after.constraints.get(name) != text:
            yield f"the constraint {name} was removed or changed"
    for name, (text, unique) in before.indexes.items():
        if unique and after.indexes.get(name, ("",))[0] != text:
            yield f"the unique index {name} was removed or changed"
    for name, result in before.functions.items():
        if after.functions.get(name) != result:
            yield f"the function {name} was removed or changed"


def _refused_writes(before: Schema, after: Schema) -> Iterator[str]:
    """Yield what may refuse or block a write of the last release. It does not know new columns."""
    written = before.tables - READ_MODELS
    for name, now in after.columns.items():
        if name.partition(".")[0] not in written:
            continue
        column = before.columns.get(name)
        if now.required and not now.default and (column is None or not column.required):
            yield f"the column {name} became required"
        if column is not None and column.default and not now.default:
            yield f"the column {name} lost its default"
    added = {
        "constraint": after.constraints.keys() - before.constraints.keys(),
        "trigger": after.triggers.keys() - before.triggers.keys(),
        "index": after.indexes.keys() - before.indexes.keys(),
    }
    for kind, names in added.items():
        for name in sorted(names):
            if name.split()[0] in written:
                yield f"the {kind} {name} was added to a table with rows"


def _narrowed(before: Schema, after: Schema) -> Iterator[str]:
    for name, topics in before.topics.items():
        if missing := topics - after.topics.get(name, frozenset()):
            yield f"the policy {name} no longer allows {', '.join(sorted(missing))}"
