"""Modules of this extension that use a library which opens what a document names."""

from __future__ import annotations

IMPORTERS = {"httpx": {"extensions/notifications/webhooks/sender.py"}}
