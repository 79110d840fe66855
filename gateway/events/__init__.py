"""The public view of the event log."""
