"""A restore to an earlier time makes alerts consider recent events again."""

from __future__ import annotations

from extensions.backup.point_in_time import Moment
from infrastructure.postgres.store import connect, scalar
from tests.extensions.backup.conftest import *  # noqa: F403
from tests.extensions.backup.conftest import Backups
from tests.extensions.backup.test_point_in_time import POSITION, id_of, restore


def test_alerts_consider_the_last_day_before_the_cut_again(backups: Backups) -> None:
    with connect(backups.settings) as store:
        store.execute("INSERT INTO ecolink_tracking VALUES ('alerts', %s)", [backups.head])
    restore(backups, Moment(event=id_of(backups, "Registered")))
    with connect(backups.elsewhere) as store:
        position = scalar(store, POSITION, ["alerts"])
    assert (position or 0) < id_of(backups, "JobApproved")
