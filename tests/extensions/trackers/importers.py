"""Modules of this extension that use a library which opens what a document names."""

from __future__ import annotations

IMPORTERS = {
    "httpx": {"extensions/trackers/process/server_client.py"},
    "zipfile": {"extensions/trackers/event_file.py"},
}
