"""Generated datasets on the command line."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from uuid import UUID

import pytest

from extensions.synthesis.domain.synthesis import Synthesis
from tests.builders.platform import Platform
from tests.gateway.cli.conftest import CommandLine


@pytest.fixture
def me(url: str, platform: Platform) -> CommandLine:
    return CommandLine(url, platform.person().key)


def test_a_file_that_is_not_a_text_is_refused(
    me: CommandLine, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    file = tmp_path / "sizes.txt"
    contents = ("Größe".encode("latin-1"), b"\x89PNG\r\n\xff")
    for option, content in product(("--document", "--topics-file"), contents):
        with subtests.test(f"{option} {content!r}"):
            file.write_bytes(content)
            order = ("datasets", "generate", "--name", "x", "--model", "tiny", option, str(file))
            shown = me.refused(*order, code=2)
            assert "sizes.txt is not a text in UTF-8." in shown
            assert option in shown
            assert me.read("syntheses", "list")["data"] == []


def test_a_generation_has_the_sampling_of_its_options(me: CommandLine, platform: Platform) -> None:
    options = {"--name": "x", "--instructions": "Talk about tea.", "--endpoint-model": "gpt-test"}
    endpoint = me.read("syntheses", "add-endpoint", "provider", "https://93.184.216.34/v1")
    options |= {"--endpoint": endpoint["id"], "--top-p": "0.8", "--similarity": "0.55"}
    given = [part for option in options.items() for part in option]
    made = me.read("datasets", "generate", *given, "--no-follow")
    plan = platform.log.load(Synthesis, UUID(made["id"])).plan
    assert (plan.top_p, plan.similarity) == (0.8, 0.55)
