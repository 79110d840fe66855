"""A cluster for tests: kmock as its API server, and what Kubernetes itself would do.

It stands for the controllers that the launcher relies on: a Job that is not suspended gets one pod,
and a deleted Job takes its pods and Secrets with it. A test plays the node, with `start`, `end` and
the other methods. With `runs_processes`, each pod is a process of this machine instead.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from aiohttp import web
from kmock import KubernetesEmulator, Request, Server

from tests.kubernetes_schemas import validate

NAMESPACE = "ecolink-trainers"
JOBS, PODS, SECRETS, NODES = "batch/v1/jobs", "v1/pods", "v1/secrets", "v1/nodes"
KINDS = {"jobs": "Job", "pods": "Pod", "secrets": "Secret", "nodes": "Node"}
VERSION = "1.33"
"""Version of Kubernetes whose schemas the manifests must match."""

VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}

Resource = dict[str, Any]


def stamp(time: datetime) -> str:
    """Format a time as the API does, in whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ApiServer(KubernetesEmulator):
    """An API server that calls the cluster before and after each request."""

    cluster: FakeCluster

    async def _handle(self, request: Request) -> web.StreamResponse:
        return await self.cluster.handle(request, super()._handle)


class FakeCluster:
    """A cluster with one namespace. Its clock is that of the test."""

    def __init__(self, directory: Path, now: Callable[[], datetime], *, runs_processes: bool):
        self._directory, self.now, self._runs_processes = directory, now, runs_processes
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._loop = asyncio.new_event_loop()
        self.status: int | None = None  # answer to every request; None: as usual
        self.refusals: dict[tuple[str, str], tuple[int, str]] = {}  # by verb and resource
        self.lost_responses: set[tuple[str, str]] = set()  # requests that take effect unanswered
        self.calls: list[tuple[str, str, str]] = []  # verb, resource with subresource, group
        self.bodies: list[tuple[str, str, Resource]] = []
        self.logs: dict[str, bytes] = {}

    @property
    def config(self) -> Path:
        """A kubeconfig file."""
        return self._directory / "kubeconfig"

    @contextmanager
    def running(self) -> Iterator[FakeCluster]:
        """Serve the API in a thread."""
        ready, stop = threading.Event(), asyncio.Event()

        async def serve() -> None:
            self._api = ApiServer()
            object.__setattr__(self._api, "cluster", self)
            for resource in (JOBS, PODS, SECRETS, NODES):
                self._api.resources[resource] = {}
            async with self._api, Server(self._api) as server:
                self._write_config(str(server.url))
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: self._loop.run_until_complete(serve()))
        thread.start()
        assert ready.wait(30), "the fake cluster did not start"
        try:
            yield self
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()
            self._loop.call_soon_threadsafe(stop.set)
            thread.join()
            self._loop.close()

    def _write_config(self, url: str) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "clusters": [{"name": "fake", "cluster": {"server": url.rstrip("/")}}],
            "users": [{"name": "fake", "user": {"token": "scheduler"}}],
        }
        self.config.write_text(yaml.safe_dump(config))

    # What the API server and the controllers do.

    async def handle(self, request: Request, proceed: Callable[..., Any]) -> web.StreamResponse:
        """Answer a request, with its effects on other resources."""
        plural = request.resource.plural if request.resource else ""
        verb = "list" if request.method == "GET" and not request.name else VERBS[request.method]
        named = f"{plural}/{request.subresource}" if request.subresource else plural
        self.calls.append((verb, named, request.resource.group if request.resource else ""))
        if self.status is not None:
            return _failure(self.status, "the server is away")
        if (refusal := self.refusals.get((verb, named))) is not None:
            return _failure(*refusal)
        if request.subresource == "log":
            return self._log(request)
        if verb in ("create", "patch"):
            self.bodies.append((verb, plural, json.loads(json.dumps(request.data))))
        if verb == "create":
            validate(request.data, VERSION)
            request.data["metadata"] |= {
                "uid": str(uuid4()),
                "namespace": NAMESPACE,
                "creationTimestamp": stamp(self.now()),
            }
        if verb == "list":
            self._observe()
            self._select(request)
        deleted = self._find(plural, request.name) if verb == "delete" else None
        response = await proceed(request)
        if response.status < 400:
            self._control(verb, plural, request, deleted)
        if (verb, named) in self.lost_responses:
            return _failure(504, "the response was lost")
        return response

    def _control(self, verb: str, plural: str, request: Request, deleted: Resource | None) -> None:
        """Do what the controllers and the node do after a change."""
        if plural == "jobs" and verb in ("create", "patch"):
            name = request.name or request.data["metadata"]["name"]
            job = self._find("jobs", name)
            if job is not None and not job["spec"].get("suspend"):
                self._start_job(job)
        if plural == "jobs" and deleted is not None:
            self._collect(deleted["metadata"]["uid"])
        if plural == "pods" and verb == "patch" and (process := self._processes.get(request.name)):
            process.send_signal(signal.SIGTERM)
        if plural == "pods" and deleted is not None:
            self._end_process(request.name)

    def _start_job(self, job: Resource) -> None:
        """Create the pod of a Job, as the Job controller does."""
        uid = job["metadata"]["uid"]
        if any(_owner(each) == uid for each in self._all("pods")):
            return
        template = json.loads(json.dumps(job["spec"]["template"]))
        name = f"{job['metadata']['name']}-{uuid4().hex[:5]}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": template["metadata"]
            | {
                "name": name,
                "namespace": NAMESPACE,
                "uid": str(uuid4()),
                "creationTimestamp": stamp(self.now()),
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": job["metadata"]["name"],
                        "uid": uid,
                        "controller": True,
                    }
                ],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        validate(pod, VERSION)
        self._api.objects[PODS, NAMESPACE, name] = pod
        self._patch("jobs", job["metadata"]["name"], {"status": {"startTime": stamp(self.now())}})
        if self._runs_processes:
            self._start_process(name, pod)

    def _collect(self, uid: str) -> None:
        """Delete the dependents of a resource, as the garbage collector does."""
        for plural in ("pods", "secrets"):
            for each in self._all(plural):
                if _owner(each) == uid:
                    name = each["metadata"]["name"]
                    self._end_process(name)
                    self._delete(plural, name)

    def _log(self, request: Request) -> web.StreamResponse:
        name = request.name
        if (path := self._directory / f"{name}.log").exists():
            content = path.read_bytes()
        elif name in self.logs:
            content = self.logs[name]
        else:
            return _failure(404, f'pods "{name}" not found')
        lines = content.splitlines(keepends=True)[-int(request.params["tailLines"]) :]
        return web.Response(body=b"".join(lines))

    def _select(self, request: Request) -> None:
        """Fail for a list of all resources of a namespace, as other programs may use it too."""
        if request.resource is not None and request.resource.plural != "nodes":
            assert request.params["labelSelector"] == "app.kubernetes.io/managed-by=ecolink"
            assert request.namespace == NAMESPACE

    # The resources, in the thread of the server.

    def _all(self, plural: str) -> list[Resource]:
        return [
            each.raw
            for (resource, _, _), each in self._api.objects.items()
            if resource.plural == plural and not each.deleted
        ]

    def _find(self, plural: str, name: str | None) -> Resource | None:
        found = (each for each in self._all(plural) if each["metadata"]["name"] == name)
        return next(found, None)

    def _key(self, plural: str, name: str) -> Any:
        kind = {"jobs": JOBS, "pods": PODS, "secrets": SECRETS, "nodes": NODES}[plural]
        return (kind, None if plural == "nodes" else NAMESPACE, name)

    def _patch(self, plural: str, name: str, change: Resource) -> None:
        self._api.objects[self._key(plural, name)].patch(change)

    def _delete(self, plural: str, name: str) -> None:
        self._api.objects[self._key(plural, name)].delete()

    # Processes.

    def _start_process(self, name: str, pod: Resource) -> None:
        (container,) = pod["spec"]["containers"]
        volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "spec")
        secret = self._find("secrets", volume["secret"]["secretName"])
        assert secret is not None
        folder = self._directory / name
        folder.mkdir()
        path = folder / "spec.json"
        path.write_text(secret["stringData"]["spec.json"])
        environment = {each["name"]: each["value"] for each in container["env"]}
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*container["command"][:-1], str(path)],
                env={"PATH": os.environ["PATH"]} | environment,
                stdout=log,
                stderr=log,
                # The trainer unblocks SIGTERM when it has installed its handler.
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
            )
        self._patch("pods", name, _status("Running", running={"startedAt": stamp(self.now())}))

    def _observe(self) -> None:
        """Report the ends of processes, as a node does."""
        for name, process in self._processes.items():
            code, pod = process.poll(), self._find("pods", name)
            if code is None or pod is None or pod["status"]["phase"] != "Running":
                continue
            code = 128 - code if code < 0 else code
            end = {"startedAt": stamp(self.now()), "exitCode": code, "reason": "Error"}
            self._patch("pods", name, _status("Failed", terminated=end))

    def _end_process(self, name: str | None) -> None:
        process = self._processes.pop(name or "", None)
        if process is not None:
            process.kill()
            process.wait()

    # What a test does.

    def all(self, plural: str) -> list[Resource]:
        """Return copies of all resources of a kind."""
        return self._run(lambda: json.loads(json.dumps(self._all(plural))))

    def pod(self) -> Resource:
        """Return the only pod."""
        (pod,) = self.all("pods")
        return pod

    def job(self) -> Resource:
        """Return the only Job."""
        (job,) = self.all("jobs")
        return job

    def secret(self) -> Resource:
        """Return the content of the only Secret, decoded."""
        (secret,) = self.all("secrets")
        return json.loads(secret["stringData"]["spec.json"])

    def change(self, plural: str, change: Resource) -> None:
        """Merge a change into the only resource of a kind."""
        (resource,) = self.all(plural)
        self._run(lambda: self._patch(plural, resource["metadata"]["name"], change))

    def start(self, at: datetime | None = None) -> None:
        """Start the container of the only pod."""
        started = {"startedAt": stamp(at or self.now())}
        self.change("pods", _status("Running", running=started))

    def wait(self, reason: str, message: str) -> None:
        """Let the container of the only pod wait, for example for its image."""
        self.change("pods", _status("Pending", waiting={"reason": reason, "message": message}))

    def end(self, code: int, reason: str = "Error", **status: Any) -> None:
        """End the container of the only pod."""
        started = self.pod()["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        end = {"startedAt": started, "exitCode": code, "reason": reason}
        self.change("pods", _status("Failed", terminated=end, **status))

    def delete(self, plural: str) -> None:
        """Delete the only resource of a kind, as an operator or a controller does."""
        (resource,) = self.all(plural)

        def delete() -> None:
            self._delete(plural, resource["metadata"]["name"])

        self._run(delete)

    def collect(self) -> None:
        """Delete the pods and Secrets whose Job is gone."""
        uids = {each["metadata"]["uid"] for each in self.all("jobs")}
        owners = {_owner(each) for kind in ("pods", "secrets") for each in self.all(kind)}
        for uid in owners - uids:
            self._run(lambda uid=uid: self._collect(uid))

    def add_pod(self) -> None:
        """Let the Job controller replace the pod, as after a suspension."""

        def replace() -> None:
            (job,) = self._all("jobs")
            for each in self._all("pods"):
                self._delete("pods", each["metadata"]["name"])
            self._start_job(job)

        self._run(replace)

    def add_node(self, name: str, gpus: int, labels: Mapping[str, str], **changes: Any) -> None:
        """Add a ready node with GPUs."""
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": dict(labels)},
            "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
            "status": {
                "allocatable": {"cpu": "8", "nvidia.com/gpu": str(gpus)},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        } | changes
        self._run(lambda: self._api.objects.__setitem__((NODES, None, name), node))

    def _run(self, call: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)


def _owner(resource: Resource) -> str | None:
    owners = resource["metadata"].get("ownerReferences", [])
    return owners[0]["uid"] if owners else None


def _status(phase: str, conditions: list[Resource] | None = None, **state: Any) -> Resource:
    """A status with the state of the trainer's container, and other fields."""
    fields = {key: state.pop(key) for key in ("reason", "message") if key in state}
    container = {
        "name": "trainer",
        "image": "trainer",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }
    status = {"phase": phase, "containerStatuses": [container], **fields}
    return {"status": status | ({} if conditions is None else {"conditions": conditions})}


def _failure(status: int, message: str) -> web.StreamResponse:
    body = {"kind": "Status", "apiVersion": "v1", "code": status, "message": message}
    return web.json_response(body, status=status)
