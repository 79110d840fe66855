"""The simulated control plane: stories break no rule, and a broken rule is found and shrunk."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

import tests.simulation.control_plane.rules
from domain.jobs.job import Job
from domain.jobs.lifecycle import JobStatus
from domain.training.training_plan import Order
from tests.simulation.control_plane.broken_rules import BROKEN_RULES
from tests.simulation.control_plane.cluster import Work
from tests.simulation.control_plane.operations import KINDS, Operation, generated
from tests.simulation.control_plane.shrinking import shrunk
from tests.simulation.control_plane.story import end, played, played_seed, set_up
from tests.simulation.control_plane.world import World, plan_of

FOUND_BY = {
    "bill-from-the-clock": 1,
    "skip-a-position": 1,
    "acknowledge-before-commit": 1,
    "two-leaders": 1,
    "lost-lease": 2,
}
"""A seed that finds each broken rule."""

STORIES_OF_TEST = 15

DIGEST = """
from hashlib import sha256
from tests.simulation.control_plane.story import played_seed
print(sha256(played_seed(3, 30).log).hexdigest())
"""


@pytest.mark.parametrize("seed", [3, 5])
def test_a_story_breaks_no_rule(seed: int) -> None:
    outcome = played_seed(seed)
    assert outcome.violations == []
    assert outcome.lifetimes > 0
    assert outcome.faults


@pytest.mark.parametrize("slowdown", [1, 10])
def test_a_slowed_job_takes_longer_than_its_estimate(slowdown: int) -> None:
    world = World()
    with world.running():
        set_up(world)
        work = Work(8, slowdown=slowdown)
        world.approve(world.accounts[0], plan_of(1, 3_600_000), work, Order(), by_key=False)
        end(world)
        assert world.rules.violations == []
        job = world.log_of_simulation.load(Job, world.jobs[0])
    assert job.status is JobStatus.REGISTERED
    in_time = job.usage.paid_seconds <= job.estimate.high_seconds
    assert in_time is (slowdown == 1)
    assert job.measured.seconds == pytest.approx(job.measured.steps * 5 * slowdown, rel=0.1)


@pytest.mark.full
@pytest.mark.parametrize("part", range(10))
def test_many_stories_break_no_rule(part: int) -> None:
    first = 1_000 + part * STORIES_OF_TEST
    found = {
        seed: outcome.violations
        for seed in range(first, first + STORIES_OF_TEST)
        if (outcome := played_seed(seed)).violations
    }
    assert found == {}


@pytest.mark.full
def test_a_seed_gives_the_same_log_in_every_process() -> None:
    """Also if Python hashes strings otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = (played_seed(3, 30).log for _ in range(2))
    assert first == second
    assert done.stdout.strip() == sha256(first).hexdigest()


def test_every_broken_rule_has_a_seed_that_finds_it() -> None:
    assert FOUND_BY.keys() == BROKEN_RULES.keys()


@pytest.mark.parametrize("name", FOUND_BY)
def test_a_broken_rule_is_found(name: str) -> None:
    outcome = played_seed(FOUND_BY[name], broken=BROKEN_RULES[name])
    assert outcome.violations


@pytest.mark.full
def test_a_broken_rule_is_shrunk_to_a_short_story() -> None:
    broken = BROKEN_RULES["two-leaders"]
    operations = generated(1, 25)
    assert played(operations, broken).violations
    short = shrunk(operations, lambda story: bool(played(story, broken).violations))
    assert len(short) <= 10
    assert played(short, broken).violations
    assert not played(short).violations


def test_shrinking_keeps_what_fails_with_the_simplest_values() -> None:
    (run,) = (kind for kind in KINDS if kind.name == "run")
    story = [Operation(run, (("seconds", seconds),)) for seconds in (1, 40, 3, 25, 10)]

    def fails(part: object) -> bool:
        assert isinstance(part, list)
        return sum(dict(each.values)["seconds"] > 5 for each in part) >= 2

    short = shrunk(story, fails)
    assert [dict(each.values)["seconds"] for each in short] == [25, 10]


def test_the_rules_import_nothing_of_the_product() -> None:
    source = Path(tests.simulation.control_plane.rules.__file__).read_text()
    imported = {
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    assert {each for each in imported if each.split(".")[0] not in sys.stdlib_module_names} == {
        "tests.simulation.oracle"
    }
