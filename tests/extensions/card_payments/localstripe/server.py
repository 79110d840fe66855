"""localstripe with Checkout Sessions, disputes and idempotency keys, which it lacks.

The objects have the fields of Stripe's API reference that matter here. Routes below `/_config`
stand for what happens outside of the API: a customer pays, a bank disputes. Run it with
`python -m tests.extensions.card_payments.localstripe.server PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web
from localstripe import resources
from localstripe.errors import UserError
from localstripe.resources import (
    Charge,
    Customer,
    Event,
    List,
    PaymentIntent,
    PaymentMethod,
    Refund,
    Store,
    StripeObject,
)
from localstripe.server import app, get_post_data, json_response
from localstripe.webhooks import schedule_webhook

CARD = "4242424242424242"
CHECKOUT_SECONDS = 24 * 3600

# localstripe keeps its objects in one file in /tmp, which all test processes would share.
Store.dump_to_disk = lambda self: None


class CheckoutSession(StripeObject):
    """A page on which a customer pays once: https://docs.stripe.com/api/checkout/sessions."""

    object = "checkout.session"
    _id_prefix = "cs_test_"

    def __init__(self, **data: Any) -> None:
        super().__init__()
        if data.get("mode") != "payment" or not data.get("success_url"):
            raise UserError(400, "Only sessions of the mode payment are supported.")
        (item,) = data["line_items"]
        price = item["price_data"]
        self.mode = "payment"
        self.status = "open"
        self.payment_status = "unpaid"
        self.currency = price["currency"]
        self.amount_total = int(price["unit_amount"]) * int(item["quantity"])
        self.client_reference_id = data.get("client_reference_id")
        self.customer = data.get("customer")
        self.customer_creation = data.get("customer_creation", "if_required")
        self.metadata = data.get("metadata", {})
        self.payment_intent = None
        self.success_url, self.cancel_url = data["success_url"], data.get("cancel_url")
        self.expires_at = self.created + CHECKOUT_SECONDS
        self.url = f"{data['success_url'].partition('/billing')[0]}/c/pay/{self.id}"
        self._intent = data.get("payment_intent_data", {})
        if self.customer is not None and data.get("customer_creation") is not None:
            raise UserError(400, "customer_creation cannot be set together with customer.")

    def _pay(self, number: str, saved: str | None) -> None:
        """Pay as a customer does. Later charges of the card behave like one with `saved`."""
        card = {"number": number, "exp_month": 12, "exp_year": 2040, "cvc": "123"}
        method = PaymentMethod(type="card", card=card)
        if self.customer_creation == "always":
            self.customer = Customer().id
        if self.customer is not None and self._intent.get("setup_future_usage"):
            PaymentMethod._api_attach(method.id, customer=self.customer)
        intent = PaymentIntent._api_create(
            amount=self.amount_total,
            currency=self.currency,
            customer=self.customer,
            payment_method=method.id,
            metadata=self._intent.get("metadata", {}),
        )
        intent._confirm(on_failure_now=intent._report_failure)
        if intent.next_action:  # the customer is present, and approves the payment
            PaymentIntent._api_authenticate(intent.id, intent.client_secret, success=True)
        method._card_number = saved or number
        self.payment_intent = intent.id
        self.status, self.payment_status, self.url = "complete", "paid", None
        schedule_webhook(Event("checkout.session.completed", self))

    def _expire(self) -> None:
        """End the session without a payment."""
        if self.status != "open":
            raise UserError(400, "Only open sessions can expire.")
        self.status, self.url = "expired", None
        schedule_webhook(Event("checkout.session.expired", self))


class Dispute(StripeObject):
    """A dispute of a payment: https://docs.stripe.com/api/disputes."""

    object = "dispute"
    _id_prefix = "dp_"

    def __init__(self, payment_intent: str, amount: str | int, **data: Any) -> None:
        super().__init__()
        intent = PaymentIntent._api_retrieve(payment_intent)
        self.amount, self.currency = int(amount), intent.currency
        self.payment_intent = payment_intent
        self.metadata: dict[str, str] = {}
        self.reason = "fraudulent"
        self.status = "needs_response"
        intent.latest_charge.disputed = True
        schedule_webhook(Event("charge.dispute.created", self))

    def _close(self, status: str) -> None:
        self.status = status
        schedule_webhook(Event("charge.dispute.closed", self))


async def _create_dispute(request: web.Request) -> web.Response:
    return json_response(Dispute(**await get_post_data(request))._export())


async def _show_dispute(request: web.Request) -> web.Response:
    return json_response(Dispute._api_retrieve(request.match_info["id"])._export())


async def _close_dispute(request: web.Request) -> web.Response:
    dispute = Dispute._api_retrieve(request.match_info["id"])
    dispute._close((await get_post_data(request))["status"])
    return json_response(dispute._export())


async def _fail_refund(request: web.Request) -> web.Response:
    """Let a refund fail after it was made, as some banks do."""
    refund = Refund._api_retrieve(request.match_info["id"])
    refund.status = "failed"
    return json_response(refund._export())


def _session(request: web.Request) -> CheckoutSession:
    return CheckoutSession._api_retrieve(request.match_info["id"])


async def _create_session(request: web.Request) -> web.Response:
    return json_response(CheckoutSession(**await get_post_data(request))._export())


async def _show_session(request: web.Request) -> web.Response:
    """Show a session, with its PaymentIntent if the request asks for it."""
    shown = _session(request)._export()
    if "payment_intent" in request.query.getall("expand[0]", []) and shown["payment_intent"]:
        intent = PaymentIntent._api_retrieve(shown["payment_intent"])
        shown["payment_intent"] = intent._export() | {"latest_charge": intent.latest_charge.id}
    return json_response(shown)


def _list_intents(
    url: str, customer: str | None = None, created: dict[str, str] | None = None, **page: Any
) -> List:
    """List the PaymentIntents of a customer, or since a time. localstripe lists all of them."""
    found = super(PaymentIntent, PaymentIntent)._api_list_all(url, **page)
    since = int((created or {}).get("gte", 0))
    found._list = [
        each for each in found._list if customer in (None, each.customer) and each.created >= since
    ]
    return found


def _list_refunds(url: str, created: dict[str, str] | None = None, **about: Any) -> List:
    """List refunds since a time. localstripe does not know the filter."""
    found = _all_refunds(url, **about)
    since = int((created or {}).get("gte", 0))
    found._list = [each for each in found._list if each.created >= since]
    return found


async def _list_disputes(request: web.Request) -> web.Response:
    since = int(request.query.get("created[gte]", 0))
    page = {name: request.query.get(name) for name in ("limit", "starting_after")}
    found = Dispute._api_list_all("/v1/disputes", **page)
    found._list = [each for each in found._list if each.created >= since]
    return json_response(found._export())


_all_refunds = Refund._api_list_all
Refund._api_list_all = staticmethod(_list_refunds)
Charge.disputed = False
Charge.receipt_url = property(lambda self: f"https://pay.stripe.com/receipts/{self.id}")
PaymentIntent._api_list_all = staticmethod(_list_intents)


async def _expire_session(request: web.Request) -> web.Response:
    session = _session(request)
    session._expire()
    return json_response(session._export())


async def _pay_session(request: web.Request) -> web.Response:
    """Pay an open session with the card `number`, and optionally with another amount."""
    session, data = _session(request), await get_post_data(request) or {}
    session.amount_total = int(data.get("amount", session.amount_total))
    session._pay(data.get("number", CARD), data.get("saved"))
    return json_response(session._export())


_answers: dict[str, tuple[str, int, bytes]] = {}
"""The first response for each idempotency key, with the parameters of its request."""


@web.middleware
async def _idempotent(request: web.Request, handler: Any) -> web.StreamResponse:
    """Repeat the first response for the same key: https://docs.stripe.com/api/idempotent_requests.

    Unlike other errors, those of validation are not kept by Stripe. Tests do not depend on them.
    """
    key = request.headers.get("Idempotency-Key")
    if request.method != "POST" or key is None:
        return await handler(request)
    asked = f"{request.path} {await request.text()}"
    if key in _answers:
        first, status, body = _answers[key]
        if first != asked:
            problem = {"type": "idempotency_error", "message": "The parameters differ."}
            return web.json_response({"error": problem}, status=400)
        return web.Response(status=status, body=body, content_type="application/json")
    try:
        answer = await handler(request)
    except UserError as error:
        answer = error.to_response()
    assert isinstance(answer, web.Response)
    assert isinstance(answer.body, bytes)
    _answers[key] = asked, answer.status, answer.body
    return answer


async def _forget_keys(_: web.Request) -> web.Response:
    """Forget all idempotency keys, as Stripe does after a day."""
    _answers.clear()
    return web.Response(status=204)


async def _show_requests(request: web.Request) -> web.Response:
    """Return the number of objects by type, for tests that count them."""
    counts: dict[str, int] = {}
    for name in resources.store:
        kind = name.partition(":")[0]
        counts[kind] = counts.get(kind, 0) + 1
    return web.json_response(counts)


app.middlewares.append(_idempotent)
app.router.add_post("/v1/checkout/sessions", _create_session)
app.router.add_get("/v1/checkout/sessions/{id}", _show_session)
app.router.add_post("/v1/checkout/sessions/{id}/expire", _expire_session)
app.router.add_post("/_config/checkout/{id}/pay", _pay_session)
app.router.add_get("/v1/disputes", _list_disputes)
app.router.add_get("/v1/disputes/{id}", _show_dispute)
app.router.add_post("/_config/disputes", _create_dispute)
app.router.add_post("/_config/disputes/{id}/close", _close_dispute)
app.router.add_post("/_config/refunds/{id}/fail", _fail_refund)
app.router.add_post("/_config/keys/forget", _forget_keys)
app.router.add_get("/_config/counts", _show_requests)


if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
