"""Connections of accounts to experiment trackers, and the runs of their jobs."""
