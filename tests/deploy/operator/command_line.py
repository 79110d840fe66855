"""The `ecolink` command in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from deploy.cli import main


def ecolink(*arguments: str, exit_code: int = 0) -> str:
    """Run a command, verify its exit status, and return its output."""
    result = CliRunner().invoke(main, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == exit_code, result.output
    return result.output
