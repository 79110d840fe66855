"""Settings of trackers."""

from __future__ import annotations

from pydantic import Field

from infrastructure.settings import Variables


class TrackerSettings(Variables):
    """The variables of trackers."""

    mlflow_url: str | None = Field(
        default=None,
        description="URL of an MLflow tracking server that every account may use. Accounts can "
        "connect to a server of their own. Names of experiments start with the account's name.",
    )
    mlflow_user: str | None = Field(
        default=None,
        description="User name at that MLflow server. If unset, the password is a token.",
    )
    mlflow_password: str | None = Field(
        default=None,
        repr=False,
        description="Password or token at that MLflow server. Only the trackers process gets it.",
    )
