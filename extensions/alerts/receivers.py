"""Receivers of notices. Apprise sends the messages: e-mail, Slack, PagerDuty, webhooks and others.

The URL of a receiver contains its secrets. It never appears in logs, messages or the database: a
`Receiver` hides it, the loggers that would write it are silent, and a failed delivery is described
only by a status code or a fixed sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extensions.alerts.domain.evaluation import NoticeKind
from extensions.alerts.domain.rule import Severity

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://.")
STATUS = re.compile(r"error=(\d{3})\b")
SILENT = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib")
"""Loggers whose records can contain URLs or tokens."""

NOWHERE = logging.NullHandler()

PAGERDUTY = ("pagerduty",)
APP = "EcoLink"


class ReceiverInvalid(Exception):
    """A receiver in a file is invalid. The message contains no part of its URL."""


class DeliveryFailed(Exception):
    """A receiver did not accept a message. The message contains no part of its URL."""


@dataclass(frozen=True)
class Receiver:
    """A receiver with its Apprise URL, which is secret."""

    name: str
    scheme: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} ({self.scheme})"


@dataclass(frozen=True)
class Message:
    """A message to a receiver. All messages about an alert have the same `incident`."""

    title: str
    body: str
    kind: NoticeKind
    severity: Severity
    incident: str


def read_receiver(name: str, value: object) -> Receiver:
    """Return the receiver that a file declares as a URL, or as a file with the URL.

    Raise ReceiverInvalid.
    """
    match value:
        case str():
            url = value.strip()
        case {"url_file": str(path), **more} if not more:
            try:
                url = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "It is not UTF-8"
                raise ReceiverInvalid(
                    f"Cannot read {path!r}. {reason}. Correct url_file."
                ) from None
        case _:
            raise ReceiverInvalid(
                "This is not a receiver. Write an Apprise URL in quotation marks, or "
                '{ url_file = "/path" } with a file that contains the URL.'
            )
    found = SCHEME.match(url)
    if found is None:
        raise ReceiverInvalid(
            'This is not an Apprise URL. Write one such as "mailto://" or "slack://".'
        )
    return Receiver(name, found[1].lower(), url)


def check(receiver: Receiver) -> str | None:
    """Return what is wrong with a receiver's URL, or None. This loads Apprise."""
    if _apprise().add(receiver.url):
        return None
    return (
        f"Apprise does not accept the URL with the scheme {receiver.scheme!r}. Compare it with the "
        "documentation of Apprise for this service."
    )


def send(receiver: Receiver, message: Message) -> None:
    """Send a message, and wait until the receiver accepts it. Raise DeliveryFailed."""
    target = _apprise()
    if not target.add(_with_incident(receiver, message.incident)):
        raise DeliveryFailed("Apprise does not accept the URL. See `ecolink alerts rules`.")
    try:
        result = target.notify(
            title=message.title,
            body=message.body,
            notify_type=_type_of(message),
            body_format="text",  # otherwise e-mails lose the line breaks
        )
    except Exception as error:  # noqa: BLE001 - a plugin can raise any error, with the URL in it
        raise DeliveryFailed(f"Apprise failed with {type(error).__name__}.") from None
    if not result:
        raise DeliveryFailed(_reason(str(log.message) for r in result.results for log in r.logs()))


def _apprise() -> Any:
    """Return an empty list of targets. It logs nothing.

    Apprise and its plugins use 25 MB, so only a process that sends a message loads them.
    """
    import apprise

    for name in SILENT:
        # Replaces no handler: Apprise has one for each message that another thread sends.
        silent = logging.getLogger(name)
        silent.propagate = False
        silent.addHandler(NOWHERE)
    asset = apprise.AppriseAsset(app_id=APP, app_desc=APP, async_mode=False)
    return apprise.Apprise(asset=asset)


def _type_of(message: Message) -> str:
    if message.kind is NoticeKind.RESOLVED:
        return "success"
    severe = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.INFO: "info"}
    return severe[message.severity]


def _with_incident(receiver: Receiver, incident: str) -> str:
    """Return the URL. PagerDuty closes the incident of an alert when the alert resolves."""
    if receiver.scheme not in PAGERDUTY or "dedup=" in receiver.url or "action=" in receiver.url:
        return receiver.url
    mark = "&" if "?" in receiver.url else "?"
    return f"{receiver.url}{mark}action=map&dedup={incident}"


def _reason(texts: Iterable[str]) -> str:
    """Return the reason of a failure, without text of the plugin, which may contain secrets."""
    all_texts = "\n".join(texts)
    if found := STATUS.search(all_texts):
        return f"The service returned HTTP status {found[1]}."
    if "onnection error" in all_texts:
        return "The service cannot be reached."
    return "The service did not accept the message."
