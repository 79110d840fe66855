"""Card payments: top-ups through Stripe, saved cards, automatic top-ups, refunds and disputes."""

from domain.billing.account import Account
from domain.billing.auto_top_up import AutoTopUp
from domain.billing.card_payment import CardPayment
from domain.billing.payment import STRIPE_PROVIDER, Payment
from extensions.card_payments.settings import CardSettings
from infrastructure.extensions import Extension, Panel
from infrastructure.rights import READ

RETURNS = (
    *(Payment.RefundFailed, Payment.PaymentReturned, Payment.ReturnReversed),
    *(Payment.ReturnClosed, Payment.LossRecovered),
    *(Account.ToppedUp, Account.TopUpWithheld, Account.TopUpRestored),
)
"""Events by which a payment is received and returned."""

EXTENSION = Extension(
    package=__name__,
    summary="Top-ups by card through Stripe, automatic top-ups, refunds and disputes.",
    projections=(
        "payment_rows:CARD_PAYMENTS",
        "auto_top_up_rows:AUTO_TOP_UPS",
        "return_rows:PAYMENT_RETURNS",
    ),
    settings=CardSettings,
    secrets={
        "stripe_secret_key": ("gateway", "billing"),
        "stripe_webhook_secret": ("gateway",),
    },
    events={
        "gateway": (
            *(CardPayment, Payment.PaymentReceived, Payment.RefundRequested, *RETURNS),
            *(AutoTopUp.CardSaved, AutoTopUp.CardReplaced, AutoTopUp.AutoTopUpSet),
            AutoTopUp.AutoTopUpEnded,
        ),
        "billing": (
            *(CardPayment.CardPaymentStarted, CardPayment.CardPaymentConfirmed),
            *(CardPayment.CardPaymentFailed, Payment.PaymentReceived, *RETURNS),
            *(AutoTopUp.CardSaved, AutoTopUp.CardReplaced, AutoTopUp.AutoTopUpStarted),
            *(AutoTopUp.AutoTopUpEnded, AutoTopUp.AutoTopUpDisabled),
        ),
    },
    rights={
        "billing": dict.fromkeys(("payment_returns", "auto_top_ups", "card_payments"), READ),
    },
    payment_providers={STRIPE_PROVIDER: "stripe_provider:enabled_provider"},
    billing_work=("work:billing_work",),
    api=("api:router",),
    pages=("pages:router", "webhook:router"),
    panels={
        "billing.cards": Panel("card_payments/card.html", data="pages:shown_top_ups"),
        "ledger.reference": Panel("card_payments/reference.html"),
        "ops.account": Panel("card_payments/refund.html", data="pages:takes_refunds"),
    },
    commands={"billing": "cli:commands"},
    operator_commands=("operator_cli:commands",),
)
