"""The runs of an MLflow server, as its REST API shows them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import httpx

API = "/api/2.0/mlflow"

Values = dict[str, dict[int, float]]
"""Values by metric and step."""


class MlflowServer:
    """A server on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """Return the runs of an experiment."""
        found = self._get("/experiments/get-by-name", experiment_name=experiment)
        body = {"experiment_ids": [found["experiment"]["experiment_id"]]}
        return self._post("/runs/search", body).get("runs", [])

    def values(self, run_id: str, *metrics: str) -> Values:
        """Return the newest value of each step, as a chart shows it."""
        found: Values = defaultdict(dict)
        for metric in metrics:
            for point in self._history(run_id, metric):
                found[metric][point["step"]] = point["value"]
        return dict(found)

    def points(self, run_id: str, metric: str) -> int:
        """Return the number of stored values of a metric, with repetitions."""
        return len(self._history(run_id, metric))

    def delete_run(self, run_id: str) -> None:
        """Delete a run as a user of MLflow."""
        self._post("/runs/delete", {"run_id": run_id})

    def _history(self, run_id: str, metric: str) -> list[dict[str, Any]]:
        """Return all values of a metric, oldest first."""
        token, points = "", list[dict[str, Any]]()
        while True:
            query = {"run_id": run_id, "metric_key": metric, "max_results": "25000"}
            found = self._get("/metrics/get-history", **query, page_token=token)
            points += found.get("metrics", [])
            token = found.get("next_page_token", "")
            if not token:
                return sorted(points, key=lambda each: int(each["timestamp"]))

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}{API}{path}", params=query, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}{API}{path}", json=body, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()
