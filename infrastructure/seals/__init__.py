"""Seals of the event log, and what proves that it was not changed."""
