"""Descriptions of the events of exports and pushes for auditors."""

from __future__ import annotations

from domain.core.aggregate import Event
from extensions.exports.domain.export import Export
from extensions.exports.domain.hub_push import HubPush


def describe(event: Event) -> str | None:
    """Describe an event, or return None."""
    match event:
        case Export.ExportRequested(model=model, format=format):
            return f"Export of {model} as {format} requested."
        case Export.ExportRenewed(attempt=attempt):
            return f"Export requested again, attempt {attempt:,}."
        case Export.ExportCompleted(model=model, format=format, files=files):
            return f"{model} exported as {format}: {files.total_bytes:,} bytes."
        case Export.ExportFailed(model=model, format=format, code=code):
            return f"Export of {model} as {format} failed: {code.replace('_', ' ')}."
        case HubPush.PushRequested(model=model, format=format):
            return f"Push of {model} as {format} to a hub requested."
        case HubPush.PushCompleted(commit=commit):
            return f"All files pushed, commit {commit}."
        case HubPush.PushStopped():
            return "Push to a hub stopped by the account holder."
        case HubPush.PushFailed(code=code):
            return f"The push failed: {code.replace('_', ' ')}."
        case _:
            return None
