"""Use cases. Each loads aggregates, calls them, and saves their events in one transaction."""
