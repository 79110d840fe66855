"""MLflow, through its REST API (https://mlflow.org/docs/latest/rest-api.html).

MLflow stores a metric once for each run, key, step, timestamp and value, so EcoLink can repeat a
request. A run has the ID of its job in a tag, by which a repeated attempt finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from domain.training.integrations import MlflowRun
from extensions.trackers.metric_names import EVALUATION_METRICS, STEP_METRICS
from extensions.trackers.process.server_client import ServerClient
from extensions.trackers.process.tracker import Ending, Point, RunSummary, Started, TrackerFailure

API = "/api/2.0/mlflow"

JOB_TAG = "ecolink.job"
MOST_METRICS = 1_000
MOST_PARAMETERS = 100
MOST_VALUE_CHARACTERS = 6_000
METRICS_OF_POINT = max(len(STEP_METRICS), len(EVALUATION_METRICS))
"""Metrics that a point has at most."""

STATUSES = {Ending.FINISHED: "FINISHED", Ending.FAILED: "FAILED", Ending.CANCELLED: "KILLED"}


class Mlflow:
    """A run of MLflow. `prefix` begins the names of experiments on a shared server."""

    most_points = MOST_METRICS // METRICS_OF_POINT

    def __init__(
        self, client: ServerClient, run: MlflowRun | None = None, prefix: str = ""
    ) -> None:
        self._client, self._run, self._prefix = client, run, prefix

    @property
    def server(self) -> str:
        """Identity of the server."""
        return self._client.identity

    async def check(self) -> None:
        """Raise TrackerFailure unless the server lists its experiments."""
        await self._post("/experiments/search", {"max_results": 1})

    async def start(self, summary: RunSummary) -> Started:
        """Create the run with its parameters, or find the one of an earlier attempt."""
        assert self._run is not None
        experiment = await self._experiment(f"{self._prefix}{self._run.experiment_name}")
        found = await self._post(
            "/runs/search",
            {
                "experiment_ids": [experiment],
                "filter": f"tags.`{JOB_TAG}` = '{summary.job}'",
                "max_results": 1,
            },
        )
        if runs := found.get("runs"):
            run_id = _run_id(runs[0])
        else:
            created = await self._post(
                "/runs/create",
                {
                    "experiment_id": experiment,
                    "run_name": self._run.run_name or summary.job,
                    "start_time": _milliseconds(summary.started_at),
                    "tags": _pairs({**self._run.tags, **_tags(summary), JOB_TAG: summary.job}),
                },
            )
            run_id = _run_id(created.get("run"))
        parameters = _pairs(
            {name: str(value)[:MOST_VALUE_CHARACTERS] for name, value in summary.parameters.items()}
        )
        for start in range(0, len(parameters), MOST_PARAMETERS):
            params = parameters[start : start + MOST_PARAMETERS]
            await self._post("/runs/log-batch", {"run_id": run_id, "params": params})
        return Started(run_id, f"{self._client.url}/#/experiments/{experiment}/runs/{run_id}")

    async def send(
        self, run_id: str, points: Sequence[Point], line: int, newest: Mapping[str, float]
    ) -> None:
        """Add points to a run. MLflow ignores those that it has."""
        metrics = [
            {
                "key": name,
                "value": value,
                "timestamp": _milliseconds(point.measured_at),
                "step": point.step,
            }
            for point in points
            for name, value in point.values.items()
        ]
        if metrics:
            await self._post("/runs/log-batch", {"run_id": run_id, "metrics": metrics})

    async def describe(self, run_id: str, summary: RunSummary, newest: Mapping[str, float]) -> None:
        """Update the tags of a run. With an ending, set its status and end time."""
        await self._post("/runs/log-batch", {"run_id": run_id, "tags": _pairs(_tags(summary))})
        if summary.ending is not None and summary.ended_at is not None:
            update: dict[str, Any] = {
                "run_id": run_id,
                "status": STATUSES[summary.ending],
                "end_time": _milliseconds(summary.ended_at),
            }
            await self._post("/runs/update", update)

    async def _experiment(self, name: str) -> str:
        """Return the ID of an experiment. Create it if it does not exist."""
        reply = await self._client.request(
            "GET", f"{API}/experiments/get-by-name", query={"experiment_name": name}
        )
        if reply.error_code == "RESOURCE_DOES_NOT_EXIST":
            # If another run creates it at the same time, this attempt fails, and the next finds it.
            created = await self._post("/experiments/create", {"name": name})
            return _text(created.get("experiment_id"))
        experiment = reply.document.get("experiment") or {}
        if experiment.get("lifecycle_stage") == "deleted":
            raise TrackerFailure(f"The experiment {name!r} is deleted in MLflow. Restore it there.")
        return _text(experiment.get("experiment_id"))

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return (await self._client.request("POST", f"{API}{path}", body)).document


def _tags(summary: RunSummary) -> dict[str, str]:
    link = f"[{summary.job}]({summary.url})" if summary.url else summary.job
    return {
        "mlflow.source.name": "EcoLink",
        "mlflow.source.type": "JOB",
        "mlflow.note.content": f"EcoLink job {link}",
        **{f"ecolink.{name}": value for name, value in summary.facts.items()},
    }


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _run_id(run: Any) -> str:
    return _text(((run or {}).get("info") or {}).get("run_id"))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TrackerFailure("The response of MLflow lacks an ID. Check the URL.")
    return value


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
