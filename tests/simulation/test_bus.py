"""The simulated bus acknowledges as the server does."""

from __future__ import annotations

from infrastructure.bus.streams import EVENTS
from tests.simulation.control_plane.bus import Message, SimulatedDurable, Stream
from tests.simulation.control_plane.kernel import Kernel


def test_an_acknowledgement_of_a_repeated_message_leaves_later_messages() -> None:
    messages = [Message(number, f"events.{number}", b"", {}, None) for number in range(1, 5)]
    kernel = Kernel(lambda owner: None, lambda owner, error: None)
    durable = SimulatedDurable("billing", Stream(EVENTS, messages), "events.>", kernel)
    first, second, *later = durable.take()
    durable.redeliver([first, second])
    assert durable.take() == [first, second]
    durable.ack_to(second)
    assert durable.flying == later
    assert durable.queue == []
