"""Use cases. Each loads aggregates, calls their commands, and saves their events atomically."""
