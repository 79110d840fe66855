"""The event log as clients see it."""
