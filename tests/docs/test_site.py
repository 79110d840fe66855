"""The site of `docs/` builds without a warning, and loads nothing from other hosts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.docs.site_hooks import PROJECT

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|link)\b(?![^>]*\bcanonical\b)[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. A broken link, or a page that is not in the navigation, fails its build."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return folder


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 100
    assert [page for page in pages if LOADED.search(page.read_text())] == []


def test_pages_show_the_version(site: Path) -> None:
    assert f"EcoLink {PROJECT['version']}" in (site / "index.html").read_text()


def test_only_pages_with_a_diagram_load_mermaid(site: Path) -> None:
    assert "mermaid.min.js" in (site / "understand/architecture/index.html").read_text()
    assert "mermaid.min.js" not in (site / "index.html").read_text()


def test_links_out_of_the_docs_lead_to_the_repository(site: Path) -> None:
    assert f"{PROJECT['urls']['Source']}/blob/main/README.md" in (site / "index.html").read_text()
