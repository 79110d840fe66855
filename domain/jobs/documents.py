"""Names of the documents that EcoLink adds to a model, beside its weights."""

from __future__ import annotations

CARD, PROVENANCE = "README.md", "provenance.json"
