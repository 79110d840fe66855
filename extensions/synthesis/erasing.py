"""The end of the syntheses of an account before its personal data is erased."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from domain.core.errors import WrongState
from domain.core.event_log import EventLog
from extensions.synthesis.domain.synthesis import Synthesis
from infrastructure.accounts.personal_data import begun_by
from infrastructure.postgres.store import Connection


def end_syntheses(log: EventLog, connection: Connection, account_id: UUID) -> None:
    """Cancel the syntheses of an account.

    Raise WrongState while a batch may still store examples, and hold a reserve. The cancellation
    ends it.
    """
    topic = Synthesis.SynthesisApproved.TOPIC
    found = begun_by(connection, account_id, [topic]).get(topic, [])
    busy = [str(id) for id in found if log.retrying(partial(_cancel, log, id)).open_batch]
    if busy:
        one = len(busy) == 1
        raise WrongState(
            f"{len(busy):,} {'synthesis' if one else 'syntheses'} of the account still "
            f"{'writes' if one else 'write'} examples: {', '.join(busy)}. EcoLink has "
            f"cancelled {'it' if one else 'them'}. Wait some minutes and try again.",
            figures={"syntheses": busy},
        )


def _cancel(log: EventLog, synthesis_id: UUID) -> Synthesis:
    synthesis = log.load(Synthesis, synthesis_id)
    if not synthesis.status.is_final:
        synthesis.cancel()
        log.commit(synthesis)
    return synthesis
