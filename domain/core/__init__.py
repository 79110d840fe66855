"""Aggregates, the event log, identity, errors, durations and money."""
