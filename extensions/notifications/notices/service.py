"""Use cases and queries of the notices of an account."""

from __future__ import annotations

from domain.access.scope import Scope
from domain.core.errors import NotFound, WrongState
from extensions.notifications.domain.email_address import masked, valid_address
from extensions.notifications.domain.kind import CHOSEN, NoticeKind
from extensions.notifications.domain.link import LinkPurpose, address_in
from extensions.notifications.notices import tables as notices
from extensions.notifications.notices.schemas import NoticeChanges, NoticeResponse, NoticeSettings
from extensions.notifications.notices.tables import Notice, NoticeAddress
from extensions.notifications.settings import NotificationSettings
from gateway.backend import Backend
from gateway.http.access import Caller
from infrastructure.postgres.store import Connection
from infrastructure.process.role import settings_of


def settings(backend: Backend, caller: Caller) -> NoticeSettings:
    """Return the settings of the account."""
    with backend.pool.connection() as connection:
        address = notices.address_of(connection, caller.account_id)
    available = _available()
    if address is None:
        return NoticeSettings(
            available=available,
            email=None,
            confirmed_at=None,
            confirm_until=None,
            refusal=None,
            kinds=list(CHOSEN),
        )
    manages = Scope.KEYS in caller.rights.scopes
    return NoticeSettings(
        available=available,
        email=address.email if manages else masked(address.email),
        confirmed_at=address.confirmed_at,
        confirm_until=None if address.confirmed_at or address.refusal else address.confirm_until,
        refusal=address.refusal if manages or address.refusal is None else "It was refused.",
        kinds=[each for each in CHOSEN if each in address.kinds],
    )


def update(backend: Backend, caller: Caller, changes: NoticeChanges) -> NoticeSettings:
    """Change the address, the kinds or both. A new address receives a link to confirm it.

    Raise Invalid for the address, WrongState without one or if e-mail is off, or RateLimited.
    """
    now = backend.clock.now()
    email = None if changes.email is None else valid_address(changes.email)
    with backend.pool.connection() as connection, connection.transaction():
        address = notices.address_of(connection, caller.account_id)
        if email is not None and (address is None or address.email != email):
            _require_available()
            backend.quotas.rates.take("notice_mails", caller.account_id)
            kinds = changes.kinds
            if kinds is None:
                kinds = list(address.kinds if address else CHOSEN)
            notices.set_address(connection, caller.account_id, email, kinds, now)
        elif changes.kinds is not None:
            found = _required(address)
            notices.set_kinds(connection, found.id, changes.kinds)
    return settings(backend, caller)


def delete(backend: Backend, caller: Caller) -> None:
    """Delete the address with its notices. This succeeds without one, too."""
    with backend.pool.connection() as connection:
        notices.delete_address(connection, caller.account_id)


def request_confirmation(backend: Backend, caller: Caller) -> NoticeSettings:
    """Send the link that confirms the address again."""
    _require_available()
    with backend.pool.connection() as connection:
        address = _required(notices.address_of(connection, caller.account_id))
        if address.confirmed_at is not None:
            raise WrongState("The e-mail address is already confirmed.")
        backend.quotas.rates.take("notice_mails", caller.account_id)
        notices.request_confirmation(connection, address.id, backend.clock.now())
    return settings(backend, caller)


def send_test(backend: Backend, caller: Caller) -> NoticeResponse:
    """Send a test. Raise WrongState without a confirmed address or if e-mail is off, or
    RateLimited."""
    _require_available()
    with backend.pool.connection() as connection:
        address = _required(notices.address_of(connection, caller.account_id))
        if address.confirmed_at is None:
            raise WrongState(
                "The e-mail address is not confirmed. Open the link that EcoLink sent to it."
            )
        backend.quotas.rates.take("notice_mails", caller.account_id)
        now = backend.clock.now()
        return _answer(caller, notices.add_direct(connection, address.id, NoticeKind.TEST, now))


def newest(backend: Backend, caller: Caller, limit: int) -> list[NoticeResponse]:
    """Return the newest notices of the account."""
    with backend.pool.connection() as connection:
        address = notices.address_of(connection, caller.account_id)
        found = notices.newest_notices(connection, address.id, limit) if address else []
    return [_answer(caller, each) for each in found]


def email_to_confirm(backend: Backend, token: str) -> str:
    """Return the address that a link confirms. Raise NotFound."""
    with backend.pool.connection() as connection:
        return _of_link(connection, backend, token, LinkPurpose.CONFIRM).email


def confirm(backend: Backend, token: str) -> None:
    """Confirm the address of a link, which works once. Raise NotFound."""
    with backend.pool.connection() as connection:
        address = _of_link(connection, backend, token, LinkPurpose.CONFIRM)
        notices.confirm(connection, address.id, backend.clock.now())


def email_to_unsubscribe(backend: Backend, token: str) -> str:
    """Return the address that a link unsubscribes. Raise NotFound."""
    with backend.pool.connection() as connection:
        return _of_link(connection, backend, token, LinkPurpose.UNSUBSCRIBE).email


def unsubscribe(backend: Backend, token: str) -> None:
    """Turn off all notices to the address of a link. Raise NotFound."""
    with backend.pool.connection() as connection:
        address = _of_link(connection, backend, token, LinkPurpose.UNSUBSCRIBE)
        notices.set_kinds(connection, address.id, [])


def _of_link(
    connection: Connection, backend: Backend, token: str, purpose: LinkPurpose
) -> NoticeAddress:
    id = address_in(token)
    address = None if id is None else notices.address_with_id(connection, id)
    if address is not None and address.signer.is_signed(token, purpose):
        if purpose is LinkPurpose.UNSUBSCRIBE:
            return address
        if address.confirmed_at is None and backend.clock.now() < address.confirm_until:
            return address
    raise NotFound(
        "This link was used or has expired, or the address was changed. Request another link on "
        "the page E-mail notices."
        if purpose is LinkPurpose.CONFIRM
        else "This link is for an address that was changed or deleted. EcoLink no longer uses it."
    )


def _required(address: NoticeAddress | None) -> NoticeAddress:
    if address is None:
        raise WrongState(
            "Your account has no e-mail address for notices. Set one with `ecolink notices set`."
        )
    return address


def _available() -> bool:
    return settings_of(NotificationSettings).smtp_host is not None


def _require_available() -> None:
    if not _available():
        raise WrongState("E-mail is off: your operator has not set up a mail server.")


def _answer(caller: Caller, notice: Notice) -> NoticeResponse:
    # The response of a mail server can contain the address.
    hidden = notice.error is not None and Scope.KEYS not in caller.rights.scopes
    return NoticeResponse(
        id=notice.id,
        kind=notice.kind,
        status=notice.status,
        created_at=notice.created_at,
        finished_at=notice.finished_at,
        error="The attempt failed." if hidden else notice.error,
    )
