"""The gauge of syntheses without progress."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import REGISTRY

from domain.core.aggregate import Cause, because
from extensions.synthesis.process.app import measure_pending
from tests.builders.commands import NOW, FixedClock
from tests.extensions.synthesis.process.bench import Bench
from tests.projecting import project
from tests.scripted_model import Scripted


def test_only_syntheses_that_should_make_progress_are_measured(
    bench: Bench, model: Scripted
) -> None:
    clock = FixedClock(NOW + timedelta(hours=7))

    def seconds() -> float | None:
        with bench.pool.connection() as connection:
            project(bench.log, connection)
        measure_pending(bench.pool, clock)
        return REGISTRY.get_sample_value("ecolink_pending_seconds", {"work": "syntheses"})

    assert seconds() == 0
    endpoint = bench.external(model.url)
    oldest = sorted(bench.approve(endpoint) for _ in range(3))[:2]
    assert seconds() == 7 * 3600
    for id, hours in zip(oldest, (6, 5), strict=True):
        with because(Cause("service:synthesis", str(id), NOW + timedelta(hours=hours))):
            synthesis = bench.synthesis(id)
            synthesis.start_batch(4, 0)
            bench.log.commit(synthesis)
    assert seconds() == 2 * 3600, "the third waits for the first two"
