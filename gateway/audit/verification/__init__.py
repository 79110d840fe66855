"""Verification of the event log, which auditors start on a page."""
