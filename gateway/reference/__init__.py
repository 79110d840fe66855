"""The API reference page, which shows the OpenAPI document and events as self-contained HTML."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from gateway.http.permissions import PUBLIC
from gateway.reference.page import render

FOLDER = Path(__file__).parent

SECURITY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; " + (
    "frame-ancestors 'none'"
)

router = APIRouter(prefix="/api/docs", include_in_schema=False, dependencies=[PUBLIC])


@router.get("")
def show_reference(request: Request) -> HTMLResponse:
    return HTMLResponse(
        render(request.app.openapi()), headers={"content-security-policy": SECURITY}
    )


@router.get("/reference.css")
def show_style() -> Response:
    return Response((FOLDER / "reference.css").read_bytes(), media_type="text/css; charset=utf-8")
