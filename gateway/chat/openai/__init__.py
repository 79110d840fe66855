"""Routes under /v1."""
