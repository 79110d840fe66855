"""Charges and invoices, from the rows of the event store."""
