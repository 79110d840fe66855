"""Routes under /api."""
