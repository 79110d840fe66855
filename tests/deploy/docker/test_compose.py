"""The compose file and the Dockerfile, without Docker."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils.build import exclude_paths

from deploy.artifact_access import ARTIFACT_ACCESS
from deploy.bus_access import BUS_ACCESS, SUBSCRIBER
from deploy.database_roles import ACCESS
from deploy.docker.secrets import (
    KEYS,
    NATS_PORT,
    OPERATOR,
    TRAINER_ROLE,
    Keys,
    secret_files,
)
from deploy.processes import MARK, PROCESSES, grouped
from infrastructure.postgres.store import LEAST_CONNECTIONS
from infrastructure.settings import Settings
from tests.deploy.manifests import need_all_processes

pytestmark = need_all_processes

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text()

ROLES = grouped(PROCESSES, ())
"""Roles of each process."""

SERVERS = {"postgres", "nats", "s3"}
BACKUP = "backup"
"""The container of backups, which acts as the owner of the database."""
ONE_SHOT = {"migrate", "init", OPERATOR, BACKUP}

VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:-[^}]+\}")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|SEED|_KEY|DATABASE_URL|CREDENTIALS")
FILES = {"POSTGRES_PASSWORD_FILE", "ECOLINK_SECRETS_DIR", "ECOLINK_NATS_CREDENTIALS"}
"""Variables that contain the path of a secret, not a secret."""

every_service = pytest.mark.parametrize("name", SERVICES)


def secrets_of(name: str) -> dict[str, str]:
    """Return the sources of a service's secrets, by the names of the files in its container."""
    given = [
        each if isinstance(each, dict) else {"source": each, "target": each}
        for each in SERVICES[name].get("secrets", [])
    ]
    return {each["target"]: each["source"] for each in given}


def secrets_of_role(name: str, role: str) -> dict[str, str]:
    """Return the sources of the secrets that a role of a service gets, by their own names."""
    found = secrets_of(name)
    if len(ROLES.get(name, ())) < 2:
        return found
    prefix = f"{role}{MARK}"
    own = {target: source for target, source in found.items() if target.startswith(prefix)}
    credentials = {"nats.creds": f"{role}.creds"} if f"{role}.creds" in found else {}
    return {target.removeprefix(prefix): source for target, source in own.items()} | credentials


def holders(source: str) -> set[str]:
    """Return the roles, and other services, that get a secret."""
    return {
        role
        for name in SERVICES
        for role in ROLES.get(name, (name,))
        if source in secrets_of_role(name, role).values()
    }


def test_every_process_is_a_service_of_its_own() -> None:
    assert set(SERVICES) == {*ROLES, *SERVERS, *ONE_SHOT}
    for name in ROLES:
        module = ["deploy.docker.trainer_host"] if name == "scheduler" else ["deploy.run", name]
        assert SERVICES[name]["command"] == ["python", "-m", *module]


@every_service
def test_no_secret_is_in_the_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if variable in FILES:
            assert str(value).startswith("/run/secrets")
        else:
            assert not SECRET_NAME.search(variable), variable
        assert "@" not in str(value), variable


@every_service
def test_settings_exist(name: str) -> None:
    known = {f"ECOLINK_{field.upper()}" for field in Settings.model_fields}
    roles = ROLES.get(name, (name,))
    given = {each.upper() for role in roles for each in secrets_of_role(name, role)}
    used = set(SERVICES[name].get("environment", {})) | given
    assert {each for each in used if each.startswith("ECOLINK_")} <= known


@every_service
def test_every_image_is_a_variable(name: str) -> None:
    assert VARIABLE.fullmatch(SERVICES[name]["image"])
    for value in SERVICES[name].get("build", {}).get("args", {}).values():
        assert re.fullmatch(r"\$\{[A-Z0-9_]+:-[^}]*\}", value)


@every_service
def test_nothing_can_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(service)
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    if name == "postgres":
        assert service["user"] == "postgres"
    else:
        assert "user" not in service  # that of the image; see below


@every_service
def test_only_the_gateway_is_open_to_the_host_and_only_to_it(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert ports == (["${ECOLINK_PUBLISH:-127.0.0.1:8000}:8000"] if name == "gateway" else [])
    assert SERVICES[name].get("network_mode") in (None, "none")


@every_service
def test_the_servers_and_the_trainers_have_no_way_out(name: str) -> None:
    outside = "outside" in SERVICES[name].get("networks", [])
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert outside == (name in {"sealer", "billing", "outbound", "gateway", OPERATOR, BACKUP})


@every_service
def test_long_running_services_restart_and_have_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if name in ONE_SHOT:
        assert service.get("restart") in (None, "no", "on-failure")
        assert service.get("healthcheck") in (None, {"disable": True})
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        # The migration waits for the servers, and each check takes time of the processor.
        assert service["healthcheck"]["start_interval"] == ("1s" if name in SERVERS else "3s")
        assert service["logging"]["options"]["max-size"]


FIRST = {"log", "billing", "scheduler", "gateway"}
"""Processes that a job needs to start."""


def test_services_start_in_the_order_of_need() -> None:
    migrated = {"migrate": {"condition": "service_completed_successfully"}}
    later = migrated | {"gateway": {"condition": "service_healthy"}}
    for name in ROLES:
        assert SERVICES[name]["depends_on"] == (migrated if name in FIRST else later)
    assert set(SERVICES["migrate"]["depends_on"]) == SERVERS


@pytest.mark.parametrize("name", sorted({*ROLES, *SERVERS}))
def test_a_busy_host_gets_minutes_before_a_container_is_unhealthy(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    seconds = {key: int(check[key].removesuffix("s")) for key in ("interval", "start_period")}
    assert seconds["start_period"] >= 900
    assert check["retries"] * seconds["interval"] >= 120


def test_a_listener_is_asked_at_its_own_port() -> None:
    for name, url in {"gateway": "ECOLINK_GATEWAY_URL", "serving": "ECOLINK_SERVING_URL"}.items():
        environment = SERVICES[name]["environment"]
        port = environment[f"ECOLINK_{name.upper()}_PORT"]
        assert environment[f"ECOLINK_{name.upper()}_HOST"] == "0.0.0.0"
        assert environment[url] == f"http://{name}:{port}"
        assert SERVICES[name]["healthcheck"]["test"][-1] == str(port)
    assert SERVICES["log"]["environment"]["ECOLINK_NATS_URL"] == f"nats://nats:{NATS_PORT}"


def test_the_database_accepts_the_connections_of_all_processes() -> None:
    assert f"max_connections={LEAST_CONNECTIONS}" in SERVICES["postgres"]["command"]


def sentence(page: str, start: str) -> str:
    """Return the sentence of a page that starts with a text, on one line."""
    content = " ".join((ROOT / "docs/operate" / page).read_text().split())
    return content[content.index(start) :].partition(". ")[0]


def test_the_pages_name_the_processes_that_reach_other_hosts() -> None:
    listed = sentence("containers.md", "The gateway, billing, the sealer, alerts")
    outside = {
        role
        for name, roles in ROLES.items()
        for role in roles
        if "outside" in SERVICES[name]["networks"]
    }
    assert all(name in listed for name in outside)
    assert all(name not in listed for name in {*PROCESSES} - outside)


@pytest.mark.parametrize("page", ["containers.md", "security.md"])
def test_the_pages_name_the_processes_without_a_nats_user(page: str) -> None:
    listed = sentence(page, "The gateway, the sealer")
    without = {name for name in PROCESSES if name not in BUS_ACCESS}
    assert all(name in listed for name in without)
    assert all(name not in listed for name in {*PROCESSES} - without)


BY_HTTPS = {"billing"}
"""Processes that reach other hosts only at the port of HTTPS, which every process may.

A hub and a timestamp authority may have another port, so the gateway and the sealer are not here.
"""


def test_the_same_processes_reach_other_hosts_in_kubernetes() -> None:
    content = (ROOT / "deploy/kubernetes/base/network.yaml").read_text()
    policies = {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(content)}
    (component,) = policies["receivers"]["podSelector"]["matchExpressions"]
    outside = {
        role
        for name, service in SERVICES.items()
        for role in ROLES.get(name, (name,))
        if "outside" in service.get("networks", ())
    }
    assert set(component["values"]) == outside - BY_HTTPS
    assert policies["receivers"]["egress"] == [{}]
    assert {"webhooks", "trackers", "exporter", "synthesis"} <= outside
    ((source,),) = [each["from"] for each in policies["serving"]["ingress"]]
    (client,) = source["podSelector"]["matchExpressions"]
    assert set(client["values"]) == (holders("serving-secret") & {*PROCESSES}) - {"serving"}


def test_each_secret_exists_and_is_written_by_the_command() -> None:
    written = set(dict(secret_files(Keys())))
    assert set(COMPOSE["secrets"]) == written - {f"{SUBSCRIBER}.creds"}  # not for a container
    assert {each for name in SERVICES for each in secrets_of(name).values()} == set(
        COMPOSE["secrets"]
    )
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"${{ECOLINK_SECRETS:-./secrets}}/{name}"}
    assert KEYS not in written


EVERY_ROLE = [(name, role) for name in SERVICES for role in ROLES.get(name, (name,))]


@pytest.mark.parametrize(("service", "name"), EVERY_ROLE)
def test_a_role_has_only_its_own_database_role_nats_user_and_artifact_key(
    service: str, name: str
) -> None:
    found = secrets_of_role(service, name)
    owner = OPERATOR if name in ("migrate", BACKUP) else name
    own = {}
    if name == BACKUP:
        own = {"ecolink_database_url": "owner-database-url"}
    elif name in {*PROCESSES, OPERATOR, "migrate"}:
        own = {"ecolink_database_url": f"{owner}-database-url"}
    if owner in {*ARTIFACT_ACCESS, OPERATOR}:
        own["aws_access_key_id"] = f"{owner}-s3-access-key"
        own["aws_secret_access_key"] = f"{owner}-s3-secret-key"
    if owner in {*BUS_ACCESS, OPERATOR} and name != BACKUP:
        own["nats.creds"] = f"{owner}.creds"
    specific = re.compile(r"(.+)(-(database-url|s3-(access|secret)-key)|\.creds)")
    matches = {target: source for target, source in found.items() if specific.fullmatch(source)}
    matches.pop("ecolink_owner_database_url", None)
    assert matches == own


def test_shared_secrets_are_only_where_they_are_needed() -> None:
    readers = {name for name, access in ACCESS.items() if access.reads_snapshots}
    assert holders("snapshot-secret") == {*readers, OPERATOR, BACKUP}
    assert holders("nats-trainer-seed") == {"scheduler"}
    assert holders("serving-secret") == {"gateway", "serving", "synthesis"}
    assert holders("owner-database-url") == {"migrate", BACKUP}
    assert holders("database-roles.json") == {"migrate"}
    assert holders("postgres-owner-password") == {"postgres"}
    assert holders("nats.conf") == {"nats"}
    assert holders("s3.json") == holders("iam.json") == {"s3"}
    assert SERVICES["scheduler"]["environment"]["ECOLINK_ARTIFACTS_ROLE"] == TRAINER_ROLE
    for name, roles in ROLES.items():
        on_the_bus = not BUS_ACCESS.keys().isdisjoint(roles)
        assert ("ECOLINK_NATS_CREDENTIALS" in SERVICES[name]["environment"]) == on_the_bus


def test_a_process_with_several_roles_has_no_secret_without_a_role() -> None:
    for name, roles in ROLES.items():
        if len(roles) > 1:
            given = [each for role in roles for each in secrets_of_role(name, role).values()]
            assert sorted(given) == sorted(secrets_of(name).values())


def test_only_the_sealer_can_reach_the_key_that_signs_seals() -> None:
    mounting = {
        name
        for name, service in SERVICES.items()
        if any(str(volume).startswith("sealer:") for volume in service.get("volumes", []))
    }
    assert mounting == {"sealer", BACKUP}


def test_every_volume_belongs_to_one_service() -> None:
    """Backups are an exception, because they contain the key of the sealer."""
    mounted = [
        volume.split(":")[0]
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if name not in ("init", BACKUP)
    ]
    assert sorted(mounted) == sorted(COMPOSE["volumes"])


def stages() -> dict[str, str]:
    """Return the text of each stage of the Dockerfile by name."""
    parts = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
    found = {}
    for part in parts:
        match = re.match(r"(\S+) AS (\S+)\n", part)
        assert match is not None, part
        found[match[2]] = part
    return found


def test_every_base_image_is_a_build_argument_with_a_public_default() -> None:
    defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))
    known = {f"${{{name}}}" for name in defaults} | {"scratch"}
    for text in stages().values():
        base = text.split()[0]
        assert base in known or base in stages()
        known.add(base)
    for default in defaults.values():
        assert re.fullmatch(r"([a-z]+/)?[a-z]+:[\w.-]+", default)
    declared = SERVICES["nats"]["build"]["args"]
    assert {name: f"${{ECOLINK_{name}:-{value}}}" for name, value in defaults.items()} == declared


def test_no_image_runs_as_root() -> None:
    built = {each["build"]["target"] for each in SERVICES.values() if "build" in each}
    assert built == {"services", "trainer", "nats", "s3"}
    for target in built:
        users = re.findall(r"^USER (\S+)$", stages()[target], re.MULTILINE)
        assert users == ["10001:10001"]


def test_the_database_is_in_the_named_volume_of_every_version() -> None:
    data = SERVICES["postgres"]["environment"]["PGDATA"]
    (volume,) = SERVICES["postgres"]["volumes"]
    assert data.startswith(f"{volume.partition(':')[2]}/")
    assert not data.startswith("/var/lib/postgresql/data")


def test_only_processes_of_the_image_of_services_need_what_the_other_leaves_out() -> None:
    (left_out,) = re.findall(r"only_services = .*, \{(.+)\}", DOCKERFILE)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"]
    names = "|".join(
        re.match(r"[\w-]+", each)[0].replace("-", "_")  # type: ignore[index]
        for extra in re.findall(r"\w+", left_out)
        for each in extras[extra]
    )
    assert "pyarrow" in names
    imported = re.compile(rf"^\s*(import|from) ({names})\b", re.MULTILINE)
    packages = {"deploy", "gateway", "services", "projections", "infrastructure", "domain"}
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    found = {
        path.relative_to(ROOT).parts[:2] for path in files if imported.search(path.read_text())
    }
    assert found == {("services", "datasets"), ("gateway", "datasets")}
    for name in ("datasets", "gateway"):
        assert SERVICES[name]["image"] == SERVICES["migrate"]["image"]


def test_every_package_is_pinned() -> None:
    commands = re.split(r"\n(?=[A-Z]+ )", DOCKERFILE)
    for command in (each for each in commands if each.startswith("RUN") and "pip" in each):
        for install in re.split(r"&&", command):
            if " install " in install and "apt-get" not in install and "useradd" not in install:
                assert "--constraint constraints.txt" in install or "--no-index" in install


def test_secrets_enter_neither_git_nor_an_image() -> None:
    assert "/deploy/docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "ENV" not in "\n".join(
        line for line in DOCKERFILE.splitlines() if SECRET_NAME.search(line)
    )


def test_a_build_sees_only_what_it_needs(tmp_path: Path) -> None:
    code = {"pyproject.toml", "domain/jobs/job.py", "deploy/run.py", "deploy/docker/secrets.py"}
    others = {
        *("ecolink.env", ".env", "secrets/keys.json", "tests/conftest.py", ".git/config"),
        *("deploy/docker/secrets/keys.json", "deploy/docker/other-secrets/keys.json"),
        *("deploy/docker/ecolink.env", "deploy/docker/compose.yaml"),
    }
    for name in code | others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    seen = {each for each in exclude_paths(tmp_path, patterns) if (tmp_path / each).is_file()}
    assert seen - {"Dockerfile", ".dockerignore"} == code
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "deploy").rglob("*.py")}
    assert own <= exclude_paths(ROOT, patterns)
