"""Generated datasets on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine


@pytest.fixture
def me(url: str, platform: Platform) -> CommandLine:
    return CommandLine(url, platform.person().key)


@pytest.mark.parametrize("option", ["--document", "--topics-file"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param("Größe".encode("latin-1"), id="latin-1"),
        pytest.param(b"\x89PNG\r\n\xff", id="binary"),
    ],
)
def test_a_file_that_is_not_a_text_is_refused(
    me: CommandLine, tmp_path: Path, option: str, content: bytes
) -> None:
    file = tmp_path / "sizes.txt"
    file.write_bytes(content)
    order = ("datasets", "generate", "--name", "x", "--model", "tiny", option, str(file))
    shown = me.refused(*order, code=2)
    assert "sizes.txt is not a text in UTF-8." in shown
    assert option in shown
    assert me.read("syntheses", "list")["data"] == []
