"""Rights of API keys: roles, scopes and expiry."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from domain.access.rights import KeyRequest, Rights
from domain.access.role import Role
from domain.access.scope import Scope
from domain.core.errors import Invalid
from tests.builders.commands import NOW

DAY = timedelta(days=1)
OWNER = Rights(Role.OWNER, tuple(Scope))


def refusal(wanted: KeyRequest, account_role: Role, issuer: Rights | None = None) -> Invalid:
    with pytest.raises(Invalid) as refused:
        wanted.granted(account_role, issuer, NOW)
    return refused.value


def test_a_key_has_all_scopes_of_its_role_by_default() -> None:
    for role in (Role.OWNER, Role.OPERATOR, Role.AUDITOR):
        assert KeyRequest().granted(role, None, NOW) == Rights(role, role.scopes)
    member = KeyRequest(Role.MEMBER).granted(Role.OWNER, OWNER, NOW)
    assert member == Rights(Role.MEMBER, (Scope.READ, Scope.TRAIN, Scope.DEPLOY))


def test_a_role_limits_the_scopes_of_its_keys() -> None:
    for role, scope in product(Role, Scope):
        account_role = Role.OWNER if role is Role.MEMBER else role
        wanted = KeyRequest(role, [scope])
        if scope in role.scopes:
            assert wanted.granted(account_role, None, NOW).scopes == (scope,)
        else:
            refused = refusal(wanted, account_role)
            assert refused.field == "scopes"
            assert f"the scope {scope}" in refused.message
            assert f"role would be {role}" in refused.message


def test_an_account_has_keys_of_its_own_role_or_of_members() -> None:
    for account_role, role in product((Role.OWNER, Role.OPERATOR, Role.AUDITOR), Role):
        wanted = KeyRequest(role)
        if role is account_role or (role is Role.MEMBER and account_role is not Role.AUDITOR):
            assert wanted.granted(account_role, None, NOW).role is role
        else:
            assert refusal(wanted, account_role).field == "role"


def test_a_key_issues_no_key_with_more_rights() -> None:
    issuer = Rights(Role.OWNER, (Scope.READ, Scope.KEYS))
    assert KeyRequest().granted(Role.OWNER, issuer, NOW) == issuer
    refused = refusal(KeyRequest(scopes=[Scope.BILLING]), Role.OWNER, issuer)
    assert "The key that issues it does not have that scope" in refused.message
    only_keys = Rights(Role.OWNER, (Scope.KEYS,))
    assert refusal(KeyRequest(Role.MEMBER), Role.OWNER, only_keys).field == "role"
    member = Rights(Role.MEMBER, (Scope.READ,))
    assert refusal(KeyRequest(Role.OWNER), Role.OWNER, member).field == "role"


def test_a_key_does_not_outlive_the_key_that_issues_it() -> None:
    issuer = Rights(Role.OWNER, tuple(Scope), NOW + 2 * DAY)
    assert KeyRequest().granted(Role.OWNER, issuer, NOW).expires_at == NOW + 2 * DAY
    earlier = KeyRequest(expires_at=NOW + DAY)
    assert earlier.granted(Role.OWNER, issuer, NOW).expires_at == NOW + DAY
    later = KeyRequest(expires_at=NOW + 3 * DAY)
    assert refusal(later, Role.OWNER, issuer).field == "expires_at"


def test_a_key_expires_within_ten_years() -> None:
    for moment in (NOW, NOW - DAY, NOW + 3651 * DAY):
        assert refusal(KeyRequest(expires_at=moment), Role.OWNER).field == "expires_at"
    rights = KeyRequest(expires_at=NOW + DAY).granted(Role.OWNER, None, NOW)
    assert not rights.expired(NOW)
    assert rights.expired(NOW + DAY)


def test_a_key_needs_a_scope() -> None:
    assert "Choose a scope" in refusal(KeyRequest(scopes=[]), Role.OWNER).message
