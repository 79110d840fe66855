"""The secrets of an installation in containers, one file each.

compose.yaml mounts each file only into the containers that need it.
"""

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from secrets import token_bytes, token_urlsafe
from typing import Any

from pydantic import Field, ValidationError

from deploy.artifact_access import ARTIFACT_ACCESS, STORED, ArtifactAccess
from deploy.database_roles import OPERATOR_ROLE, ROLES, role_of
from deploy.local.errors import StackError
from deploy.local.home import Passwords, write_private
from deploy.local.postgres import DATABASE, OWNER
from deploy.nats_accounts import USERS, configuration

OPERATOR = "operator"
"""The container of operator commands, which has rights of its own."""

BUCKET = "ecolink"
TRAINER_ROLE = "arn:aws:iam::000000000000:role/ecolink-trainer"
"""ARN of the role that the scheduler assumes for each segment."""

KEYS = "keys.json"
"""File with the keys and passwords from which all other files follow. No container gets it."""

POSTGRES, NATS_PORT, NATS_MONITORING_PORT = "postgres:5432", 4222, 8222
NATS_STORE = Path("/data")

PUBLIC_FILE = 0o444
"""Mode of the files. A container has another user, and only their private directory protects
them from the users of the host."""


class Keys(Passwords):
    """The random keys and passwords of an installation. They are generated once."""

    artifacts: str = Field(default_factory=lambda: token_urlsafe(24))
    trainer_tokens: str = Field(default_factory=lambda: b64encode(token_bytes(32)).decode())
    """Key that signs the temporary keys of trainers, in base64."""

    def artifact_secret(self, service: str) -> str:
        """Return the secret key of a service in the artifact store."""
        return hmac.digest(self.artifacts.encode(), service.encode(), "sha256").hex()


def prepare(directory: Path) -> list[Path]:
    """Write the secrets into a directory, with the keys that it already has. Return their paths.

    Raise StackError if the directory cannot be written, or if its keys are damaged.
    """
    kept = directory / KEYS
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        keys = Keys.model_validate_json(kept.read_text()) if kept.exists() else Keys()
        write_private(kept, keys.model_dump_json(indent=1))
        return [_write(directory / name, text) for name, text in secret_files(keys)]
    except OSError as error:
        raise StackError(
            f"Cannot write to {directory}: {error.strerror}. Create it as a directory of the user "
            'that runs this command. With Docker, pass `--user "$(id -u):$(id -g)"`.'
        ) from error
    except ValidationError as error:
        raise StackError(
            f"{kept} is damaged. Restore it from a backup. If there is no installation yet, "
            "delete it."
        ) from error


def secret_files(keys: Keys) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each file."""
    roles = keys.database_roles
    yield "postgres-owner-password", keys.postgres_owner
    yield "owner-database-url", _database_url(OWNER, keys.postgres_owner)
    yield "database-roles.json", json.dumps(roles)
    for service in (*ROLES, OPERATOR):
        role = OPERATOR_ROLE if service == OPERATOR else role_of(service)
        yield f"{service}-database-url", _database_url(role, roles[role])
    yield "nats.conf", _nats_configuration(keys)
    for user in USERS:
        yield f"{user}.creds", keys.nats.credentials(user)
    yield "nats-trainer-seed", keys.nats.trainers
    yield "snapshot-secret", keys.snapshots
    yield "serving-secret", keys.serving
    yield "s3.json", json.dumps({"identities": list(_identities(keys))}, indent=1)
    yield "iam.json", json.dumps(_trainer_role(keys), indent=1)
    for service in (*ARTIFACT_ACCESS, OPERATOR):
        yield f"{service}-s3-access-key", _access_key(service)
        yield f"{service}-s3-secret-key", keys.artifact_secret(service)


def _write(path: Path, text: str) -> Path:
    write_private(path, text)
    path.chmod(PUBLIC_FILE)
    return path


def _database_url(role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@{POSTGRES}/{DATABASE}"


def _nats_configuration(keys: Keys) -> str:
    """Return the server's configuration. Its monitoring page is for the health check only."""
    written = configuration(keys.nats, NATS_STORE, NATS_PORT, host="0.0.0.0")
    monitoring = {"http": f"127.0.0.1:{NATS_MONITORING_PORT}"}
    return json.dumps(json.loads(written) | monitoring, indent=1)


def _identities(keys: Keys) -> Iterator[dict[str, Any]]:
    """Yield the identities of SeaweedFS. The operator's creates the bucket."""
    for service, access in ARTIFACT_ACCESS.items():
        yield _identity(keys, service, list(_actions(access)))
    yield _identity(keys, OPERATOR, ["Admin"])


def _trainer_role(keys: Keys) -> dict[str, Any]:
    """Return SeaweedFS's configuration of STS. Only the scheduler may assume the trainers' role.

    The operator may too, because `ecolink doctor` checks the role.
    """
    users = [f"arn:aws:iam::000000000000:user/{each}" for each in ("scheduler", OPERATOR)]
    allowed = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]
    files = _policy({"Action": allowed, "Resource": [f"arn:aws:s3:::{BUCKET}/*"]})
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "1h",
            "issuer": "ecolink",
            "signingKey": keys.trainer_tokens,
        },
        "policy": {"defaultEffect": "Deny"},
        "policies": [{"name": "trainer-files", "document": files}],
        "roles": [
            {
                "roleName": TRAINER_ROLE.rpartition("/")[2],
                "roleArn": TRAINER_ROLE,
                "trustPolicy": _policy({"Principal": {"AWS": users}, "Action": ["sts:AssumeRole"]}),
                "attachedPolicies": ["trainer-files"],
            }
        ],
    }


def _policy(statement: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]}


def _identity(keys: Keys, service: str, actions: list[str]) -> dict[str, Any]:
    pair = {"accessKey": _access_key(service), "secretKey": keys.artifact_secret(service)}
    return {"name": service, "credentials": [pair], "actions": actions}


def _actions(access: ArtifactAccess) -> Iterator[str]:
    for folder in STORED:
        if folder in (*access.reads, *access.writes):
            yield f"Read:{BUCKET}/{folder}/*"
            yield f"List:{BUCKET}/{folder}/*"
        if folder in access.writes:
            yield f"Write:{BUCKET}/{folder}/*"


def _access_key(service: str) -> str:
    return f"ecolink-{service}"
