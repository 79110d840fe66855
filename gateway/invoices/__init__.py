"""Invoices that the sealer issues from the event log."""
