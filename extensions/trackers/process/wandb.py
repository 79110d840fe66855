"""Weights & Biases, through the two APIs of its own client: GraphQL and the file stream.

The history of a run is a file of lines. Each request states the number of its first line, so a
repeated request replaces the same lines. The run has the ID of the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from domain.training.integrations import WandbRun
from extensions.trackers.process.server_client import SHOWN_CHARACTERS, ServerClient
from extensions.trackers.process.tracker import Ending, Point, RunSummary, Started, TrackerFailure
from infrastructure.http.guarded import printable

CLOUD_HOST, CLOUD_PAGES = "api.wandb.ai", "https://wandb.ai"
STEP = "step"
"""Metric with the optimizer step. A resumed job repeats steps, but lines only increase."""

UPSERT = """
mutation UpsertBucket($name: String!, $project: String, $entity: String, $displayName: String,
    $notes: String, $config: JSONString, $tags: [String!], $state: String,
    $summaryMetrics: JSONString) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity,
      displayName: $displayName, notes: $notes, config: $config, tags: $tags, state: $state,
      summaryMetrics: $summaryMetrics}) {
    bucket { id name displayName project { name entity { name } } }
    inserted
  }
}
"""
VIEWER = "query Viewer { viewer { id entity username } }"

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"

EXIT_CODES = {Ending.FINISHED: 0, Ending.FAILED: 1, Ending.CANCELLED: 255}


class Wandb:
    """A run of Weights & Biases."""

    most_points = 500

    def __init__(self, client: ServerClient, run: WandbRun | None = None) -> None:
        self._client, self._run = client, run

    @property
    def server(self) -> str:
        """Identity of the server."""
        return self._client.identity

    async def check(self) -> None:
        """Raise TrackerFailure unless the API key belongs to a user."""
        if (await self._query(VIEWER, {})).get("viewer") is None:
            raise TrackerFailure("Weights & Biases does not know the API key. Replace it.")

    async def start(self, summary: RunSummary) -> Started:
        """Create or update the run with its configuration, name and tags."""
        assert self._run is not None
        variables = {
            "name": summary.job,
            "project": self._run.project,
            "entity": self._run.entity,
            "displayName": self._run.name or summary.job,
            "notes": f"EcoLink job {summary.url or summary.job}",
            "config": json.dumps(_config(summary)),
            "tags": list(self._run.tags),
            "state": "running",
        }
        made = (await self._query(UPSERT, variables)).get("upsertBucket") or {}
        try:
            bucket = made["bucket"]
            project = bucket["project"]
            path = [project["entity"]["name"], project["name"], bucket["name"]]
        except (KeyError, TypeError):
            raise TrackerFailure(
                "The response of Weights & Biases lacks the run. Check the URL."
            ) from None
        entity, name, run = (quote(str(each), safe="") for each in path)
        return Started(f"{entity}/{name}/{run}", f"{self._pages}/{entity}/{name}/runs/{run}")

    async def send(
        self, run_id: str, points: Sequence[Point], line: int, newest: Mapping[str, float]
    ) -> None:
        """Add points to a run as lines of its history, and its newest values to its summary."""
        if not points:
            return
        lines = [
            json.dumps(
                {
                    **point.values,
                    STEP: point.step,
                    "_step": number,
                    "_timestamp": point.measured_at.timestamp(),
                }
            )
            for number, point in enumerate(points, line)
        ]
        history = {HISTORY: {"offset": line, "content": lines}}
        await self._stream(run_id, {"files": {**history, **_summary_file(newest)}})

    async def describe(self, run_id: str, summary: RunSummary, newest: Mapping[str, float]) -> None:
        """Update the summary of a run. With an ending, end it."""
        facts = {f"ecolink/{name}": value for name, value in summary.facts.items()}
        body: dict[str, Any] = {"files": _summary_file({**newest, **facts})}
        if summary.ending is not None:
            body |= {"complete": True, "exitcode": EXIT_CODES[summary.ending]}
        await self._stream(run_id, body)

    async def _stream(self, run_id: str, body: Mapping[str, Any]) -> None:
        reply = await self._client.request("POST", f"/files/{run_id}/file_stream", body)
        if not 200 <= reply.status < 300:
            raise reply.failure()

    async def _query(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self._client.request(
            "POST", "/graphql", {"query": query, "variables": variables}
        )
        document = reply.document
        if errors := document.get("errors"):
            raise TrackerFailure(f"Weights & Biases refuses the request: {_message(errors)}")
        found = document.get("data")
        return found if isinstance(found, dict) else {}

    @property
    def _pages(self) -> str:
        host = urlsplit(self._client.url).hostname
        return CLOUD_PAGES if host == CLOUD_HOST else self._client.url


def _summary_file(values: Mapping[str, float | str]) -> dict[str, Any]:
    return {SUMMARY: {"offset": 0, "content": [json.dumps(values)]}}


def _config(summary: RunSummary) -> dict[str, Any]:
    """Return the configuration in the form of the file `config.yaml` of a run.

    `m` declares the metrics: all of them have the optimizer step as their axis. The numbers are
    the fields of the message MetricRecord of the client of Weights & Biases: 1 is the name, 2 a
    pattern of names, 5 the index (from 1) of the metric of the axis, and 6 lists options: 1 adds
    the step to each line, and 3 marks a declared metric.
    """
    metrics = [{"1": STEP, "6": [3], "7": []}, {"2": "*", "5": 1, "6": [1], "7": []}]
    values = {name: {"value": value} for name, value in summary.parameters.items()}
    return {**values, "_wandb": {"value": {"m": metrics}}}


def _message(errors: Any) -> str:
    first = errors[0] if isinstance(errors, list) and errors else errors
    message = first.get("message") if isinstance(first, dict) else first
    return printable(str(message), SHOWN_CHARACTERS)
