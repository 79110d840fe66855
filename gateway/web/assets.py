"""Styles and scripts of the pages, compressed once and cached indefinitely.

Their path contains a digest of all assets, so a browser loads each version only once. Scripts can
import each other by relative names.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.http.permissions import PUBLIC
from infrastructure.extensions import selected

STATIC = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"

router = APIRouter(prefix="/assets", include_in_schema=False, dependencies=[PUBLIC])


@dataclass(frozen=True)
class Asset:
    """A static file, uncompressed and compressed."""

    content: bytes
    zipped: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """Return all assets by name. Raise RuntimeError if the assets from npm are missing.

    The names of those of an extension start with its name, such as `notifications/webhooks.css`.
    """
    folders = {"": STATIC} | {f"{each.name}/": each.static for each in selected()}
    found = {
        prefix + path.relative_to(folder).as_posix(): path.read_bytes()
        for prefix, folder in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if not any(name.startswith("vendor/") for name in found):
        raise RuntimeError("The assets from npm are missing. Install EcoLink again.")
    return {
        name: Asset(content, gzip.compress(content, mtime=0), _media_type(name))
        for name, content in found.items()
    }


@cache
def digest() -> str:
    """Return a digest of all assets."""
    whole = hashlib.sha256()
    for name, asset in assets().items():
        whole.update(f"{name}\0{len(asset.content)}\0".encode() + asset.content)
    return whole.hexdigest()[:12]


def url_of(name: str) -> str:
    """Return the URL of an asset."""
    assert name in assets(), name
    return f"/assets/{digest()}/{name}"


@router.get("/{version}/{name:path}")
def show_asset(version: str, name: str, request: Request) -> Response:
    """Serve an asset. With the digest of another version, serve the current asset uncached."""
    asset = assets().get(name)
    if asset is None:
        raise HTTPException(404)
    headers = {
        "cache-control": FOREVER if version == digest() else "no-store",
        "vary": "accept-encoding",
    }
    content = asset.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers = asset.zipped, headers | {"content-encoding": "gzip"}
    return Response(content, headers=headers, media_type=asset.media_type)


def _media_type(name: str) -> str:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
