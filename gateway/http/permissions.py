"""The permission that each route requires, declared as the type of its caller.

A route takes `caller: MayTrain`, or has `dependencies=[PUBLIC]` if it needs no API key. A WebSocket
authenticates after it is accepted, so it declares its permission with `declared` and checks it
itself. An application with an undeclared route does not start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from domain.access.rights import Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.billing.account import Account
from gateway.backend import BackendOf
from gateway.http.access import Caller, CallerOf
from gateway.http.errors import Forbidden, MissingScope

EVERY_ROLE = frozenset(Role)
OPERATOR = frozenset({Role.OPERATOR})
OVERSEERS = frozenset({Role.OPERATOR, Role.AUDITOR})
WEBSOCKET = "WebSocket"

HOLDERS = EVERY_ROLE - {Role.AUDITOR}


@dataclass(frozen=True)
class Permission:
    """The scopes and the roles that a route requires. Without scopes, any valid key is enough."""

    scopes: tuple[Scope, ...] = ()
    roles: frozenset[Role] = EVERY_ROLE
    public: bool = False
    """True if the route needs no key."""

    @property
    def only_reads(self) -> bool:
        """True if a suspended account may call the route."""
        return set(self.scopes) <= {Scope.READ}

    def allows(self, rights: Rights) -> bool:
        """Return True if a key with these rights may call the route."""
        return self.public or (rights.role in self.roles and set(self.scopes) <= set(rights.scopes))

    def require(self, caller: Caller) -> None:
        """Raise Forbidden or MissingScope if the caller may not call the route."""
        if self.allows(caller.rights):
            return
        role = caller.role
        if role not in self.roles:
            *first, last = sorted(self.roles)
            wanted = f"{', '.join(first)} or {last}" if first else last
            raise Forbidden(
                f"A key with the role {role} cannot do this. Use a key with the role {wanted}."
            )
        scopes = [str(scope) for scope in caller.rights.scopes]
        missing = next(each for each in self.scopes if each not in caller.rights.scopes)
        needed = f"scope{'s' if len(self.scopes) > 1 else ''} {' and '.join(self.scopes)}"
        raise MissingScope(
            f"This request needs the {needed}. The API key has {', '.join(scopes)}. "
            + self._remedy(role),
            figures={"needed_scope": str(missing), "scopes": scopes},
        )

    def _remedy(self, role: Role) -> str:
        if set(self.scopes) <= set(role.scopes):
            options = " ".join(f"--scope {each}" for each in self.scopes)
            return (
                f"Use a key that has {'them' if len(self.scopes) > 1 else 'it'}. `ecolink keys "
                f"create {options}` creates one, with a key that has the scope {Scope.KEYS}."
            )
        if role is Role.AUDITOR:
            return "An auditor can only read."
        return f"The role {role} cannot have it. Ask the owner of the account."


_PERMISSIONS: dict[Callable[..., Any], Permission] = {}
"""The permission that each dependency made by this module checks."""


def _checks(permission: Permission) -> Any:
    """Return a dependency that returns a permitted caller, and otherwise raises Forbidden.

    Unless the route only reads, it raises Suspended for a suspended account.
    """

    async def permitted(caller: CallerOf) -> Caller:
        permission.require(caller)
        return caller

    def permitted_if_active(caller: CallerOf, backend: BackendOf) -> Caller:
        permission.require(caller)
        account = backend.log.find(Account, caller.account_id)
        if account is not None:
            account.require_active()
        return caller

    check = permitted if permission.only_reads else permitted_if_active
    _PERMISSIONS[check] = permission
    return Depends(check)


def declared(permission: Permission) -> Any:
    """Return a dependency that only declares the permission of a route."""

    async def declaration() -> None:
        pass

    _PERMISSIONS[declaration] = permission
    return Depends(declaration)


READ = Permission((Scope.READ,))
DOWNLOAD = Permission((Scope.READ,), HOLDERS)
OPERATOR_READ = Permission((Scope.READ,), OPERATOR)

PUBLIC = declared(Permission(public=True))

AnyCaller = Annotated[Caller, _checks(Permission())]
MayRead = Annotated[Caller, _checks(READ)]
MayDownload = Annotated[Caller, _checks(DOWNLOAD)]
"""Reads the content of datasets and models, which auditors may not see."""
MayTrain = Annotated[Caller, _checks(Permission((Scope.TRAIN,)))]
MayEdit = Annotated[Caller, _checks(Permission((Scope.TRAIN, Scope.READ), HOLDERS))]
"""Changes the content of datasets. Responses show it, so the caller must be allowed to read it."""
MayDeploy = Annotated[Caller, _checks(Permission((Scope.DEPLOY,)))]
MayPublish = Annotated[Caller, _checks(Permission((Scope.DEPLOY, Scope.READ), HOLDERS))]
"""Sends the content of models to another server, so it must be allowed to download them, too."""
MayPay = Annotated[Caller, _checks(Permission((Scope.BILLING,)))]
MayManageKeys = Annotated[Caller, _checks(Permission((Scope.KEYS,)))]

AuditorReads = Annotated[Caller, _checks(Permission((Scope.READ,), frozenset({Role.AUDITOR})))]
MayReadAll = Annotated[Caller, _checks(Permission((Scope.READ,), OVERSEERS))]
OperatorReads = Annotated[Caller, _checks(OPERATOR_READ)]
OperatorDeploys = Annotated[Caller, _checks(Permission((Scope.DEPLOY,), OPERATOR))]
OperatorCredits = Annotated[Caller, _checks(Permission((Scope.BILLING,), OPERATOR))]
OperatorManages = Annotated[Caller, _checks(Permission((Scope.KEYS,), OPERATOR))]
"""Creates and suspends accounts, and creates and revokes their keys."""


class DeclaredRoute(NamedTuple):
    """A route with its permission."""

    path: str
    method: str
    """HTTP method, or `WebSocket`."""
    permission: Permission


def declared_routes(app: FastAPI) -> list[DeclaredRoute]:
    """Return all routes. Raise RuntimeError for a route with no permission, or with several."""
    routes: list[DeclaredRoute] = []
    for route in iter_route_contexts(app.routes):
        path = str(route.path_format or route.path)
        methods = sorted((route.methods or {WEBSOCKET}) - {"HEAD"})
        if path == app.openapi_url:  # FastAPI adds this route itself
            found = [Permission(public=True)]
        else:
            found = _permissions(getattr(route, "dependant", None))
        if len(found) != 1:
            raise RuntimeError(
                f"The route {', '.join(methods)} {path} declares {len(found)} permissions. Give it "
                "one caller of gateway.http.permissions, such as `caller: MayRead`."
            )
        routes += [DeclaredRoute(path, method, found[0]) for method in methods]
    return routes


def _permissions(dependant: Dependant | None) -> list[Permission]:
    if dependant is None:
        return []
    own = [each.call for each in dependant.dependencies if each.call in _PERMISSIONS]
    return [_PERMISSIONS[call] for call in dict.fromkeys(own) if call is not None]
