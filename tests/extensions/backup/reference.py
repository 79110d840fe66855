"""The reasons why the operator commands run only on the host."""

from __future__ import annotations

from tests.docs.operator_pages import Host

BACKUP = Host(
    "It needs the address and the credentials of the backup, which the gateway must not have: "
    "an attacker who controls the gateway could delete or read the backups."
)

OPERATOR_COMMANDS = {
    "backup create": BACKUP,
    "backup list": BACKUP,
    "backup verify": BACKUP,
    "backup restore": Host("It fills an empty database, so no gateway runs."),
    "backup confirm-restore": Host(
        "It lets a restored copy charge cards, so it needs a shell on the host."
    ),
    "backup prune": BACKUP,
}
