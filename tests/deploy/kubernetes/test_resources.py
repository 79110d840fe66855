"""The resources of the control plane, without a cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.docker.secrets import OPERATOR
from deploy.processes import PROCESSES
from infrastructure.settings import Settings
from infrastructure.training.store_credentials import required_store_issuer
from tests.deploy.docker.test_compose import BACKUP, ROLES, secrets_of_role
from tests.deploy.manifests import need_all_processes
from tests.kubernetes_schemas import validate

pytestmark = need_all_processes

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
EXAMPLE = FOLDER / "overlays" / "example"

PAGE = (ROOT / "docs/operate/kubernetes.md").read_text()

IMAGES = {OPERATOR: "trainer", BACKUP: "services"}
"""Images of the pods for commands. Only the import of a model needs the training libraries."""

Resource = dict[str, Any]

MIGRATE, FINISH = "migrate", "finish-upgrade"
SECRET_NAME = re.compile(r"PASSWORD|SECRET$|TOKEN|SEED|_KEY|DATABASE_URL")


def resources_of(folder: Path) -> list[Resource]:
    """Return the resources in the files that a kustomization lists, with its JSON patches."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    files = [folder / each for each in kustomization["resources"] if (folder / each).is_file()]
    found = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    for patch in kustomization.get("patches", ()):
        target = patch["target"]
        for resource in found:
            named = re.fullmatch(target.get("name", ".*"), resource["metadata"]["name"])
            if re.fullmatch(target["kind"], resource["kind"]) and named:
                apply(yaml.safe_load((folder / patch["path"]).read_text()), resource)
    return found


def apply(patch: list[dict[str, Any]], resource: Any) -> None:
    """Add the values of a JSON patch (RFC 6902) to a resource."""
    for operation in patch:
        assert operation["op"] == "add"
        *parents, last = operation["path"].removeprefix("/").split("/")
        place = resource
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        if isinstance(place, list):
            assert last == "-"
            place.append(operation["value"])
        else:
            assert last not in place, f"{operation['path']} is in the file and in the patch"
            place[last] = operation["value"]


RESOURCES = resources_of(BASE)
WORKLOADS = {
    each["metadata"]["name"]: each for each in RESOURCES if each["kind"] in ("Deployment", "Job")
}
every_workload = pytest.mark.parametrize("name", WORKLOADS)


def of_kind(kind: str) -> list[Resource]:
    return [each for each in RESOURCES if each["kind"] == kind]


def pod(name: str) -> Resource:
    return WORKLOADS[name]["spec"]["template"]["spec"]


def container(name: str) -> Resource:
    (container,) = pod(name)["containers"]
    return container


def variables(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def identity(resource: Resource) -> tuple[str, str | None, str]:
    metadata = resource["metadata"]
    return resource["kind"], metadata.get("namespace"), metadata["name"]


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=["base", "example"])
def test_resources_match_the_published_schemas(folder: Path) -> None:
    for resource, version in product(resources_of(folder), ("1.30", "1.33", "1.37")):
        validate(resource, version)


@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=["base", "example"])
def test_every_file_is_used_and_no_resource_is_twice(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], "kustomization.yaml"}
    used |= {each["path"] for each in kustomization.get("patches", ())}
    used |= {file for each in kustomization["configMapGenerator"] for file in each["envs"]}
    assert {each.name for each in folder.iterdir()} == used - {"../../base"}
    found = [identity(each) for each in resources_of(folder)]
    assert len(found) == len(set(found))


def test_every_process_is_a_deployment() -> None:
    assert set(WORKLOADS) == {*PROCESSES, MIGRATE, FINISH, OPERATOR, BACKUP}
    for name in PROCESSES:
        assert container(name)["command"] == ["python", "-m", "deploy.run", name]


@every_workload
def test_no_process_has_more_rights_than_it_needs(name: str) -> None:
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is (name in ("scheduler", OPERATOR))


@every_workload
def test_every_process_has_limits_and_probes(name: str) -> None:
    resources = container(name)["resources"]
    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]
    if name in PROCESSES:
        ports = [str(each["containerPort"]) for each in container(name).get("ports", [])]
        alive = ["--alive"]
        assert checks(name) == {
            "startupProbe": alive,
            "livenessProbe": alive,
            "readinessProbe": ports,
        }


def checks(name: str) -> dict[str, list[str]]:
    """Return the arguments of the health check of each probe.

    Only readiness may ask a port. A port does not answer well while the process stands by, loads
    models or waits for the database or its migration, and a restart would not help.
    """
    probes = {key: value for key, value in container(name).items() if key.endswith("Probe")}
    commands = {key: value["exec"]["command"] for key, value in probes.items()}
    assert all(each[:3] == ["python", "-m", "deploy.docker.healthy"] for each in commands.values())
    return {key: command[3:] for key, command in commands.items()}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_rollout_needs_no_pod_that_becomes_ready_only_when_another_has_ended(name: str) -> None:
    """A standby of serving has no port until it leads; the sealer's volume has one writer."""
    spec = WORKLOADS[name]["spec"]
    one_at_a_time = spec["replicas"] == 1
    assert (spec.get("strategy") == {"type": "Recreate"}) is one_at_a_time


def test_the_example_has_what_the_object_store_requires(tmp_path: Path) -> None:
    named = variables(BASE / "settings.env") | variables(EXAMPLE / "settings.env")
    settings = Settings(
        home=tmp_path,
        artifacts_url=named["ECOLINK_ARTIFACTS_URL"],
        artifacts_role=named["ECOLINK_ARTIFACTS_ROLE"],
    )
    assert required_store_issuer(settings) is not None


def test_no_secret_value_is_stored_here() -> None:
    assert of_kind("Secret") == []
    settings = variables(BASE / "settings.env") | variables(EXAMPLE / "settings.env")
    settings |= {
        each["name"]: each["value"] for name in WORKLOADS for each in container(name).get("env", [])
    }
    assert [name for name in settings if SECRET_NAME.search(name)] == []
    assert not any("@" in value for value in settings.values())


def test_the_end_of_an_upgrade_waits_and_has_only_the_role_of_the_operator() -> None:
    assert WORKLOADS[FINISH]["spec"]["suspend"] is True
    assert files_of(FINISH) == {"ecolink_database_url"}


def files_of(name: str) -> set[str]:
    """Return the names of the secret files of a workload."""
    if name == FINISH:
        return {"ecolink_database_url"}
    process = next((each for each, roles in ROLES.items() if name in roles), name)
    return set(secrets_of_role(process, name))


@pytest.mark.parametrize("name", [OPERATOR, BACKUP])
def test_commands_run_in_a_pod_that_an_operator_starts(name: str) -> None:
    """It has the secrets of the container for these commands, and the page shows its use."""
    assert WORKLOADS[name]["spec"]["replicas"] == 0
    assert container(name)["image"] == f"ecolink-{IMAGES[name]}"
    assert checks(name) == {}
    assert f"scale --namespace ecolink deployment/{name} --replicas 1" in PAGE


def test_the_page_runs_each_command_in_the_pod_that_has_its_rights() -> None:
    for used, command in re.findall(r"exec .*deployment/(\w+) -- ecolink (\w+)", PAGE):
        assert used == (BACKUP if command == "backup" else OPERATOR)


def test_a_backup_reads_and_a_restore_writes_the_seal_key() -> None:
    """The volume has one writer, so the pod runs on the node of the sealer."""
    (home, own) = (
        next(each for each in pod(name)["volumes"] if each["name"] == "home")
        for name in ("sealer", BACKUP)
    )
    assert own == home
    (term,) = pod(BACKUP)["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    labels = WORKLOADS["sealer"]["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"] == labels


@every_workload
def test_each_process_mounts_its_own_secrets(name: str) -> None:
    (volume,) = [each for each in pod(name)["volumes"] if each["name"] == "secrets"]
    names = [each["secret"]["name"] for each in volume["projected"]["sources"]]
    assert names == [f"ecolink-{name}"]
    given = {each["name"]: each["value"] for each in container(name).get("env", [])}
    uses = given.get("ECOLINK_NATS_CREDENTIALS") == "/run/secrets/ecolink/nats.creds"
    assert uses == ("nats.creds" in files_of(name))


@every_workload
def test_the_page_lists_the_content_of_each_secret(name: str) -> None:
    """It is that of the containers, for which `ecolink docker init` makes the values."""
    files = sorted(files_of(name))
    row = f"| `ecolink-{name}` | {', '.join(f'`{each}`' for each in files)} |"
    assert row in PAGE


def test_settings_are_known() -> None:
    """The tests of the launcher's extension check its settings."""
    named = variables(BASE / "settings.env") | variables(EXAMPLE / "settings.env")
    of_launcher = f"ECOLINK_{named['ECOLINK_LAUNCHER']}_".upper()
    for name in named:
        known = name.removeprefix("ECOLINK_").lower() in Settings.model_fields
        others = name in {"AWS_REGION", "ECOLINK_SECRETS_DIR"}
        assert known or others or name.startswith(of_launcher), name


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    """Return every selector of pods in the namespace of the control plane."""
    for each in RESOURCES:
        spec, name = each.get("spec", {}), f"{each['kind']} {each['metadata']['name']}"
        if each["metadata"].get("namespace") != "ecolink":
            continue
        if each["kind"] == "Service":
            yield name, spec["selector"]
        elif each["kind"] in ("Deployment", "PodDisruptionBudget"):
            yield name, spec["selector"]["matchLabels"]
        elif each["kind"] == "NetworkPolicy":
            yield name, spec["podSelector"].get("matchLabels", {})


def test_every_selector_selects_a_pod() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in WORKLOADS.values()]
    for name, selector in selectors():
        assert any(selector.items() <= each.items() for each in labels), name


def test_processes_with_several_instances_survive_the_drain_of_a_node() -> None:
    several = {name for name in PROCESSES if WORKLOADS[name]["spec"]["replicas"] > 1}
    budgets = of_kind("PodDisruptionBudget")
    assert {each["metadata"]["name"] for each in budgets} == several
    assert all(each["spec"]["maxUnavailable"] == 1 for each in budgets)
    assert set(PROCESSES) - several == {"sealer", "serving"}


def policy(name: str, namespace: str = "ecolink") -> Resource:
    (found,) = [
        each["spec"]
        for each in of_kind("NetworkPolicy")
        if identity(each) == ("NetworkPolicy", namespace, name)
    ]
    return found


def test_both_namespaces_deny_what_is_not_listed() -> None:
    """Pods of PostgreSQL, NATS or certificates in the first one have policies of their own."""
    both = ["Ingress", "Egress"]
    own = {"matchLabels": {"app.kubernetes.io/name": "ecolink"}}
    assert policy("deny-all") == {"podSelector": own, "policyTypes": both}
    trainers = policy("deny-all", "ecolink-trainers")
    assert trainers == {"podSelector": {}, "policyTypes": both}
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in WORKLOADS.values()]
    assert all(own["matchLabels"].items() <= each.items() for each in labels)


def test_the_example_opens_the_port_of_metrics_of_each_process() -> None:
    """The ports follow the order of the processes."""
    (opened,) = [each for each in resources_of(EXAMPLE) if each["kind"] == "NetworkPolicy"]
    first = int(variables(EXAMPLE / "settings.env")["ECOLINK_METRICS_PORT"])
    (rule,) = opened["spec"]["ingress"]
    last = first + len(PROCESSES) - 1
    assert rule["ports"] == [{"protocol": "TCP", "port": first, "endPort": last}]


def test_both_namespaces_refuse_privileged_pods() -> None:
    restricted = [
        each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for each in of_kind("Namespace")
    ]
    assert restricted == ["restricted", "restricted"]


def test_only_the_scheduler_and_operators_have_rights_in_the_cluster() -> None:
    bindings = of_kind("RoleBinding") + of_kind("ClusterRoleBinding")
    subjects = [subject for each in bindings for subject in each["subjects"]]
    assert {(each["namespace"], each["name"]) for each in subjects} == {
        ("ecolink", "ecolink-scheduler"),
        ("ecolink", "ecolink-operator"),
    }
    accounts = {name: pod(name)["serviceAccountName"] for name in WORKLOADS}
    assert {name: each for name, each in accounts.items() if each != "ecolink"} == {
        "scheduler": "ecolink-scheduler",
        OPERATOR: "ecolink-operator",
    }


@pytest.mark.full
@pytest.mark.skipif(shutil.which("kustomize") is None, reason="kustomize is not installed")
@pytest.mark.parametrize("folder", [BASE, EXAMPLE], ids=["base", "example"])
def test_kustomize_renders_valid_resources(folder: Path) -> None:
    built = subprocess.run(
        ["kustomize", "build", str(folder)], check=True, capture_output=True, text=True
    )
    rendered = list(yaml.safe_load_all(built.stdout))
    for resource in rendered:
        validate(resource, "1.33")
    (settings,) = [each for each in rendered if each["kind"] == "ConfigMap"]
    if folder == BASE:
        text = built.stdout.replace(settings["metadata"]["name"], "ecolink-settings")
        by_identity = {identity(each): each for each in yaml.safe_load_all(text)}
        assert [by_identity[identity(each)] for each in RESOURCES] == RESOURCES
    deployments = [each for each in rendered if each["kind"] == "Deployment"]
    assert len(deployments) == len({*PROCESSES, OPERATOR, BACKUP})
    for each in deployments:
        (container,) = each["spec"]["template"]["spec"]["containers"]
        (source,) = container["envFrom"]
        assert source["configMapRef"]["name"] == settings["metadata"]["name"]
        if folder == EXAMPLE:
            assert container["image"].startswith("registry.example.org/")
            assert settings["data"]["ECOLINK_NATS_URL"] == "tls://nats.example.org:4222"
