"""`ecolink events parked` and `replay`, which manage parked events through the API."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer
from rich.text import Text

from gateway.cli.client import Client
from gateway.cli.terminal import CommandGroup, show
from gateway.operator.schemas import ParkedReaction
from gateway.schemas import Listed

commands = CommandGroup()

PATH = "/operator/parked"


@commands.command()
def parked(client: Client) -> None:
    """List parked events. A service failed to process them several times."""
    show(client.read(Listed[ParkedReaction], PATH), _lines)


@commands.command()
def replay(
    client: Client,
    consumer: Annotated[
        str, typer.Argument(help="Consumer that parked the event.", show_default=False)
    ],
    notification_id: Annotated[
        int, typer.Argument(help="Notification ID of the event.", show_default=False)
    ],
) -> None:
    """Retry a parked event, and the later parked events of the same aggregate."""
    show(
        client.send(ParkedReaction, f"{PATH}/{quote(consumer)}/{notification_id}/replay", {}),
        lambda row: f"{consumer} retries the parked events of {row.originator_id}, in order.",
    )


def _lines(found: Listed[ParkedReaction]) -> Text:
    return Text("\n".join(map(_line, found.data)) or "No event is parked.")


def _line(row: ParkedReaction) -> str:
    again = " (replay requested)" if row.replay else ""
    return (
        f"{row.consumer} {row.notification_id} {row.topic} of {row.originator_id} "
        f"at {row.parked_at:%Y-%m-%d %H:%M:%S}: {row.error}{again}"
    )
