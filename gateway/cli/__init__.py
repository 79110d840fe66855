"""Commands of account holders. All of them call the API, and need no package of the server."""

from gateway.cli.application import GROUPS, application, main
from gateway.cli.exits import epilog
from gateway.cli.terminal import Commands

__all__ = ["GROUPS", "Commands", "application", "epilog", "main"]
