"""The contents of snapshots change only together with the version of their class."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest

from domain.billing.account import Account
from domain.billing.meter import Meter
from domain.capacity.gpu_pool import GpuPool
from tests.docs.stored_events import current_version

PINNED = {
    Account.Snapshot: (1, "e8788563a6d8d4ca"),
    GpuPool.Snapshot: (2, "70a720c266b00033"),
    Meter.Snapshot: (1, "0776cc3efbb2a153"),
}
"""The version and the fields of each snapshot."""


def fields_of(snapshot: Any) -> str:
    """Return a hash of the names and types of a snapshot's fields, and of the models in them."""
    schema = snapshot.model_json_schema()
    models = {"": schema, **schema["$defs"]}
    types = {name: model.get("properties") for name, model in models.items()}
    for field in (field for each in types.values() if each for field in each.values()):
        field.pop("description", None)
    return sha256(json.dumps(types, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize("snapshot", PINNED, ids=lambda snapshot: snapshot.TOPIC)
def test_the_fields_of_a_snapshot_belong_to_its_version(snapshot: Any) -> None:
    assert (current_version(snapshot), fields_of(snapshot)) == PINNED[snapshot], (
        "Increment class_version, upcast the snapshot (or raise OutdatedSnapshot), and pin it."
    )
