"""The events of webhooks, each with the body that EcoLink sends."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import replace

from domain.billing.auto_top_up import AutoTopUp, AutoTopUpEnd
from domain.billing.payment import Payment, ReturnKind
from domain.core.aggregate import Event
from domain.core.recorded import Recorded
from extensions.notifications.domain import message as messages
from extensions.notifications.domain.message import (
    SUBSCRIBED,
    Message,
    WebhookType,
    message_of,
    message_of_disabled,
    message_of_test,
)
from infrastructure.extensions import aggregates
from tests.builders.commands import NOW
from tests.builders.examples import ACCOUNT_ID, JOB_ID
from tests.docs import markdown, stored_events
from tests.docs.markdown import code, text

MODEL, HINT = "ft:smollm2-135m-instruct:0b0f8f5c3a4e", "x7Qa"


def page() -> str:
    """Every type of event with its meaning and an example."""
    meanings, examples = dict(_meanings()), {each.type: each for each in _examples()}
    return markdown.page(
        "Events of webhooks",
        "This page lists the events that EcoLink sends to [webhooks](../use/webhooks.md), "
        "each with an example of the request's body. `data.id` is the ID of the job, the "
        "account, the deployment, the export or the webhook. The examples are the messages of "
        "[stored events](stored-events.ndjson). Those of `auto_top_up.disabled` and "
        "`payment.disputed` differ from the stored event in `reason` and `kind`.",
        markdown.table(
            ("event", "sent when"),
            [(code(each), text(meanings[each])) for each in WebhookType],
        ),
        *[_section(each, examples[each]) for each in (*SUBSCRIBED, WebhookType.TEST)],
    )


def _section(type: WebhookType, example: Message) -> str:
    body = json.dumps(json.loads(example.body), indent=2)
    return markdown.section(code(type), f"```json\n{body}\n```")


def _meanings() -> Iterator[tuple[WebhookType, str]]:
    """Yield each type with the text below it in its class."""
    tree = ast.parse(inspect.getsource(messages)).body
    (kind,) = [e for e in tree if isinstance(e, ast.ClassDef) and e.name == "WebhookType"]
    for field, said in zip(kind.body[1:], kind.body[2:], strict=False):
        if isinstance(field, ast.Assign) and isinstance(said, ast.Expr):
            name, value = field.targets[0], said.value
            assert isinstance(name, ast.Name)
            assert isinstance(value, ast.Constant)
            yield WebhookType[name.id], str(value.value)


def _examples() -> Iterator[Message]:
    """Yield the messages of the stored examples of events, and a test."""
    kinds: dict[str, type[Event]] = {
        kind.TOPIC: kind for aggregate in aggregates() for kind in aggregate.event_classes()
    }
    for number, row in enumerate(stored_events.examples(), 1):
        kind, version = kinds[row["topic"]], stored_events.version_of(row["state"])
        if version != stored_events.current_version(kind):
            continue
        state = row["state"] | {name: row[name] for name in row if name.startswith("originator")}
        state.pop("class_version", None)
        for event in _variants(kind.model_validate(state)):
            message = message_of(Recorded.of(number, event), lambda _: MODEL, lambda _: HINT)
            if message is not None:
                yield message
    yield replace(
        message_of_disabled(ACCOUNT_ID, JOB_ID, "failing", NOW), id="evt_disabled_7d1c5e0a9b3f4c2d"
    )
    yield Message(
        "evt_test_0b0f8f5c3a4e5d0c",
        ACCOUNT_ID,
        WebhookType.TEST,
        NOW,
        message_of_test(ACCOUNT_ID, JOB_ID, NOW).data,
        "",
    )


def _variants(event: Event) -> Iterator[Event]:
    """Yield an event, and the variant of it that sends another message."""
    yield event
    match event:
        case AutoTopUp.AutoTopUpDisabled():
            yield event.model_copy(update={"reason": AutoTopUpEnd.DECLINED})
        case Payment.PaymentReturned():
            yield event.model_copy(update={"kind": ReturnKind.DISPUTE})
        case _:
            pass


PAGES = {"reference/webhooks.md": page}
"""Generated pages."""
