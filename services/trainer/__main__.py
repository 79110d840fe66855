"""The program on the GPU pod: `python -m services.trainer SPEC.json`."""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path

from infrastructure.artifacts import Artifacts
from infrastructure.reports import Outcome, SegmentSpec
from infrastructure.settings import Settings
from services.trainer.clock import SegmentClock
from services.trainer.lease import Lease, SegmentStopped
from services.trainer.reporter import Reporter
from services.trainer.stack import lean_imports


def main(spec_path: Path, settings: Settings) -> int:
    """Run the segment of a spec file; its directory is the scratch space. Returns the exit code.

    0: completed, stopped or out of paid time; 1: failed.
    """
    spec = SegmentSpec.model_validate_json(spec_path.read_text())
    clock = SegmentClock()
    lease = Lease(clock, spec.paid_seconds, spec.grace_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: lease.request_stop())
    lease.watch()
    url = settings.trainer_nats_url or settings.nats_url
    if url is None:
        raise SystemExit("ECOLINK_TRAINER_NATS_URL and ECOLINK_NATS_URL are both unset")
    with Reporter(spec, clock, lease, url, spec_path.parent) as reporter:
        outcome, error_class = _run(spec, settings, spec_path.parent, reporter, lease)
        if not reporter.finish(outcome, error_class):
            reporter.log("the final report went unanswered", "WARNING")
    lease.close()
    return 1 if outcome is Outcome.FAILED else 0


def _run(
    spec: SegmentSpec, settings: Settings, scratch: Path, reporter: Reporter, lease: Lease
) -> tuple[Outcome, str | None]:
    """Run the segment; returns its outcome and, if it failed, the class of its error."""
    try:
        # Reports began before these imports, which take seconds.
        lean_imports()
        from services.trainer.segment import Segment

        Segment(spec, Artifacts(settings.artifacts), scratch, reporter, lease).run()
    except SegmentStopped as stopped:
        reporter.log(f"segment ends: {stopped.outcome.value}")
        return stopped.outcome, None
    except Exception as error:  # noqa: BLE001  # whatever it is, its class is the job's news
        reporter.log(traceback.format_exc(), "ERROR")
        return Outcome.FAILED, type(error).__name__
    return Outcome.COMPLETED, None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m services.trainer SPEC.json")
    sys.exit(main(Path(sys.argv[1]).resolve(), Settings()))
