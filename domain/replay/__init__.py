"""The event log as an auditor reads it: past states and causes, from nothing but events."""
