"""`python -m tests.chaos` runs the fault harness. See docs/contribute/development.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.chaos import oracle
from tests.chaos.breaks import BREAK
from tests.chaos.campaign import RECORDS, Campaign, Outcome
from tests.chaos.entry import IDLE_SECONDS, LEASE
from tests.chaos.records import Records
from tests.chaos.rig import LEADERS, Template

MEMORY = Path("/dev/shm")


def main() -> int:
    """Run the faults of a seed, or repeat one. Return 1 if a rule was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="number of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault", type=int, help="repeat the round of this fault, up to it")
    parser.add_argument(
        "--failovers", action="store_true", help="let the leader of a service fail at each fault"
    )
    parser.add_argument(
        "--leader", action="append", choices=LEADERS, help="let only this leader fail"
    )
    parser.add_argument(
        "--lease", type=float, default=IDLE_SECONDS, help="lease of a leader, in seconds"
    )
    parser.add_argument("--break", dest="broken", help="install a deliberate defect")
    parser.add_argument("--keep", type=Path, default=Path("chaos"), help="directory for violations")
    parser.add_argument("--judge", type=Path, help="judge the records in a directory again")
    parser.add_argument("--template", type=Path, help="directory of a platform to reuse")
    arguments = parser.parse_args()
    if arguments.judge:
        found = oracle.violations(Records.load(arguments.judge / RECORDS))
        print("\n".join(found) or "no violations")
        return 1 if found else 0
    if arguments.broken:
        os.environ[BREAK] = arguments.broken
    os.environ[LEASE] = str(arguments.lease)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with TemporaryDirectory(prefix="chaos-", dir=MEMORY if MEMORY.exists() else None) as folder:
        directory = Path(folder)
        directory.chmod(0o755)
        template = Template.at(arguments.template or directory / "template")
        campaign = Campaign(
            arguments.seed,
            template,
            directory,
            arguments.keep,
            _say,
            fails_over=arguments.failovers,
            leaders=arguments.leader or LEADERS,
        )
        if arguments.fault:
            outcome = campaign.replay(arguments.fault)
        else:
            outcome = campaign.run(arguments.faults)
    return report(outcome)


def report(outcome: Outcome) -> int:
    """Print the summary. Return the exit code."""
    count = outcome.faults.total()
    print(
        f"\n{count} faults in {outcome.seconds / 60:.1f} min "
        f"({60 * count / max(1, outcome.seconds):.1f} per minute), {outcome.jobs} jobs, "
        f"{outcome.events} events"
    )
    for kind, number in outcome.faults.most_common():
        print(f"  {number:5d}  {kind}")
    if outcome.taken.seconds:
        print("\n".join(outcome.taken.lines()))
    print(f"{len(outcome.violations)} violations")
    for each in outcome.violations:
        print(f"  {each}")
    return 1 if outcome.violations else 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
