"""Notes: short texts of an account."""

from extensions.notes.note import NOTES, Note

from infrastructure.extensions import Extension, Panel
from infrastructure.rights import ADD

EXTENSION = Extension(
    package=__name__,
    summary="Short texts of an account.",
    tables=(NOTES,),
    aggregates=(Note,),
    events={"gateway": (Note,)},
    rights={"gateway": {NOTES.name: ADD}},
    api=("api:router",),
    panels={"ops.health": Panel("notes/health.html", data="api:count")},
    commands={"notes": "cli:notes"},
)
