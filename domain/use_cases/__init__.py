"""Use cases: each loads aggregates, calls them, and saves their events in one transaction."""
