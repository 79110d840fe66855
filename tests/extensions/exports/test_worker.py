"""Exports in a process of their own, with its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from extensions.exports.domain.export import ExportFormat, ExportStatus
from infrastructure.process.limited_process import Limits
from tests.extensions.exports.conftest import Service

pytestmark = pytest.mark.full


def test_a_gguf_file_has_a_modelfile(service: Service, tmp_path: Path) -> None:
    export = service.request(ExportFormat.GGUF_Q8_0)
    service.run()
    folder = service.download(export, tmp_path / "out")
    (file,) = folder.glob("*.gguf")
    assert file.name == "tiny-0b0f8f5c3a4e-Q8_0.gguf"
    modelfile = (folder / "Modelfile").read_text()
    assert f"FROM ./{file.name}" in modelfile
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert 'TEMPLATE """{{ range .Messages }}' in modelfile
    assert file.name in (folder / "README.md").read_text()


def test_too_much_work_fails_the_export(service: Service) -> None:
    service.start(limits=Limits(cpu_seconds=1, wall_seconds=60, memory_mib=16_384))
    export = service.request()
    service.run()
    assert service.find(export).status is ExportStatus.FAILED
