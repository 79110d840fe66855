"""Accounts, statements, the ledger, and top-ups."""
