"""Every operator command has a page, or a reason why only the host can run it."""

from __future__ import annotations

from domain.access.rights import Rights
from domain.access.role import Role
from gateway.app import create_app
from gateway.http.permissions import declared_routes
from infrastructure.settings import Settings
from tests.docs.operator_pages import Page, commands, operator_commands


def test_every_operator_command_is_listed() -> None:
    assert sorted(commands()) == sorted(operator_commands())


def test_every_page_exists_and_serves_operators_but_not_owners() -> None:
    declared = {
        (each.method, each.path): each.permission
        for each in declared_routes(create_app(Settings()))
    }
    operator, owner = (Rights(role, role.scopes) for role in (Role.OPERATOR, Role.OWNER))
    for name, command in commands().items():
        if isinstance(command, Page):
            for route in command.routes:
                assert declared[route].allows(operator), (name, route)
                shared = route == ("GET", "/models")  # owners see their own models there
                assert shared or not declared[route].allows(owner), (name, route)
