"""Backups of an installation in containers. The tests need Docker, like test_installation.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.local.ports import free_port
from gateway.cli.client import Endpoint
from tests.deploy.docker.installation import docker_answers, installed
from tests.running import PatientClient

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not docker_answers(), reason="needs a Docker engine with compose"),
    pytest.mark.skipif(os.getuid() != 0, reason="must give folders to the user of the containers"),
]

SERVICES = ("log", "sealer", "gateway")
USER = 10001


def test_a_backup_restores_into_new_containers(tmp_path: Path) -> None:
    mounts = {tmp_path / "backup": "/backup", tmp_path / "keys": "/keys"}
    for folder in mounts:
        folder.mkdir(mode=0o700)
        os.chown(folder, USER, USER)
    with installed(tmp_path / "installation", free_port()) as installation:
        installation.up(*SERVICES)
        api_key, seal_key = installation.account("alice"), installation.seal_key()
        installation.backup("create", "/backup", "--keys-to", "/keys", mounts=mounts)
        installation.remove()
        installation.backup("restore", "/backup", "--keys", "/keys", mounts=mounts)
        installation.up(*SERVICES)
        assert installation.seal_key() == seal_key
        with PatientClient(Endpoint(installation.url, api_key)) as client:
            assert client.get("/account")["balance"]["micros"] == 25_000_000
        assert installation.verify_log("--artifacts")["verdict"] == "matches"
