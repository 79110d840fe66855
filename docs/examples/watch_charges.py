"""Print each metered minute. After a restart, continue where the program stopped."""

import os
from typing import Any

from faststream import FastStream
from faststream.nats import JStream, NatsBroker
from faststream.nats.security import NatsCredentials

security = NatsCredentials(os.environ["ECOLINK_NATS_CREDENTIALS"])
broker = NatsBroker(os.environ["ECOLINK_NATS_URL"], security=security)
app = FastStream(broker)
events = JStream("EVENTS", declare=False)


@broker.subscriber("events.*.Meter.*.MinuteMetered", stream=events, durable="watch-charges")
async def print_charge(message: dict[str, Any]) -> None:
    minute = message["state"]
    print(message["id"], minute["job_id"], f"${minute['amount_micros'] / 1e6:.6f}", flush=True)
