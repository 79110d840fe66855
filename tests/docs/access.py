"""The roles and scopes, and who may call each route."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from domain.access import scope as scopes
from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from gateway.app import create_app
from gateway.http.permissions import DeclaredRoute, Permission, declared_routes
from infrastructure.settings import Settings
from tests.docs import markdown
from tests.docs.markdown import code

SECTIONS = {
    "/api": "EcoLink's own API",
    "/v1": "API of the `openai` package",
    "/": "Pages, assets and health",
}
YES, NO = "yes", "–"


def page() -> str:
    """Every scope and role, then every route with its scope and the roles that may call it."""
    routes = declared_routes(create_app(Settings()))
    sections = []
    for prefix, title in SECTIONS.items():
        found = [each for each in routes if each.path.startswith(prefix)]
        routes = [each for each in routes if each not in found]
        rows = [_row(each) for each in sorted(found, key=lambda each: (each.path, each.method))]
        header = ("method", "path", "scope", *Role)
        sections.append(markdown.section(title, markdown.table(header, rows)))
    return markdown.page(
        "Access",
        "This page lists the scopes of API keys, the scopes that each role can have, and what each "
        "route requires. A test calls every route with every role and scope.",
        _scopes(),
        _roles(),
        *sections,
    )


def _row(route: DeclaredRoute) -> tuple[str, ...]:
    permission = route.permission
    allowed = (YES if permission.allows(Rights(role, role.scopes)) else NO for role in Role)
    return (route.method, code(route.path), _needed(permission), *allowed)


def _needed(permission: Permission) -> str:
    if permission.public:
        return "no key"
    return ", ".join(permission.scopes) or "any key"


def _scopes() -> str:
    return markdown.section("Scopes", markdown.table(("scope", "permits to"), _meanings()))


def _meanings() -> Iterator[tuple[str, str]]:
    """Yield each scope with the text below it in its class."""
    (kind,) = [
        each for each in ast.parse(inspect.getsource(scopes)).body if isinstance(each, ast.ClassDef)
    ]
    for field, text in zip(kind.body[1:], kind.body[2:], strict=False):
        if isinstance(field, ast.Assign) and isinstance(text, ast.Expr):
            name, value = field.targets[0], text.value
            assert isinstance(name, ast.Name)
            assert isinstance(value, ast.Constant)
            said = " ".join(str(value.value).split()).rstrip(".")
            yield Scope[name.id], said[0].lower() + said[1:]


def _roles() -> str:
    rows = [(role, ", ".join(role.scopes)) for role in Role]
    return markdown.section(
        "Roles", markdown.table(("role", "scopes that its keys can have"), rows)
    )
