"""Replay of the event log for auditors: timelines, past states and causes."""
