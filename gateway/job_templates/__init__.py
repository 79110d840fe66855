"""Job templates: named requests for similar jobs."""
