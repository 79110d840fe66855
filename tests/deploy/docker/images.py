"""The images that tests use instead of the public ones, and their variables."""

from __future__ import annotations

import os

VARIABLES = {
    name: f"ECOLINK_TEST_{name.upper()}_IMAGE" for name in ("python", "postgres", "nats", "s3")
}
"""Variables with the names of images that tests use instead of the public ones."""

STAND_INS = {name: f"ecolink-test/{name}" for name in VARIABLES}
"""Names of the images that `python -m tests.deploy.docker.stand_ins` builds."""


def image_of(name: str, default: str) -> str:
    """Return the name of an image for tests."""
    return os.environ.get(VARIABLES[name], default)
