"""Access, errors, limits and paging, shared by all routes."""
