"""EcoLink sends what the real client of Weights & Biases sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from domain.training.integrations import Tracker
from tests.extensions.trackers.process.conftest import TrackedJob
from tests.extensions.trackers.process.test_wandb import RUN, TO_WANDB
from tests.localwandb.server import KEY, LocalWandb, running_wandb

pytestmark = pytest.mark.full

PROGRAM = """
import sys
import wandb
quiet = wandb.Settings(
    console="off", x_disable_stats=True, disable_git=True, save_code=False, silent=True
)
run = wandb.init(project="bot", entity="team", id=sys.argv[1], name="first", tags=["a", "b"],
                 config={"lora_r": 16}, resume="allow", settings=quiet)
run.define_metric("step")
run.define_metric("*", step_metric="step")
for step in range(1, 4):
    run.log({"train/loss": 3.0 / step, "step": step})
run.finish()
"""


def run_the_client(server: LocalWandb, folder: Path) -> None:
    """Run the real client, which must end well."""
    variables = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_DIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM, RUN[2]]
    environment = os.environ | variables | {"HOME": str(folder)}
    ended = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == 0, ended.stderr


def history_of(server: LocalWandb) -> dict[str, Any]:
    """Return the part of the first request with lines that holds them."""
    return next(
        part
        for body in server.streamed
        for name, part in (body.get("files") or {}).items()
        if name == "wandb-history.jsonl"
    )


async def test_requests_have_the_form_of_the_real_client(
    tracked: TrackedJob, tmp_path: Path
) -> None:
    with running_wandb() as theirs, running_wandb() as ours:
        run_the_client(theirs, tmp_path)
        tracked.tracker = Tracker.WANDB
        tracked.approve()
        tracked.connect(ours.url, Tracker.WANDB, username="api", secret=KEY)
        tracked.track(TO_WANDB)
        tracked.launch(1)
        tracked.measure(1, 1, 3)
        await tracked.catch_up()

        assert ours.runs[RUN].display_name == theirs.runs[RUN].display_name == "first"
        assert ours.runs[RUN].tags == theirs.runs[RUN].tags
        own, real = (each.runs[RUN].config for each in (ours, theirs))
        assert own["lora_r"].keys() == real["lora_r"].keys()
        assert own["_wandb"]["value"]["m"] == real["_wandb"]["value"]["m"]

        mine, known = history_of(ours), history_of(theirs)
        assert mine.keys() == known.keys()
        assert mine["offset"] == known["offset"] == 0
        line, real_line = json.loads(mine["content"][0]), json.loads(known["content"][0])
        assert real_line.keys() - {"_runtime"} <= line.keys()
        assert line["_step"] == real_line["_step"] == 0
        assert ours.values(RUN)["train/loss"].keys() == theirs.values(RUN)["train/loss"].keys()
        assert set(ours.upserts[0]) <= set(theirs.upserts[0])
        assert {"files", "complete", "exitcode"} >= theirs.streamed[-1].keys() - {"uploaded"}
