"""Hooks of MkDocs, which builds the site of `docs/`."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MERMAID = "assets/mermaid.min.js"
LINK = re.compile(r"(\]\()([^()\s#:]+)([^()\s]*\))")


def on_config(config: MkDocsConfig) -> None:
    """Show the version, and let readers choose one if mike publishes several."""
    config.site_name = f"EcoLink {PROJECT['version']}"
    if "MIKE_DOCS_VERSION" in os.environ:
        config.extra["version"] = {"provider": "mike"}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add Mermaid, so that no page loads it from another host."""
    source = ROOT / "tests/docs/vendor/mermaid.min.js"
    files.append(File.generated(config, MERMAID, abs_src_path=str(source)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files outside `docs/` lead to the repository."""
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if target.is_relative_to(config.docs_dir) or not target.exists():
            return found[0]
        kind = "tree" if target.is_dir() else "blob"
        path = f"{kind}/main/{target.relative_to(ROOT)}"
        return f"{found[1]}{PROJECT['urls']['Source']}/{path}{found[3]}"

    return LINK.sub(link, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load Mermaid, which is large, only on pages with a diagram."""
    if 'class="mermaid"' not in output:
        return output
    script = f'<script src="{get_relative_url(MERMAID, page.url)}"></script>'
    return output.replace("</head>", f"{script}</head>")
