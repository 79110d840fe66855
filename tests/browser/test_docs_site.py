"""The site of `docs/` in a browser."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from playwright.sync_api import Browser, expect

ROOT = Path(__file__).parents[2]


@pytest.mark.full
def test_diagrams_and_search_work_without_other_hosts(chromium: Browser, tmp_path: Path) -> None:
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        page = chromium.new_page()
        requested: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{address}understand/architecture/")
        expect(page.locator(".mermaid:not(pre)")).to_have_count(2)
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("checkpoint")
        expect(page.locator(".md-search-result__link").first).to_be_visible()
        page.close()
        server.shutdown()
    assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []
