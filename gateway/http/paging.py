"""Query parameters of paged lists."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

MOST_POSITION = 2**63 - 1
"""Largest position. Positions are bigints in the database."""

LARGEST_PAGE = 10_000
"""Maximum number of rows per page. A long job has a million steps."""

Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Maximum number of objects.")]

After = Annotated[int, Query(ge=0, le=MOST_POSITION)]
"""Query parameter that returns only objects with a higher number."""
