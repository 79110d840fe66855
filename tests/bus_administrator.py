"""A NATS user that may do everything in the account with the streams. No process has one."""

from __future__ import annotations

from deploy.local.home import Home, write_private
from deploy.nats_accounts import NatsKeys
from infrastructure.bus.keys import credentials_file, user_jwt
from infrastructure.settings import Settings


def administrator_credentials(keys: NatsKeys) -> str:
    """Return the contents of the administrator's credentials file."""
    seed = keys.user_seed("administrator")
    return credentials_file(user_jwt(keys.services, seed, "administrator"), seed)


def as_administrator(settings: Settings) -> Settings:
    """Return the settings of a stack with an administrator of its embedded NATS server."""
    home = Home(settings.home)
    file = home.nats_credentials("administrator")
    write_private(file, administrator_credentials(home.passwords().nats))
    return settings.model_copy(update={"nats_credentials": file})
