"""Settings of notifications."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from infrastructure.settings import Variables


class NotificationSettings(Variables):
    """The variables of notifications, and `public_url` of the core, which they need."""

    public_url: str | None = None
    delivery_retention_days: int = Field(
        default=30,
        ge=2,
        description="Days for which EcoLink keeps ended deliveries of webhooks and notices.",
    )
    smtp_port: int = Field(default=587, ge=1, le=65_535, description="Port of the mail server.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="Encryption of the connection to the mail server: `starttls`, `tls` from the "
        "start (usually port 465), or `none`, which is only for a server on the same host.",
    )
    smtp_user: str | None = Field(
        default=None, description="User name at the mail server. If unset, EcoLink does not log in."
    )
    smtp_password: str | None = Field(default=None, description="Password at the mail server.")
    smtp_from: str | None = Field(
        default=None, description="E-mail address from which EcoLink sends notices."
    )
    smtp_host: str | None = Field(
        default=None,
        description="Host name of the mail server that sends notices to account holders. If unset, "
        "EcoLink sends none. It also needs `ECOLINK_SMTP_FROM` and `ECOLINK_PUBLIC_URL`.",
    )

    @field_validator("smtp_host")
    @classmethod
    def _complete_mail(cls, host: str | None, known: ValidationInfo) -> str | None:
        """Raise ValueError if notices have no sender, or no URL for their links.

        A validator of the whole model would show the passwords in its error.
        """
        for name in ("smtp_from", "public_url"):
            if host is not None and known.data.get(name) is None:
                raise ValueError(
                    f"ECOLINK_SMTP_HOST is set without ECOLINK_{name.upper()}. Set both, or "
                    "neither."
                )
        return host
