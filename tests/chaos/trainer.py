"""The trainer under test: `python -m tests.chaos.trainer SPEC.json`.

It runs the product's trainer program, and writes facts about it that the oracle compares with the
bills. Unless the round trains a real model, it replaces the phases by light ones.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

from tests.chaos.facts import REAL, FactFile, control_directory

SPEC = Path(sys.argv[-1]).resolve()
FACTS = FactFile(control_directory() / "facts" / f"{SPEC.parent.name}.{os.getpid()}.jsonl")
FACTS.write("born")
with suppress(PermissionError):  # only root may raise the priority that the shim lowered
    os.nice(-5)


def _stay_alive() -> None:
    """Write down that the process runs, several times a second."""
    while True:
        FACTS.write("alive")
        time.sleep(ALIVE_SECONDS)


ALIVE_SECONDS = 0.1
Thread(target=_stay_alive, daemon=True).start()

from nats.js import JetStreamContext  # noqa: E402  # after the first facts

from infrastructure.settings import Settings  # noqa: E402
from infrastructure.training.reports import Report  # noqa: E402
from services.trainer import __main__ as program  # noqa: E402
from services.trainer import reporter as reporting  # noqa: E402
from services.trainer.lease import Lease  # noqa: E402
from services.trainer.reporter import Reporter  # noqa: E402
from tests.chaos import breaks, seams  # noqa: E402
from tests.chaos.failpoints import Failpoints  # noqa: E402
from tests.chaos.light_trainer import Work  # noqa: E402


def _run_lightly(self: program.Program, settings: Settings, warm_base: object = None) -> None:
    del settings, warm_base
    Work(self._spec, self._directory, self._reporter, self._lease, FACTS).run()


def _record_work() -> None:
    """Write a fact whenever the program checks its lease, which it does before each micro-batch."""
    for name in ("check", "must_end"):
        _record_call(name)


def _record_call(name: str) -> None:
    check = getattr(Lease, name)

    def checked(self: Lease) -> object:
        FACTS.write("work", elapsed=self.clock.elapsed(), paid=self.paid_seconds)
        return check(self)

    setattr(Lease, name, checked)


def _record_reports() -> None:
    """Write a fact of each report before it is sent or kept, and after the bus has stored it."""
    next_report, publish = Reporter._next_report, reporting._publish
    keep = Reporter._keep_final_report

    def write(kind: str, report: Report) -> None:
        times = {"elapsed": report.elapsed_seconds, "grace": report.grace_seconds}
        FACTS.write(kind, n=report.n, final=report.ending is not None, **times)

    def drawn(self: Reporter) -> Report:
        report = next_report(self)
        write("report", report)
        return report

    def kept(self: Reporter) -> None:
        write("report", self._draft)
        keep(self)

    async def published(js: JetStreamContext, item: reporting.Outgoing) -> None:
        await publish(js, item)
        if item.subject.startswith("reports."):
            write("acked", Report.model_validate_json(item.payload))

    Reporter._next_report, Reporter._keep_final_report = drawn, kept
    reporting._publish = published


def main() -> None:
    """Run the segment of the spec file."""
    seams.install(Failpoints(control_directory(), "trainer"), None)
    _record_reports()
    breaks.install("trainer")
    if REAL in os.environ:
        _record_work()
    else:
        program.Program._run_segment = _run_lightly
    code = program.run(sys.argv[1:])
    FACTS.write("exit", code=code)
    program.end(code)


if __name__ == "__main__":
    main()
